//! Reports of a partition to its consumer, batcher and committer, and the view of what fails in it.

use std::sync::Arc;

use actix::Message;
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::units::Moment;

use super::resolution::AttemptFailure;
use super::resume::ResumePoint;

/// Failing records, as shown to operators.
#[derive(Clone, Debug)]
pub struct FailingView {
    /// Offset of the first failing record.
    pub offset: Offset,
    /// Number of records that fail together.
    pub records: u32,
    /// Number of attempts used up.
    pub attempts: u32,
    /// The first failure that this owner has seen.
    pub first: Option<Arc<AttemptFailure>>,
    /// The last failure that this owner has seen.
    pub last: Option<Arc<AttemptFailure>>,
    /// Time of the next attempt, if it is known.
    pub next_attempt: Option<Moment>,
    /// Reason that the records are sent to the destination; `None` while they are retried.
    pub condition: Option<FailureCondition>,
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

/// Notice of a partition to its batcher and its committer that it has stopped: no further messages from or to it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PartitionStopped {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
}
