//! What a partition does when its log cannot be read, or is not the log that it was.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::RecordError;
use lighterman_proto::units::Moment;

use super::attempt::RecordAttempt;
use super::core::{AttemptState, PartitionCore, PartitionPhase, READ_RETRY_DELAY};
use super::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionEvent};
use super::ledger::Outcome;
use super::progress::InheritedProgress;
use super::unreadable::{BatchDamage, BatchEnd, UnreadState};

impl PartitionCore {
    /// The position lies outside the log; beyond its end nobody knows why.
    pub fn out_of_range(
        &mut self,
        now: Moment,
        log_start: Offset,
        log_end: Offset,
        tools: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.wanted = false;
        if self.position > log_end {
            return self.parted();
        }
        if self.position < log_start {
            self.lost_before = Some(log_start);
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// The leader's log has another history from `end` on (KIP-320).
    pub fn diverged(&mut self, end: Offset) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. }) {
            self.diverged_into(end, &mut out);
        }
        out
    }

    /// The log is not the one that was read: nothing that is known of it holds, and no answer that is still to come counts.
    pub fn parted(&mut self) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. }) {
            // What is being drained is let go as it is: whoever gets it next finds out.
            return out;
        }
        self.end(&mut out);
        out.push(PartitionEffect::StartNewLog);
        out
    }

    /// Nothing is decided any more: an answer, or a destination's word, that is still to come finds nothing that it is for. What
    /// was read is let go at once, since an invocation of it may run for as long as the function is allowed to.
    fn end(&mut self, out: &mut PartitionEffects) {
        self.phase = PartitionPhase::Stopped;
        out.push(PartitionEffect::CancelFetch);
        self.call_back(out);
        (self.flight, self.unread) = (AttemptState::Idle, UnreadState::default());
        self.buffer.clear();
        self.remaining.clear();
        self.current = RecordAttempt::none(self.ledger.frontier());
    }

    /// The partition cannot be read for a reason that is not in its bytes.
    pub fn unreadable(&mut self, now: Moment) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.wanted = false;
        if self.phase == PartitionPhase::Running {
            self.phase = PartitionPhase::Paused { until: now + READ_RETRY_DELAY };
            out.push(PartitionEffect::WakeAt(now + READ_RETRY_DELAY));
        }
        out
    }

    /// Records that retention took are accounted once everything before them is.
    pub(super) fn pass_lost_records(&mut self, out: &mut PartitionEffects) {
        let idle = self.is_idle_and_empty();
        if let Some(log_start) = self.lost_before.take_if(|_| idle) {
            let range = OffsetRange { first: self.ledger.frontier(), end: log_start };
            self.unread.forget_before(log_start);
            out.push(PartitionEffect::Log(PartitionEvent::Lost(range)));
            self.go_behind(range, Outcome::Lost, out);
        }
    }

    /// Whether nothing is being tried, and nothing is here that could be.
    pub(super) fn is_idle_and_empty(&self) -> bool {
        matches!(self.flight, AttemptState::Idle)
            && self.buffer.is_empty()
            && self.current.batch.is_empty()
            && self.remaining.is_empty()
    }

    /// The front of the buffer cannot be read: everything from there on is fetched again after a rest.
    pub(super) fn reread(&mut self, now: Moment, error: RecordError, out: &mut PartitionEffects) {
        self.position = self.current.batch.range.end;
        let end = self.buffer.front_end().unwrap_or(self.position.next());
        self.buffer.clear();
        let damage = BatchDamage { end: BatchEnd::Certain(end), error };
        self.cannot_read(now, self.position, damage, true, out);
    }

    /// The log was cut off since an owner before us knew it: what that one tried and resolved are not these records.
    pub(super) fn discard_inherited(&mut self, out: &mut PartitionEffects) {
        self.inherited = InheritedProgress::default();
        out.push(PartitionEffect::Log(PartitionEvent::Rewritten { from: self.ledger.frontier() }));
    }

    fn diverged_into(&mut self, end: Offset, out: &mut PartitionEffects) {
        self.end(out);
        // What is decided and not acknowledged is decided again: its account would be lost with this ownership.
        let at = mutant!("truncation-not-gone-back-for", end.min(self.acknowledged), self.position);
        let leader_epoch = self.buffer.leaders().before(at);
        out.push(PartitionEffect::Restart { at, leader_epoch });
    }

    pub(super) fn rest(&mut self, now: Moment, note: PartitionEvent, out: &mut PartitionEffects) {
        out.push(PartitionEffect::Log(note));
        self.wanted = false;
        if matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. }) {
            self.phase = PartitionPhase::Paused { until: now + READ_RETRY_DELAY };
            out.push(PartitionEffect::CancelFetch);
            out.push(PartitionEffect::WakeAt(now + READ_RETRY_DELAY));
        }
    }
}
