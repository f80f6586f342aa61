//! Epochs under which invocations of a member's partitions may start. Once an epoch is revoked, no further
//! invocation starts under it, and each one started before is in the in-flight registry. A query of the registry is
//! then conclusive (OWN-1).

use std::collections::HashMap;
use std::sync::Arc;

use lighterman_proto::ids::Epoch;
use parking_lot::Mutex;

/// Table of current epochs, shared by its clones.
#[derive(Clone, Default)]
pub struct CurrentEpochs {
    epochs: Arc<Mutex<HashMap<i32, Epoch>>>,
}

impl CurrentEpochs {
    /// Permits invocations of `partition` under `epoch`, and under no other.
    pub fn begin(&self, partition: i32, epoch: Epoch) {
        self.epochs.lock().insert(partition, epoch);
    }

    /// Permits no further invocations of `partition`.
    pub fn end(&self, partition: i32) {
        self.epochs.lock().remove(&partition);
    }

    /// Registers an invocation by calling `enter`, if `epoch` is the partition's current one. The epoch cannot be
    /// revoked meanwhile.
    pub fn enter<T>(&self, partition: i32, epoch: Epoch, enter: impl FnOnce() -> Option<T>) -> Option<T> {
        let epochs = self.epochs.lock();
        if epochs.get(&partition) == Some(&epoch) { enter() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use lighterman_proto::ids::{MappingId, TopicPartition};
    use lighterman_proto::units::Moment;

    use super::*;
    use crate::runtime::in_flight::{InFlight, LongestRun};

    const MAPPING: MappingId = MappingId(uuid::Uuid::nil());

    #[test]
    fn own_1_revoked_epoch_starts_no_racing_invocation() {
        let now = Moment::from_micros(1);
        let run: LongestRun = Arc::new(|_| Duration::from_secs(60));
        for round in 0..2_000 {
            let (epochs, in_flight) = (CurrentEpochs::default(), InFlight::default());
            let (key, is_on) = (TopicPartition::new("t", 0), AtomicBool::new(false));
            epochs.begin(0, Epoch(1));
            let (was_clear, flight) = std::thread::scope(|scope| {
                let begins = scope.spawn(|| {
                    is_on.store(true, Ordering::Release);
                    epochs.enter(0, Epoch(1), || in_flight.enter(MAPPING, &key, &run, now))
                });
                while !is_on.load(Ordering::Acquire) {
                    std::hint::spin_loop();
                }
                epochs.end(0);
                (in_flight.running_over(MAPPING, now).is_empty(), begins.join().expect("no panic"))
            });
            assert!(
                !(was_clear && flight.is_some()),
                "round {round}: the invocation started after the check"
            );
            assert!(epochs.enter(0, Epoch(1), || Some(())).is_none());
        }
    }

    #[test]
    fn own_1_older_epoch_starts_no_invocation() {
        let epochs = CurrentEpochs::default();
        epochs.begin(3, Epoch(1));
        epochs.begin(3, Epoch(2));
        assert_eq!(epochs.enter(3, Epoch(1), || Some(())), None);
        assert_eq!(epochs.enter(3, Epoch(2), || Some(())), Some(()));
        assert_eq!(epochs.enter(4, Epoch(2), || Some(())), None, "another partition's");
    }
}
