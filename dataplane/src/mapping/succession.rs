//! Handover from a member that has panicked. The membership it leaves behind is ended before another member takes its
//! place, or before it is reported as stopped.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::ids::MappingId;
use parking_lot::Mutex;

use crate::kafka::group::Membership;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::InFlight;

const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Membership that a member is in, until it has left it. Clones share it.
#[derive(Clone, Default)]
pub struct HeldMembership {
    held: Arc<Mutex<Option<Membership>>>,
}

/// Watch held by the member, which notifies the member's creator when it panics.
pub struct MemberWatch {
    pub(super) held: HeldMembership,
    _death: DeathWatch,
}

impl MemberWatch {
    /// Keeps the member's membership in `held`, and calls `died` when the member has panicked.
    pub fn new(held: HeldMembership, died: impl FnOnce() + Send + 'static) -> Self {
        let death = DeathWatch::new("member", move |panicking| {
            if panicking {
                died();
            }
        });
        Self { held, _death: death }
    }
}

impl HeldMembership {
    pub(super) fn hold(&self, membership: &Membership) {
        *self.held.lock() = Some(membership.clone());
    }

    /// Clears the membership, which has ended.
    pub(super) fn let_go(&self) {
        self.held.lock().take();
    }

    /// True if `other` belongs to the same member.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.held, &other.held)
    }

    /// Ends a membership that its member has not left. No invocation starts under it, and it is left once no earlier
    /// invocation can still run. Until then the group does not reassign its partitions (H5).
    pub async fn end(&self, mapping: MappingId, in_flight: &InFlight) {
        let held = self.held.lock().take();
        let Some(membership) = held else { return };
        membership.lease().end_for_good();
        while !in_flight.is_mapping_clear(mapping, clock::now()) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        membership.leave().await;
    }
}
