//! Offsets that cannot be read: the partition pauses and fetches again. An operator may skip exactly these offsets; if
//! there is a destination, their bytes are sent there first.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::RecordError;
use lighterman_proto::units::Moment;

use super::PartitionCore;
use crate::messages::dead_letter::DeadLetterResult;
use crate::messages::outcome::Outcome;
use crate::messages::skip::SkipAnswer;
use crate::messages::unreadable::{BatchDamage, UnreadableRange};
use crate::partition::attempts::DeadLetterSubject;
use crate::partition::effects::{FetchedFrame, PartitionEffect, PartitionEffects, PartitionEvent};

impl PartitionCore {
    /// Returns the unreadable range, if there is one.
    pub fn unreadable_now(&self) -> Option<&UnreadableRange> {
        self.reader.unreadable()
    }

    /// Handles an unreadable batch at `first`: the partition pauses and fetches again.
    pub(super) fn cannot_read(
        &mut self,
        now: Moment,
        first: Offset,
        damage: BatchDamage,
        is_intact: bool,
        out: &mut PartitionEffects,
    ) {
        out.push(PartitionEffect::Log(PartitionEvent::Corrupt { first, damage: damage.clone() }));
        self.reader.stop_at(UnreadableRange { first, damage, is_intact });
        if self.is_active() {
            out.push(PartitionEffect::CancelFetch);
            self.pause(now, out);
        }
    }

    /// Handles an unreadable batch at the front of the buffer: everything from there on is fetched again after a
    /// pause.
    pub(super) fn reread(&mut self, now: Moment, error: RecordError, out: &mut PartitionEffects) {
        let first = self.attempts.current().batch.range.end;
        let end = self.reader.rewind_to_unreadable(first);
        self.cannot_read(now, first, BatchDamage { end, error }, true, out);
    }

    /// Handles a request to skip `first` to `end`; returns `None` if it does not concern the unreadable range.
    pub(super) fn request_pass(
        &mut self,
        first: Offset,
        end: Option<Offset>,
        out: &mut PartitionEffects,
    ) -> Option<SkipAnswer> {
        let unreadable = self.reader.unreadable()?;
        if self.failing().is_some() && first < unreadable.first {
            return None;
        }
        if let Err(answer) = self.reader.request_pass(first, end) {
            return Some(answer);
        }
        self.pass_unreadable(out);
        if self.reader.requested_pass().is_none() {
            return Some(SkipAnswer::Skipped);
        }
        self.unpause();
        Some(SkipAnswer::AfterThisAttempt)
    }

    /// Skips the range that an operator has asked to skip, once all earlier offsets are resolved. If there is a
    /// destination, the bytes are fetched again first.
    pub(super) fn pass_unreadable(&mut self, out: &mut PartitionEffects) {
        if !self.config.policy.has_destination
            && let Some(range) = self.passable()
        {
            self.end_unreadable(range, Outcome::Skipped, out);
        }
    }

    /// Returns the range to skip, once everything before it is resolved.
    fn passable(&self) -> Option<OffsetRange> {
        let wanted = self.reader.requested_pass()?;
        let is_next = self.attempts.current().batch.range.end == wanted.first;
        (is_next && self.is_idle_and_empty()).then_some(wanted)
    }

    /// Takes the unreadable bytes from `frame`, if it was fetched for them, and sends them to the destination.
    pub(super) fn take_unreadable(&mut self, frame: &FetchedFrame<'_>, out: &mut PartitionEffects) -> bool {
        let Some(range) = self.passable().filter(|range| range.first == frame.position) else { return false };
        let Some(batch) = self.reader.raw_batch(frame, range) else { return false };
        let request_id = self.attempts.start_dead_letter(DeadLetterSubject::Unreadable(range));
        out.push(PartitionEffect::DeadLetterRaw { request_id, batch });
        true
    }

    /// Handles the result of sending the bytes of the unreadable `range`.
    pub(super) fn unreadable_sent(
        &mut self,
        now: Moment,
        range: OffsetRange,
        dead_letter_result: DeadLetterResult,
        out: &mut PartitionEffects,
    ) {
        match dead_letter_result {
            DeadLetterResult::Acknowledged => self.end_unreadable(range, Outcome::Skipped, out),
            DeadLetterResult::Dropped => self.end_unreadable(range, Outcome::Dropped, out),
            DeadLetterResult::Stopped if self.is_running() => self.pause(now, out),
            DeadLetterResult::Stopped => {}
        }
    }

    /// Continues after an unreadable range.
    fn end_unreadable(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        self.reader.forget_unreadable();
        self.reader.end_fetch();
        out.push(PartitionEffect::CancelFetch);
        out.push(PartitionEffect::Log(PartitionEvent::Passed { range, outcome }));
        self.unpause();
        self.pass(range, outcome, out);
    }
}
