//! Requests to the on-failure destination of a mapping.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{OffsetRange, TopicPartition};
use tokio::sync::oneshot;

use super::records::{PartitionBatch, SharedLease};
use super::resolution::AttemptFailure;

/// Result of sending records to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterResult {
    /// The destination has acknowledged them.
    Acknowledged,
    /// The destination failed, and the mapping drops records in that case.
    Dropped,
    /// Sending was stopped; some records may have arrived.
    Stopped,
}

/// Records that are not attempted again.
#[derive(Clone, Debug)]
pub struct AbandonedRecords {
    /// The records.
    pub batch: PartitionBatch,
    /// Number of attempts used up.
    pub attempts_used: u32,
    /// The last failure, if one is known.
    pub last: Option<Arc<AttemptFailure>>,
}

/// Content of a dead letter.
#[derive(Debug)]
pub enum DeadLetterLoad {
    /// Records that failed.
    Records {
        /// The records and their attempts.
        records: Box<AbandonedRecords>,
        /// Reason that they are not retried.
        condition: FailureCondition,
    },
    /// Bytes that cannot be read.
    Raw(RawBatch),
}

/// Request to send a dead letter.
#[derive(Debug)]
pub struct DeadLetterRequest {
    /// Partition of the records.
    pub partition: TopicPartition,
    /// Content of the dead letter.
    pub load: DeadLetterLoad,
    /// Resolves, or loses its sender, when sending must stop.
    pub stop: oneshot::Receiver<()>,
}

/// Sender of dead letters to a mapping's on-failure destination.
pub trait DeadLetterSink: Send + Sync {
    /// Sends until the destination has acknowledged all records, the mapping's policy drops them, or the request is
    /// stopped.
    fn send_dead_letter(&self, request: DeadLetterRequest) -> BoxFuture<'static, DeadLetterResult>;
}

/// Bytes of an unreadable batch, for the destination.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// Offsets that the bytes represent.
    pub range: OffsetRange,
    /// Bytes as fetched: from the batch's header to the first readable batch after the range.
    pub raw: Bytes,
    /// Cause of the damage.
    pub why: String,
    /// Lease on the memory of the bytes.
    pub hold: SharedLease,
}
