//! Offsets that cannot be read: a checksum that is wrong, a codec that refuses, records that do not fit their batch. The
//! partition rests and asks again; a person may have exactly these offsets passed, and where there is a destination the bytes
//! go there first.

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{RecordBatch, RecordBatches, RecordError, batches_from, successor};
use lighterman_proto::units::Moment;

use super::attempt::RecordAttempt;
use super::batch::SharedLease;
use super::core::{AttemptState, PartitionCore, PartitionPhase, READ_RETRY_DELAY};
use super::effects::{
    DeadLetterResult, FetchedFrame, PartitionEffect, PartitionEffects, PartitionEvent, SkipAnswer,
};
use super::ledger::Outcome;

/// How far a batch goes that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEnd {
    /// The offset behind it: its header is under a right checksum, or the batch behind it can be read.
    Certain(Offset),
    /// What its header says, where that is not before its beginning; nothing vouches for it.
    Claimed(Option<Offset>),
}

/// A batch that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchDamage {
    /// How far it goes.
    pub end: BatchEnd,
    /// What is wrong.
    pub error: RecordError,
}

impl BatchDamage {
    /// What is wrong, and what a person can do about it.
    pub fn told(&self, partition: i32, first: Offset) -> String {
        let Self { end, error } = self;
        let range = match end {
            BatchEnd::Certain(end) => format!("offsets {first} to {} of partition {partition}", end.0 - 1),
            BatchEnd::Claimed(_) => format!("partition {partition} from offset {first} on"),
        };
        let end = match end {
            BatchEnd::Certain(end) => end.to_string(),
            BatchEnd::Claimed(Some(end)) => format!("END (its header says {end}, which nothing vouches for)"),
            BatchEnd::Claimed(None) => "END (where the next good record is)".to_owned(),
        };
        format!(
            "{range} cannot be read: {error}; asked for again every {} s; to pass it: lighterman mapping skip UUID \
             {partition} {first} --end {end} --reason TEXT",
            READ_RETRY_DELAY.as_secs()
        )
    }
}

/// Offsets that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRange {
    /// The first of them.
    pub first: Offset,
    /// How far they go, and why they cannot be read.
    pub damage: BatchDamage,
    /// What is wrong lies inside the batch: its bytes are as they were written.
    pub is_intact: bool,
}

/// What cannot be read now, and what is to be done about it.
#[derive(Debug, Default)]
pub(super) struct UnreadState {
    pub now: Option<UnreadableRange>,
    /// A person wants these offsets passed.
    wanted: Option<OffsetRange>,
    /// Their bytes are on their way to the destination.
    under_way: Option<OffsetRange>,
}

impl UnreadState {
    /// The partition has come this far.
    pub(super) fn forget_before(&mut self, end: Offset) {
        if self.now.as_ref().is_some_and(|now| now.first < end) {
            (self.now, self.wanted) = (None, None);
        }
    }

    /// Whether bytes are on their way to the destination: nothing is fetched meanwhile.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}

impl PartitionCore {
    /// What cannot be read, while something cannot.
    pub fn unreadable_now(&self) -> Option<&UnreadableRange> {
        self.unread.now.as_ref()
    }

    /// The batch at `first` cannot be read: the partition rests, and asks again.
    pub(super) fn cannot_read(
        &mut self,
        now: Moment,
        first: Offset,
        damage: BatchDamage,
        is_intact: bool,
        out: &mut PartitionEffects,
    ) {
        self.rest(now, PartitionEvent::Corrupt { first, damage: damage.clone() }, out);
        self.unread.now = Some(UnreadableRange { first, damage, is_intact });
    }

    /// A person wants `first` to `end` passed; `None` when that is no matter of what cannot be read.
    pub(super) fn want_passed(
        &mut self,
        first: Offset,
        end: Option<Offset>,
        out: &mut PartitionEffects,
    ) -> Option<SkipAnswer> {
        let unreadable = self.unread.now.as_ref()?;
        if self.failing().is_some() && first < unreadable.first {
            return None;
        }
        let named = SkipAnswer::Unreadable { first: unreadable.first, end: unreadable.damage.end };
        let Some(end) = end.filter(|end| first == unreadable.first && *end > first) else {
            return Some(named);
        };
        if matches!(unreadable.damage.end, BatchEnd::Certain(certain) if certain != end) {
            return Some(named);
        }
        self.unread.wanted = Some(OffsetRange { first, end });
        self.pass_unreadable(out);
        if self.unread.wanted.is_none() {
            return Some(SkipAnswer::Skipped);
        }
        if matches!(self.phase, PartitionPhase::Paused { .. }) {
            self.phase = PartitionPhase::Running;
        }
        Some(SkipAnswer::AfterThisAttempt)
    }

    /// Passes what a person wants passed, once all before it has its outcome. With a destination its bytes are fetched once
    /// more for that.
    pub(super) fn pass_unreadable(&mut self, out: &mut PartitionEffects) {
        if !self.start.policy.has_destination
            && let Some(range) = self.passable()
        {
            self.pass(range, Outcome::Skipped, out);
        }
    }

    /// What is wanted passed, when its turn has come.
    fn passable(&self) -> Option<OffsetRange> {
        let wanted = self.unread.wanted.filter(|_| self.unread.under_way.is_none())?;
        let is_next = self.current.batch.range.end == wanted.first;
        (is_next && self.is_idle_and_empty()).then_some(wanted)
    }

