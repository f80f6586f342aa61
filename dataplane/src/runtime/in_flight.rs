//! The in-flight registry of a process: which partitions have an invocation that may still be running. It outlives
//! ownership: no partition is started, released or joined for while it holds an entry (H4, H5).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::ids::{MappingId, TopicPartition};
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use super::clock;

type InFlightKey = (MappingId, TopicPartition);

/// The longest that an invocation may run which was sent at a moment, as far as is known when it is asked.
pub type LongestRun = Arc<dyn Fn(Moment) -> Duration + Send + Sync>;

/// The registry; clones share it.
#[derive(Clone, Default)]
pub struct InFlight {
    entries: Arc<Mutex<InFlightEntries>>,
}

#[derive(Default)]
struct InFlightEntries {
    by_key: HashMap<InFlightKey, InFlightEntry>,
    /// Entries that have run out are forgotten when there are more than this: of a mapping that is gone nobody asks again.
    prune_above: usize,
}

/// Fewer are not worth looking at.
const PRUNE_ABOVE_MIN: usize = 64;

#[derive(Clone, Copy)]
enum InFlightEntry {
    Running,
    /// Nobody knows whether it runs; it cannot after this moment.
    Unknown {
        until: Moment,
    },
}

/// One invocation over one partition. Dropped without an answer it leaves an entry behind until the function's deadline:
/// whoever held it died, the function may not have.
#[must_use = "dropping it says that the outcome is unknown"]
pub struct InFlightGuard {
    registry: InFlight,
    key: Option<InFlightKey>,
    entered: Moment,
    longest_run: LongestRun,
}

impl InFlight {
    /// Enters an invocation over `partition`, or `None` while an older one may still run (H4).
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

    /// True when no invocation over `partition` can still run.
    pub fn is_clear(&self, mapping: MappingId, partition: &TopicPartition, now: Moment) -> bool {
        let entries = self.entries.lock();
        !entries.by_key.get(&(mapping, partition.clone())).is_some_and(|entry| entry.is_live(now))
    }

    /// True when no invocation of `mapping` can still run; forgets what has run out.
    pub fn is_mapping_clear(&self, mapping: MappingId, now: Moment) -> bool {
        let mut entries = self.entries.lock();
        entries.prune(now);
        !entries.by_key.keys().any(|(of, _)| *of == mapping)
    }

    /// The partitions of `mapping` over which an invocation may still run.
    pub fn running_over(&self, mapping: MappingId, now: Moment) -> BTreeSet<i32> {
        let entries = self.entries.lock();
        let running = entries.by_key.iter().filter(|((of, _), entry)| *of == mapping && entry.is_live(now));
        running.map(|((_, key), _)| key.partition).collect()
    }

    fn leave(&self, key: &InFlightKey) {
        self.entries.lock().by_key.remove(key);
    }

    fn hold(&self, key: InFlightKey, until: Moment) {
        // In the place of one that ran: the registry grows with entering only.
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
            Self::Unknown { until } => mutant!("in-flight-forgotten", now < until, now < until.min(now)),
        }
    }
}

impl InFlightGuard {
    /// The function has answered, or the request never left: nothing runs.
    pub fn answered(mut self) {
        if let Some(key) = self.key.take() {
            self.registry.leave(&key);
        }
    }

    /// The reply was lost: it may run until `until`.
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
    fn what_has_run_out_is_forgotten_though_nobody_asks_after_it() {
        let registry = InFlight::default();
        let mut now = Moment::from_micros(10);
        let minute = Duration::from_secs(60);
        for mapping in 0..10_000 {
            let (_, partition) = key();
            let mapping = MappingId(uuid::Uuid::from_u128(mapping));
            let flight = registry.enter(mapping, &partition, &longest(minute), now).expect("clear");
            flight.unknown(now + minute);
            assert!(!registry.is_clear(mapping, &partition, now), "OWN-1: it may run yet");
            now = now + Duration::from_secs(1);
        }
        assert!(registry.len() <= 2 * 60 + PRUNE_ABOVE_MIN, "{} entries", registry.len());
    }

    #[test]
    fn a_holder_that_dies_leaves_an_entry() {
        let (mapping, partition) = key();
        let registry = InFlight::default();
        drop(registry.enter(mapping, &partition, &longest(Duration::from_secs(60)), clock::now()));
        assert!(!registry.is_clear(mapping, &partition, clock::now()));
    }
}
