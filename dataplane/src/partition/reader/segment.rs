//! One record batch in the fetch buffer: decompressed when it is needed, then read record by record into partition
//! batches.

use bytes::Bytes;
use lighterman_proto::ids::Offset;
use lighterman_proto::records::{BatchHeader, RecordError, records_at};
use lighterman_proto::units::Moment;

use crate::credit::memory_budget::Overdraft;
use crate::messages::outcome::Outcome;
use crate::messages::records::{PartitionBatch, RecordRun, RecordSizer, SharedLease};
use crate::partition::reader::compact::copy_out;
use crate::partition::reader::fetch_buffer::{
    BatchOpener, CreditShortage, FillLimits, FillStop, OpenedBatch, PlainSize, RecordFilter,
};
use crate::partition::reader::pieces::{NextPiece, PiecedBatch};

pub(super) struct BufferSegment {
    pub header: BatchHeader,
    pub body: SegmentBody,
    pub from: Offset,
    pub wire_bytes: usize,
    pub hold: SharedLease,
    pub arrived: Moment,
}

pub(super) enum SegmentBody {
    /// Nothing to deliver: control batch or aborted transaction.
    Absent,
    Compressed {
        bytes: Bytes,
        /// Decompressed size, if an earlier attempt determined it but could not lease the memory.
        known: Option<PlainSize>,
    },
    Plain {
        bytes: Bytes,
        at: usize,
        left: u32,
    },
    /// Decompressed in pieces, of which `bytes` is the current one.
    Pieced {
        batch: Box<PiecedBatch>,
        bytes: Bytes,
        at: usize,
        left: u32,
        /// Size in bytes of the record whose stub is in `bytes`, if it was too large to hold.
        unheld: Option<usize>,
    },
}

/// Decompressed records at the front of a batch.
pub(super) struct SegmentFront<'s> {
    pub bytes: &'s Bytes,
    pub at: &'s mut usize,
    pub left: &'s mut u32,
    /// Number of records of the batch after these.
    pub behind: u32,
    pub unheld: Option<usize>,
}

impl SegmentBody {
    pub(super) fn front(&mut self) -> Option<SegmentFront<'_>> {
        match self {
            Self::Absent | Self::Compressed { .. } => None,
            Self::Plain { bytes, at, left } => {
                Some(SegmentFront { bytes, at, left, behind: 0, unheld: None })
            }
            Self::Pieced { batch, bytes, at, left, unheld } => {
                Some(SegmentFront { bytes, at, left, behind: batch.left(), unheld: *unheld })
            }
        }
    }
}

impl BufferSegment {
    pub(super) fn is_used_up(&self) -> bool {
        match &self.body {
            SegmentBody::Absent => true,
            SegmentBody::Compressed { .. } => false,
            SegmentBody::Plain { left, .. } => *left == 0,
            SegmentBody::Pieced { batch, left, .. } => *left == 0 && batch.left() == 0,
        }
    }

    /// Decompresses the batch, or its next piece; returns the reason if that is not possible yet.
    pub(super) fn unpack(
        &mut self,
        batch_opener: &mut dyn BatchOpener,
    ) -> Result<Option<FillStop>, RecordError> {
        if let SegmentBody::Compressed { bytes, known } = &mut self.body {
            match batch_opener.open(&self.header, bytes, *known, &self.hold)? {
                OpenedBatch::NoCredit(shortage, size) => {
                    *known = Some(size);
                    return Ok(Some(FillStop::NoCredit(shortage)));
                }
                OpenedBatch::Later => return Ok(Some(FillStop::Later)),
                OpenedBatch::Plain(bytes, hold) => {
                    self.body = SegmentBody::Plain { bytes, at: 0, left: self.header.record_count };
                    self.hold = hold;
                }
                OpenedBatch::Pieced(batch) => {
                    self.hold = SharedLease::clone(batch.memory());
                    self.body =
                        SegmentBody::Pieced { batch, bytes: Bytes::new(), at: 0, left: 0, unheld: None };
                }
            }
        }
        match &self.body {
            SegmentBody::Pieced { batch, left: 0, .. } if batch.left() > 0 => self.unpack_next(batch_opener),
            _ => Ok(None),
        }
    }

    fn unpack_next(&mut self, batch_opener: &mut dyn BatchOpener) -> Result<Option<FillStop>, RecordError> {
        let SegmentBody::Pieced { batch, bytes, at, left, unheld } = &mut self.body else { return Ok(None) };
        // Release the current piece before waiting for the next one: the memory that is waited for may be its own.
        *bytes = Bytes::new();
        self.hold = SharedLease::clone(batch.memory());
        (*at, *left, *unheld) = (0, 0, None);
        match batch_opener.next_piece(batch)? {
            NextPiece::NoCredit(bytes) => {
                return Ok(Some(FillStop::NoCredit(CreditShortage { bytes, purpose: Overdraft::Inflated })));
            }
            NextPiece::Later => return Ok(Some(FillStop::Later)),
            NextPiece::Records { plain, records, hold } => {
                (*bytes, *left, self.hold) = (plain, records, hold);
            }
            NextPiece::Unheld { stub, bytes: size, hold } => {
                (*bytes, *left, *unheld, self.hold) = (stub, 1, Some(size), hold);
            }
        }
        Ok(None)
    }

