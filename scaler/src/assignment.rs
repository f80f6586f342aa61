//! Who owns what inside a member: sticky, balanced, one owner at a time. A partition that moves is drained where it is and
//! assigned anew only when that is done; every assignment has an epoch of its own (OWN-1).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use lighterman_proto::ids::{ConsumerId, Epoch};

/// What must be done to get from here to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Run the partition there, under this epoch.
    Assign {
        /// Which partition.
        partition: i32,
        /// Where.
        consumer: ConsumerId,
        /// Under which ownership.
        epoch: Epoch,
    },
    /// Finish it where it is; then say [`Assignments::freed`].
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
enum Place {
    /// Ours, and nowhere yet.
    Free,
    At(ConsumerId, Epoch),
    /// Draining, to be placed again or given up.
    Leaving(ConsumerId, Epoch),
}

/// The table of one member.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    places: BTreeMap<i32, Place>,
    /// Partitions that are to go, not to move.
    giving_up: BTreeSet<i32>,
    epoch: Epoch,
}

impl Assignments {
    /// We own this one, and it is ready to run.
    pub fn add(&mut self, partition: i32) {
        self.giving_up.remove(&partition);
        self.places.entry(partition).or_insert(Place::Free);
    }

    /// It must go, in good order: drained first. A partition that runs nowhere is gone at once (`None`).
    pub fn give_up(&mut self, partition: i32) -> Option<Move> {
        match self.places.get(&partition).copied() {
            None => None,
            Some(Place::Free) => {
                self.places.remove(&partition);
                None
            }
            Some(Place::At(consumer, epoch)) => {
                self.giving_up.insert(partition);
                self.places.insert(partition, Place::Leaving(consumer, epoch));
                Some(Move::Drain { partition, consumer, epoch })
            }
            Some(Place::Leaving(consumer, epoch)) => {
                self.giving_up.insert(partition);
                Some(Move::Drain { partition, consumer, epoch })
            }
        }
    }

    /// It is gone at once, whatever it was doing.
    pub fn lose(&mut self, partition: i32) {
        self.giving_up.remove(&partition);
        self.places.remove(&partition);
    }

    /// It runs no more where it was, under `epoch`: drained, or its actor has ended. False: an older epoch, nothing
    /// changes. Afterwards it is free to be placed, or gone when it was to be given up.
    pub fn freed(&mut self, partition: i32, epoch: Epoch) -> bool {
        let known = match self.places.get(&partition) {
            Some(Place::At(_, current) | Place::Leaving(_, current)) => *current == epoch,
            Some(Place::Free) | None => false,
        };
        if known {
            if self.giving_up.remove(&partition) {
                self.places.remove(&partition);
            } else {
                self.places.insert(partition, Place::Free);
            }
        }
        known
    }

