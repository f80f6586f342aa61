//! Assignment of partitions to consumers inside a member: sticky, balanced, one owner at a time. A partition that
//! moves is drained first and reassigned only after that; every assignment has an epoch of its own (OWN-1).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use lighterman_proto::ids::{ConsumerId, Epoch};

/// Step towards the balanced assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AssignmentMove {
    /// Start the partition at this consumer, under this epoch.
    Assign {
        /// Partition index.
        partition: i32,
        /// Consumer to run it.
        consumer: ConsumerId,
        /// Epoch of the assignment.
        epoch: Epoch,
    },
    /// Drain the partition at its consumer, then call [`AssignmentTable::released`].
    Drain {
        /// Partition index.
        partition: i32,
        /// Consumer that runs it.
        consumer: ConsumerId,
        /// Epoch of the assignment.
        epoch: Epoch,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartitionPlace {
    /// Owned by the member, but not running.
    Unassigned,
    Running(ConsumerId, Epoch),
    /// Draining, to be reassigned or removed afterwards.
    Draining(ConsumerId, Epoch),
}

/// Assignment table of one member.
#[derive(Clone, Debug, Default)]
pub struct AssignmentTable {
    places: BTreeMap<i32, PartitionPlace>,
    /// Partitions that are removed, not reassigned, once drained.
    giving_up: BTreeSet<i32>,
    epoch: Epoch,
}

impl AssignmentTable {
    /// Adds a partition that the member owns and that is ready to run.
    pub fn add(&mut self, partition: i32) {
        self.giving_up.remove(&partition);
        self.places.entry(partition).or_insert(PartitionPlace::Unassigned);
    }

    /// Revokes a partition gracefully: it is drained first. A partition that does not run is removed at once
    /// (`None`).
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

    /// Removes a partition at once, whatever its state.
    pub fn remove_partition(&mut self, partition: i32) {
        self.giving_up.remove(&partition);
        self.places.remove(&partition);
    }

    /// Records that a partition stopped under `epoch`: it drained, or its actor ended. Returns false, and changes
    /// nothing, if `epoch` is not the current one. Otherwise the partition becomes unassigned, or is removed if it
    /// was revoked.
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

    /// Returns the consumer and epoch under which a partition runs or drains.
    pub fn place(&self, partition: i32) -> Option<(ConsumerId, Epoch)> {
        match self.places.get(&partition)? {
            PartitionPlace::Running(consumer, epoch) | PartitionPlace::Draining(consumer, epoch) => {
                Some((*consumer, *epoch))
            }
            PartitionPlace::Unassigned => None,
        }
    }

    /// Returns true if the partition is in the table.
    pub fn holds(&self, partition: i32) -> bool {
        self.places.contains_key(&partition)
    }

    /// Iterates over all partitions of the table.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.places.keys().copied()
    }

    /// Returns the number of partitions.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Returns true if the table is empty.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns the number of partitions at `consumer`, draining ones included.
    pub fn at(&self, consumer: ConsumerId) -> usize {
        let there = |place: &&PartitionPlace| matches!(place, PartitionPlace::Running(at, _) | PartitionPlace::Draining(at, _) if *at == consumer);
        self.places.values().filter(there).count()
    }

    /// Returns the consumers that have partitions, draining ones included.
    pub fn occupied(&self) -> BTreeSet<ConsumerId> {
        let at = |place: &PartitionPlace| match place {
            PartitionPlace::Running(consumer, _) | PartitionPlace::Draining(consumer, _) => Some(*consumer),
            PartitionPlace::Unassigned => None,
        };
        self.places.values().filter_map(at).collect()
    }

    /// Balances all partitions over `consumers`: drains the surplus of overloaded consumers, and assigns free
    /// partitions to the least loaded.
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

    /// Model of what really runs: applies moves and detects two owners.
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
        fn own_1_random_moves_keep_one_owner_and_balance(
            steps in prop::collection::vec((0u8..5, 0i32..16, 1u32..6, any::<bool>()), 1..60)
        ) {
            let (mut table, mut floor, mut count) = (AssignmentTable::default(), RunningPartitions::default(), 1);
            for (kind, partition, wanted, settle) in steps {
                match kind {
                    0 | 1 => table.add(partition),
                    2 => floor.apply_moves(&table.revoke(partition).into_iter().collect::<Vec<_>>()),
                    3 => {
                        table.remove_partition(partition);
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
    fn added_consumer_moves_minimum_of_partitions() {
        let mut table = AssignmentTable::default();
        (0..9).for_each(|partition| table.add(partition));
        table.balance(&consumers(2));
        assert_eq!(table.balance(&consumers(3)).len(), 3);
    }

    #[test]
    fn own_1_release_under_older_epoch_is_ignored() {
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
