//! Handling of a log that cannot be read, or that was replaced by another one.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::RecordError;
use lighterman_proto::units::Moment;

use crate::messages::outcome::Outcome;
use crate::messages::unreadable::{BatchDamage, BatchEnd, READ_RETRY_DELAY};
use crate::partition::attempts::AttemptState;
use crate::partition::attempts::attempt::RecordAttempt;
use crate::partition::core::{PartitionCore, PartitionPhase};
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionEvent};
use crate::partition::progress::inherited::InheritedProgress;
use crate::partition::reader::unreadable::UnreadState;

impl PartitionCore {
    /// Handles a position outside the log. If it is beyond the log end, the cause is unknown and the log is treated
    /// as replaced.
    pub fn out_of_range(
        &mut self,
        now: Moment,
        log_start: Offset,
        log_end: Offset,
        context: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.reader.wanted = false;
        if self.reader.position > log_end {
            return self.parted();
        }
        if self.reader.position < log_start {
            self.reader.lost_before = Some(log_start);
        }
        self.advance(now, context, &mut out);
        out
    }

    /// Handles a divergence: the leader's log has another history from `end` on (KIP-320).
    pub fn diverged(&mut self, end: Offset) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. }) {
            self.diverged_into(end, &mut out);
        }
        out
    }

    /// Handles the replacement of the log: everything known of the old one is discarded, and late responses are
    /// ignored.
    pub fn parted(&mut self) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. }) {
            // A draining partition is handed over as it is; its next owner detects the new log.
            return out;
        }
        self.end(&mut out);
        out.push(PartitionEffect::StartNewLog);
        out
    }

    /// Stops the partition, so that a late response or dead-letter result matches nothing. Records are released at
    /// once, since their invocation may run until the function's timeout.
    fn end(&mut self, out: &mut PartitionEffects) {
        self.phase = PartitionPhase::Stopped;
        out.push(PartitionEffect::CancelFetch);
        self.call_back(out);
        (self.attempts.state, self.reader.unread) = (AttemptState::Idle, UnreadState::default());
        self.reader.buffer.clear();
        self.attempts.remaining.clear();
        self.attempts.current = RecordAttempt::none(self.progress.ledger.frontier());
    }

    /// Handles a fetch error that is not in the partition's bytes: pauses, then fetches again.
    pub fn unreadable(&mut self, now: Moment) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.reader.wanted = false;
        if self.phase == PartitionPhase::Running {
            self.phase = PartitionPhase::Paused { until: now + READ_RETRY_DELAY };
            out.push(PartitionEffect::WakeAt(now + READ_RETRY_DELAY));
        }
        out
    }

    /// Resolves records deleted by retention as lost, once all earlier ones are resolved.
    pub(in crate::partition) fn pass_lost_records(&mut self, out: &mut PartitionEffects) {
        let idle = self.is_idle_and_empty();
        if let Some(log_start) = self.reader.lost_before.take_if(|_| idle) {
            let range = OffsetRange { first: self.progress.ledger.frontier(), end: log_start };
            self.reader.unread.forget_before(log_start);
            out.push(PartitionEffect::Log(PartitionEvent::Lost(range)));
            self.go_behind(range, Outcome::Lost, out);
        }
    }

    /// True if no attempt is being made and there is nothing to attempt.
    pub(in crate::partition) fn is_idle_and_empty(&self) -> bool {
        matches!(self.attempts.state, AttemptState::Idle)
            && self.reader.buffer.is_empty()
            && self.attempts.current.batch.is_empty()
            && self.attempts.remaining.is_empty()
    }

    /// Handles an unreadable batch at the front of the buffer: everything from there on is fetched again after a
    /// pause.
    pub(in crate::partition) fn reread(
        &mut self,
        now: Moment,
        error: RecordError,
        out: &mut PartitionEffects,
    ) {
        self.reader.position = self.attempts.current.batch.range.end;
        let end = self.reader.buffer.front_end().unwrap_or(self.reader.position.next());
        self.reader.buffer.clear();
        let damage = BatchDamage { end: BatchEnd::Certain(end), error };
        self.cannot_read(now, self.reader.position, damage, true, out);
    }

    /// Discards an earlier owner's progress, as the log was truncated since: it refers to other records.
    pub(in crate::partition) fn discard_inherited(&mut self, out: &mut PartitionEffects) {
        self.progress.inherited = InheritedProgress::default();
        out.push(PartitionEffect::Log(PartitionEvent::Rewritten { from: self.progress.ledger.frontier() }));
    }

    fn diverged_into(&mut self, end: Offset, out: &mut PartitionEffects) {
        self.end(out);
        let at = self.restart_offset(end);
        let leader_epoch = self.reader.buffer.leaders().before(at);
        out.push(PartitionEffect::Restart { at, leader_epoch });
    }

    /// Returns the offset to restart at, if the log was truncated at `end`. Offsets resolved but not acknowledged are
    /// processed again: the account of their outcomes is lost with this ownership.
    fn restart_offset(&self, end: Offset) -> Offset {
        mutant!("truncation-not-gone-back-for", end.min(self.progress.acknowledged), self.reader.position)
    }

    pub(in crate::partition) fn rest(
        &mut self,
        now: Moment,
        note: PartitionEvent,
        out: &mut PartitionEffects,
    ) {
        out.push(PartitionEffect::Log(note));
        self.reader.wanted = false;
        if matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. }) {
            self.phase = PartitionPhase::Paused { until: now + READ_RETRY_DELAY };
            out.push(PartitionEffect::CancelFetch);
            out.push(PartitionEffect::WakeAt(now + READ_RETRY_DELAY));
        }
    }
}