    /// Where a partition runs.
    pub fn place(&self, partition: i32) -> Option<(ConsumerId, Epoch)> {
        match self.places.get(&partition)? {
            Place::At(consumer, epoch) | Place::Leaving(consumer, epoch) => Some((*consumer, *epoch)),
            Place::Free => None,
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
        let there =
            |place: &&Place| matches!(place, Place::At(at, _) | Place::Leaving(at, _) if *at == consumer);
        self.places.values().filter(there).count()
    }

    /// The consumers that partitions run at, those that are leaving too.
    pub fn occupied(&self) -> BTreeSet<ConsumerId> {
        let at = |place: &Place| match place {
            Place::At(consumer, _) | Place::Leaving(consumer, _) => Some(*consumer),
            Place::Free => None,
        };
        self.places.values().filter_map(at).collect()
    }

    /// Spreads everything over `consumers`: whoever has too much drains, whatever is free goes to the lightest.
    pub fn balance(&mut self, consumers: &[ConsumerId]) -> Vec<Move> {
        if consumers.is_empty() {
            return Vec::new();
        }
        let mut moves = self.drain_surplus(consumers);
        moves.extend(self.place_free(consumers));
        moves
    }

    fn drain_surplus(&mut self, consumers: &[ConsumerId]) -> Vec<Move> {
        let share = self.places.len().div_ceil(consumers.len());
        let floor = self.places.len() / consumers.len();
        let mut at_share = self.places.len() - floor * consumers.len();
        let mut kept: BTreeMap<ConsumerId, usize> = consumers.iter().map(|consumer| (*consumer, 0)).collect();
        let mut moves = Vec::new();
        for (partition, place) in &mut self.places {
            let Place::At(consumer, epoch) = *place else { continue };
            let stays = |count: &&mut usize| **count < floor || (**count < share && at_share > 0);
            if let Some(count) = kept.get_mut(&consumer).filter(stays) {
                at_share -= usize::from(*count == floor);
                *count += 1;
            } else {
                *place = Place::Leaving(consumer, epoch);
                moves.push(Move::Drain { partition: *partition, consumer, epoch });
            }
        }
        moves
    }

    fn place_free(&mut self, consumers: &[ConsumerId]) -> Vec<Move> {
        let mut load: BTreeMap<ConsumerId, usize> = consumers.iter().map(|consumer| (*consumer, 0)).collect();
        for place in self.places.values() {
            if let Place::At(consumer, _) = place
                && let Some(count) = load.get_mut(consumer)
            {
                *count += 1;
            }
        }
        let mut lightest: BinaryHeap<Reverse<(usize, ConsumerId)>> =
            load.into_iter().map(|(consumer, count)| Reverse((count, consumer))).collect();
        let mut moves = Vec::new();
        for (partition, place) in &mut self.places {
            if *place != Place::Free {
                continue;
            }
            let Some(mut first) = lightest.peek_mut() else { break };
            let Reverse((count, consumer)) = &mut *first;
            *count += 1;
            self.epoch = self.epoch.next();
            *place = Place::At(*consumer, self.epoch);
            moves.push(Move::Assign { partition: *partition, consumer: *consumer, epoch: self.epoch });
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
    struct Floor {
        running: BTreeMap<i32, (ConsumerId, Epoch)>,
        draining: Vec<(i32, Epoch)>,
        last_epoch: BTreeMap<i32, Epoch>,
    }

    impl Floor {
        fn obey(&mut self, moves: &[Move]) {
            for step in moves {
                match *step {
                    Move::Assign { partition, consumer, epoch } => {
                        assert!(
                            self.running.insert(partition, (consumer, epoch)).is_none(),
                            "OWN-1: {partition}"
                        );
                        let before = self.last_epoch.insert(partition, epoch);
                        assert!(before.is_none_or(|before| before < epoch), "epochs grow");
                    }
                    Move::Drain { partition, consumer, epoch } => {
                        assert_eq!(self.running.get(&partition), Some(&(consumer, epoch)));
                        self.draining.push((partition, epoch));
                    }
                }
            }
        }

        fn finish_drains(&mut self, table: &mut Assignments) {
            for (partition, epoch) in std::mem::take(&mut self.draining) {
                if self.running.get(&partition).is_some_and(|(_, current)| *current == epoch) {
                    self.running.remove(&partition);
                    table.freed(partition, epoch);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn own_1_one_owner_growing_epochs_and_balance(
            steps in prop::collection::vec((0u8..5, 0i32..16, 1u32..6, any::<bool>()), 1..60)
        ) {
            let (mut table, mut floor, mut count) = (Assignments::default(), Floor::default(), 1);
            for (kind, partition, wanted, settle) in steps {
                match kind {
                    0 | 1 => table.add(partition),
                    2 => floor.obey(&table.give_up(partition).into_iter().collect::<Vec<_>>()),
                    3 => {
                        table.lose(partition);
                        floor.running.remove(&partition);
                    }
                    _ => count = wanted,
                }
                floor.obey(&table.balance(&consumers(count)));
                if settle {
                    floor.finish_drains(&mut table);
                    floor.obey(&table.balance(&consumers(count)));
                }
            }
            for _ in 0..3 {
                floor.finish_drains(&mut table);
                floor.obey(&table.balance(&consumers(count)));
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
        let mut table = Assignments::default();
        (0..9).for_each(|partition| table.add(partition));
        table.balance(&consumers(2));
        assert_eq!(table.balance(&consumers(3)).len(), 3);
    }

    #[test]
    fn own_1_an_older_epoch_changes_nothing() {
        let mut table = Assignments::default();
        table.add(0);
        table.balance(&consumers(1));
        assert!(!table.freed(0, Epoch(0)));
        assert!(table.freed(0, Epoch(1)));
        assert_eq!(
            table.balance(&consumers(1)),
            [Move::Assign { partition: 0, consumer: ConsumerId(0), epoch: Epoch(2) }]
        );
    }
}