    /// Takes the bytes that cannot be read out of `frame`, which came for them, and sends them to the destination.
    pub(super) fn take_unreadable(&mut self, frame: &FetchedFrame<'_>, out: &mut PartitionEffects) -> bool {
        let Some(range) = self.passable().filter(|range| range.first == frame.position) else { return false };
        let is_intact = self.unread.now.as_ref().is_some_and(|now| now.is_intact);
        let Some(raw) = raw_bytes(frame.records, range, is_intact) else { return false };
        self.unread.under_way = Some(range);
        self.ticket += 1;
        self.flight = AttemptState::DeadLettering { ticket: self.ticket };
        let why = self.unread.now.as_ref().map(|now| now.damage.error.to_string()).unwrap_or_default();
        let hold = SharedLease::clone(frame.hold);
        out.push(PartitionEffect::DeadLetterRaw {
            ticket: self.ticket,
            batch: RawBatch { range, raw, why, hold },
        });
        true
    }

    /// What became of bytes that were sent to the destination; false when it was not these.
    pub(super) fn raw_buried(
        &mut self,
        now: Moment,
        buried: DeadLetterResult,
        out: &mut PartitionEffects,
    ) -> bool {
        let Some(range) = self.unread.under_way.take() else { return false };
        match buried {
            DeadLetterResult::Acknowledged => self.pass(range, Outcome::Skipped, out),
            DeadLetterResult::Dropped => self.pass(range, Outcome::Dropped, out),
            DeadLetterResult::Stopped if self.phase == PartitionPhase::Running => {
                self.phase = PartitionPhase::Paused { until: now + READ_RETRY_DELAY };
                out.push(PartitionEffect::WakeAt(now + READ_RETRY_DELAY));
            }
            DeadLetterResult::Stopped => {}
        }
        true
    }

    fn pass(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        self.unread = UnreadState::default();
        self.wanted = false;
        out.push(PartitionEffect::CancelFetch);
        out.push(PartitionEffect::Log(PartitionEvent::Passed { range, outcome }));
        if matches!(self.phase, PartitionPhase::Paused { .. }) {
            self.phase = PartitionPhase::Running;
        }
        self.go_behind(range, outcome, out);
    }

    /// Gives `range`, which begins where the next records would, an outcome that needs no records, and goes on behind it.
    pub(super) fn go_behind(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        self.position = range.end;
        self.current = RecordAttempt::none(range.end);
        let frontier = self.ledger.frontier();
        self.resolve(OffsetRange { first: frontier, end: range.first.max(frontier) }, Outcome::NoRecord, out);
        for known in self.inherited.known.clone() {
            let end = known.end.min(range.end);
            self.resolve(OffsetRange { first: known.first.min(end), end }, Outcome::ResolvedEarlier, out);
        }
        self.resolve(range, outcome, out);
        self.commit_if_moved(out);
    }
}

/// The next batch of a frame that was fetched at `position`, its checksum compared. A frame that holds bytes and no whole batch
/// at all is wrong too, as it is for Java's `FetchCollector`: its first batch is longer than it can be.
pub(super) fn next_batch<'f>(
    walk: &mut RecordBatches<'f>,
    frame: &'f Bytes,
    position: Offset,
) -> Option<Result<RecordBatch<'f>, RecordError>> {
    let at = walk.at();
    match walk.next() {
        None if at == 0 && !frame.is_empty() => Some(Err(RecordError::Header {
            offset: position.0,
            what: "its length is more than the broker sent",
        })),
        None => None,
        Some(batch) => Some(batch.and_then(|batch| batch.verify_crc().map(|()| batch))),
    }
}

/// What is wrong with the batch at byte `at`, or, when it lies wholly before `position`, the batches behind it.
pub(super) fn damage(
    frame: &Bytes,
    at: usize,
    error: RecordError,
    position: Offset,
) -> Result<BatchDamage, RecordBatches<'_>> {
    if let Some((next, header)) = successor(frame, at) {
        if header.base_offset <= position {
            return Err(batches_from(frame, next));
        }
        return Ok(BatchDamage { end: BatchEnd::Certain(header.base_offset), error });
    }
    let header = batches_from(frame, at).next().and_then(Result::ok).map(|batch| batch.header);
    let claimed = header.map(|header| header.next_offset()).filter(|end| *end > position);
    Ok(BatchDamage { end: BatchEnd::Claimed(claimed), error })
}

/// Bytes of a batch that cannot be read, for the destination.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// The offsets that they stand for.
    pub range: OffsetRange,
    /// As they came: from the batch's header on, to the first batch behind the range that can be read.
    pub raw: Bytes,
    /// What is wrong with them.
    pub why: String,
    /// What keeps them on the budget.
    pub hold: SharedLease,
}

/// The bytes of `range` in a frame that was fetched at its beginning; `None` when it can be read by now. Of a batch that `is_intact`
/// that is not asked: what is wrong lies inside it.
fn raw_bytes(frame: &Bytes, range: OffsetRange, is_intact: bool) -> Option<Bytes> {
    let (mut begin, mut walk) = (None, batches_from(frame, 0));
    loop {
        let at = walk.at();
        let batch = match walk.next() {
            None => break,
            Some(batch) => batch.and_then(|batch| batch.verify_crc().map(|()| batch)),
        };
        match batch {
            Ok(batch) if batch.header.next_offset() <= range.first => {}
            Ok(batch) if begin.is_some() && batch.header.base_offset >= range.end => {
                return Some(frame.slice(begin?..at));
            }
            Ok(_) if begin.is_none() && !is_intact => return None,
            Ok(_) => begin = begin.or(Some(at)),
            Err(_) => {
                let next = successor(frame, at);
                if next.as_ref().is_none_or(|(_, header)| header.base_offset > range.first) {
                    begin = begin.or(Some(at));
                }
                let Some((next, _)) = next else { break };
                walk = batches_from(frame, next);
            }
        }
    }
    let begin = begin.or((!frame.is_empty()).then_some(0))?;
    Some(frame.slice(begin..))
}
