//! What the fetch router accepts and what it answers.

use std::sync::Arc;

use actix::{Message, Recipient};
use bytes::Bytes;
use lighterman_proto::ids::{Epoch, Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;
use thiserror::Error;

use crate::credit::memory::MemoryLease;

/// A partition has room. At most one is outstanding for each partition; a new one replaces the old. Answered exactly once,
/// with records or with trouble; empty polls and leader moves are nobody else's business.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct FetchRequested {
    /// Which partition.
    pub partition: TopicPartition,
    /// Of which topic of its name, where that is known: of another nothing is to be read.
    pub topic: Option<TopicId>,
    /// Which ownership.
    pub epoch: Epoch,
    /// First offset wanted.
    pub position: Offset,
    /// Leader epoch of the record before it, when known.
    pub leader_epoch: Option<i32>,
    /// Room, in bytes.
    pub bytes_max: u32,
    /// Where the answer goes.
    pub reply: Recipient<FetchAnswered>,
    /// Where watermarks of empty polls go.
    pub watermarks: Recipient<HighWatermarkSeen>,
}

/// A partition wants nothing any more, or not for now.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct FetchCancelled {
    /// Which partition.
    pub partition: TopicPartition,
    /// It will want something again: where its log ends is still told.
    pub pauses: bool,
}

/// The answer to a [`FetchRequested`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FetchAnswered {
    /// Which ownership asked.
    pub epoch: Epoch,
    /// The position it asked for.
    pub position: Offset,
    /// What came.
    pub outcome: Result<FetchedRecords, FetchError>,
}

/// Records of one partition.
#[derive(Debug)]
pub struct FetchedRecords {
    /// Record batches: a slice of the received frame.
    pub records: Bytes,
    /// What keeps it on the budget.
    pub hold: Arc<MemoryLease>,
    /// Log end.
    pub high_watermark: Offset,
    /// Aborted transactions in it: producer id, first offset.
    pub aborted: Vec<(i64, Offset)>,
}

/// Why a partition cannot be read where it was asked for.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum FetchError {
    /// The position lies outside the log.
    #[error("offset out of range, the log holds {log_start}..{log_end}")]
    OutOfRange {
        /// First offset kept.
        log_start: Offset,
        /// Offset behind the last.
        log_end: Offset,
    },
    /// The leader's log has another history from `end` on (KIP-320).
    #[error("the log was truncated at {end}")]
    Diverged {
        /// Where histories part.
        end: Offset,
    },
    /// The topic was deleted and made anew: whatever is known of the partition is not of this one.
    #[error("the topic was deleted and made anew")]
    Recreated,
    /// The topic is not there any more.
    #[error("{0}")]
    Gone(String),
    /// The cluster refuses us.
    #[error("the cluster refuses to let Lighterman read it: {0}. Grant Read and Describe on the topic")]
    NotAuthorized(String),
    /// Its bytes are broken at the broker.
    #[error("the broker cannot read it: {0}")]
    Corrupt(String),
}

/// Log end of a partition, where no records came with it.
#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
pub struct HighWatermarkSeen {
    /// Which ownership asked.
    pub epoch: Epoch,
    /// Log end; `None` when the broker was asked and did not tell.
    pub high_watermark: Option<Offset>,
}
