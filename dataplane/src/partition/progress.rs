//! What stands beside the committed offset, so that the next owner goes on where this one was: attempts, the pieces a batch
//! was cut into, what is resolved behind the frontier.
//!
//! An attempt is on record before it begins when attempts are limited: a record whose limit is 3 retries is never tried a
//! fifth time because a node died.

use std::collections::VecDeque;

use lighterman_proto::commit_metadata::{CommittedProgress, ProgressPiece};
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::BatchHeader;

use super::attempt::RecordAttempt;
use super::core::PartitionCore;
use super::effects::{PartitionConfig, PartitionEffect, PartitionEffects};

/// A piece that an owner before us has cut, to be cut again at the same place.
#[derive(Clone, Copy, Debug)]
pub(super) struct InheritedPiece {
    /// Where it ends; `None`: nobody had decided.
    pub end: Option<Offset>,
    /// Records that it may have held, where its end is not known: as many as a batch holds.
    pub records_left: u32,
    /// Attempts used up.
    pub attempts_used: u32,
    /// Whether it failed alone.
    pub failed_alone: bool,
    /// When it failed first.
    pub first_failure_ms: Option<i64>,
}

/// How far an owner before us knew the log.
#[derive(Clone, Copy, Debug)]
pub struct KnownLogEnd {
    end: Offset,
    leader_epoch: i32,
}

impl KnownLogEnd {
    /// Whether a batch stands where that owner knew another one. A log that was cut off and written again carries a later
    /// leader epoch there than any that was known before (KIP-101).
    pub fn is_overwritten_by(&self, header: &BatchHeader) -> bool {
        header.base_offset < self.end && header.leader_epoch > self.leader_epoch
    }
}

/// What an owner before us left.
#[derive(Debug, Default)]
pub(super) struct InheritedProgress {
    /// What it cut, in order.
    pub pieces: VecDeque<InheritedPiece>,
    /// Ranges that it resolved behind the frontier, in order, as far as they were not met yet.
    pub known: Vec<OffsetRange>,
    /// How far both are to be believed; `None`: whatever stands there.
    pub remembered: Option<KnownLogEnd>,
}

impl InheritedProgress {
    /// The frontier has come this far: forgets what lies behind it, and pieces of which no record is left.
    pub(super) fn forget_before(&mut self, frontier: Offset) {
        self.known.retain(|known| known.end > frontier);
        while self.pieces.front().is_some_and(|piece| piece.end.is_some_and(|end| end <= frontier)) {
            self.pieces.pop_front();
        }
        self.remembered = self.remembered.filter(|known| known.end > frontier);
    }
}

/// Reads an earlier owner's progress. What was cut under other filters is cut anew: it may have records by now that were
/// never tried.
pub(super) fn restore(start: &PartitionConfig) -> InheritedProgress {
    let Some(progress) = &start.progress else { return InheritedProgress::default() };
    let committed = start.committed;
    let mut at = committed;
    let mut pieces = VecDeque::new();
    for piece in progress.pieces.iter().filter(|_| progress.filters == start.filters) {
        let end = (piece.length > 0).then(|| Offset(at.0.saturating_add_unsigned(piece.length)));
        at = end.unwrap_or(at);
        pieces.push_back(InheritedPiece {
            end,
            records_left: start.limits.records_max,
            attempts_used: piece.attempts,
            failed_alone: piece.alone,
            first_failure_ms: progress.first_failure_ms,
        });
    }
    let mut at = committed;
    let mut known = Vec::new();
    for (gap, length) in &progress.resolved {
        let first = Offset(at.0.saturating_add_unsigned(*gap));
        at = Offset(first.0.saturating_add_unsigned(*length));
        known.push(OffsetRange { first, end: at });
    }
    let end = Offset(committed.0.saturating_add_unsigned(progress.length()));
    let remembered = progress.leader_epoch.map(|leader_epoch| KnownLogEnd { end, leader_epoch });
    let known = mutant!("resolved-ahead-forgotten", known, Vec::new());
    let remembered = remembered.filter(|_| mutant!("overwritten-is-believed", true, false));
    InheritedProgress { pieces, known, remembered }
}

impl PartitionCore {
    /// Leader epoch of the last record before the frontier, −1 when unknown.
    pub fn frontier_leader_epoch(&self) -> i32 {
        mutant!("leader-epoch-forgotten", self.buffer.leaders().before(self.ledger.frontier()), -1)
    }

    /// What stands beside the committed offset.
    pub fn progress(&self) -> Option<&CommittedProgress> {
        self.sent.progress.as_ref()
    }

    /// What must be on record before the next attempt begins.
    pub(super) fn progress_for_attempt(&self) -> Option<CommittedProgress> {
        let ahead = self.remembered_ahead();
        let limited = self.start.policy.retries_max.is_some();
        let open = self.current.may_grow();
        if open && !limited && ahead.is_empty() {
            return None;
        }
        let mut pieces = vec![self.piece_of(&self.current, self.current.attempt())];
        if !open {
            pieces.extend(self.later_pieces());
        }
        Some(self.progress_of(pieces, self.current.first_failure_ms, ahead))
    }

