//! Result of an invocation for each of its partitions.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::Message;
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::units::{Moment, TimestampMs};

use super::batch::BatchId;

/// Facts of Lambda's response that failure records carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InvocationMetadata {
    /// HTTP status code.
    pub status: u16,
    /// `X-Amz-Executed-Version`.
    pub executed_version: Option<String>,
    /// `X-Amz-Function-Error`.
    pub function_error: Option<String>,
    /// `x-amzn-RequestId`.
    pub request_id: Option<String>,
}

/// A failed attempt, as operators and destinations see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// Wall clock time of the failure.
    pub at: TimestampMs,
    /// `errorType` of the function's response, or the kind of failure.
    pub error_type: String,
    /// Error message, at most 1 KiB.
    pub message: String,
    /// Lambda's response, if there was one.
    pub answer: Option<InvocationMetadata>,
}

/// Failures known for records, passed to their next owner on this node. The commit metadata has no room for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFailures {
    /// The first failure.
    pub first: Arc<AttemptFailure>,
    /// The last failure.
    pub last: Arc<AttemptFailure>,
}

/// Result of a batch for the records of one partition. Any retry time is decided by the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchResolution {
    /// The function succeeded for all of them.
    Delivered,
    /// The function reported some records as failed and succeeded for the others.
    Partial {
        /// The failed records, all of which are in the offered batch.
        failed: BTreeSet<Offset>,
        /// Details of the failure.
        failure: Arc<AttemptFailure>,
        /// Time of the next attempt, if there is one.
        again_at: Moment,
    },
    /// The function failed.
    Failed {
        /// Set if the batch also held records of other partitions.
        mixed: bool,
        /// Details of the failure.
        failure: Arc<AttemptFailure>,
        /// Time of the next attempt, if there is one.
        again_at: Moment,
    },
    /// The endpoint rejected the payload as too large.
    TooLarge {
        /// Set if the batch also held records of other partitions.
        mixed: bool,
        /// Details of the failure.
        failure: Arc<AttemptFailure>,
        /// Time of the next attempt.
        again_at: Moment,
    },
    /// The function did not run, or it is unknown whether it did. The same records are retried, and no attempt is
    /// used up.
    Again {
        /// Earliest time of the retry.
        at: Moment,
    },
}

/// Result of a batch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BatchResolved {
    /// Ownership epoch.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// Result for the records of this partition.
    pub resolution: BatchResolution,
    /// Error message for operators; `None` on success.
    pub error: Option<String>,
}
