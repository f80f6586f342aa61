//! Map of bounded size.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

/// Map of at most `most` entries. A new entry evicts an arbitrary one, whose value must be reproducible.
pub(super) struct BoundedMap<K, V> {
    most: usize,
    entries: Mutex<HashMap<K, V>>,
}

impl<K: Eq + Hash + Clone, V: Clone> BoundedMap<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, entries: Mutex::new(HashMap::new()) }
    }

    pub(super) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.lock().get(key).cloned()
    }

    pub(super) fn insert(&self, key: K, value: V) {
        let mut entries = self.entries.lock();
        if entries.len() >= self.most && !entries.contains_key(&key) {
            let any = entries.keys().next().cloned();
            any.and_then(|any| entries.remove(&any));
        }
        entries.insert(key, value);
    }

    pub(super) fn remove<Q: Eq + Hash + ?Sized>(&self, key: &Q)
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_entry_evicts_another_when_full() {
        let map = BoundedMap::new(2);
        for key in 0..10 {
            map.insert(key, key);
            map.insert(key, key + 1);
            assert_eq!(map.get(&key), Some(key + 1));
        }
        assert_eq!(map.entries.lock().len(), 2);
        map.remove(&9);
        assert_eq!(map.get(&9), None);
    }
}
