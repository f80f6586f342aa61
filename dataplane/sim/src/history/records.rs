//! Recorded facts of one partition's records.

use std::collections::{BTreeMap, BTreeSet};

/// Facts of one record, independent of each other.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default)]
pub(super) struct RecordHistory {
    /// Set once the function took it.
    pub taken: bool,
    /// Set while it will be retried although it was taken: it was taken together with an earlier record that failed,
    /// or failed after it was taken.
    pub may_repeat: bool,
    /// Set once the destination has it.
    pub arrived: bool,
    /// Set once the destination rejected it and the mapping drops such records.
    pub refused: bool,
    /// Set once an operator requested that it be skipped.
    pub skip_wished: bool,
    /// Set once it is accounted for with an outcome other than delivery.
    pub ended: bool,
    /// Invocations started with it.
    pub started: u32,
    /// Invocations that failed with it.
    pub failed: u32,
    /// Starts after it had been taken.
    pub repeated: u32,
}

/// Facts of one partition.
#[derive(Debug, Default)]
pub(super) struct PartitionHistory {
    pub records: BTreeMap<i64, RecordHistory>,
    /// Offsets that ever held a record: a truncated one may still be in flight.
    pub ever: BTreeSet<i64>,
    /// Offsets without an outcome.
    pub open: BTreeSet<i64>,
    /// First offset that retention left.
    pub deleted_before: i64,
    pub committed: Option<i64>,
    /// Start of each truncation, and the leader epoch of the records that replaced the truncated ones.
    pub cuts: Vec<(i64, i32)>,
    /// Number of commits that may still move back: the log was truncated below them.
    pub rewinds: u32,
    /// Deaths, losses of ownership, lost responses: each may repeat a record once.
    pub excuses: u32,
    /// Batches that they may repeat: a lost response the one in flight, a death also the unacknowledged ones.
    pub excused_batches: u32,
    /// Starts of records that had already been taken.
    pub repeats: u64,
    /// Records taken more than once.
    pub taken_again: u64,
}

impl PartitionHistory {
    pub(super) fn produce(&mut self, offset: i64) {
        self.records.insert(offset, RecordHistory::default());
        self.ever.insert(offset);
        self.open.insert(offset);
    }

    /// Excuses one more repeat of each record, and of `batches` in all.
    pub(super) fn excuse(&mut self, batches: u32) {
        self.excuses += 1;
        self.excused_batches += batches;
    }

    /// Handles a truncation; `uncommitted` batches may have been taken and not committed.
    pub(super) fn truncate(&mut self, from: i64, leader_epoch: i32, uncommitted: u32) {
        self.records.split_off(&from);
        self.open.split_off(&from);
        // Records before the cut may have been taken without being committed; they are read again.
        self.excuse(uncommitted);
        self.rewinds += 1;
        self.cuts.push((from, leader_epoch));
    }

    /// Returns true if a commit refers to records that have been truncated since.
    pub(super) fn is_of_a_cut_history(&self, offset: i64, leader_epoch: i32) -> bool {
        self.cuts.iter().any(|(from, since)| offset > *from && leader_epoch < *since)
    }

    /// Returns true if a record has been truncated.
    pub(super) fn is_cut_off(&self, offset: i64, leader_epoch: i32) -> bool {
        self.cuts.iter().any(|(from, since)| offset >= *from && leader_epoch < *since)
    }

    /// Returns the end of an accounted range in the current log.
    pub(super) fn known_end(&self, end: i64, leader_epoch: i32) -> i64 {
        let since = self.cuts.iter().filter(|(_, since)| leader_epoch < *since);
        since.map(|(from, _)| *from).fold(end, i64::min)
    }

    pub(super) fn delete(&mut self, before: i64) {
        self.deleted_before = before;
        if self.committed.is_none() || !self.cuts.is_empty() {
            // Without a commit the mapping starts after the deletion. After a truncation, an owner returns to the
            // cut, where the log now starts.
            self.records = self.records.split_off(&before);
            self.open = self.open.split_off(&before);
        }
    }

    /// Returns the lowest offset without an outcome.
    pub(super) fn lowest_open(&self) -> Option<i64> {
        self.open.first().copied()
    }

    pub(super) fn close(&mut self, offset: i64) {
        self.open.remove(&offset);
    }

    /// Returns the first record in `first..end` that matches `is`.
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
