//! Lease on starting invocations. It holds only while the coordinator cannot have reassigned this member's partitions
//! (H1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lighterman_proto::units::Moment;

/// Lease of one member, with a deadline shared by all clones. It is checked where an invocation starts, not where it
/// is planned.
#[derive(Clone, Debug, Default)]
pub struct OwnershipLease {
    until_micros: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl OwnershipLease {
    /// Returns true while the lease holds.
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

    /// Extends the lease to `until`, unless it ends later already.
    pub fn extend(&self, until: Moment) {
        self.until_micros.fetch_max(until.as_micros(), Ordering::AcqRel);
    }

    /// Ends the lease for good, whatever the group acknowledges afterwards.
    pub(crate) fn end_for_good(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// Ends the lease until it is extended again.
    pub fn end(&self) {
        self.until_micros.store(0, Ordering::Release);
    }
}

/// Returns the end of a lease, for a session timeout of `session`. `acknowledged_send` is the send time of the last
/// acknowledged request.
pub(super) fn ends(acknowledged_send: Moment, session: Duration) -> Moment {
    let holds_for = session.saturating_sub(margin(session));
    acknowledged_send + mutant!("no-self-fence", holds_for, Duration::from_secs(3_600))
}

/// Returns the time by which a lease ends before its session. A delayed invocation request must still arrive before
/// another member may start. The margin is a fifth of the session, and at least five seconds where the session is
/// long enough.
pub fn margin(session_timeout: Duration) -> Duration {
    let fifth = mutant!("no-margin", session_timeout / 5, session_timeout / 500);
    if session_timeout >= Duration::from_secs(15) { fifth.max(Duration::from_secs(5)) } else { fifth }
}
