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
        !self.is_over.load(Ordering::Acquire) && self.is_unexpired(now)
    }

    fn is_unexpired(&self, now: Moment) -> bool {
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
    acknowledged_send + holds_for(session)
}

fn holds_for(session: Duration) -> Duration {
    mutant!("no-self-fence", session.saturating_sub(margin(session)), Duration::from_secs(3_600))
}

/// Returns the moment from which an acknowledged request extends the lease: the coordinator may have handled it as
/// soon as it was sent.
#[allow(unused_variables)] // `answered_at` is for the mutant.
pub(super) fn counts_from(sent_at: Moment, answered_at: Moment) -> Moment {
    mutant!("lease-counts-from-the-reply", sent_at, answered_at)
}

/// Returns `sent_at`, but not later than `expelled_at`: the coordinator expels a member at the end of a rebalance
/// even if its heartbeats arrive (H2).
pub(super) fn before_expulsion(sent_at: Moment, expelled_at: Moment) -> Moment {
    mutant!("barrier-not-minded", sent_at.min(expelled_at), sent_at)
}

/// Returns the time by which a lease ends before its session. A delayed invocation request must still arrive before
/// another member may start. The margin is a fifth of the session, and at least five seconds where the session is
/// long enough.
pub fn margin(session_timeout: Duration) -> Duration {
    let fifth = fifth_of(session_timeout);
    if session_timeout >= Duration::from_secs(15) { fifth.max(Duration::from_secs(5)) } else { fifth }
}

fn fifth_of(session_timeout: Duration) -> Duration {
    mutant!("no-margin", session_timeout / 5, session_timeout / 500)
}
