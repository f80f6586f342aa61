//! Partition batch: the consecutive records of one partition that one invocation carries, as views of shared bytes.

use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{BatchHeader, Record, Records, records_at};
use lighterman_proto::units::Moment;

use crate::credit::memory_budget::MemoryLease;
use crate::messages::outcome::{Outcome, ResolvedRange};

/// Lease that keeps the bytes of a frame or of a decompressed batch on the budget for as long as a view of them
/// lives.
pub type SharedLease = Arc<MemoryLease>;

/// Consecutive records of one record batch.
#[derive(Clone, Debug)]
pub struct RecordRun {
    /// Header of the record batch.
    pub header: BatchHeader,
    /// Decompressed records section of the record batch.
    pub plain: Bytes,
    /// Byte position of the first record's start.
    pub at: usize,
    /// Byte position of the last record's end.
    pub end: usize,
    /// Number of records.
    pub records: u32,
    /// Lease on the memory of `plain`.
    pub hold: SharedLease,
    /// Set if the run's only record was too large to hold; only its offset and timestamp are known.
    pub unheld: bool,
}

impl RecordRun {
    /// Iterates over the records.
    pub fn walk(&self) -> impl Iterator<Item = Record<'_>> {
        let walk: Records<'_> = records_at(&self.header, &self.plain, self.at, self.records);
        // Every record was parsed without error before it was added to a slice.
        walk.map_while(Result::ok)
    }
}

/// Limits of a batch, for one partition's share. Envelope and partition key are already deducted from
/// `payload_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionBatchLimits {
    /// `BatchSize`.
    pub records_max: u32,
    /// Payload limit, in bytes of the finished JSON.
    pub payload_bytes_max: usize,
}

/// Records of one partition that are invoked together.
#[derive(Clone, Debug)]
pub struct PartitionBatch {
    /// The records, as views.
    pub runs: Vec<RecordRun>,
    /// Offsets that the batch resolves, including gaps and control records between and after its records.
    pub range: OffsetRange,
    /// Number of records.
    pub records: u32,
    /// Exact size of the records in the payload, in bytes, without envelope and partition key.
    pub payload_bytes: usize,
    /// Arrival time of the first of the records.
    pub oldest: Moment,
    /// Set when no further record fits, by count or by bytes.
    pub full: bool,
    /// Ranges of records left out while the batch grew, with their outcomes; the ledger takes them from here.
    pub excluded: Vec<ResolvedRange>,
}

impl PartitionBatch {
    /// Creates an empty batch at `first`.
    pub fn empty(first: Offset) -> Self {
        Self {
            runs: Vec::new(),
            range: OffsetRange { first, end: first },
            records: 0,
            payload_bytes: 0,
            oldest: Moment::default(),
            full: false,
            excluded: Vec::new(),
        }
    }

    /// True if there are no records; the range may still hold offsets without one.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Leaves out the record at `offset`, the next one after the range, because it has `outcome` already.
    pub fn leave_out(&mut self, offset: Offset, outcome: Outcome) {
        match self.excluded.last_mut() {
            Some(last) if last.range.end == offset && last.outcome == outcome => {
                last.range.end = offset.next();
            }
            _ => {
                let range = OffsetRange { first: offset, end: offset.next() };
                self.excluded.push(ResolvedRange { range, outcome });
            }
        }
        self.range.end = offset.next();
    }

    /// True if a record was too large to hold. It is then the only record, and has no content.
    pub fn is_unheld(&self) -> bool {
        self.runs.iter().any(|slice| slice.unheld)
    }

    /// Iterates over the records in order.
    pub fn walk(&self) -> impl Iterator<Item = Record<'_>> {
        self.runs.iter().flat_map(RecordRun::walk)
    }

    /// Returns a batch of those records of `range` that `keep` accepts. It resolves all of `range` and never grows
    /// again.
    #[must_use]
    pub fn select(
        &self,
        range: OffsetRange,
        sizer: &dyn RecordSizer,
        mut keep: impl FnMut(&Record<'_>) -> bool,
    ) -> Self {
        let mut chosen = Self { range, oldest: self.oldest, full: true, ..Self::empty(range.first) };
        for slice in &self.runs {
            slice
                .select_into(&mut chosen, sizer, &mut |record| range.contains(record.offset) && keep(record));
        }
        chosen
    }

    /// Splits the batch in two with half of the records each, which together resolve the same range. Returns `None`
    /// for fewer than two records.
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
    /// Appends the records that `keep` accepts to `into`, in runs of adjacent ones.
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
                into.runs.push(std::mem::replace(&mut run, self.run_at(walk.at())));
            }
        }
        if run.records > 0 {
            into.runs.push(run);
        }
    }

    fn run_at(&self, at: usize) -> Self {
        let (plain, hold) = (self.plain.clone(), SharedLease::clone(&self.hold));
        Self { header: self.header, plain, at, end: at, records: 0, hold, unheld: self.unheld }
    }
}

/// Source of exact record sizes.
pub trait RecordSizer {
    /// Returns the size of `record` in the payload, in bytes, including its comma; `first` if it is the first of its
    /// partition.
    fn record_bytes(&self, record: &Record<'_>, first: bool) -> usize;
}
