//! Leader epochs under which the records of a partition were written, as far as they were read. Kafka's own client
//! keeps them with its position, and a broker with its log (`LeaderEpochFileCache`). There is an entry for each
//! change of leader, not for each batch.

use std::collections::VecDeque;

use lighterman_proto::ids::Offset;

/// Leader epochs of a range of the log.
#[derive(Debug)]
pub struct LeaderEpochs {
    /// Leader epoch before the first change; −1 if unknown.
    before: i32,
    /// First offset and epoch of each later leader. Never more entries than batches in the buffer and in work.
    changes: VecDeque<(Offset, i32)>,
}

impl Default for LeaderEpochs {
    fn default() -> Self {
        Self::after(-1)
    }
}

impl LeaderEpochs {
    /// Creates an empty cache; the preceding record has `leader_epoch`, −1 if unknown.
    pub fn after(leader_epoch: i32) -> Self {
        Self { before: leader_epoch, changes: VecDeque::new() }
    }

    /// Adds a batch of `leader_epoch` that starts at `from`. Entries from there on are replaced, as the log was read
    /// again.
    pub fn note(&mut self, from: Offset, leader_epoch: i32) {
        while self.changes.back().is_some_and(|(known, _)| *known >= from) {
            self.changes.pop_back();
        }
        if leader_epoch >= 0 && leader_epoch != self.last() {
            self.changes.push_back((from, leader_epoch));
        }
    }

    /// Returns the leader epoch of the last record before `offset`; −1 if unknown.
    pub fn before(&self, offset: Offset) -> i32 {
        let change = self.changes.iter().rev().find(|(from, _)| *from < offset);
        change.map_or(self.before, |(_, leader_epoch)| *leader_epoch)
    }

    /// Returns the leader epoch of the last record read; −1 if unknown.
    fn last(&self) -> i32 {
        self.changes.back().map_or(self.before, |(_, leader_epoch)| *leader_epoch)
    }

    /// Forgets the entries before `offset`, except the last of their epochs.
    pub fn forget_before(&mut self, offset: Offset) {
        while let Some((_, leader_epoch)) = self.changes.pop_front_if(|(from, _)| *from < offset) {
            self.before = leader_epoch;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compares with a list of every offset. Reading sometimes restarts at an offset that is not forgotten.
        #[test]
        fn agrees_with_a_naive_list(steps in prop::collection::vec((1i64..6, -1i32..4, 0i64..8, 0i64..8), 1..40)) {
            let mut epochs = LeaderEpochs::after(-1);
            let (mut naive, mut forgotten): (Vec<i32>, i64) = (Vec::new(), 0);
            for (length, raise, back, forget) in steps {
                let from = (naive.len() as i64 - (back - 4).max(0)).max(forgotten);
                naive.truncate(usize::try_from(from)?);
                let known = naive.last().copied().unwrap_or(-1);
                // A batch without a leader epoch counts as written by the previous leader.
                let leader_epoch = if raise < 0 { -1 } else { known.max(0) + raise };
                epochs.note(Offset(from), leader_epoch);
                naive.extend(std::iter::repeat_n(if leader_epoch < 0 { known } else { leader_epoch }, length as usize));
                prop_assert_eq!(epochs.last(), naive.last().copied().unwrap_or(-1));
                forgotten = forgotten.max((naive.len() as i64 - forget).max(0));
                epochs.forget_before(Offset(forgotten));
                for offset in forgotten.max(1)..=naive.len() as i64 {
                    let expected = naive[usize::try_from(offset - 1)?];
                    prop_assert_eq!(epochs.before(Offset(offset)), expected, "before {}", offset);
                }
            }
        }
    }
}
