//! In-flight registry of a process: the partitions with an invocation that may still be running. It outlives
//! ownership. While it holds an entry for a partition, the member neither starts nor releases the partition, nor
//! joins a group for it (H4, H5).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::ids::{MappingId, TopicPartition};
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use super::clock;

type InFlightKey = (MappingId, TopicPartition);

/// Upper bound of the duration of an invocation sent at the given time, as known when it is called.
pub type LongestRun = Arc<dyn Fn(Moment) -> Duration + Send + Sync>;

/// In-flight registry. Clones share it.
#[derive(Clone, Default)]
pub struct InFlight {
    entries: Arc<Mutex<InFlightEntries>>,
}

#[derive(Default)]
struct InFlightEntries {
    by_key: HashMap<InFlightKey, InFlightEntry>,
    /// Number of entries above which expired ones are pruned: a deleted mapping is never queried again.
    prune_above: usize,
}

/// Minimum number of entries that is worth pruning.
const PRUNE_ABOVE_MIN: usize = 64;

#[derive(Clone, Copy)]
enum InFlightEntry {
    Running,
    /// The outcome is unknown. The invocation cannot run after this time.
    Unknown {
        until: Moment,
    },
}

/// Entry of one invocation over one partition. If it is dropped without an outcome, the entry remains until the
/// function's deadline: its holder has died, but the function may still be running.
#[must_use = "dropping it says that the outcome is unknown"]
pub struct InFlightGuard {
    registry: InFlight,
    key: Option<InFlightKey>,
    entered: Moment,
    longest_run: LongestRun,
}

impl InFlight {
    /// Registers an invocation over `partition`. Returns `None` while an older one may still be running (H4).
    pub fn enter(
        &self,
        mapping: MappingId,
        partition: &TopicPartition,
        longest_run: &LongestRun,
        now: Moment,
    ) -> Option<InFlightGuard> {
        let key = (mapping, partition.clone());
        let mut entries = self.entries.lock();
        if entries.by_key.get(&key).is_some_and(|entry| entry.is_live(now)) {
            return None;
        }
        entries.insert(key.clone(), InFlightEntry::Running, now);
        let (registry, longest_run) = (self.clone(), Arc::clone(longest_run));
        Some(InFlightGuard { registry, key: Some(key), entered: now, longest_run })
    }

    /// True if no invocation over `partition` can still be running.
    pub fn is_clear(&self, mapping: MappingId, partition: &TopicPartition, now: Moment) -> bool {
        let entries = self.entries.lock();
        !entries.by_key.get(&(mapping, partition.clone())).is_some_and(|entry| entry.is_live(now))
    }

    /// True if no invocation of `mapping` can still be running. Prunes expired entries.
    pub fn is_mapping_clear(&self, mapping: MappingId, now: Moment) -> bool {
        let mut entries = self.entries.lock();
        entries.prune(now);
        !entries.by_key.keys().any(|(of, _)| *of == mapping)
    }

    /// Returns the partitions of `mapping` over which an invocation may still be running.
    pub fn running_over(&self, mapping: MappingId, now: Moment) -> BTreeSet<i32> {
        let entries = self.entries.lock();
        let running = entries.by_key.iter().filter(|((of, _), entry)| *of == mapping && entry.is_live(now));
        running.map(|((_, key), _)| key.partition).collect()
    }

    fn leave(&self, key: &InFlightKey) {
        self.entries.lock().by_key.remove(key);
    }

    fn hold(&self, key: InFlightKey, until: Moment) {
        // This replaces an existing entry: the registry only grows when an invocation is registered.
        self.entries.lock().by_key.insert(key, InFlightEntry::Unknown { until });
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.lock().by_key.len()
    }
}

impl InFlightEntries {
    fn insert(&mut self, key: InFlightKey, entry: InFlightEntry, now: Moment) {
        self.by_key.insert(key, entry);
        if self.by_key.len() > self.prune_above.max(PRUNE_ABOVE_MIN) {
            self.prune(now);
            self.prune_above = self.by_key.len() * 2;
        }
    }

    fn prune(&mut self, now: Moment) {
        self.by_key.retain(|_, entry| entry.is_live(now));
    }
}

impl InFlightEntry {
    fn is_live(self, now: Moment) -> bool {
        match self {
            Self::Running => true,
            Self::Unknown { until } => may_still_run(until, now),
        }
    }
}

/// True if an invocation whose response was lost may still be running: its function times out at `until`.
fn may_still_run(until: Moment, now: Moment) -> bool {
    mutant!("in-flight-forgotten", now < until, false)
}

impl InFlightGuard {
    /// Removes the entry: the function has answered, or the request never left.
    pub fn answered(mut self) {
        if let Some(key) = self.key.take() {
            self.registry.leave(&key);
        }
    }

    /// Keeps the entry until `until`: the response was lost, and the function may still be running.
    pub fn unknown(mut self, until: Moment) {
        if let Some(key) = self.key.take() {
            self.registry.hold(key, until);
        }
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.registry.hold(key, clock::now() + (self.longest_run)(self.entered));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(run: Duration) -> LongestRun {
        Arc::new(move |_| run)
    }

    fn key() -> (MappingId, TopicPartition) {
        (MappingId(uuid::Uuid::nil()), TopicPartition::new("t", 0))
    }

    #[test]
    fn own_1_no_second_invocation_while_one_may_run() {
        let (mapping, partition) = key();
        let registry = InFlight::default();
        let now = Moment::from_micros(10);
        let minute = Duration::from_secs(60);
        let run = longest(minute);
        let flight = registry.enter(mapping, &partition, &run, now).expect("clear");
        assert!(registry.enter(mapping, &partition, &run, now).is_none());
        flight.unknown(now + minute);
        assert!(registry.enter(mapping, &partition, &run, now + Duration::from_secs(59)).is_none());
        assert!(!registry.is_mapping_clear(mapping, now));
        let again = registry.enter(mapping, &partition, &run, now + minute).expect("run out");
        again.answered();
        assert!(registry.is_mapping_clear(mapping, now));
    }

    #[test]
    fn expired_entries_are_pruned_without_query() {
        let registry = InFlight::default();
        let mut now = Moment::from_micros(10);
        let minute = Duration::from_secs(60);
        for mapping in 0..10_000 {
            let (_, partition) = key();
            let mapping = MappingId(uuid::Uuid::from_u128(mapping));
            let flight = registry.enter(mapping, &partition, &longest(minute), now).expect("clear");
            flight.unknown(now + minute);
            assert!(!registry.is_clear(mapping, &partition, now), "OWN-1: the invocation may still run");
            now = now + Duration::from_secs(1);
        }
        assert!(registry.len() <= 2 * 60 + PRUNE_ABOVE_MIN, "{} entries", registry.len());
    }

    #[test]
    fn dropped_guard_leaves_an_entry() {
        let (mapping, partition) = key();
        let registry = InFlight::default();
        drop(registry.enter(mapping, &partition, &longest(Duration::from_secs(60)), clock::now()));
        assert!(!registry.is_clear(mapping, &partition, clock::now()));
    }
}
