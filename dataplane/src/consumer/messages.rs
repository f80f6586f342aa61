//! Messages that a consumer accepts, and its reports.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::Message;
use lighterman_proto::commit_metadata::{CommitMetadata, CommittedProgress};
use lighterman_proto::ids::{ConsumerId, Epoch, Offset};
use lighterman_proto::topic_id::TopicId;

use crate::kafka::offsets::CommittedOffset;
use crate::partition::attempt::KnownFailures;
use crate::partition::stats::PartitionStats;

/// Starts a partition.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StartPartition {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Offset and progress to resume from.
    pub position: ResumePoint,
    /// Statistics that the partition updates.
    pub gauge: Arc<PartitionStats>,
}

/// Drains a partition: completes what is in flight, commits, then reports `Drained`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DrainPartition {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
}

/// Stops partitions at once because this member has lost them. `None` means all.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FencePartitions(pub Option<Arc<BTreeSet<i32>>>);

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
    pub fn of(committed: &CommittedOffset, topic: Option<TopicId>) -> Self {
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
        let speaks_of = self.progress.as_ref().map_or(0, CommittedProgress::length);
        let cut_into = self.committed.0.saturating_add_unsigned(speaks_of) > end.0;
        self.progress.take_if(|_| mutant!("overwritten-is-believed", cut_into, false));
        if end >= self.committed {
            return false;
        }
        (self.committed, self.failures) = (end, None);
        true
    }

    /// Returns the last known leader epoch of the log. If the epoch ends earlier on the leader, the log was truncated
    /// there (KIP-101).
    pub fn leader_epoch_known(&self) -> Option<i32> {
        let remembered = self.progress.as_ref().and_then(|progress| progress.leader_epoch);
        remembered.or((self.leader_epoch >= 0).then_some(self.leader_epoch))
    }
}

/// State that a partition reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Drained: nothing in flight, and the committed offset equals the frontier.
    Drained {
        /// Position from which the next owner resumes.
        position: ResumePoint,
    },
    /// The log was truncated; the partition is to be restarted.
    Rebuild {
        /// Position to restart from.
        position: ResumePoint,
    },
    /// The log is a different one; the partition's start must be resolved again.
    BeginAnew,
    /// The actor has stopped.
    Exited {
        /// Set if it panicked.
        panicking: bool,
    },
}

/// Report of a partition to its consumer and the member.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct PartitionReport {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// New state of the partition.
    pub state: PartitionState,
}

/// Report of a consumer to the member.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct ConsumerReport {
    /// Id of the consumer.
    pub consumer: ConsumerId,
    /// Event that is reported.
    pub event: ConsumerEvent,
}

/// Event of a consumer.
#[derive(Clone, Debug)]
pub enum ConsumerEvent {
    /// A report of one of its partitions.
    Partition(PartitionReport),
    /// The consumer or its batcher panicked. All its partitions must be rebuilt.
    Exited,
}
