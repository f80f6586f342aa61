//! A member that has panicked leaves its membership behind, which is ended before anything takes its place, or is told that it
//! has stopped.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::ids::MappingId;
use parking_lot::Mutex;

use crate::kafka::group::Membership;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::InFlight;

const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The membership that a member is in, until it has left it; clones share it.
#[derive(Clone, Default)]
pub struct HeldMembership {
    held: Arc<Mutex<Option<Membership>>>,
}

/// Held by the member: whoever made it is told when it panics.
pub struct MemberWatch {
    pub(super) held: HeldMembership,
    _death: DeathWatch,
}

impl MemberWatch {
    /// Keeps in `held` what the member is in, and calls `died` when it has panicked.
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

    /// It has ended.
    pub(super) fn let_go(&self) {
        self.held.lock().take();
    }

    /// True when `other` is of the same member.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.held, &other.held)
    }

    /// Ends a membership that its member has not left: nothing begins under it any more, and it is left when nothing that has begun
    /// can still run. Until then the group takes nothing away from it (H5).
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