    /// What is to be on record while nothing is being tried.
    pub(super) fn progress_at_rest(&self) -> Option<CommittedProgress> {
        let resolved = self.remembered_ahead();
        let mut pieces = Vec::new();
        if !self.current.batch.is_empty()
            && !self.is_refilling()
            && (!self.current.may_grow() || self.current.attempts_used > 0)
        {
            pieces.push(self.piece_of(&self.current, self.current.attempts_used));
        }
        pieces.extend(self.later_pieces());
        let first_failure_ms = self
            .current
            .first_failure_ms
            .or_else(|| self.remaining.iter().find_map(|work| work.first_failure_ms))
            .or_else(|| self.inherited.pieces.front().and_then(|piece| piece.first_failure_ms));
        let tried = pieces.iter().any(|piece| piece.attempts > 0) || first_failure_ms.is_some();
        if !tried && resolved.is_empty() {
            return None;
        }
        Some(self.progress_of(pieces, first_failure_ms, resolved))
    }

    /// What is on record when the next batch will begin at once: one commit then serves for both.
    pub(super) fn progress_going_on(&self) -> Option<CommittedProgress> {
        let fresh = self.remaining.is_empty()
            && self.inherited.pieces.is_empty()
            && self.current.batch.range.is_empty();
        let goes_on = fresh && self.is_running() && !self.buffer.is_empty();
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
        let end = Offset(self.ledger.frontier().0.saturating_add_unsigned(progress.length()));
        let inherited = self.inherited.remembered.map_or(-1, |known| known.leader_epoch);
        let leader_epoch = self.buffer.leaders().before(end).max(inherited);
        progress.leader_epoch = (leader_epoch >= 0).then_some(leader_epoch);
        progress
    }

    /// Whether the last commit says `progress` of the frontier as it stands.
    pub(super) fn is_on_record(&self, progress: Option<&CommittedProgress>) -> bool {
        self.sent.offset == self.ledger.frontier() && self.sent.progress.as_ref() == progress
    }

    /// Commits the frontier with `progress` beside it.
    pub(super) fn commit(&mut self, progress: Option<CommittedProgress>, out: &mut PartitionEffects) {
        self.sent.seq += 1;
        self.sent.offset = self.ledger.frontier();
        self.sent.progress.clone_from(&progress);
        out.push(PartitionEffect::Commit {
            seq: self.sent.seq,
            offset: self.sent.offset,
            leader_epoch: self.frontier_leader_epoch(),
            progress,
            passed: self.ledger.drain_resolved(),
        });
    }

    /// Commits the frontier if it has moved since the last commit.
    pub(super) fn commit_if_moved(&mut self, out: &mut PartitionEffects) {
        if self.sent.offset != self.ledger.frontier() {
            let progress = self.progress_going_on();
            self.commit(progress, out);
        }
    }

    fn piece_of(&self, work: &RecordAttempt, attempts: u32) -> ProgressPiece {
        let range = work.batch.range;
        let from = range.first.max(self.ledger.frontier());
        let length = if work.may_grow() { 0 } else { from.distance_to(range.end) };
        ProgressPiece { length, attempts, alone: work.failed_alone }
    }

    fn later_pieces(&self) -> impl Iterator<Item = ProgressPiece> {
        let behind = match self.remaining.first() {
            Some(last) => last.batch.range.end,
            None if self.is_refilling() => self.ledger.frontier(),
            None => self.current.batch.range.end,
        };
        let restored = self.inherited.pieces.iter().scan(behind, |from, piece| {
            let length = piece.end.map_or(0, |end| from.distance_to(end));
            *from = piece.end.unwrap_or(*from);
            Some(ProgressPiece { length, attempts: piece.attempts_used, alone: piece.failed_alone })
        });
        self.remaining.iter().rev().map(|work| self.piece_of(work, work.attempts_used)).chain(restored)
    }

    /// Ranges behind the frontier that the next owner must not take up again, as distances.
    fn remembered_ahead(&self) -> Vec<(u64, u64)> {
        let resolved = self.ledger.ahead().filter(|passed| passed.outcome.is_worth_remembering());
        let open = self.inherited.known.iter().flat_map(|range| self.ledger.open_in(*range));
        let mut ranges: Vec<OffsetRange> = resolved.map(|passed| passed.range).chain(open).collect();
        ranges.sort_unstable_by_key(|range| range.first);
        let mut at = self.ledger.frontier();
        let distances = ranges.into_iter().map(|range| {
            let gap = at.distance_to(range.first);
            at = range.end;
            (gap, range.first.distance_to(range.end))
        });
        distances.collect()
    }
}
