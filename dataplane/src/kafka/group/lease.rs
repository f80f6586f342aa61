//! The right to start invocations, as long as the coordinator cannot have given our partitions away (H1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lighterman_proto::units::Moment;

/// Clones share one deadline. Checked where an invocation starts, not where it is planned.
#[derive(Clone, Debug, Default)]
pub struct OwnershipLease {
    until_micros: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl OwnershipLease {
    /// True while the lease holds.
    pub fn is_good(&self, now: Moment) -> bool {
        if self.is_over.load(Ordering::Acquire) {
            return false;
        }
        mutant!(
            "lease-not-checked",
            now.as_micros() < self.until_micros.load(Ordering::Acquire),
            now.as_micros() > 0
        )
    }

    pub(crate) fn extend(&self, until: Moment) {
        self.until_micros.fetch_max(until.as_micros(), Ordering::AcqRel);
    }

    /// Whatever the group acknowledges from now on.
    pub(crate) fn end_for_good(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    pub(crate) fn end(&self) {
        self.until_micros.store(0, Ordering::Release);
    }
}

/// When a lease ends that was last acknowledged to what was sent at `acknowledged_send`, in sessions of `session`.
pub(super) fn ends(acknowledged_send: Moment, session: Duration) -> Moment {
    let holds_for = session.saturating_sub(margin(session));
    acknowledged_send + mutant!("no-self-fence", holds_for, Duration::from_secs(3_600))
}

/// How much earlier than the session we stop: an invocation request that was delayed on its way must still arrive before
/// another member may start. A fifth, at least five seconds where the session is long enough for it.
pub fn margin(session_timeout: Duration) -> Duration {
    let fifth = mutant!("no-margin", session_timeout / 5, session_timeout / 500);
    if session_timeout >= Duration::from_secs(15) { fifth.max(Duration::from_secs(5)) } else { fifth }
}
