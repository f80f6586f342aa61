//! Progress committed with the offset, so that the next owner resumes where this one stopped: attempts, the pieces of
//! a split batch, and the ranges resolved beyond the frontier.
//!
//! If attempts are limited, an attempt is committed before it starts: a record with a limit of 3 retries is never
//! tried a fifth time because a node died.

pub mod commit_ledger;
pub mod inherited;
pub(super) mod last_commit;

use lighterman_proto::commit_metadata::{CommittedProgress, ProgressPiece};
use lighterman_proto::ids::{Offset, OffsetRange};

use crate::messages::commit::CommitRequest;
use crate::partition::attempts::attempt::RecordAttempt;
use crate::partition::core::PartitionCore;
use crate::partition::effects::{PartitionConfig, PartitionEffect, PartitionEffects, PartitionIdentity};
use crate::partition::progress::commit_ledger::Ledger;
use crate::partition::progress::inherited::{InheritedProgress, restore};
use crate::partition::progress::last_commit::LastCommit;

/// The last commit that was requested.
#[derive(Debug)]
pub(super) struct SentCommit {
    pub seq: u64,
    pub offset: Offset,
    pub progress: Option<CommittedProgress>,
}

/// Outcomes of offsets, and what of them the group has.
pub(super) struct PartitionProgress {
    pub(super) ledger: Ledger,
    /// Progress left by an earlier owner for records that no attempt has taken yet.
    pub(super) inherited: InheritedProgress,
    pub(super) sent: SentCommit,
    pub(super) acknowledged_seq: u64,
    pub(super) last_commit: LastCommit,
    /// The last committed offset that the group has acknowledged.
    pub(super) acknowledged: Offset,
}

impl PartitionProgress {
    pub(super) fn new(start: &PartitionConfig) -> Self {
        Self {
            ledger: Ledger::new(start.committed),
            inherited: restore(start),
            sent: SentCommit { seq: 0, offset: start.committed, progress: start.progress.clone() },
            acknowledged_seq: 0,
            last_commit: LastCommit::Awaited,
            acknowledged: start.committed,
        }
    }
}

impl PartitionCore {
    /// Returns the leader epoch of the last record before the frontier; −1 if unknown.
    pub fn frontier_leader_epoch(&self) -> i32 {
        mutant!(
            "leader-epoch-forgotten",
            self.reader.buffer.leaders().before(self.progress.ledger.frontier()),
            -1
        )
    }

    /// Returns the progress committed with the offset.
    pub fn progress(&self) -> Option<&CommittedProgress> {
        self.progress.sent.progress.as_ref()
    }

    /// Returns the progress that must be committed before the next attempt starts.
    pub(super) fn progress_for_attempt(&self) -> Option<CommittedProgress> {
        let ahead = self.remembered_ahead();
        let limited = self.start.policy.retries_max.is_some();
        let open = self.attempts.current.may_grow();
        if open && !limited && ahead.is_empty() {
            return None;
        }
        let mut pieces = vec![self.piece_of(&self.attempts.current, self.attempts.current.attempt())];
        if !open {
            pieces.extend(self.later_pieces());
        }
        Some(self.progress_of(pieces, self.attempts.current.first_failure_ms, ahead))
    }

    /// Returns the progress to commit while no attempt is made.
    pub(super) fn progress_at_rest(&self) -> Option<CommittedProgress> {
        let resolved = self.remembered_ahead();
        let mut pieces = Vec::new();
        if !self.attempts.current.batch.is_empty()
            && !self.is_refilling()
            && (!self.attempts.current.may_grow() || self.attempts.current.attempts_used > 0)
        {
            pieces.push(self.piece_of(&self.attempts.current, self.attempts.current.attempts_used));
        }
        pieces.extend(self.later_pieces());
        let first_failure_ms = self
            .attempts
            .current
            .first_failure_ms
            .or_else(|| self.attempts.remaining.iter().find_map(|work| work.first_failure_ms))
            .or_else(|| self.progress.inherited.pieces.front().and_then(|piece| piece.first_failure_ms));
        let tried = pieces.iter().any(|piece| piece.attempts > 0) || first_failure_ms.is_some();
        if !tried && resolved.is_empty() {
            return None;
        }
        Some(self.progress_of(pieces, first_failure_ms, resolved))
    }

