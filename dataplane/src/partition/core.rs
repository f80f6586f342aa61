//! State machine of a partition: decides when to fetch, what to offer, when an offset has an outcome, and when the
//! partition has drained.
//!
//! Two rules carry the guarantees. The next attempt starts only when the previous one is resolved (ORD-1) *and the
//! group has acknowledged its outcome*. A process that dies therefore repeats at most one batch of each partition.
//! Only the ledger's frontier is ever committed (COM-1).

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::attempts::PartitionAttempts;
use super::effects::{
    CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects, PartitionEvent,
};
use super::progress::PartitionProgress;
use super::reader::PartitionReader;
use crate::messages::batch::BatchId;
use crate::messages::dead_letter::DeadLetterResult;
use crate::messages::outcome::Outcome;
use crate::messages::resolution::BatchResolution;
use crate::messages::unreadable::READ_RETRY_DELAY;
use crate::partition::attempts::attempt::RecordAttempt;
use crate::partition::attempts::{AttemptState, DeadLetterSubject};
use crate::partition::progress::commit_ledger::Ledger;
use crate::partition::progress::last_commit::LastCommit;

const FETCH_BYTES_MIN: usize = 64 * 1024;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum PartitionPhase {
    Running,
    Paused {
        until: Moment,
    },
    Draining,
    Drained,
    /// Waits to be replaced, and handles no further events.
    Stopped,
}

/// Returns true if an answer meant for one ownership epoch or batch applies to the current one, `ours`. Answers to
/// earlier ones still reach the partition's current actor and must be ignored (OWN-1).
pub fn is_for<T: Copy + PartialEq>(meant: T, ours: T) -> bool {
    mutant!("late-answer-not-matched", meant == ours, true)
}

/// State machine of one partition under one ownership epoch.
pub struct PartitionCore {
    pub(super) start: PartitionConfig,
    pub(super) phase: PartitionPhase,
    pub(super) reader: PartitionReader,
    pub(super) attempts: PartitionAttempts,
    pub(super) progress: PartitionProgress,
}

impl PartitionCore {
    /// Creates a partition that resumes at `start.committed`.
    pub fn new(start: PartitionConfig) -> Self {
        Self {
            phase: PartitionPhase::Running,
            reader: PartitionReader::new(&start),
            attempts: PartitionAttempts::new(&start),
            progress: PartitionProgress::new(&start),
            start,
        }
    }

    /// Offset of the next fetch.
    pub fn position(&self) -> Offset {
        self.reader.position
    }

    /// Bytes received and not yet taken into a batch.
    pub fn buffered_bytes(&self) -> usize {
        self.reader.buffer.wire_bytes()
    }

    /// True if all received records were taken into batches.
    pub fn is_buffer_empty(&self) -> bool {
        self.reader.buffer.is_empty()
    }

    /// Arrival time of the first held record without an outcome; `None` if no record is held.
    pub fn oldest(&self) -> Option<Moment> {
        let mut cuts = std::iter::once(&self.attempts.current)
            .chain(self.attempts.remaining.last())
            .map(|work| &work.batch);
        let first = cuts.find(|cut| !cut.is_empty());
        first.map(|cut| cut.oldest).or_else(|| self.reader.buffer.oldest())
    }

    /// Ledger of the partition's offsets.
    pub fn ledger(&self) -> &Ledger {
        &self.progress.ledger
    }

    /// The current attempt.
    pub fn work(&self) -> &RecordAttempt {
        &self.attempts.current
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase == PartitionPhase::Running
    }

    /// True if the group has acknowledged the last requested commit.
    pub(super) fn is_acknowledged(&self) -> bool {
        mutant!("acknowledgement-not-awaited", self.progress.acknowledged_seq == self.progress.sent.seq, true)
    }

    /// Handles fetched records; a response for another position is ignored.
    pub fn fetched(
        &mut self,
        now: Moment,
        frame: FetchedFrame<'_>,
        context: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !self.reader.is_next(frame.position) || !self.is_running() {
            return out;
        }
        self.reader.wanted = false;
        if self.take_unreadable(&frame, &mut out) {
            return out;
        }
        let FetchedFrame { position, records, aborted, hold } = frame;
        let received = self.reader.buffer.receive(records, position, aborted, hold, now);
        self.reader.position = received.position;
        if let Some(damage) = received.damage {
            self.cannot_read(now, received.position, damage, false, &mut out);
        }
        self.advance(now, context, &mut out);
        out
    }

    /// Handles the result of `batch`. A batch other than the sealed one is ignored (OWN-1).
    pub fn resolved(
        &mut self,
        now: Moment,
        batch: BatchId,
        resolution: BatchResolution,
        context: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !is_for(Some(batch), self.attempts.sealed_batch()) {
            return out;
        }
        self.attempts.state = AttemptState::Idle;
        self.apply_resolution(resolution, context, &mut out);
        self.advance(now, context, &mut out);
        out
    }

    /// Handles the group's acknowledgement of commit `seq` and of all commits before it.
    pub fn committed(&mut self, now: Moment, seq: u64, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.progress.acknowledged_seq = self.progress.acknowledged_seq.max(seq.min(self.progress.sent.seq));
        if self.is_acknowledged() {
            self.progress.acknowledged = self.progress.sent.offset;
            self.reader.buffer.forget_leaders_before(self.progress.acknowledged);
        }
        self.advance(now, context, &mut out);
        out
    }

