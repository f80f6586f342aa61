//! The fetch buffer: ordered, leased segments of one partition, one for each record batch received. Compressed batches
//! stay compressed until the batch at the front needs them, so a small frame cannot inflate into the whole budget.

use std::collections::VecDeque;

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{
    AbortedTransactions, BatchHeader, Compression, Record, RecordError, batches, records_at,
};
use lighterman_proto::units::Moment;

use super::batch::{PartitionBatch, PartitionBatchLimits, RecordRun, SharedLease};
use super::leader_epochs::LeaderEpochs;
use super::pieces::{NextPiece, PiecedBatch};
use super::progress::KnownLogEnd;
use super::segment::{BufferSegment, SegmentBody, SegmentFront};
use super::unreadable::{BatchDamage, damage, next_batch};
use crate::credit::memory::Overdraft;

/// Inflates a batch on credit.
pub trait BatchOpener {
    /// The plain records section of `packed`, which stands on `frame`. `known` is its size once credit for it was refused:
    /// it is inflated only when there is credit for it then.
    fn open(
        &mut self,
        header: &BatchHeader,
        packed: &Bytes,
        known: Option<PlainSize>,
        frame: &SharedLease,
    ) -> Result<OpenedBatch, RecordError>;

    /// What comes next of a batch that is inflated in pieces.
    fn next_piece(&mut self, batch: &mut PiecedBatch) -> Result<NextPiece, RecordError>;

    /// Whether others wait for credit: what is held here may be what they wait for.
    fn has_waiters(&self) -> bool;

    /// Credit for `bytes` that are copied out of what was received; `None` when there is none.
    fn lend(&mut self, bytes: usize) -> Option<SharedLease>;
}

/// What came of the wish to inflate a batch.
pub enum OpenedBatch {
    /// Its records, and the credit they stand on.
    Plain(Bytes, SharedLease),
    /// It is too large for that: its records come piece by piece.
    Pieced(Box<PiecedBatch>),
    /// Others have their turn first.
    Later,
    /// There is no credit now for what it takes, and this is its size.
    NoCredit(CreditShortage, PlainSize),
}

/// What is known of a batch's size inflated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainSize {
    /// So many bytes, which are inflated at once.
    Bytes(usize),
    /// More than is inflated at once.
    Large,
}

/// Credit that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditShortage {
    /// How much.
    pub bytes: usize,
    /// What for.
    pub purpose: Overdraft,
}

/// The exact size of one record in the payload, in bytes; `first` when it stands first under its partition.
pub trait RecordSizer {
    /// Bytes of `record`, its comma included.
    fn record_bytes(&self, record: &Record<'_>, first: bool) -> usize;
}

/// Which records are wanted.
pub trait RecordFilter {
    /// Whether the mapping's filters let `record` through.
    fn passes(&self, record: &Record<'_>) -> bool;
}

/// How far a cut may grow, and what it leaves out.
#[derive(Clone, Copy)]
pub struct FillLimits<'k> {
    /// What one batch may hold.
    pub limits: PartitionBatchLimits,
    /// Where the cut ends at the latest: an owner before us cut there. `None`: anywhere.
    pub end_max: Option<Offset>,
    /// The frontier: whatever lies before it has its outcome, also when it is still in the buffer.
    pub frontier: Offset,
    /// Ranges behind it, in order, whose records an owner before us has resolved.
    pub known: &'k [OffsetRange],
    /// How far that owner knew the log.
    pub remembered: Option<KnownLogEnd>,
}

impl FillLimits<'_> {
    pub(super) fn knows(&self, offset: Offset) -> bool {
        let at = self.known.partition_point(|range| range.end <= offset);
        self.known.get(at).is_some_and(|range| range.contains(offset))
    }
}

/// Segments in offset order.
#[derive(Default)]
pub struct FetchBuffer {
    segments: VecDeque<BufferSegment>,
    wire_bytes: usize,
    records: u64,
    leaders: LeaderEpochs,
}

/// What a frame held.
#[derive(Debug)]
pub struct FrameReceived {
    /// Where the next fetch begins.
    pub position: Offset,
    /// Records received, those of aborted transactions not counted.
    pub records: u64,
    /// What is wrong with the batch at the position; everything before it is in the buffer.
    pub damage: Option<BatchDamage>,
}

/// Why a cut could not grow any further.
#[derive(Debug, PartialEq)]
pub enum FillStop {
    /// It is full, or the buffer is used up.
    Done,
    /// The next batch must be inflated, and there is no credit for it.
    NoCredit(CreditShortage),
    /// So much was inflated that others have their turn first.
    Later,
    /// The record at the front alone exceeds the payload limit: `bytes` of payload.
    Oversized {
        /// Which record.
        offset: Offset,
        /// What the payload would have been.
        bytes: usize,
    },
    /// The batch at the front cannot be read.
    Corrupt(RecordError),
    /// The log was cut off since an owner before us knew it: other records stand there now.
    Rewritten,
}

