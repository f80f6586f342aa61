//! How long a group waits for a member to let go. It follows the function's timeout, which may change while we are a member.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Clones share one value. The group hears of a change with the next `JoinGroup` or full `ConsumerGroupHeartbeat`.
#[derive(Clone, Debug)]
pub struct RebalanceTimeout {
    millis: Arc<AtomicU64>,
}

impl RebalanceTimeout {
    /// `timeout` until it is set anew.
    pub fn new(timeout: Duration) -> Self {
        let rebalance = Self { millis: Arc::default() };
        rebalance.set(timeout);
        rebalance
    }

    /// The timeout that holds now.
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, timeout: Duration) {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis.min(i32::MAX as u64), Ordering::Relaxed);
    }
}