    /// Handles the result of sending the records of `ticket` to the destination.
    pub fn dead_letter_result(
        &mut self,
        now: Moment,
        ticket: u64,
        dead_letter_result: DeadLetterResult,
        context: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        let Some(subject) = self.attempts.end_dead_letter(ticket) else { return out };
        match (subject, dead_letter_result) {
            (DeadLetterSubject::Unreadable(range), result) => self.raw_buried(now, range, result, &mut out),
            (DeadLetterSubject::Records, DeadLetterResult::Acknowledged) => {
                self.resolve_work(Outcome::DeadLettered, &mut out);
            }
            (DeadLetterSubject::Records, DeadLetterResult::Dropped) => {
                self.resolve_work(rejected_outcome(), &mut out);
            }
            (DeadLetterSubject::Records, DeadLetterResult::Stopped) => {
                self.back_off(now + READ_RETRY_DELAY, &mut out);
            }
        }
        self.advance(now, context, &mut out);
        out
    }

    /// Handles the passing of time, and memory that may have become available.
    pub fn wake(&mut self, now: Moment, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.advance(now, context, &mut out);
        out
    }

    /// Finishes the current attempt, commits, then reports `Drained`.
    pub fn drain(&mut self, now: Moment, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if matches!(self.phase, PartitionPhase::Draining | PartitionPhase::Drained | PartitionPhase::Stopped)
        {
            return out;
        }
        self.phase = PartitionPhase::Draining;
        self.reader.wanted = false;
        self.reader.buffer.clear();
        out.push(PartitionEffect::CancelFetch);
        self.call_back(&mut out);
        self.advance(now, context, &mut out);
        out
    }

    /// Withdraws an offer or stops a dead letter that is under way.
    pub(super) fn call_back(&self, out: &mut PartitionEffects) {
        match self.attempts.state {
            AttemptState::Offered { seq, .. } => out.push(PartitionEffect::Withdraw { seq }),
            AttemptState::DeadLettering { ticket, .. } => {
                out.push(PartitionEffect::CancelDeadLetter { ticket })
            }
            AttemptState::Idle
            | AttemptState::AwaitingCommit
            | AttemptState::BackingOff { .. }
            | AttemptState::Sealed { .. } => {}
        }
    }

    pub(super) fn advance(&mut self, now: Moment, context: &mut CoreContext<'_>, out: &mut PartitionEffects) {
        if let PartitionPhase::Paused { until } = self.phase
            && until <= now
        {
            self.phase = PartitionPhase::Running;
        }
        match self.phase {
            PartitionPhase::Draining => self.finish_drain(context, out),
            PartitionPhase::Drained | PartitionPhase::Stopped => {}
            PartitionPhase::Running | PartitionPhase::Paused { .. } => {
                self.advance_attempt(now, context, out);
                self.pass_lost_records(out);
                self.pass_unreadable(out);
                self.want(out);
            }
        }
    }

    fn finish_drain(&mut self, context: &CoreContext<'_>, out: &mut PartitionEffects) {
        if !self.attempts.may_hand_over() {
            return;
        }
        self.skip_wanted(context, out);
        self.pass_unreadable(out);
        if self.progress.last_commit == LastCommit::Awaited {
            if !self.is_acknowledged() {
                return;
            }
            let at_rest = self.progress_at_rest();
            if !self.is_on_record(at_rest.as_ref()) {
                self.commit(at_rest, out);
                return;
            }
        }
        self.phase = PartitionPhase::Drained;
        out.push(PartitionEffect::Drained);
    }

    fn want(&mut self, out: &mut PartitionEffects) {
        let held = self.reader.buffer.wire_bytes();
        let target = self.start.buffer_bytes_target;
        let must_wait =
            self.holds_back() || self.reader.lost_before.is_some() || self.attempts.is_sending_unreadable();
        if self.reader.wanted || self.phase != PartitionPhase::Running || must_wait || held >= target {
            return;
        }
        self.reader.wanted = true;
        let bytes_max = (target - held).max(FETCH_BYTES_MIN);
        out.push(PartitionEffect::Fetch {
            position: self.reader.position,
            leader_epoch: self.reader.buffer.leaders().before(self.reader.position),
            bytes_max,
        });
    }

    /// Records `outcome` for every offset of `range` that has none.
    pub(super) fn resolve(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        for open in self.progress.ledger.open_in(range) {
            if let Err(refused) = self.progress.ledger.resolve(open, outcome) {
                self.phase = PartitionPhase::Stopped;
                out.push(PartitionEffect::Log(PartitionEvent::LedgerRefused(refused)));
                return;
            }
        }
        self.progress.inherited.forget_before(self.progress.ledger.frontier());
    }
}

/// Returns the outcome of records that the destination permanently rejects: they are lost, which an operator must
/// learn.
fn rejected_outcome() -> Outcome {
    mutant!("dropped-counts-as-arrived", Outcome::Dropped, Outcome::DeadLettered)
}
