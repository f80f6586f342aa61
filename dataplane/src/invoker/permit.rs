//! The permission to send one invocation. The lease is looked at when the first byte is about to leave, and not before what
//! has to be waited for until then: credentials, a connection (H1). Up to that moment the permission can be taken back, and then
//! nothing has left. From it on the function may run as soon as the rest has left: whoever writes that looks at the lease, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lighterman_proto::units::Moment;

use crate::kafka::group::OwnershipLease;
use crate::runtime::clock;

const UNSENT: u64 = 0;
const REVOKED: u64 = u64::MAX;

/// Why nothing may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendRefused;

/// Clones speak of the same invocation.
#[derive(Clone, Debug)]
pub struct SendPermit {
    ownership: OwnershipLease,
    /// When the first byte left: microseconds, or one of the two above.
    sent: Arc<AtomicU64>,
}

impl SendPermit {
    /// A permission for as long as `ownership` holds.
    pub fn new(ownership: OwnershipLease) -> Self {
        Self { ownership, sent: Arc::new(AtomicU64::new(UNSENT)) }
    }

    /// To be called immediately before the request's first byte, on each connection that it is tried on: refused when the
    /// lease has run out, or the permission was taken back.
    pub fn begin(&self) -> Result<(), SendRefused> {
        let now = clock::now();
        if !self.ownership.is_good(now) {
            return Err(SendRefused);
        }
        let begun = |sent| (sent != REVOKED).then_some(now.as_micros());
        let before = self.sent.fetch_update(Ordering::AcqRel, Ordering::Acquire, begun);
        before.map(drop).map_err(|_| SendRefused)
    }

    /// The byte did not leave after all, or the rest did not and never will.
    pub fn did_not_send(&self) {
        let unsent = |sent| (sent != REVOKED).then_some(UNSENT);
        let _ = self.sent.fetch_update(Ordering::AcqRel, Ordering::Acquire, unsent);
    }

    /// Takes the permission back. True: nothing has left, and nothing will.
    pub fn revoke(&self) -> bool {
        let before = self.sent.compare_exchange(UNSENT, REVOKED, Ordering::AcqRel, Ordering::Acquire);
        matches!(before, Ok(_) | Err(REVOKED))
    }

    /// When the first byte left.
    pub fn sent_at(&self) -> Option<Moment> {
        let sent = self.sent.load(Ordering::Acquire);
        (sent != UNSENT && sent != REVOKED).then(|| Moment::from_micros(sent))
    }

    /// Whether the lease holds.
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
    fn own_1_what_was_taken_back_is_never_sent_and_what_was_sent_is_never_taken_back() {
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
    fn own_1_a_lease_that_has_ended_lets_nothing_begin() {
        let ended = lease(Duration::from_secs(60));
        let permit = SendPermit::new(ended.clone());
        ended.end();
        assert_eq!((permit.begin(), permit.sent_at()), (Err(SendRefused), None));
        assert!(permit.revoke());
    }
}
