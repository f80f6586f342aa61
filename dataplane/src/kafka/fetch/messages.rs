//! Messages that the fetch router accepts and sends.

use std::sync::Arc;

use actix::{Message, Recipient};
use bytes::Bytes;
use lighterman_proto::ids::{Epoch, Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;
use thiserror::Error;

use crate::credit::memory_budget::MemoryLease;

/// Request for records of a partition that has buffer space. Each partition has at most one outstanding; a new one
/// replaces the old. It is answered exactly once, with records or an error. Empty polls and leader moves are handled
/// by the router alone.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct FetchRequested {
    /// Partition to fetch.
    pub partition: TopicPartition,
    /// Id of the topic, if known. Records of another topic of the same name must not be read.
    pub topic: Option<TopicId>,
    /// Ownership epoch of the requester.
    pub epoch: Epoch,
    /// Offset of the first record to fetch.
    pub position: Offset,
    /// Leader epoch of the record before it, when known.
    pub leader_epoch: Option<i32>,
    /// Buffer space, in bytes.
    pub bytes_max: u32,
    /// Recipient of the answer.
    pub reply: Recipient<FetchAnswered>,
    /// Recipient of high watermarks from empty polls.
    pub watermarks: Recipient<HighWatermarkSeen>,
}

/// Cancellation of a partition's fetch, for good or until it has buffer space again.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct FetchCancelled {
    /// Partition to cancel.
    pub partition: TopicPartition,
    /// True if the partition will fetch again. Its log end is reported meanwhile.
    pub pauses: bool,
}

/// Answer to a [`FetchRequested`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FetchAnswered {
    /// Ownership epoch of the requester.
    pub epoch: Epoch,
    /// Position of the request.
    pub position: Offset,
    /// Fetched records, or the reason why there are none.
    pub outcome: Result<FetchedRecords, FetchError>,
}

/// Records of one partition.
#[derive(Debug)]
pub struct FetchedRecords {
    /// Record batches, as a slice of the received frame.
    pub records: Bytes,
    /// Lease that accounts for the records in the memory budget.
    pub hold: Arc<MemoryLease>,
    /// End of the log.
    pub high_watermark: Offset,
    /// Aborted transactions within the records: producer id, first offset.
    pub aborted: Vec<(i64, Offset)>,
}

/// Reason why a partition cannot be read at the requested position.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FetchError {
    /// The position is outside the log.
    #[error("offset out of range, the log holds {log_start}..{log_end}")]
    OutOfRange {
        /// Offset of the first record kept.
        log_start: Offset,
        /// Offset after the last record.
        log_end: Offset,
    },
    /// The leader's log has a different history from `end` on (KIP-320).
    #[error("the log was truncated at {end}")]
    Diverged {
        /// Offset at which the histories diverge.
        end: Offset,
    },
    /// The topic was deleted and recreated. Nothing known of the partition applies to the new topic.
    #[error("the topic was deleted and created again")]
    Recreated,
    /// The topic does not exist any more.
    #[error("{0}")]
    Gone(String),
    /// The cluster denies access to the topic.
    #[error("the cluster refuses to let Lighterman read it: {0}. Grant Read and Describe on the topic")]
    NotAuthorized(String),
    /// The records are corrupt at the broker, or it does not support their compression.
    #[error("the broker cannot read it: {0}")]
    Corrupt(String),
}

/// Log end of a partition, reported without records.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct HighWatermarkSeen {
    /// Ownership epoch of the requester.
    pub epoch: Epoch,
    /// End of the log; `None` if the broker did not report it or no broker serves the partition.
    pub high_watermark: Option<Offset>,
}
