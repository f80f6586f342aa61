//! What a consumer accepts, and what it reports.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::Message;
use lighterman_proto::commit_metadata::{CommitMetadata, CommittedProgress};
use lighterman_proto::ids::{ConsumerId, Epoch, Offset};
use lighterman_proto::topic_id::TopicId;

use crate::kafka::offsets::CommittedOffset;
use crate::partition::attempt::KnownFailures;
use crate::partition::stats::PartitionStats;

/// Run a partition.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StartPartition {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
    /// Where it goes on.
    pub position: ResumePoint,
    /// What it shows.
    pub gauge: Arc<PartitionStats>,
}

/// Finish what is in flight of a partition, commit, report `Drained`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DrainPartition {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
}

/// Stop these partitions at once: they are not ours any more. `None`: all.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FencePartitions(pub Option<Arc<BTreeSet<i32>>>);

/// Where a partition goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumePoint {
    /// Of which topic of its name, where that is known: in another nothing of this holds.
    pub topic: Option<TopicId>,
    /// The committed offset.
    pub committed: Offset,
    /// Leader epoch of the record before it, −1 when unknown: a log that was cut off since then shows by it (H13).
    pub leader_epoch: i32,
    /// What stands beside it: attempts, pieces, what is resolved behind it.
    pub progress: Option<CommittedProgress>,
    /// What its owner on this node knew of the failures in it.
    pub failures: Option<KnownFailures>,
}

impl ResumePoint {
    /// The group's committed offset, as a place to go on in `topic`.
    pub fn of(committed: &CommittedOffset, topic: Option<TopicId>) -> Self {
        let progress = CommitMetadata::parse(&committed.metadata).and_then(|metadata| metadata.progress);
        let (committed, leader_epoch) = (committed.offset, committed.leader_epoch);
        Self { topic, committed, leader_epoch, progress, failures: None }
    }

    /// Whether it speaks of what the log, which ends at `end`, does not have.
    pub fn reaches_beyond(&self, end: Offset) -> bool {
        self.committed > end
    }

    /// The log was cut off at `end`: other records stand behind it now than those that were read. Goes on there when that lies
    /// before what was committed, and says so; forgets what is remembered of records that may be among them.
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

    /// The last leader epoch that is known of the log, to be asked after: where it ends now, the log was cut off (KIP-101).
    pub fn leader_epoch_known(&self) -> Option<i32> {
        let remembered = self.progress.as_ref().and_then(|progress| progress.leader_epoch);
        remembered.or((self.leader_epoch >= 0).then_some(self.leader_epoch))
    }
}

/// What became of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Nothing in flight, committed equals frontier.
    Drained {
        /// Where its next owner goes on.
        position: ResumePoint,
    },
    /// The log was truncated under it: to be started again there.
    Rebuild {
        /// Where to.
        position: ResumePoint,
    },
    /// The log is not the one that it has read: where it begins is to be found out anew.
    BeginAnew,
    /// The actor has ended.
    Exited {
        /// By a panic.
        panicking: bool,
    },
}

/// A partition's report, on its way up.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct PartitionReport {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
    /// What became of it.
    pub state: PartitionState,
}

/// A consumer's report to the member.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct ConsumerReport {
    /// Which consumer.
    pub consumer: ConsumerId,
    /// What happened.
    pub event: ConsumerEvent,
}

/// What happened to a consumer.
#[derive(Clone, Debug)]
pub enum ConsumerEvent {
    /// To one of its partitions.
    Partition(PartitionReport),
    /// The consumer, or the batcher in it, has ended by a panic: everything it owned is to be rebuilt.
    Exited,
}
