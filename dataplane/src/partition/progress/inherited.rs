//! Progress that an earlier owner has committed, restored by the next one.

use std::collections::VecDeque;

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
    /// True if the batch has replaced one known to that owner. A log that was truncated and rewritten has a later
    /// leader epoch there than any known before (KIP-101).
    pub fn is_overwritten_by(&self, header: &BatchHeader) -> bool {
        header.base_offset < self.end && header.leader_epoch > self.leader_epoch
    }
}

/// Progress left by an earlier owner.
#[derive(Debug, Default)]
pub(in crate::partition) struct InheritedProgress {
    /// Pieces, in order.
    pub pieces: VecDeque<InheritedPiece>,
    /// Ranges resolved beyond the frontier, in order, until the frontier passes them.
    pub known: Vec<OffsetRange>,
    /// Log end up to which both apply; `None`: they apply unconditionally.
    pub remembered: Option<KnownLogEnd>,
}

impl InheritedProgress {
    /// Forgets the ranges and pieces that end at or before `frontier`.
    pub(in crate::partition) fn forget_before(&mut self, frontier: Offset) {
        self.known.retain(|known| known.end > frontier);
        while self.pieces.front().is_some_and(|piece| piece.end.is_some_and(|end| end <= frontier)) {
            self.pieces.pop_front();
        }
        self.remembered = self.remembered.filter(|known| known.end > frontier);
    }
}

/// Restores an earlier owner's progress. Pieces made under other filters are not restored: they may include records
/// that were never tried.
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