    /// Returns the progress to commit if the next batch starts at once, so that one commit serves both.
    pub(super) fn progress_going_on(&self) -> Option<CommittedProgress> {
        let fresh = self.attempts.remaining.is_empty()
            && self.progress.inherited.pieces.is_empty()
            && self.attempts.current.batch.range.is_empty();
        let goes_on = fresh && self.is_running() && !self.reader.buffer.is_empty();
        if !goes_on || self.start.policy.retries_max.is_none() {
            return self.progress_at_rest();
        }
        let piece = ProgressPiece { length: 0, attempts: 1, alone: false };
        Some(self.progress_of(vec![piece], None, self.remembered_ahead()))
    }

    fn progress_of(
        &self,
        pieces: Vec<ProgressPiece>,
        first_failure_ms: Option<i64>,
        resolved: Vec<(u64, u64)>,
    ) -> CommittedProgress {
        let filters = self.start.filters;
        let mut progress =
            CommittedProgress { pieces, filters, leader_epoch: None, first_failure_ms, resolved };
        let end = Offset(self.progress.ledger.frontier().0.saturating_add_unsigned(progress.length()));
        let inherited = self.progress.inherited.remembered.map_or(-1, |known| known.leader_epoch);
        let leader_epoch = self.reader.buffer.leaders().before(end).max(inherited);
        progress.leader_epoch = (leader_epoch >= 0).then_some(leader_epoch);
        progress
    }

    /// True if the last commit holds the current frontier with `progress`.
    pub(super) fn is_on_record(&self, progress: Option<&CommittedProgress>) -> bool {
        self.progress.sent.offset == self.progress.ledger.frontier()
            && self.progress.sent.progress.as_ref() == progress
    }

    /// Commits the frontier with `progress`.
    pub(super) fn commit(&mut self, progress: Option<CommittedProgress>, out: &mut PartitionEffects) {
        self.progress.sent.seq += 1;
        self.progress.sent.offset = self.progress.ledger.frontier();
        self.progress.sent.progress.clone_from(&progress);
        let PartitionIdentity { partition, topic, epoch } = self.start.identity;
        out.push(PartitionEffect::Commit(CommitRequest {
            partition,
            topic,
            epoch,
            seq: self.progress.sent.seq,
            offset: self.progress.sent.offset,
            leader_epoch: self.frontier_leader_epoch(),
            progress,
            passed: self.progress.ledger.drain_resolved(),
        }));
    }

    /// Commits the frontier if it has moved since the last commit.
    pub(super) fn commit_if_moved(&mut self, out: &mut PartitionEffects) {
        if self.progress.sent.offset != self.progress.ledger.frontier() {
            let progress = self.progress_going_on();
            self.commit(progress, out);
        }
    }

    fn piece_of(&self, work: &RecordAttempt, attempts: u32) -> ProgressPiece {
        let range = work.batch.range;
        let from = range.first.max(self.progress.ledger.frontier());
        let length = if work.may_grow() { 0 } else { from.distance_to(range.end) };
        ProgressPiece { length, attempts, alone: work.failed_alone }
    }

    fn later_pieces(&self) -> impl Iterator<Item = ProgressPiece> {
        let behind = match self.attempts.remaining.first() {
            Some(last) => last.batch.range.end,
            None if self.is_refilling() => self.progress.ledger.frontier(),
            None => self.attempts.current.batch.range.end,
        };
        let restored = self.progress.inherited.pieces.iter().scan(behind, |from, piece| {
            let length = piece.end.map_or(0, |end| from.distance_to(end));
            *from = piece.end.unwrap_or(*from);
            Some(ProgressPiece { length, attempts: piece.attempts_used, alone: piece.failed_alone })
        });
        self.attempts
            .remaining
            .iter()
            .rev()
            .map(|work| self.piece_of(work, work.attempts_used))
            .chain(restored)
    }

    /// Returns the ranges beyond the frontier that the next owner must not process again, as distances.
    fn remembered_ahead(&self) -> Vec<(u64, u64)> {
        let resolved = self.progress.ledger.ahead().filter(|passed| passed.outcome.is_worth_remembering());
        let open =
            self.progress.inherited.known.iter().flat_map(|range| self.progress.ledger.open_in(*range));
        let mut ranges: Vec<OffsetRange> = resolved.map(|passed| passed.range).chain(open).collect();
        ranges.sort_unstable_by_key(|range| range.first);
        let mut at = self.progress.ledger.frontier();
        let distances = ranges.into_iter().map(|range| {
            let gap = at.distance_to(range.first);
            at = range.end;
            (gap, range.first.distance_to(range.end))
        });
        distances.collect()
    }
}
