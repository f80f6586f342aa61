//! Who owns what inside a member: sticky, balanced, one owner at a time. A partition that moves is drained where it is and
//! assigned anew only when that is done; every assignment has an epoch of its own (OWN-1).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use lighterman_proto::ids::{ConsumerId, Epoch};

/// What must be done to get from here to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignmentMove {
    /// Run the partition there, under this epoch.
    Assign {
        /// Which partition.
        partition: i32,
        /// Where.
        consumer: ConsumerId,
        /// Under which ownership.
        epoch: Epoch,
    },
    /// Finish it where it is; then say [`AssignmentTable::released`].
    Drain {
        /// Which partition.
        partition: i32,
        /// Where it is.
        consumer: ConsumerId,
        /// Under which ownership.
        epoch: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartitionPlace {
    /// Ours, and nowhere yet.
    Unassigned,
    Running(ConsumerId, Epoch),
    /// Draining, to be placed again or given up.
    Draining(ConsumerId, Epoch),
}

/// The table of one member.
#[derive(Clone, Debug, Default)]
pub struct AssignmentTable {
    places: BTreeMap<i32, PartitionPlace>,
    /// Partitions that are to go, not to move.
    giving_up: BTreeSet<i32>,
    epoch: Epoch,
}

impl AssignmentTable {
    /// We own this one, and it is ready to run.
    pub fn add(&mut self, partition: i32) {
        self.giving_up.remove(&partition);
        self.places.entry(partition).or_insert(PartitionPlace::Unassigned);
    }

    /// It must go, in good order: drained first. A partition that runs nowhere is gone at once (`None`).
    pub fn revoke(&mut self, partition: i32) -> Option<AssignmentMove> {
        match self.places.get(&partition).copied() {
            None => None,
            Some(PartitionPlace::Unassigned) => {
                self.places.remove(&partition);
                None
            }
            Some(PartitionPlace::Running(consumer, epoch)) => {
                self.giving_up.insert(partition);
                self.places.insert(partition, PartitionPlace::Draining(consumer, epoch));
                Some(AssignmentMove::Drain { partition, consumer, epoch })
            }
            Some(PartitionPlace::Draining(consumer, epoch)) => {
                self.giving_up.insert(partition);
                Some(AssignmentMove::Drain { partition, consumer, epoch })
            }
        }
    }

    /// It is gone at once, whatever it was doing.
    pub fn remove_consumer(&mut self, partition: i32) {
        self.giving_up.remove(&partition);
        self.places.remove(&partition);
    }

    /// It runs no more where it was, under `epoch`: drained, or its actor has ended. False: an older epoch, nothing
    /// changes. Afterwards it is free to be placed, or gone when it was to be given up.
    pub fn released(&mut self, partition: i32, epoch: Epoch) -> bool {
        let known = match self.places.get(&partition) {
            Some(PartitionPlace::Running(_, current) | PartitionPlace::Draining(_, current)) => {
                *current == epoch
            }
            Some(PartitionPlace::Unassigned) | None => false,
        };
        if known {
            if self.giving_up.remove(&partition) {
                self.places.remove(&partition);
            } else {
                self.places.insert(partition, PartitionPlace::Unassigned);
            }
        }
        known
    }

    /// Where a partition runs.
    pub fn place(&self, partition: i32) -> Option<(ConsumerId, Epoch)> {
        match self.places.get(&partition)? {
            PartitionPlace::Running(consumer, epoch) | PartitionPlace::Draining(consumer, epoch) => {
                Some((*consumer, *epoch))
            }
            PartitionPlace::Unassigned => None,
        }
    }

    /// True when the partition is in the table.
    pub fn holds(&self, partition: i32) -> bool {
        self.places.contains_key(&partition)
    }

    /// Every partition of the table.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.places.keys().copied()
    }

    /// Partitions in the table.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// True when the table is empty.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Partitions that run at `consumer`, those that are leaving too.
    pub fn at(&self, consumer: ConsumerId) -> usize {
        let there = |place: &&PartitionPlace| matches!(place, PartitionPlace::Running(at, _) | PartitionPlace::Draining(at, _) if *at == consumer);
        self.places.values().filter(there).count()
    }

    /// The consumers that partitions run at, those that are leaving too.
    pub fn occupied(&self) -> BTreeSet<ConsumerId> {
        let at = |place: &PartitionPlace| match place {
            PartitionPlace::Running(consumer, _) | PartitionPlace::Draining(consumer, _) => Some(*consumer),
            PartitionPlace::Unassigned => None,
        };
        self.places.values().filter_map(at).collect()
    }

    /// Spreads everything over `consumers`: whoever has too much drains, whatever is free goes to the lightest.
    pub fn balance(&mut self, consumers: &[ConsumerId]) -> Vec<AssignmentMove> {
        if consumers.is_empty() {
            return Vec::new();
        }
        let mut moves = self.drain_surplus(consumers);
        moves.extend(self.place_free(consumers));
        moves
    }

    fn drain_surplus(&mut self, consumers: &[ConsumerId]) -> Vec<AssignmentMove> {
        let share = self.places.len().div_ceil(consumers.len());
        let floor = self.places.len() / consumers.len();
        let mut at_share = self.places.len() - floor * consumers.len();
        let mut kept: BTreeMap<ConsumerId, usize> = consumers.iter().map(|consumer| (*consumer, 0)).collect();
        let mut moves = Vec::new();
        for (partition, place) in &mut self.places {
            let PartitionPlace::Running(consumer, epoch) = *place else { continue };
            let stays = |count: &&mut usize| **count < floor || (**count < share && at_share > 0);
            if let Some(count) = kept.get_mut(&consumer).filter(stays) {
                at_share -= usize::from(*count == floor);
                *count += 1;
            } else {
                *place = PartitionPlace::Draining(consumer, epoch);
                moves.push(AssignmentMove::Drain { partition: *partition, consumer, epoch });
            }
        }
        moves
    }

    fn place_free(&mut self, consumers: &[ConsumerId]) -> Vec<AssignmentMove> {
        let mut load: BTreeMap<ConsumerId, usize> = consumers.iter().map(|consumer| (*consumer, 0)).collect();
        for place in self.places.values() {
            if let PartitionPlace::Running(consumer, _) = place
                && let Some(count) = load.get_mut(consumer)
            {
                *count += 1;
            }
        }
        let mut lightest: BinaryHeap<Reverse<(usize, ConsumerId)>> =
            load.into_iter().map(|(consumer, count)| Reverse((count, consumer))).collect();
        let mut moves = Vec::new();
        for (partition, place) in &mut self.places {
            if *place != PartitionPlace::Unassigned {
                continue;
            }
            let Some(mut first) = lightest.peek_mut() else { break };
            let Reverse((count, consumer)) = &mut *first;
            *count += 1;
            self.epoch = self.epoch.next();
            *place = PartitionPlace::Running(*consumer, self.epoch);
            moves.push(AssignmentMove::Assign {
                partition: *partition,
                consumer: *consumer,
                epoch: self.epoch,
            });
        }
        moves
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn consumers(count: u32) -> Vec<ConsumerId> {
        (0..count).map(ConsumerId).collect()
    }

    /// What really runs: obeys moves, notices two owners.
    #[derive(Default)]
    struct RunningPartitions {
        running: BTreeMap<i32, (ConsumerId, Epoch)>,
        draining: Vec<(i32, Epoch)>,
        last_epoch: BTreeMap<i32, Epoch>,
    }

    impl RunningPartitions {
        fn apply_moves(&mut self, moves: &[AssignmentMove]) {
            for step in moves {
                match *step {
                    AssignmentMove::Assign { partition, consumer, epoch } => {
                        assert!(
                            self.running.insert(partition, (consumer, epoch)).is_none(),
                            "OWN-1: {partition}"
                        );
                        let before = self.last_epoch.insert(partition, epoch);
                        assert!(before.is_none_or(|before| before < epoch), "epochs grow");
                    }
                    AssignmentMove::Drain { partition, consumer, epoch } => {
                        assert_eq!(self.running.get(&partition), Some(&(consumer, epoch)));
                        self.draining.push((partition, epoch));
                    }
                }
            }
        }

        fn finish_drains(&mut self, table: &mut AssignmentTable) {
            for (partition, epoch) in std::mem::take(&mut self.draining) {
                if self.running.get(&partition).is_some_and(|(_, current)| *current == epoch) {
                    self.running.remove(&partition);
                    table.released(partition, epoch);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn own_1_one_owner_growing_epochs_and_balance(
            steps in prop::collection::vec((0u8..5, 0i32..16, 1u32..6, any::<bool>()), 1..60)
        ) {
            let (mut table, mut floor, mut count) = (AssignmentTable::default(), RunningPartitions::default(), 1);
            for (kind, partition, wanted, settle) in steps {
                match kind {
                    0 | 1 => table.add(partition),
                    2 => floor.apply_moves(&table.revoke(partition).into_iter().collect::<Vec<_>>()),
                    3 => {
                        table.remove_consumer(partition);
                        floor.running.remove(&partition);
                    }
                    _ => count = wanted,
                }
                floor.apply_moves(&table.balance(&consumers(count)));
                if settle {
                    floor.finish_drains(&mut table);
                    floor.apply_moves(&table.balance(&consumers(count)));
                }
            }
            for _ in 0..3 {
                floor.finish_drains(&mut table);
                floor.apply_moves(&table.balance(&consumers(count)));
            }
            prop_assert!(floor.draining.is_empty());
            prop_assert_eq!(floor.running.len(), table.len());
            prop_assert!(consumers(6).iter().all(|one| table.occupied().contains(one) == (table.at(*one) > 0)));
            let loads: Vec<usize> = consumers(count).iter().map(|consumer| table.at(*consumer)).collect();
            let (most, least) = (loads.iter().max().copied().unwrap_or(0), loads.iter().min().copied().unwrap_or(0));
            prop_assert!(most - least <= 1, "{:?}", loads);
        }
    }

    #[test]
    fn adding_a_consumer_moves_only_what_it_must() {
        let mut table = AssignmentTable::default();
        (0..9).for_each(|partition| table.add(partition));
        table.balance(&consumers(2));
        assert_eq!(table.balance(&consumers(3)).len(), 3);
    }

    #[test]
    fn own_1_an_older_epoch_changes_nothing() {
        let mut table = AssignmentTable::default();
        table.add(0);
        table.balance(&consumers(1));
        assert!(!table.released(0, Epoch(0)));
        assert!(table.released(0, Epoch(1)));
        assert_eq!(
            table.balance(&consumers(1)),
            [AssignmentMove::Assign { partition: 0, consumer: ConsumerId(0), epoch: Epoch(2) }]
        );
    }
}
