//! Progress committed with the offset, so that the next owner resumes where this one stopped: attempts, the pieces of
//! a split batch, and the ranges resolved beyond the frontier.
//!
//! If attempts are limited, an attempt is committed before it starts: a record with a limit of 3 retries is never
//! tried a fifth time because a node died.

use lighterman_proto::commit_metadata::{CommittedProgress, ProgressPiece};
use lighterman_proto::ids::Offset;
use lighterman_proto::units::Moment;

use super::PartitionCore;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects};

impl PartitionCore {
    /// Returns the leader epoch of the last record before the frontier; −1 if unknown.
    pub fn frontier_leader_epoch(&self) -> i32 {
        mutant!("leader-epoch-forgotten", self.reader.leader_epoch_before(self.progress.frontier()), -1)
    }

    /// Returns the progress committed with the offset.
    pub fn progress(&self) -> Option<&CommittedProgress> {
        self.progress.committed()
    }

    /// Handles the group's acknowledgement of commit `seq` and of all commits before it.
    pub fn committed(&mut self, now: Moment, seq: u64, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        let acknowledged = self.progress.acknowledge(seq);
        self.reader.forget_leaders_before(acknowledged);
        self.advance(now, context, &mut out);
        out
    }

    /// Handles the permanent rejection of commits: the member stops, and the drain does not wait for them.
    pub fn commit_given_up(&mut self, now: Moment, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.progress.give_up_commits();
        self.advance(now, context, &mut out);
        out
    }

    /// Commits the frontier with `progress`.
    pub(super) fn commit(&mut self, progress: Option<CommittedProgress>, out: &mut PartitionEffects) {
        let leader_epoch = self.frontier_leader_epoch();
        let request = self.progress.commit(self.config.identity, leader_epoch, progress);
        out.push(PartitionEffect::Commit(request));
    }

    /// Commits the frontier if it has moved since the last commit.
    pub(super) fn commit_if_moved(&mut self, out: &mut PartitionEffects) {
        if self.progress.has_moved() {
            let progress = self.progress_going_on();
            self.commit(progress, out);
        }
    }

    /// Commits the frontier if it has moved. The progress holds the attempts used up, not the next one, which has not
    /// started.
    pub(super) fn commit_at_rest_if_moved(&mut self, out: &mut PartitionEffects) {
        if self.progress.has_moved() {
            let progress = self.progress_at_rest();
            self.commit(progress, out);
        }
    }

    /// Returns the progress that must be committed before the next attempt starts.
    pub(super) fn progress_for_attempt(&self) -> Option<CommittedProgress> {
        let ahead = self.progress.resolved_ahead();
        let limited = self.config.policy.retries_max.is_some();
        let current = self.attempts.current();
        let open = current.may_grow();
        if open && !limited && ahead.is_empty() {
            return None;
        }
        let mut pieces = vec![current.piece(self.progress.frontier(), current.attempt())];
        if !open {
            pieces.extend(self.later_pieces());
        }
        Some(self.progress_of(pieces, current.first_failure_ms, ahead))
    }

    /// Returns the progress to commit while no attempt is made.
    pub(super) fn progress_at_rest(&self) -> Option<CommittedProgress> {
        let resolved = self.progress.resolved_ahead();
        let mut pieces = Vec::new();
        let current = self.attempts.current();
        if !current.batch.is_empty()
            && !self.is_refilling()
            && (!current.may_grow() || current.attempts_used > 0)
        {
            pieces.push(current.piece(self.progress.frontier(), current.attempts_used));
        }
        pieces.extend(self.later_pieces());
        let first_failure_ms =
            self.attempts.first_failure_ms().or_else(|| self.progress.inherited_failure_ms());
        let tried = pieces.iter().any(|piece| piece.attempts > 0) || first_failure_ms.is_some();
        if !tried && resolved.is_empty() {
            return None;
        }
        Some(self.progress_of(pieces, first_failure_ms, resolved))
    }

    /// Returns the progress to commit if the next batch starts at once, so that one commit serves both.
    fn progress_going_on(&self) -> Option<CommittedProgress> {
        let fresh = !self.attempts.has_remaining()
            && !self.progress.has_inherited_pieces()
            && self.attempts.current().batch.range.is_empty();
        let goes_on = fresh && self.is_running() && !self.reader.is_buffer_empty();
        if !goes_on || self.config.policy.retries_max.is_none() {
            return self.progress_at_rest();
        }
        let piece = ProgressPiece { length: 0, attempts: 1, alone: false };
        Some(self.progress_of(vec![piece], None, self.progress.resolved_ahead()))
    }

    fn progress_of(
        &self,
        pieces: Vec<ProgressPiece>,
        first_failure_ms: Option<i64>,
        resolved: Vec<(u64, u64)>,
    ) -> CommittedProgress {
        let filters = self.config.filters;
        let mut progress =
            CommittedProgress { pieces, filters, leader_epoch: None, first_failure_ms, resolved };
        let end = Offset(self.progress.frontier().0.saturating_add_unsigned(progress.length()));
        let leader_epoch = self.reader.leader_epoch_before(end).max(self.progress.inherited_leader_epoch());
        progress.leader_epoch = (leader_epoch >= 0).then_some(leader_epoch);
        progress
    }

    /// Returns the pieces to attempt after the current records.
    fn later_pieces(&self) -> impl Iterator<Item = ProgressPiece> {
        let frontier = self.progress.frontier();
        let behind = if self.is_refilling() { frontier } else { self.attempts.end() };
        self.attempts.remaining_pieces(frontier).chain(self.progress.inherited_pieces(behind))
    }
}
