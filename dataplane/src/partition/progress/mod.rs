//! Progress of a partition: the outcomes of offsets, the progress left by an earlier owner, and the commits of both.

pub mod commit_ledger;
pub mod commit_window;
pub mod inherited;

use lighterman_proto::commit_metadata::{CommittedProgress, ProgressPiece};
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use crate::messages::commit::CommitRequest;
use crate::messages::outcome::Outcome;
use crate::messages::records::PartitionBatchLimits;
use crate::partition::effects::{PartitionConfig, PartitionIdentity};
use crate::partition::progress::commit_ledger::{AlreadyResolved, Ledger};
use crate::partition::progress::commit_window::CommitWindow;
use crate::partition::progress::inherited::{InheritedPiece, InheritedProgress, restore};
use crate::partition::reader::fetch_buffer::FillLimits;

/// The last commit that was requested.
#[derive(Debug)]
struct SentCommit {
    seq: u64,
    offset: Offset,
    progress: Option<CommittedProgress>,
}

/// State of a drain's last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastCommit {
    /// The group is expected to acknowledge it.
    Awaited,
    /// The group permanently rejects it, and this member stops.
    GivenUp,
}

/// Outcomes of offsets, and what of them the group has.
pub(super) struct PartitionProgress {
    ledger: Ledger,
    /// Progress left by an earlier owner for records that no attempt has taken yet.
    inherited: InheritedProgress,
    sent: SentCommit,
    window: CommitWindow,
    last_commit: LastCommit,
}

impl PartitionProgress {
    pub(super) fn new(config: &PartitionConfig) -> Self {
        Self {
            ledger: Ledger::new(config.committed),
            inherited: restore(config),
            sent: SentCommit { seq: 0, offset: config.committed, progress: config.progress.clone() },
            window: CommitWindow::new(config.commit_window, config.committed),
            last_commit: LastCommit::Awaited,
        }
    }

    /// Ledger of the partition's offsets.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Offset that may be committed: every offset before it has an outcome.
    pub(super) fn frontier(&self) -> Offset {
        self.ledger.frontier()
    }

    /// Records `outcome` for every offset of `range` that has none.
    pub(super) fn resolve(&mut self, range: OffsetRange, outcome: Outcome) -> Result<(), AlreadyResolved> {
        for open in self.ledger.open_in(range) {
            self.ledger.resolve(open, outcome)?;
        }
        self.inherited.forget_before(self.ledger.frontier());
        Ok(())
    }

    /// Progress committed with the offset.
    pub(super) fn committed(&self) -> Option<&CommittedProgress> {
        self.sent.progress.as_ref()
    }

    /// True if the frontier has moved since the last commit.
    pub(super) fn has_moved(&self) -> bool {
        self.sent.offset != self.ledger.frontier()
    }

    /// True if the last commit holds the current frontier with `progress`.
    pub(super) fn is_on_record(&self, progress: Option<&CommittedProgress>) -> bool {
        !self.has_moved() && self.committed() == progress
    }

    /// Commits the frontier with `progress`; `leader_epoch` is that of the last record before it.
    pub(super) fn commit(
        &mut self,
        identity: PartitionIdentity,
        leader_epoch: i32,
        progress: Option<CommittedProgress>,
    ) -> CommitRequest {
        self.sent.seq += 1;
        self.sent.offset = self.ledger.frontier();
        let passed = self.ledger.drain_resolved();
        let is_awaited = passed.iter().any(|resolved| resolved.outcome.is_notable());
        self.window.request(self.sent.seq, self.sent.offset, is_awaited);
        self.sent.progress.clone_from(&progress);
        let PartitionIdentity { partition, topic, epoch } = identity;
        CommitRequest {
            partition,
            topic,
            epoch,
            seq: self.sent.seq,
            offset: self.sent.offset,
            leader_epoch,
            progress,
            passed,
        }
    }

    /// Sets the time of the commits that the current event has requested.
    pub(super) fn stamp_commits(&mut self, now: Moment) {
        self.window.stamp(now);
    }

