//! On-failure destination. Records in transit when a node dies may have arrived or not.

use super::environment::SimulatedEnvironment;
use super::node::OwnershipKey;
use crate::history::HistoryEvent as Happened;

/// Failure messages in transit.
#[derive(Debug, Default)]
pub(super) struct SimulatedDestination {
    pub on_its_way: Vec<(u64, OwnershipKey, i64, i32)>,
}

impl SimulatedEnvironment {
    /// Completes a failure message: its records have arrived if `arrived` is true.
    pub(super) fn arrive(&mut self, request_id: u64, key: OwnershipKey, arrived: bool) {
        let mut there = Vec::new();
        self.destination.on_its_way.retain(|(sent, of, offset, leader_epoch)| {
            let ours = (*sent, *of) == (request_id, key);
            if ours && arrived {
                there.push((of.0, *offset, *leader_epoch));
            }
            !ours
        });
        for (partition, offset, leader_epoch) in there {
            self.record(Happened::Arrived { partition, offset, leader_epoch });
        }
    }
}
