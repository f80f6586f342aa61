//! A cut: the consecutive records of one partition that one batch will carry, as views over shared bytes.

use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{BatchHeader, Record, Records, records_at};
use lighterman_proto::units::Moment;

use super::fetch_buffer::RecordSizer;
use super::ledger::Outcome;
use crate::credit::memory::MemoryLease;

/// Keeps the bytes of a frame, or of an inflated batch, on the budget for as long as a view of them lives.
pub type SharedLease = Arc<MemoryLease>;

/// Consecutive records of one record batch.
#[derive(Clone, Debug)]
pub struct RecordRun {
    /// The batch they stand in.
    pub header: BatchHeader,
    /// Its records section, plain.
    pub plain: Bytes,
    /// Where the first record of the slice begins.
    pub at: usize,
    /// Where the last one ends.
    pub end: usize,
    /// How many records.
    pub records: u32,
    /// What keeps `plain` on the budget.
    pub hold: SharedLease,
    /// Only the place and the time of its one record are known: it was too large to be held.
    pub unheld: bool,
}

impl RecordRun {
    /// Walks the slice.
    pub fn walk(&self) -> impl Iterator<Item = Record<'_>> {
        let walk: Records<'_> = records_at(&self.header, &self.plain, self.at, self.records);
        // Every record was walked without error before it got into a slice.
        walk.map_while(Result::ok)
    }
}

/// What a batch may hold. Relates to one partition's share: envelope and partition key are counted in `payload_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionBatchLimits {
    /// `BatchSize`.
    pub records_max: u32,
    /// Payload limit, in bytes of the finished JSON.
    pub payload_bytes_max: usize,
}

/// Records of one partition, cut for one batch.
#[derive(Clone, Debug)]
pub struct PartitionBatch {
    /// Where they are.
    pub slices: Vec<RecordRun>,
    /// Offsets that the batch resolves: also gaps and control records between and behind its records.
    pub range: OffsetRange,
    /// How many records.
    pub records: u32,
    /// Their exact share of the payload, in bytes, without envelope and partition key.
    pub payload_bytes: usize,
    /// When the first of them arrived here.
    pub oldest: Moment,
    /// No further record fits: count or bytes.
    pub full: bool,
    /// Runs of records that were left out while the cut grew, and why; the ledger takes them from here.
    pub excluded: Vec<(OffsetRange, Outcome)>,
}

impl PartitionBatch {
    /// An empty cut at `first`.
    pub fn empty(first: Offset) -> Self {
        Self {
            slices: Vec::new(),
            range: OffsetRange { first, end: first },
            records: 0,
            payload_bytes: 0,
            oldest: Moment::default(),
            full: false,
            excluded: Vec::new(),
        }
    }

    /// True when it holds no record (its range may still hold offsets without one).
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Leaves out the record at `offset`, the next behind what the cut has seen: it has this outcome already.
    pub fn leave_out(&mut self, offset: Offset, outcome: Outcome) {
        match self.excluded.last_mut() {
            Some((last, why)) if last.end == offset && *why == outcome => last.end = offset.next(),
            _ => self.excluded.push((OffsetRange { first: offset, end: offset.next() }, outcome)),
        }
        self.range.end = offset.next();
    }

    /// Whether a record of it was too large to be held: then it is the only one, and without its content.
    pub fn is_unheld(&self) -> bool {
        self.slices.iter().any(|slice| slice.unheld)
    }

    /// Its records, in order.
    pub fn walk(&self) -> impl Iterator<Item = Record<'_>> {
        self.slices.iter().flat_map(RecordRun::walk)
    }

    /// The cut of those records of `range` that `keep` names; it resolves all of `range`, and never grows again.
    #[must_use]
    pub fn select(
        &self,
        range: OffsetRange,
        sizer: &dyn RecordSizer,
        mut keep: impl FnMut(&Record<'_>) -> bool,
    ) -> Self {
        let mut chosen = Self { range, oldest: self.oldest, full: true, ..Self::empty(range.first) };
        for slice in &self.slices {
            slice
                .select_into(&mut chosen, sizer, &mut |record| range.contains(record.offset) && keep(record));
        }
        chosen
    }

    /// Two cuts with half of the records each; together they resolve what this one does. `None` when there is nothing to
    /// halve.
    pub fn halves(&self, sizer: &dyn RecordSizer) -> Option<(Self, Self)> {
        let middle = self.walk().nth(self.records as usize / 2)?.offset;
        if self.records < 2 {
            return None;
        }
        let (front, back) = self.range.split_at(middle);
        Some((self.select(front, sizer, |_| true), self.select(back, sizer, |_| true)))
    }
}

impl RecordRun {
    /// Appends what `keep` names to `into`, in runs of neighbours.
    fn select_into(
        &self,
        into: &mut PartitionBatch,
        sizer: &dyn RecordSizer,
        keep: &mut dyn FnMut(&Record<'_>) -> bool,
    ) {
        let mut walk = records_at(&self.header, &self.plain, self.at, self.records);
        let mut run = self.run_at(self.at);
        loop {
            let at = walk.at();
            let Some(Ok(record)) = walk.next() else { break };
            if keep(&record) {
                if run.records == 0 {
                    run.at = at;
                }
                run.records += 1;
                run.end = walk.at();
                into.payload_bytes += sizer.record_bytes(&record, into.records == 0);
                into.records += 1;
            } else if run.records > 0 {
                into.slices.push(std::mem::replace(&mut run, self.run_at(walk.at())));
            }
        }
        if run.records > 0 {
            into.slices.push(run);
        }
    }

    fn run_at(&self, at: usize) -> Self {
        let (plain, hold) = (self.plain.clone(), SharedLease::clone(&self.hold));
        Self { header: self.header, plain, at, end: at, records: 0, hold, unheld: self.unheld }
    }
}