    /// Handles the group's acknowledgement of commit `seq` and of all commits before it. Returns the last offset that
    /// it has acknowledged.
    pub(super) fn acknowledge(&mut self, seq: u64) -> Offset {
        self.window.acknowledge(seq);
        self.window.acknowledged()
    }

    /// True if the group has acknowledged the last requested commit.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.window.is_empty()
    }

    /// True if a batch may start that needs nothing on record.
    pub(super) fn has_commit_room(&self, now: Moment) -> bool {
        self.window.has_room(now)
    }

    /// The last committed offset that the group has acknowledged.
    pub(super) fn acknowledged(&self) -> Offset {
        self.window.acknowledged()
    }

    /// Handles the group's permanent rejection of commits: a drain does not wait for them.
    pub(super) fn give_up_commits(&mut self) {
        self.last_commit = LastCommit::GivenUp;
    }

    /// True if a drain waits until its last commit is acknowledged.
    pub(super) fn waits_for_last_commit(&self) -> bool {
        self.last_commit == LastCommit::Awaited
    }

    /// Returns the ranges beyond the frontier that the next owner must not process again, as distances.
    pub(super) fn resolved_ahead(&self) -> Vec<(u64, u64)> {
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

    /// Limits of the next batch: `limits`, and those that an earlier owner left.
    pub(super) fn fill_limits(&self, limits: PartitionBatchLimits) -> FillLimits<'_> {
        FillLimits {
            limits,
            end_max: self.inherited.pieces.front().and_then(|piece| piece.end),
            frontier: self.ledger.frontier(),
            known: &self.inherited.known,
            remembered: self.inherited.remembered,
        }
    }
}

/// Progress that an earlier owner left.
impl PartitionProgress {
    /// True if an earlier owner's pieces are left.
    pub(super) fn has_inherited_pieces(&self) -> bool {
        !self.inherited.pieces.is_empty()
    }

    /// True if the next piece has a known end, up to which its records are awaited.
    pub(super) fn is_next_piece_bounded(&self) -> bool {
        self.inherited.pieces.front().is_some_and(|piece| piece.end.is_some())
    }

    /// Counts `records` as taken from the next piece and returns it, if there is one.
    pub(super) fn count_towards_piece(&mut self, records: u32) -> Option<InheritedPiece> {
        let piece = self.inherited.pieces.front_mut()?;
        piece.records_left = piece.records_left.saturating_sub(records);
        Some(*piece)
    }

    /// Ends the next piece: all of its records were taken.
    pub(super) fn end_piece(&mut self) {
        self.inherited.pieces.pop_front();
    }

    /// Returns the inherited pieces for a commit; the first one starts at `from`.
    pub(super) fn inherited_pieces(&self, from: Offset) -> impl Iterator<Item = ProgressPiece> {
        self.inherited.pieces.iter().scan(from, |from, piece| {
            let length = piece.end.map_or(0, |end| from.distance_to(end));
            *from = piece.end.unwrap_or(*from);
            Some(ProgressPiece { length, attempts: piece.attempts_used, alone: piece.failed_alone })
        })
    }

    /// Time of the first failure of the next piece.
    pub(super) fn inherited_failure_ms(&self) -> Option<i64> {
        self.inherited.pieces.front().and_then(|piece| piece.first_failure_ms)
    }

    /// Leader epoch of the log that the inherited progress refers to; −1 if unknown.
    pub(super) fn inherited_leader_epoch(&self) -> i32 {
        self.inherited.remembered.map_or(-1, |known| known.leader_epoch)
    }

    /// Returns the ranges that the earlier owner has resolved and the frontier has not passed.
    pub(super) fn known_ranges(&self) -> Vec<OffsetRange> {
        self.inherited.known.clone()
    }

    /// Discards the inherited progress.
    pub(super) fn discard_inherited(&mut self) {
        self.inherited = InheritedProgress::default();
    }
}
