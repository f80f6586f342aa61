//! Offsets that cannot be read: a wrong checksum, a failing codec, or records that do not fit their batch. The
//! partition pauses and fetches again. An operator may skip exactly these offsets; if there is a destination, their
//! bytes are sent there first.

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{RecordBatch, RecordBatches, RecordError, batches_from, successor};
use lighterman_proto::units::Moment;

use crate::messages::dead_letter::{DeadLetterResult, RawBatch};
use crate::messages::outcome::Outcome;
use crate::messages::records::SharedLease;
use crate::messages::skip::SkipAnswer;
use crate::messages::unreadable::{BatchDamage, BatchEnd, READ_RETRY_DELAY, UnreadableRange};
use crate::partition::attempts::DeadLetterSubject;
use crate::partition::attempts::attempt::RecordAttempt;
use crate::partition::core::{PartitionCore, PartitionPhase};
use crate::partition::effects::{FetchedFrame, PartitionEffect, PartitionEffects, PartitionEvent};

/// Unreadable range of a partition, and the state of skipping it.
#[derive(Debug, Default)]
pub(in crate::partition) struct UnreadState {
    pub now: Option<UnreadableRange>,
    /// Offsets that an operator has asked to skip.
    wanted: Option<OffsetRange>,
}

impl UnreadState {
    /// Forgets an unreadable range that starts before `end`, which the partition has reached.
    pub(in crate::partition) fn forget_before(&mut self, end: Offset) {
        if self.now.as_ref().is_some_and(|now| now.first < end) {
            (self.now, self.wanted) = (None, None);
        }
    }
}

impl PartitionCore {
    /// Returns the unreadable range, if there is one.
    pub fn unreadable_now(&self) -> Option<&UnreadableRange> {
        self.reader.unread.now.as_ref()
    }

    /// Handles an unreadable batch at `first`: the partition pauses and fetches again.
    pub(in crate::partition) fn cannot_read(
        &mut self,
        now: Moment,
        first: Offset,
        damage: BatchDamage,
        is_intact: bool,
        out: &mut PartitionEffects,
    ) {
        self.rest(now, PartitionEvent::Corrupt { first, damage: damage.clone() }, out);
        self.reader.unread.now = Some(UnreadableRange { first, damage, is_intact });
    }

    /// Handles a request to skip `first` to `end`; returns `None` if it does not concern the unreadable range.
    pub(in crate::partition) fn want_passed(
        &mut self,
        first: Offset,
        end: Option<Offset>,
        out: &mut PartitionEffects,
    ) -> Option<SkipAnswer> {
        let unreadable = self.reader.unread.now.as_ref()?;
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
        self.reader.unread.wanted = Some(OffsetRange { first, end });
        self.pass_unreadable(out);
        if self.reader.unread.wanted.is_none() {
            return Some(SkipAnswer::Skipped);
        }
        if matches!(self.phase, PartitionPhase::Paused { .. }) {
            self.phase = PartitionPhase::Running;
        }
        Some(SkipAnswer::AfterThisAttempt)
    }

    /// Skips the range that an operator has asked to skip, once all earlier offsets are resolved. If there is a
    /// destination, the bytes are fetched again first.
    pub(in crate::partition) fn pass_unreadable(&mut self, out: &mut PartitionEffects) {
        if !self.start.policy.has_destination
            && let Some(range) = self.passable()
        {
            self.pass(range, Outcome::Skipped, out);
        }
    }

    /// Returns the range to skip, once everything before it is resolved.
    fn passable(&self) -> Option<OffsetRange> {
        let wanted = self.reader.unread.wanted?;
        let is_next = self.attempts.current.batch.range.end == wanted.first;
        (is_next && self.is_idle_and_empty()).then_some(wanted)
    }

    /// Takes the unreadable bytes from `frame`, if it was fetched for them, and sends them to the destination.
    pub(in crate::partition) fn take_unreadable(
        &mut self,
        frame: &FetchedFrame<'_>,
        out: &mut PartitionEffects,
    ) -> bool {
        let Some(range) = self.passable().filter(|range| range.first == frame.position) else { return false };
        let is_intact = self.reader.unread.now.as_ref().is_some_and(|now| now.is_intact);
        let Some(raw) = raw_bytes(frame.records, range, is_intact) else { return false };
        let ticket = self.attempts.start_dead_letter(DeadLetterSubject::Unreadable(range));
        let why = self.reader.unread.now.as_ref().map(|now| now.damage.error.to_string()).unwrap_or_default();
        let hold = SharedLease::clone(frame.hold);
        out.push(PartitionEffect::DeadLetterRaw { ticket, batch: RawBatch { range, raw, why, hold } });
        true
    }

    /// Handles the result of sending the bytes of the unreadable `range`.
    pub(in crate::partition) fn raw_buried(
        &mut self,
        now: Moment,
        range: OffsetRange,
        dead_letter_result: DeadLetterResult,
        out: &mut PartitionEffects,
    ) {
        match dead_letter_result {
            DeadLetterResult::Acknowledged => self.pass(range, Outcome::Skipped, out),
            DeadLetterResult::Dropped => self.pass(range, Outcome::Dropped, out),
            DeadLetterResult::Stopped if self.phase == PartitionPhase::Running => {
                self.phase = PartitionPhase::Paused { until: now + READ_RETRY_DELAY };
                out.push(PartitionEffect::WakeAt(now + READ_RETRY_DELAY));
            }
            DeadLetterResult::Stopped => {}
        }
    }

    fn pass(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        self.reader.unread = UnreadState::default();
        self.reader.wanted = false;
        out.push(PartitionEffect::CancelFetch);
        out.push(PartitionEffect::Log(PartitionEvent::Passed { range, outcome }));
        if matches!(self.phase, PartitionPhase::Paused { .. }) {
            self.phase = PartitionPhase::Running;
        }
        self.go_behind(range, outcome, out);
    }

    /// Records `outcome` for `range`, which starts where the next records would, and continues after it. The outcome
    /// needs no records.
    pub(in crate::partition) fn go_behind(
        &mut self,
        range: OffsetRange,
        outcome: Outcome,
        out: &mut PartitionEffects,
    ) {
        self.reader.position = range.end;
        self.attempts.current = RecordAttempt::none(range.end);
        let frontier = self.progress.ledger.frontier();
        self.resolve(OffsetRange { first: frontier, end: range.first.max(frontier) }, Outcome::NoRecord, out);
        for known in self.progress.inherited.known.clone() {
            let end = known.end.min(range.end);
            self.resolve(OffsetRange { first: known.first.min(end), end }, Outcome::ResolvedEarlier, out);
        }
        self.resolve(range, outcome, out);
        self.commit_if_moved(out);
    }
}

/// Returns the next batch of a frame that was fetched at `position`, with its checksum verified. A frame that holds
/// bytes but no whole batch is an error, as in Java's `FetchCollector`: its first batch is longer than it can be.
pub(in crate::partition) fn next_batch<'f>(
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

/// Returns the damage of the batch at byte `at`. If the batch lies wholly before `position`, returns the batches
/// after it instead.
pub(in crate::partition) fn damage(
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

/// Returns the bytes of `range` in a frame that was fetched at its start, or `None` if the range can be read by now.
/// A batch that `is_intact` is not checked for that, as its damage is inside it.
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
