//! What a member that has panicked leaves to whoever takes its place: its membership, which nobody else can end.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::ids::MappingId;
use parking_lot::Mutex;

use crate::kafka::group::Membership;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::InFlight;

const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The membership that a member is in; clones share it.
#[derive(Clone, Default)]
pub struct HeldMembership {
    held: Arc<Mutex<Option<Membership>>>,
}

/// Held by the member: whoever made it is told when it panics, and finds there what it was in.
pub struct MemberWatch {
    pub(super) held: HeldMembership,
    _death: DeathWatch,
}

impl MemberWatch {
    /// Calls `died` when the member that holds the watch has panicked.
    pub fn new(died: impl FnOnce(HeldMembership) + Send + 'static) -> Self {
        let held = HeldMembership::default();
        let left = held.clone();
        let death = DeathWatch::new("member", move |panicking| {
            if panicking {
                died(left);
            }
        });
        Self { held, _death: death }
    }
}

impl HeldMembership {
    pub(super) fn hold(&self, membership: &Membership) {
        *self.held.lock() = Some(membership.clone());
    }

    /// Nothing begins under it any more; it is left when nothing that has begun can still run. Until then the group takes
    /// nothing away from it (H5).
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
