//! State machine of a partition: decides when to fetch, what to offer, when an offset has an outcome, and when the
//! partition has drained.
//!
//! Two rules carry the guarantees. The next attempt starts only when the previous one is resolved (ORD-1), and only
//! while the commits that the group has not acknowledged are within a window (`progress/commit_window.rs`). A process
//! that dies therefore repeats at most the batches of the window and the one in flight. Only the ledger's frontier is
//! ever committed (COM-1).
//!
//! The reader, the attempts and the progress are machines of their own; the core decides what passes between them.

mod attempt;
mod commit;
mod dead_letter;
mod lost;
mod offer;
mod release;
mod resolution;
mod skip;
mod unreadable;

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::attempts::PartitionAttempts;
use super::attempts::attempt::RecordAttempt;
use super::effects::{
    CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects, PartitionEvent,
};
use super::progress::PartitionProgress;
use super::progress::commit_ledger::Ledger;
use super::reader::PartitionReader;
use crate::messages::outcome::Outcome;
use crate::messages::unreadable::READ_RETRY_DELAY;

#[derive(Debug, PartialEq, Eq)]
enum PartitionPhase {
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
    config: PartitionConfig,
    phase: PartitionPhase,
    reader: PartitionReader,
    attempts: PartitionAttempts,
    progress: PartitionProgress,
}

impl PartitionCore {
    /// Creates a partition that resumes at `config.committed`.
    pub fn new(config: PartitionConfig) -> Self {
        Self {
            phase: PartitionPhase::Running,
            reader: PartitionReader::new(&config),
            attempts: PartitionAttempts::new(&config),
            progress: PartitionProgress::new(&config),
            config,
        }
    }

    /// Offset of the next fetch.
    pub fn position(&self) -> Offset {
        self.reader.position()
    }

    /// Bytes received and not yet taken into a batch.
    pub fn buffered_bytes(&self) -> usize {
        self.reader.buffered_bytes()
    }

    /// True if all received records were taken into batches.
    pub fn is_buffer_empty(&self) -> bool {
        self.reader.is_buffer_empty()
    }

    /// Arrival time of the first held record without an outcome; `None` if no record is held.
    pub fn oldest(&self) -> Option<Moment> {
        self.attempts.oldest().or_else(|| self.reader.oldest())
    }

    /// Ledger of the partition's offsets.
    pub fn ledger(&self) -> &Ledger {
        self.progress.ledger()
    }

    /// The current attempt.
    pub fn work(&self) -> &RecordAttempt {
        self.attempts.current()
    }

    fn is_running(&self) -> bool {
        self.phase == PartitionPhase::Running
    }

    /// True until the partition drains or stops.
    fn is_active(&self) -> bool {
        matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. })
    }

    fn has_ended(&self) -> bool {
        matches!(self.phase, PartitionPhase::Drained | PartitionPhase::Stopped)
    }

    /// True if no attempt is being made and there is nothing to attempt.
    fn is_idle_and_empty(&self) -> bool {
        self.attempts.is_idle() && self.reader.is_buffer_empty() && !self.attempts.has_records()
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
        self.reader.end_fetch();
        if self.take_unreadable(&frame, &mut out) {
            return out;
        }
        if let Some(damage) = self.reader.receive(frame, now) {
            self.cannot_read(now, self.reader.position(), damage, false, &mut out);
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
        if !self.is_active() {
            return out;
        }
        self.phase = PartitionPhase::Draining;
        self.reader.discard_buffered();
        out.push(PartitionEffect::CancelFetch);
        out.extend(self.attempts.call_back());
        self.advance(now, context, &mut out);
        out
    }

    fn advance(&mut self, now: Moment, context: &mut CoreContext<'_>, out: &mut PartitionEffects) {
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
                self.fetch(out);
            }
        }
        self.progress.stamp_commits(now);
    }

    fn finish_drain(&mut self, context: &CoreContext<'_>, out: &mut PartitionEffects) {
        if !self.attempts.may_hand_over() {
            return;
        }
        self.skip_requested(context, out);
        self.pass_unreadable(out);
        if self.progress.waits_for_last_commit() {
            if !self.is_drain_committed() {
                return;
            }
            let at_rest = self.progress_at_rest();
            if !self.progress.is_on_record(at_rest.as_ref()) {
                self.commit(at_rest, out);
                return;
            }
        }
        self.phase = PartitionPhase::Drained;
        out.push(PartitionEffect::Drained);
    }

    /// True if the commits of a drain's last batches are acknowledged (DRN-1).
    fn is_drain_committed(&self) -> bool {
        mutant!("drain-commit-not-awaited", self.progress.is_acknowledged(), true)
    }

    /// Fetches further records, if they can be used.
    fn fetch(&mut self, out: &mut PartitionEffects) {
        if !self.attempts.has_records() {
            self.reader.end_hold_back();
        }
        if self.is_running() && !self.attempts.is_sending_unreadable() {
            out.extend(self.reader.next_fetch(self.config.buffer_bytes_target));
        }
    }

    /// Fetches nothing for a while.
    fn pause(&mut self, now: Moment, out: &mut PartitionEffects) {
        let until = now + READ_RETRY_DELAY;
        self.phase = PartitionPhase::Paused { until };
        out.push(PartitionEffect::WakeAt(until));
    }

    /// Ends a pause.
    fn unpause(&mut self) {
        if matches!(self.phase, PartitionPhase::Paused { .. }) {
            self.phase = PartitionPhase::Running;
        }
    }

    /// Records `outcome` for every offset of `range` that has none.
    fn resolve(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        if let Err(refused) = self.progress.resolve(range, outcome) {
            self.phase = PartitionPhase::Stopped;
            out.push(PartitionEffect::Log(PartitionEvent::LedgerRefused(refused)));
        }
    }

    fn resolve_and_commit(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        self.resolve(range, outcome, out);
        self.commit_if_moved(out);
    }

    /// Records `outcome` for `range`, which starts where the next records would, and continues after it. The outcome
    /// needs no records.
    fn pass(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        self.reader.pass_to(range.end);
        self.attempts.pass_to(range.end);
        let frontier = self.progress.frontier();
        self.resolve(OffsetRange { first: frontier, end: range.first.max(frontier) }, Outcome::NoRecord, out);
        for known in self.progress.known_ranges() {
            let end = known.end.min(range.end);
            self.resolve(OffsetRange { first: known.first.min(end), end }, Outcome::ResolvedEarlier, out);
        }
        self.resolve_and_commit(range, outcome, out);
    }
}
