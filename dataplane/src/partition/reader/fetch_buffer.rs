//! Fetch buffer of one partition: ordered, leased segments, one for each record batch received. Compressed batches
//! stay compressed until they are at the front and needed, so that decompressing a small frame cannot use up the
//! budget.

use std::collections::VecDeque;

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{
    AbortedTransactions, BatchHeader, Compression, Record, RecordBatch, RecordError, batches, records_at,
};
use lighterman_proto::units::Moment;

use crate::credit::memory_budget::Overdraft;
use crate::messages::records::{PartitionBatch, PartitionBatchLimits, RecordRun, RecordSizer, SharedLease};
use crate::messages::unreadable::BatchDamage;
use crate::partition::progress::inherited::KnownLogEnd;
use crate::partition::reader::leader_epochs::LeaderEpochs;
use crate::partition::reader::pieces::{NextPiece, PiecedBatch};
use crate::partition::reader::segment::{BufferSegment, SegmentBody, SegmentFront};
use crate::partition::reader::unreadable::{damage, next_batch};

/// Decompressor that works within the memory budget.
pub trait BatchOpener {
    /// Returns the decompressed records section of `packed`, whose memory `frame` leases. `known` is its size if a
    /// lease for it was refused before; it is then decompressed only if that size can be leased.
    fn open(
        &mut self,
        header: &BatchHeader,
        packed: &Bytes,
        known: Option<PlainSize>,
        frame: &SharedLease,
    ) -> Result<OpenedBatch, RecordError>;

    /// Returns the next part of a batch that is decompressed in pieces.
    fn next_piece(&mut self, batch: &mut PiecedBatch) -> Result<NextPiece, RecordError>;

    /// True if others wait for memory, possibly for what is held here.
    fn has_waiters(&self) -> bool;

    /// Leases `bytes` for a copy of received records; `None` if they are not available.
    fn lend(&mut self, bytes: usize) -> Option<SharedLease>;
}

/// Result of opening a compressed batch.
pub enum OpenedBatch {
    /// Records section, with the lease on its memory.
    Plain(Bytes, SharedLease),
    /// The batch is too large to decompress at once: its records come in pieces.
    Pieced(Box<PiecedBatch>),
    /// Other tasks on the thread run first.
    Later,
    /// The memory is not available; includes the size of the batch.
    NoCredit(CreditShortage, PlainSize),
}

/// Decompressed size of a batch, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainSize {
    /// Size in bytes, small enough to decompress at once.
    Bytes(usize),
    /// Too large to decompress at once.
    Large,
}

/// Memory that could not be leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditShortage {
    /// Number of bytes.
    pub bytes: usize,
    /// Purpose for which an overdraft may be used.
    pub purpose: Overdraft,
}

/// Filter of records.
pub trait RecordFilter {
    /// True if the mapping's filters accept `record`.
    fn passes(&self, record: &Record<'_>) -> bool;
}

/// Limits on how far a batch may grow, and records to leave out.
#[derive(Clone, Copy)]
pub struct FillLimits<'k> {
    /// Limits of one batch.
    pub limits: PartitionBatchLimits,
    /// Latest end of the batch, where an earlier owner ended it; `None`: no limit.
    pub end_max: Option<Offset>,
    /// The frontier: every offset before it has an outcome, even if its record is still in the buffer.
    pub frontier: Offset,
    /// Ranges after the frontier, in order, whose records an earlier owner has resolved.
    pub known: &'k [OffsetRange],
    /// End of the log as that owner knew it.
    pub remembered: Option<KnownLogEnd>,
}

impl FillLimits<'_> {
    pub(super) fn knows(&self, offset: Offset) -> bool {
        let at = self.known.partition_point(|range| range.end <= offset);
        self.known.get(at).is_some_and(|range| range.contains(offset))
    }
}

/// Fetched record batches in offset order.
#[derive(Default)]
pub struct FetchBuffer {
    segments: VecDeque<BufferSegment>,
    wire_bytes: usize,
    records: u64,
    leaders: LeaderEpochs,
}

/// Result of adding a frame to the buffer.
#[derive(Debug)]
pub struct FrameReceived {
    /// Offset of the next fetch.
    pub position: Offset,
    /// Number of records received, without those of aborted transactions.
    pub records: u64,
    /// Damage of the batch at `position`; everything before it is in the buffer.
    pub damage: Option<BatchDamage>,
}