    /// Moves records from the front into `partition_batch`, as far as `fill_limits` allows.
    pub(super) fn grow(
        &mut self,
        partition_batch: &mut PartitionBatch,
        fill_limits: FillLimits<'_>,
        sizer: &dyn RecordSizer,
        record_filter: &dyn RecordFilter,
        batch_opener: &mut dyn BatchOpener,
    ) -> Result<Option<FillStop>, RecordError> {
        let runs_before = partition_batch.runs.len();
        let Some(SegmentFront { bytes, at, left, behind, unheld }) = self.body.front() else {
            return Ok(None);
        };
        if let Some(unheld) = unheld {
            return self.meet_unheld(partition_batch, fill_limits, unheld);
        }
        let mut walk = records_at(&self.header, bytes, *at, *left);
        let mut run = RunBuilder { at: *at, end: *at, records: 0 };
        let mut stop = None;
        loop {
            if partition_batch.records == fill_limits.limits.records_max {
                partition_batch.full = true;
            }
            if partition_batch.full {
                break;
            }
            let before = (walk.at(), walk.left());
            let Some(record) = walk.next() else { break };
            let record = record.map_err(|error| error.before(behind))?;
            if let Some(end) = fill_limits.end_max.filter(|end| record.offset >= *end) {
                walk = records_at(&self.header, bytes, before.0, before.1);
                (partition_batch.range.end, partition_batch.full) = (end, true);
                break;
            }
            if record.offset < self.from.max(fill_limits.frontier) {
                run.close(partition_batch, &self.header, bytes, &self.hold);
                partition_batch.range.end = partition_batch.range.end.max(record.offset.next());
                continue;
            }
            if fill_limits.knows(record.offset) {
                run.close(partition_batch, &self.header, bytes, &self.hold);
                partition_batch.leave_out(record.offset, Outcome::ResolvedEarlier);
                continue;
            }
            if !record_filter.passes(&record) {
                run.close(partition_batch, &self.header, bytes, &self.hold);
                partition_batch.leave_out(record.offset, Outcome::Filtered);
                continue;
            }
            let size = sizer.record_bytes(&record, partition_batch.is_empty());
            if partition_batch.payload_bytes + size > fill_limits.limits.payload_bytes_max {
                walk = records_at(&self.header, bytes, before.0, before.1);
                if partition_batch.is_empty() {
                    stop = Some(FillStop::Oversized { offset: record.offset, bytes: size });
                } else {
                    partition_batch.full = true;
                }
                break;
            }
            if partition_batch.is_empty() {
                partition_batch.oldest = self.arrived;
            }
            if run.records == 0 {
                run.at = before.0;
            }
            run.records += 1;
            run.end = walk.at();
            partition_batch.records += 1;
            partition_batch.payload_bytes += size;
            partition_batch.range.end = record.offset.next();
        }
        (*at, *left) = (walk.at(), walk.left());
        run.close(partition_batch, &self.header, bytes, &self.hold);
        if *left == 0 {
            copy_out(&mut partition_batch.runs[runs_before..], bytes.len(), batch_opener);
        }
        Ok(stop)
    }

    /// Handles a front record that is too large to hold, and so too large for any payload. Filters cannot examine it.
    fn meet_unheld(
        &mut self,
        partition_batch: &mut PartitionBatch,
        fill_limits: FillLimits<'_>,
        bytes: usize,
    ) -> Result<Option<FillStop>, RecordError> {
        let Some(SegmentFront { bytes: stub, left, .. }) = self.body.front() else { return Ok(None) };
        let Some(record) = records_at(&self.header, stub, 0, *left).next() else { return Ok(None) };
        let offset = record?.offset;
        if let Some(end) = fill_limits.end_max.filter(|end| offset >= *end) {
            (partition_batch.range.end, partition_batch.full) = (end, true);
        } else if offset < self.from.max(fill_limits.frontier) {
            *left = 0;
            partition_batch.range.end = partition_batch.range.end.max(offset.next());
        } else if fill_limits.knows(offset) {
            *left = 0;
            partition_batch.leave_out(offset, Outcome::ResolvedEarlier);
        } else if partition_batch.is_empty() {
            return Ok(Some(FillStop::Oversized {
                offset,
                bytes: bytes.max(fill_limits.limits.payload_bytes_max + 1),
            }));
        } else {
            partition_batch.full = true;
        }
        Ok(None)
    }
}

/// Run of adjacent records that become one slice.
struct RunBuilder {
    at: usize,
    end: usize,
    records: u32,
}

impl RunBuilder {
    fn close(
        &mut self,
        partition_batch: &mut PartitionBatch,
        header: &BatchHeader,
        plain: &Bytes,
        hold: &SharedLease,
    ) {
        if self.records > 0 {
            let (plain, hold) = (plain.clone(), SharedLease::clone(hold));
            let (at, end, records) = (self.at, self.end, self.records);
            partition_batch.runs.push(RecordRun {
                header: *header,
                plain,
                at,
                end,
                records,
                hold,
                unheld: false,
            });
            self.records = 0;
        }
    }
}
