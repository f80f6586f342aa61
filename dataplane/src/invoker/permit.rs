//! Permission to send one invocation. The lease is checked immediately before the first byte leaves, after all
//! waits for credentials and a connection (H1). Until then the permit can be revoked, and nothing has left. From
//! then on the function may run as soon as the rest has left, so each further write checks the lease, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lighterman_proto::units::Moment;

use crate::kafka::group::OwnershipLease;
use crate::runtime::clock;

const UNSENT: u64 = 0;
const REVOKED: u64 = u64::MAX;

/// Error for a request that must not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRefused;

/// Permit of one invocation, shared by its clones.
#[derive(Clone, Debug)]
pub struct SendPermit {
    ownership: OwnershipLease,
    /// Send time of the first byte in microseconds, or [`UNSENT`] or [`REVOKED`].
    sent: Arc<AtomicU64>,
}

impl SendPermit {
    /// Creates a permit that is valid while `ownership` holds.
    pub fn new(ownership: OwnershipLease) -> Self {
        Self { ownership, sent: Arc::new(AtomicU64::new(UNSENT)) }
    }

    /// Marks the request as sent. Must be called immediately before its first byte, on each connection that is
    /// tried. Fails if the lease has ended or the permit was revoked.
    pub fn begin(&self) -> Result<(), SendRefused> {
        let now = clock::now();
        if !self.ownership.is_good(now) {
            return Err(SendRefused);
        }
        let begun = |sent| (sent != REVOKED).then_some(now.as_micros());
        let before = self.sent.fetch_update(Ordering::AcqRel, Ordering::Acquire, begun);
        before.map(drop).map_err(|_| SendRefused)
    }

    /// Marks the request as unsent: its first byte did not leave, or the rest never will.
    pub fn did_not_send(&self) {
        let unsent = |sent| (sent != REVOKED).then_some(UNSENT);
        let _ = self.sent.fetch_update(Ordering::AcqRel, Ordering::Acquire, unsent);
    }

    /// Revokes the permit. Returns true if no byte has left, so that none will.
    pub fn revoke(&self) -> bool {
        let before = self.sent.compare_exchange(UNSENT, REVOKED, Ordering::AcqRel, Ordering::Acquire);
        matches!(before, Ok(_) | Err(REVOKED))
    }

    /// Send time of the first byte.
    pub fn sent_at(&self) -> Option<Moment> {
        let sent = self.sent.load(Ordering::Acquire);
        (sent != UNSENT && sent != REVOKED).then(|| Moment::from_micros(sent))
    }

    /// True if the lease holds.
    pub fn is_good(&self, now: Moment) -> bool {
        self.ownership.is_good(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lease(holds: Duration) -> OwnershipLease {
        let lease = OwnershipLease::default();
        lease.extend(clock::now() + holds);
        lease
    }

    #[test]
    fn own_1_revoking_and_sending_exclude_each_other() {
        let permit = SendPermit::new(lease(Duration::from_secs(60)));
        assert!(permit.clone().revoke());
        assert_eq!((permit.begin(), permit.sent_at()), (Err(SendRefused), None));
        permit.did_not_send();
        assert_eq!(permit.begin(), Err(SendRefused));

        let permit = SendPermit::new(lease(Duration::from_secs(60)));
        permit.begin().expect("the lease holds");
        assert!(!permit.revoke() && permit.sent_at().is_some());
        permit.did_not_send();
        assert!(permit.sent_at().is_none() && permit.revoke());
    }

    #[test]
    fn own_1_permit_is_refused_after_lease_end() {
        let ended = lease(Duration::from_secs(60));
        let permit = SendPermit::new(ended.clone());
        ended.end();
        assert_eq!((permit.begin(), permit.sent_at()), (Err(SendRefused), None));
        assert!(permit.revoke());
    }
}