/// Reason why a batch could not grow further.
#[derive(Debug, PartialEq)]
pub enum FillStop {
    /// The batch is full, or the buffer is empty.
    Done,
    /// The next record batch must be decompressed, and the memory for it is not available.
    NoCredit(CreditShortage),
    /// The limit of decompression in one turn is reached: other tasks on the thread run first.
    Later,
    /// The record at the front alone exceeds the payload limit.
    Oversized {
        /// Offset of the record.
        offset: Offset,
        /// Size of its payload, in bytes.
        bytes: usize,
    },
    /// The record batch at the front cannot be read.
    Corrupt(RecordError),
    /// The log was truncated and rewritten since an earlier owner read it.
    Rewritten,
}

impl FetchBuffer {
    /// Creates an empty buffer after a record of `leader_epoch`, −1 if unknown.
    pub fn after(leader_epoch: i32) -> Self {
        Self { leaders: LeaderEpochs::after(leader_epoch), ..Self::default() }
    }

    /// Returns the bytes received and not yet taken into a batch.
    pub fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// Returns the number of records received and not yet taken into a batch, as counted by the batch headers.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// True if the buffer is empty.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Returns the arrival time of the first buffered record.
    pub fn oldest(&self) -> Option<Moment> {
        let with_records = |segment: &&BufferSegment| !matches!(segment.body, SegmentBody::Absent);
        self.segments.iter().find(with_records).map(|segment| segment.arrived)
    }

    /// Discards the buffered records, but keeps the leader epochs.
    pub fn clear(&mut self) {
        *self = Self { leaders: std::mem::take(&mut self.leaders), ..Self::default() };
    }

    /// Returns the leader epochs of the records that were received.
    pub fn leaders(&self) -> &LeaderEpochs {
        &self.leaders
    }

    /// Forgets the leader epochs of records before `offset`.
    pub fn forget_leaders_before(&mut self, offset: Offset) {
        self.leaders.forget_before(offset);
    }

    /// Adds the records section of a fetch response for `position`. Records before the position are skipped, and a
    /// partial last batch is ignored. The next position comes from the last batch's header (H15).
    pub fn receive(
        &mut self,
        frame: &Bytes,
        position: Offset,
        mut aborted: AbortedTransactions,
        hold: &SharedLease,
        now: Moment,
    ) -> FrameReceived {
        let mut received = FrameReceived { position, records: 0, damage: None };
        let mut walk = batches(frame);
        loop {
            let at = walk.at();
            let batch = match next_batch(&mut walk, frame, received.position) {
                None => break,
                Some(Ok(batch)) => batch,
                Some(Err(error)) => match damage(frame, at, error, received.position) {
                    Ok(damage) => {
                        received.damage = Some(damage);
                        break;
                    }
                    Err(behind) => {
                        walk = behind;
                        continue;
                    }
                },
            };
            let header = batch.header;
            let is_aborted = is_in_aborted_transaction(&batch, &mut aborted);
            if header.next_offset() <= received.position {
                continue;
            }
            self.leaders.note(header.base_offset.max(received.position), header.leader_epoch);
            let body = body_of(&batch, frame, is_aborted);
            let count = if matches!(body, SegmentBody::Absent) { 0 } else { u64::from(header.record_count) };
            received.records += count;
            self.records += count;
            let wire_bytes = batch.range.len();
            self.wire_bytes += wire_bytes;
            self.segments.push_back(BufferSegment {
                header,
                body,
                from: received.position,
                wire_bytes,
                hold: SharedLease::clone(hold),
                arrived: now,
            });
            received.position = next_offset_after(&header);
        }
        received
    }

    /// Grows `partition_batch` from the front of the buffer, as far as `fill_limits` allows.
    pub fn grow(
        &mut self,
        partition_batch: &mut PartitionBatch,
        fill_limits: FillLimits<'_>,
        sizer: &dyn RecordSizer,
        record_filter: &dyn RecordFilter,
        batch_opener: &mut dyn BatchOpener,
    ) -> FillStop {
        while !partition_batch.full {
            let Some(segment) = self.segments.front_mut() else { return FillStop::Done };
            match segment.unpack(batch_opener) {
                Ok(None) => {}
                Ok(Some(stop)) => return stop,
                Err(error) => return FillStop::Corrupt(error),
            }
            if fill_limits.remembered.is_some_and(|known| known.is_overwritten_by(&segment.header)) {
                return FillStop::Rewritten;
            }
            let stop = match segment.grow(partition_batch, fill_limits, sizer, record_filter, batch_opener) {
                Ok(stop) => stop,
                Err(error) => return FillStop::Corrupt(error),
            };
            if let Some(stop) = stop {
                return stop;
            }
            if segment.is_used_up() {
                self.drop_front(partition_batch);
            }
        }
        FillStop::Done
    }

