//! Commits: a partition asks for them, the committer acknowledges them.

use actix::{Message, Recipient};
use lighterman_proto::commit_metadata::CommittedProgress;
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::topic_id::TopicId;

use super::outcome::ResolvedRange;
use super::report::PartitionStopped;
use super::resume::ResumePoint;

/// The group permanently rejects the commits, and the member stops: the drain does not wait for them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitGivenUp {
    /// Ownership epoch.
    pub epoch: Epoch,
}

/// The group has acknowledged a commit.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitAcknowledged {
    /// Ownership epoch.
    pub epoch: Epoch,
    /// The committed offset.
    pub offset: Offset,
    /// Sequence number of the commit.
    pub seq: u64,
}

/// Offset of one partition to commit.
#[derive(Clone, Debug, Message, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct CommitRequest {
    /// Partition index.
    pub partition: i32,
    /// Topic id of the partition, if known.
    pub topic: Option<TopicId>,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Offset before which every record has an outcome.
    pub offset: Offset,
    /// Leader epoch of the last record before the offset, −1 if unknown.
    pub leader_epoch: i32,
    /// Sequence number that grows with every commit of the partition.
    pub seq: u64,
    /// Progress beyond the offset, stored in the commit metadata.
    pub progress: Option<CommittedProgress>,
    /// Ranges that the frontier has passed, reported to the audit once.
    pub passed: Vec<ResolvedRange>,
}

impl CommitRequest {
    /// Returns the position at which `partition` resumes under `epoch`, before anything is committed under it.
    pub fn beginning(partition: i32, epoch: Epoch, position: &ResumePoint) -> Self {
        let ResumePoint { topic, committed: offset, leader_epoch, progress, failures: _ } = position.clone();
        Self { partition, topic, epoch, offset, leader_epoch, seq: 0, progress, passed: Vec::new() }
    }

    /// Returns the request without the ranges for the audit.
    #[must_use]
    pub(crate) fn without_passed(&self) -> Self {
        let Self { partition, topic, epoch, offset, leader_epoch, seq, ref progress, passed: _ } = *self;
        let progress = progress.clone();
        Self { partition, topic, epoch, offset, leader_epoch, seq, progress, passed: Vec::new() }
    }
}

/// Recipients in a partition of what becomes of its commits.
#[derive(Clone)]
pub struct CommitReplies {
    /// Recipient of acknowledgements.
    pub acknowledged: Recipient<CommitAcknowledged>,
    /// Recipient of the notice that commits are abandoned.
    pub given_up: Recipient<CommitGivenUp>,
}

/// Registration of a started partition.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FollowPartition {
    /// Position at which the partition resumes.
    pub beginning: CommitRequest,
    /// Recipients in the partition.
    pub replies: CommitReplies,
}

/// Recipients in the committer of a partition's messages.
#[derive(Clone)]
pub struct CommitterRecipients {
    /// Recipient of requests to commit.
    pub requests: Recipient<CommitRequest>,
    /// Recipient of the notice that a partition has stopped.
    pub ends: Recipient<PartitionStopped>,
}
