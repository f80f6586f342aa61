//! Position at which a partition resumes.

use lighterman_proto::commit_metadata::{CommitMetadata, CommittedProgress};
use lighterman_proto::ids::Offset;
use lighterman_proto::topic_id::TopicId;

use super::resolution::KnownFailures;
use crate::kafka::offsets::OffsetAndMetadata;

/// Position from which a partition resumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// Topic id the position belongs to, if known. In a recreated topic the position is void.
    pub topic: Option<TopicId>,
    /// Committed offset.
    pub committed: Offset,
    /// Leader epoch of the record before `committed`, or −1 if unknown. It reveals a truncation of the log since then
    /// (H13).
    pub leader_epoch: i32,
    /// Progress from the commit's metadata: attempts, pieces, and what is resolved beyond the offset.
    pub progress: Option<CommittedProgress>,
    /// Failures beyond the offset as known to the previous owner on this node.
    pub failures: Option<KnownFailures>,
}

impl ResumePoint {
    /// Returns the group's committed offset as a position in `topic`.
    pub fn of(committed: &OffsetAndMetadata, topic: Option<TopicId>) -> Self {
        let progress = CommitMetadata::parse(&committed.metadata).and_then(|metadata| metadata.progress);
        let (committed, leader_epoch) = (committed.offset, committed.leader_epoch);
        Self { topic, committed, leader_epoch, progress, failures: None }
    }

    /// True if the committed offset is beyond the log's `end`.
    pub fn reaches_beyond(&self, end: Offset) -> bool {
        self.committed > end
    }

    /// Applies a truncation of the log at `end`: the offsets from there on hold other records than those read.
    /// Discards progress that may refer to them. Moves back to `end` if that is below the committed offset, and then
    /// returns true.
    pub fn cut_off_at(&mut self, end: Offset) -> bool {
        if self.is_overwritten_from(end) {
            self.progress = None;
        }
        if end >= self.committed {
            return false;
        }
        (self.committed, self.failures) = (end, None);
        true
    }

    /// True if the progress refers to offsets from `end` on, which hold other records than those it was made for.
    fn is_overwritten_from(&self, end: Offset) -> bool {
        mutant!("overwritten-is-believed", self.progress_end() > end, false)
    }

    /// Returns the end of the offsets that the progress refers to.
    fn progress_end(&self) -> Offset {
        let length = self.progress.as_ref().map_or(0, CommittedProgress::length);
        Offset(self.committed.0.saturating_add_unsigned(length))
    }

    /// Returns the last known leader epoch of the log. If the epoch ends earlier on the leader, the log was truncated
    /// there (KIP-101).
    pub fn leader_epoch_known(&self) -> Option<i32> {
        let remembered = self.progress.as_ref().and_then(|progress| progress.leader_epoch);
        remembered.or((self.leader_epoch >= 0).then_some(self.leader_epoch))
    }
}