    /// Takes the front record, if it is at `offset`, as a batch that starts at `first`, regardless of its size. Its
    /// record batch stays until `grow` has used it up, which then resolves the offsets after its last record.
    pub fn take_one(
        &mut self,
        first: Offset,
        offset: Offset,
        payload_bytes: usize,
    ) -> Option<PartitionBatch> {
        let segment = self.segments.front_mut()?;
        let SegmentFront { bytes, at, left, unheld, .. } = segment.body.front()?;
        let record_at = *at;
        let mut walk = records_at(&segment.header, bytes, *at, *left);
        if walk.next()?.ok()?.offset != offset {
            return None;
        }
        (*at, *left) = (walk.at(), walk.left());
        let (plain, end, unheld) = (bytes.clone(), *at, unheld.is_some());
        segment.from = offset.next();
        let hold = SharedLease::clone(&segment.hold);
        let slice = RecordRun { header: segment.header, plain, at: record_at, end, records: 1, hold, unheld };
        let mut partition_batch = PartitionBatch::empty(first);
        partition_batch.runs.push(slice);
        (partition_batch.range.end, partition_batch.records, partition_batch.payload_bytes) =
            (offset.next(), 1, payload_bytes);
        (partition_batch.oldest, partition_batch.full) = (segment.arrived, true);
        Some(partition_batch)
    }

    /// Returns the offset after the record batch at the front.
    pub(super) fn front_end(&self) -> Option<Offset> {
        Some(self.segments.front()?.header.next_offset())
    }

    fn drop_front(&mut self, partition_batch: &mut PartitionBatch) {
        if let Some(done) = self.segments.pop_front() {
            partition_batch.range.end = done.header.next_offset();
            self.wire_bytes -= done.wire_bytes;
            self.records = self.records.saturating_sub(u64::from(done.header.record_count));
        }
        if self.segments.is_empty() {
            self.records = 0;
        }
    }
}

/// Returns the records to deliver from a batch of `frame`; its transaction `is_aborted` or not.
fn body_of(batch: &RecordBatch<'_>, frame: &Bytes, is_aborted: bool) -> SegmentBody {
    let header = batch.header;
    if is_control_batch(&header) || !is_read_committed(is_aborted) || header.record_count == 0 {
        return SegmentBody::Absent;
    }
    let bytes = frame.slice(batch.body_range.clone());
    if header.compression == Compression::None {
        SegmentBody::Plain { bytes, at: 0, left: header.record_count }
    } else {
        SegmentBody::Compressed { bytes, known: None }
    }
}

/// True if the batch belongs to a transaction that was aborted. Control batches have to be looked at as well: the
/// abort marker ends the transaction, and the producer's next one may be committed.
fn is_in_aborted_transaction(batch: &RecordBatch<'_>, aborted: &mut AbortedTransactions) -> bool {
    mutant!(
        "abort-marker-not-seen",
        aborted.is_aborted(batch),
        !batch.header.is_control && aborted.is_aborted(batch)
    )
}

/// True if the isolation level `read_committed` delivers a batch whose transaction `is_aborted` or not.
fn is_read_committed(is_aborted: bool) -> bool {
    mutant!("aborted-delivered", !is_aborted, true)
}

/// True if the batch holds a transaction's marker, which is never delivered.
fn is_control_batch(header: &BatchHeader) -> bool {
    mutant!("control-records-delivered", header.is_control, false)
}

/// Returns the offset to fetch after a batch. Compaction leaves gaps, so it comes from the header and not from a count
/// of records (H15).
fn next_offset_after(header: &BatchHeader) -> Offset {
    mutant!(
        "next-offset-counts-records",
        header.next_offset(),
        Offset(header.base_offset.0 + i64::from(header.record_count))
    )
}
