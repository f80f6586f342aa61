//! What is known of the records of one partition.

use std::collections::{BTreeMap, BTreeSet};

/// One record: facts that are independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default)]
pub(super) struct RecordHistory {
    /// The function took it.
    pub taken: bool,
    /// It was taken beside an earlier record that failed, or failed after it was taken: it is asked for again.
    pub may_repeat: bool,
    /// The destination has it.
    pub arrived: bool,
    /// The destination refused it, and the mapping drops.
    pub refused: bool,
    /// A person wished it skipped.
    pub skip_wished: bool,
    /// It is accounted for as something that is not a delivery.
    pub ended: bool,
    /// Invocations that began with it.
    pub started: u32,
    /// Invocations that failed with it.
    pub failed: u32,
    /// Times it was started again after it had been taken.
    pub repeated: u32,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct PartitionHistory {
    pub records: BTreeMap<i64, RecordHistory>,
    /// Offsets that ever held a record: one that was cut off may still be on its way.
    pub ever: BTreeSet<i64>,
    /// Offsets without an outcome.
    pub open: BTreeSet<i64>,
    /// First offset that retention has left.
    pub deleted_before: i64,
    pub committed: Option<i64>,
    /// Where the log was cut off each time, and the leader epoch of what came to stand there.
    pub cuts: Vec<(i64, i32)>,
    /// Commits may go back this often: the log was cut off below them.
    pub rewinds: u32,
    /// Deaths, losses of ownership, lost answers: each may repeat one batch.
    pub excuses: u32,
    /// Records started again after they had been taken.
    pub repeats: u64,
    /// Records taken again.
    pub taken_again: u64,
}

impl PartitionHistory {
    pub(super) fn produce(&mut self, offset: i64) {
        self.records.insert(offset, RecordHistory::default());
        self.ever.insert(offset);
        self.open.insert(offset);
    }

    pub(super) fn truncate(&mut self, from: i64, leader_epoch: i32) {
        self.records.split_off(&from);
        self.open.split_off(&from);
        // What is read again from before the cut may have been taken, and not committed.
        self.excuses += 1;
        self.rewinds += 1;
        self.cuts.push((from, leader_epoch));
    }

    /// Whether a commit speaks of records that were cut off since.
    pub(super) fn is_of_a_cut_history(&self, offset: i64, leader_epoch: i32) -> bool {
        self.cuts.iter().any(|(from, since)| offset > *from && leader_epoch < *since)
    }

    /// Whether a record was cut off.
    pub(super) fn is_cut_off(&self, offset: i64, leader_epoch: i32) -> bool {
        self.cuts.iter().any(|(from, since)| offset >= *from && leader_epoch < *since)
    }

    /// Where an account of a range ends in the log as it is now.
    pub(super) fn known_end(&self, end: i64, leader_epoch: i32) -> i64 {
        let since = self.cuts.iter().filter(|(_, since)| leader_epoch < *since);
        since.map(|(from, _)| *from).fold(end, i64::min)
    }

    pub(super) fn delete(&mut self, before: i64) {
        self.deleted_before = before;
        if self.committed.is_none() || !self.cuts.is_empty() {
            // Nobody had begun: the mapping begins behind it. Or an owner goes back to where the log was cut off, and that is
            // where the log begins now.
            self.records = self.records.split_off(&before);
            self.open = self.open.split_off(&before);
        }
    }

    /// The lowest offset without an outcome.
    pub(super) fn lowest_open(&self) -> Option<i64> {
        self.open.first().copied()
    }

    pub(super) fn close(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// The first record of `first..end` that `is` names.
    pub(super) fn first_in(
        &self,
        first: i64,
        end: i64,
        is: impl Fn(i64, &RecordHistory) -> bool,
    ) -> Option<i64> {
        if first >= end {
            return None;
        }
        self.records
            .range(first..end)
            .find(|(offset, record)| is(**offset, record))
            .map(|(offset, _)| *offset)
    }
}
