//! Restart of a member that panicked, from what the group has committed. The member's end fences its consumers; its
//! membership is ended here.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::ids::MappingId;
use lighterman_proto::units::Moment;

use super::{Dataplane, RunningMapping};
use crate::mapping::succession::{HeldMembership, MemberWatch};
use crate::runtime::clock;
use crate::status::MappingStatus;

const REVIVE_BASE: Duration = Duration::from_secs(1);
const REVIVE_MAX: Duration = Duration::from_mins(2);
/// Running time after which a member's count of consecutive panics starts again.
const WELL_AFTER: Duration = Duration::from_mins(10);
const ENDED: &str = "ended by a fault of this node and is being restarted; see the log";

impl Dataplane {
    /// Returns the watch of a member that keeps its membership in `held` and its status on `mapping_status`, after `panics` in
    /// a row.
    pub(super) fn watch(
        self: &Arc<Self>,
        id: MappingId,
        held: &HeldMembership,
        mapping_status: &MappingStatus,
        panics: u32,
    ) -> MemberWatch {
        let (me, begun_at) = (Arc::downgrade(self), clock::now());
        let (left, mapping_status) = (held.clone(), mapping_status.clone());
        MemberWatch::new(held.clone(), move || {
            mapping_status.ended(ENDED);
            if let Some(me) = me.upgrade() {
                me.revive(id, left, panics_in_a_row(panics, begun_at, clock::now()));
            }
        })
    }

    /// Restarts a panicked member. It is called while the member unwinds, in any context, so work that needs the
    /// mapping's lock is deferred.
    fn revive(self: Arc<Self>, id: MappingId, left: HeldMembership, panics: u32) {
        metrics::counter!(crate::metrics::REBUILDS).increment(1);
        tracing::error!(mapping = %id, panics, "the member panicked; restarting it");
        let home = self.system_arbiter.clone();
        home.spawn(async move {
            let visit = self.mapping_locks.visit(id);
            let turn = visit.turn().await;
            // If the mapping was stopped or replaced, that turn ends the membership.
            let is_its_place = |running: &RunningMapping| running.left.is(&left);
            if !turn.running().is_some_and(|running| is_its_place(&running)) {
                return;
            }
            left.end(id, &self.node.in_flight).await;
            // Release the turn during the delay, so that the mapping can be stopped or changed.
            drop(turn);
            tokio::time::sleep(wait(panics)).await;
            let turn = visit.turn().await;
            let Some(dead) = turn.running().filter(is_its_place) else { return };
            if !turn.begin(|| self.begin(dead.run, panics)) {
                turn.end();
            }
        });
    }
}

fn panics_in_a_row(before: u32, begun_at: Moment, now: Moment) -> u32 {
    if now.since(begun_at) < WELL_AFTER { before.saturating_add(1) } else { 1 }
}

/// Returns the restart delay, doubled with each panic in a row. Repeated restarts must not keep the group's other
/// members rebalancing.
fn wait(panics: u32) -> Duration {
    REVIVE_BASE.saturating_mul(2u32.saturating_pow(panics.saturating_sub(1))).min(REVIVE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_delay_doubles_with_repeated_panics() {
        let waits: Vec<u64> = (1..10).map(|panics| wait(panics).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert_eq!(wait(u32::MAX), REVIVE_MAX);
        let begun = Moment::from_micros(5);
        assert_eq!(panics_in_a_row(3, begun, begun + Duration::from_secs(30)), 4);
        assert_eq!(panics_in_a_row(3, begun, begun + WELL_AFTER), 1);
    }
}
