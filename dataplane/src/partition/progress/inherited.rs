//! Progress that an earlier owner has committed, restored by the next one.

use std::collections::VecDeque;

use lighterman_proto::commit_metadata::CommittedProgress;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::BatchHeader;

use crate::partition::effects::PartitionConfig;

/// Piece of a batch that an earlier owner has split, to be restored with the same end.
#[derive(Clone, Copy, Debug)]
pub(in crate::partition) struct InheritedPiece {
    /// End of the piece; `None`: not decided by that owner.
    pub end: Option<Offset>,
    /// Maximum number of records in the piece if its end is unknown: as many as a batch holds.
    pub records_left: u32,
    /// Number of attempts used up.
    pub attempts_used: u32,
    /// True if the piece has failed without other partitions' records in the batch.
    pub failed_alone: bool,
    /// Time of the first failure, in milliseconds since the Unix epoch.
    pub first_failure_ms: Option<i64>,
}

/// End of the log as an earlier owner knew it.
#[derive(Clone, Copy, Debug)]
pub struct KnownLogEnd {
    end: Offset,
    pub(super) leader_epoch: i32,
}

impl KnownLogEnd {
    fn of(committed: Offset, progress: &CommittedProgress) -> Option<Self> {
        let end = Offset(committed.0.saturating_add_unsigned(progress.length()));
        progress.leader_epoch.map(|leader_epoch| Self { end, leader_epoch })
    }

    /// True if the batch has replaced one known to that owner. A log that was truncated and rewritten has a later
    /// leader epoch there than any known before (KIP-101).
    pub fn is_overwritten_by(&self, header: &BatchHeader) -> bool {
        header.base_offset < self.end && header.leader_epoch > self.leader_epoch
    }
}

impl InheritedPiece {
    /// True if a batch up to `end` holds all records of the piece.
    pub(in crate::partition) fn is_reached_by(&self, end: Offset) -> bool {
        self.end.map_or(self.records_left == 0, |piece_end| end >= piece_end)
    }
}

/// Progress left by an earlier owner.
#[derive(Debug, Default)]
pub(super) struct InheritedProgress {
    /// Pieces, in order.
    pub pieces: VecDeque<InheritedPiece>,
    /// Ranges resolved beyond the frontier, in order, until the frontier passes them.
    pub known: Vec<OffsetRange>,
    /// Log end up to which both apply; `None`: they apply unconditionally.
    pub remembered: Option<KnownLogEnd>,
}

impl InheritedProgress {
    /// Forgets the ranges and pieces that end at or before `frontier`.
    pub(super) fn forget_before(&mut self, frontier: Offset) {
        self.known.retain(|known| known.end > frontier);
        while self.pieces.front().is_some_and(|piece| piece.end.is_some_and(|end| end <= frontier)) {
            self.pieces.pop_front();
        }
        self.remembered = self.remembered.filter(|known| known.end > frontier);
    }
}

/// Restores an earlier owner's progress. Pieces made under other filters are not restored: they may include records
/// that were never tried.
pub(super) fn restore(config: &PartitionConfig) -> InheritedProgress {
    let Some(progress) = &config.progress else { return InheritedProgress::default() };
    let committed = config.committed;
    let mut at = committed;
    let mut pieces = VecDeque::new();
    for piece in progress.pieces.iter().filter(|_| progress.filters == config.filters) {
        let end = (piece.length > 0).then(|| Offset(at.0.saturating_add_unsigned(piece.length)));
        at = end.unwrap_or(at);
        pieces.push_back(InheritedPiece {
            end,
            records_left: config.limits.records_max,
            attempts_used: piece.attempts,
            failed_alone: piece.alone,
            first_failure_ms: progress.first_failure_ms,
        });
    }
    let known = known_ranges(committed, progress);
    InheritedProgress { pieces, known, remembered: known_log_end(committed, progress) }
}

/// Returns the ranges that an earlier owner has resolved beyond the frontier; they are not delivered again.
fn known_ranges(committed: Offset, progress: &CommittedProgress) -> Vec<OffsetRange> {
    mutant!("resolved-ahead-forgotten", ranges_from(committed, &progress.resolved), Vec::new())
}

/// Returns the log end up to which the progress applies, if its leader epoch is known. Records that a new leader has
/// written before that end have replaced those that the progress refers to (KIP-101).
fn known_log_end(committed: Offset, progress: &CommittedProgress) -> Option<KnownLogEnd> {
    mutant!("overwritten-is-believed", KnownLogEnd::of(committed, progress), None)
}

/// Returns ranges that are given as gaps and lengths from `at` on.
fn ranges_from(mut at: Offset, distances: &[(u64, u64)]) -> Vec<OffsetRange> {
    let ranges = distances.iter().map(|(gap, length)| {
        let first = Offset(at.0.saturating_add_unsigned(*gap));
        at = Offset(first.0.saturating_add_unsigned(*length));
        OffsetRange { first, end: at }
    });
    ranges.collect()
}
