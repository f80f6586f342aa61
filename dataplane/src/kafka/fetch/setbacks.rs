//! Backoff of partitions whose broker has returned their fetch. Each partition has its own, which grows until one of
//! its fetches is answered. A lasting failure of one partition does not delay the others and costs the cluster
//! little.

use std::collections::HashMap;
use std::time::Duration;

use lighterman_proto::ids::TopicPartition;
use lighterman_proto::units::Moment;

use crate::runtime::backoff::Backoff;

const BASE: Duration = Duration::from_millis(50);
const MAX: Duration = Duration::from_secs(5);
/// Time without a setback after which a partition has recovered, even if it was read without records.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

struct FetchSetback {
    backoff: Backoff,
    until: Moment,
    since: Moment,
}

/// Setbacks of the partitions of one router.
#[derive(Default)]
pub(super) struct FetchSetbacks {
    partitions: HashMap<TopicPartition, FetchSetback>,
}

impl FetchSetbacks {
    /// Records that the fetch of `partition` was returned. Returns the moment since which its fetches are returned.
    pub(super) fn met(&mut self, partition: &TopicPartition, now: Moment, random: u64) -> Moment {
        let fresh = || FetchSetback { backoff: Backoff::new(BASE, MAX), until: now, since: now };
        let setback = self.partitions.entry(partition.clone()).or_insert_with(fresh);
        if now.since(setback.until) >= FORGOTTEN_AFTER {
            setback.backoff.reset();
            setback.since = now;
        }
        setback.until = now + setback.backoff.next(random);
        setback.since
    }

    /// Forgets a partition whose fetch was answered or cancelled.
    pub(super) fn forget(&mut self, partition: &TopicPartition) {
        self.partitions.remove(partition);
    }

    /// Returns the time until `partition` may be fetched again.
    pub(super) fn wait(&self, partition: &TopicPartition, now: Moment) -> Duration {
        self.partitions.get(partition).map_or(Duration::ZERO, |setback| setback.until.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met_for(
        setbacks: &mut FetchSetbacks,
        partition: &TopicPartition,
        length: Duration,
        from: Moment,
    ) -> u32 {
        let (mut now, mut times) = (from, 0);
        while now < from + length {
            setbacks.met(partition, now, u64::MAX);
            now = now + setbacks.wait(partition, now).max(Duration::from_millis(1));
            times += 1;
        }
        times
    }

    #[test]
    fn lasting_failure_backs_off_without_delaying_others() {
        let (lasting, other) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        let mut setbacks = FetchSetbacks::default();
        let from = Moment::from_micros(1);
        let minute = Duration::from_secs(60);
        let times = met_for(&mut setbacks, &lasting, minute, from);
        assert!(times <= 35, "{times} look-ups in a minute");
        assert_eq!(setbacks.wait(&other, from + minute), Duration::ZERO);
        setbacks.met(&other, from + minute, 0);
        assert!(setbacks.wait(&other, from + minute) <= BASE, "its first backoff");
        setbacks.forget(&lasting);
        setbacks.met(&lasting, from + minute, u64::MAX);
        assert!(setbacks.wait(&lasting, from + minute) <= BASE, "a fetch was answered");
        let long_after = from + minute + FORGOTTEN_AFTER * 2;
        setbacks.met(&lasting, long_after, u64::MAX);
        assert!(setbacks.wait(&lasting, long_after) <= BASE);
    }
}
