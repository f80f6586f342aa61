//! Rebalance timeout: the time for which a group waits for a member to release partitions. It follows the function's
//! timeout, which may change during the membership.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Rebalance timeout shared by all clones. A change reaches the group with the next `JoinGroup` or full
/// `ConsumerGroupHeartbeat`.
#[derive(Clone, Debug)]
pub struct RebalanceTimeout {
    millis: Arc<AtomicU64>,
}

impl RebalanceTimeout {
    /// Creates a rebalance timeout of `timeout`, which holds until it is set again.
    pub fn new(timeout: Duration) -> Self {
        let rebalance = Self { millis: Arc::default() };
        rebalance.set(timeout);
        rebalance
    }

    /// Returns the current timeout.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, timeout: Duration) {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis.min(i32::MAX as u64), Ordering::Relaxed);
    }
}