impl FetchBuffer {
    /// An empty one, behind a record of `leader_epoch`, −1 when that is unknown.
    pub fn after(leader_epoch: i32) -> Self {
        Self { leaders: LeaderEpochs::after(leader_epoch), ..Self::default() }
    }

    /// Bytes received and not yet cut.
    pub fn wire_bytes(&self) -> usize {
        self.wire_bytes
    }

    /// Records received and not yet cut, as the batch headers count them.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// True when there is nothing to cut from.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Arrival of the first of its records.
    pub fn oldest(&self) -> Option<Moment> {
        let with_records = |segment: &&BufferSegment| !matches!(segment.body, SegmentBody::Absent);
        self.segments.iter().find(with_records).map(|segment| segment.arrived)
    }

    /// Forgets the records that are in it.
    pub fn clear(&mut self) {
        *self = Self { leaders: std::mem::take(&mut self.leaders), ..Self::default() };
    }

    /// Under which leaders was written what came through it.
    pub fn leaders(&self) -> &LeaderEpochs {
        &self.leaders
    }

    /// Nobody asks for what lies before `offset` any more.
    pub fn forget_leaders_before(&mut self, offset: Offset) {
        self.leaders.forget_before(offset);
    }

    /// Takes in the records section of a fetch reply that was asked for at `position`. Records before it are skipped,
    /// a partial last batch is ignored, the next position comes from the last batch's header (H15).
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
            let is_aborted = mutant!(
                "abort-marker-not-seen",
                aborted.is_aborted(&batch),
                !header.is_control && aborted.is_aborted(&batch)
            );
            if header.next_offset() <= received.position {
                continue;
            }
            self.leaders.note(header.base_offset.max(received.position), header.leader_epoch);
            let body = if mutant!("control-records-delivered", header.is_control, false)
                || mutant!("aborted-delivered", is_aborted, false)
                || header.record_count == 0
            {
                SegmentBody::Absent
            } else if header.compression == Compression::None {
                SegmentBody::Plain {
                    bytes: frame.slice(batch.body_range.clone()),
                    at: 0,
                    left: header.record_count,
                }
            } else {
                SegmentBody::Compressed { bytes: frame.slice(batch.body_range.clone()), known: None }
            };
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
            received.position = mutant!(
                "next-offset-counts-records",
                header.next_offset(),
                Offset(header.base_offset.0 + i64::from(header.record_count))
            );
        }
        received
    }

    /// Grows `cut` from the front of the buffer, as far as `reach` allows.
    pub fn grow(
        &mut self,
        cut: &mut PartitionBatch,
        reach: FillLimits<'_>,
        sizer: &dyn RecordSizer,
        sieve: &dyn RecordFilter,
        opener: &mut dyn BatchOpener,
    ) -> FillStop {
        while !cut.full {
            let Some(segment) = self.segments.front_mut() else { return FillStop::Done };
            match segment.unpack(opener) {
                Ok(None) => {}
                Ok(Some(stop)) => return stop,
                Err(error) => return FillStop::Corrupt(error),
            }
            if reach.remembered.is_some_and(|known| known.is_overwritten_by(&segment.header)) {
                return FillStop::Rewritten;
            }
            let stop = match segment.grow(cut, reach, sizer, sieve, opener) {
                Ok(stop) => stop,
                Err(error) => return FillStop::Corrupt(error),
            };
            if let Some(stop) = stop {
                return stop;
            }
            if segment.is_used_up() {
                self.drop_front(cut);
            }
        }
        FillStop::Done
    }

    /// Takes the record at the front, which is `offset`, whatever its size, as a cut that begins at `first`. Its batch stays
    /// until it is used up by `grow`, which then accounts for the offsets behind its last record.
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
        let mut cut = PartitionBatch::empty(first);
        cut.slices.push(slice);
        (cut.range.end, cut.records, cut.payload_bytes) = (offset.next(), 1, payload_bytes);
        (cut.oldest, cut.full) = (segment.arrived, true);
        Some(cut)
    }

    /// The offset behind the batch at the front.
    pub(super) fn front_end(&self) -> Option<Offset> {
        Some(self.segments.front()?.header.next_offset())
    }

    fn drop_front(&mut self, cut: &mut PartitionBatch) {
        if let Some(done) = self.segments.pop_front() {
            cut.range.end = done.header.next_offset();
            self.wire_bytes -= done.wire_bytes;
            self.records = self.records.saturating_sub(u64::from(done.header.record_count));
        }
        if self.segments.is_empty() {
            self.records = 0;
        }
    }
}
