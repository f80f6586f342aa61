//! A cut: the consecutive records of one partition that one batch will carry, as views over shared bytes.

use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{BatchHeader, Records, records_at};
use lighterman_proto::units::Moment;

use crate::credit::bytes::Lease;

/// Keeps the bytes of a frame, or of an inflated batch, on the budget for as long as a view of them lives.
pub type Hold = Arc<Lease>;

/// Consecutive records of one record batch.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The batch they stand in.
    pub header: BatchHeader,
    /// Its records section, plain.
    pub plain: Bytes,
    /// Where the first record of the slice begins.
    pub at: usize,
    /// How many records.
    pub records: u32,
    /// What keeps `plain` on the budget.
    pub hold: Hold,
}

impl Slice {
    /// Walks the slice.
    pub fn walk(&self) -> impl Iterator<Item = lighterman_proto::records::Record<'_>> {
        let walk: Records<'_> = records_at(&self.header, &self.plain, self.at, self.records);
        // Every record was walked without error before it got into a slice.
        walk.map_while(Result::ok)
    }
}

/// What a batch may hold. Relates to one partition's share: envelope and partition key are counted in `payload_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutLimits {
    /// `BatchSize`.
    pub records_max: u32,
    /// Payload limit, in bytes of the finished JSON.
    pub payload_bytes_max: usize,
}

/// Records of one partition, cut for one batch.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Where they are.
    pub slices: Vec<Slice>,
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
    /// Leader epoch of the last batch in it, for the commit (KIP-320).
    pub leader_epoch: i32,
}

impl Cut {
    /// An empty cut at `first`.
    pub fn empty(first: Offset) -> Self {
        Self {
            slices: Vec::new(),
            range: OffsetRange { first, end: first },
            records: 0,
            payload_bytes: 0,
            oldest: Moment::default(),
            full: false,
            leader_epoch: -1,
        }
    }

    /// True when it holds no record (its range may still hold offsets without one).
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
}
