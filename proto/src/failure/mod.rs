//! What is sent to an on-failure destination: one JSON document for what was given up, in the forms AWS documents.
//!
//! SQS and SNS get facts alone ([`queue_record`]), S3 also the whole event as a string ([`object_record`]), a Kafka topic one
//! record with its event as an object ([`topic_record`]).
//! <https://docs.aws.amazon.com/lambda/latest/dg/kafka-on-failure.html> and
//! <https://docs.aws.amazon.com/lambda/latest/dg/kafka-on-failure-destination.html>; members stand in AWS's order.
//!
//! What AWS has no place for stands in one more member at the very end, `lighterman`, which readers of AWS's form skip: the
//! function's own `errorType` and `errorMessage`. It is there only when it has something to say.

mod instant;
mod json;
mod record;

use std::sync::Arc;

pub use instant::{iso_8601, object_key};
pub use record::{object_record, queue_record, topic_record};

use crate::ids::Offset;
use crate::units::TimestampMs;

/// Why records were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCondition {
    /// The function failed as often as `MaximumRetryAttempts` allows.
    RetryAttemptsExhausted,
    /// Older than `MaximumRecordAgeInSeconds`.
    RecordAgeExceeded,
    /// One record alone is larger than an invocation may be.
    MaximumPayloadSizeExceeded,
    /// A person had offsets passed that cannot be read; AWS has nothing of the kind.
    BatchUnreadable,
}

/// What Lambda answered to the last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseContext {
    /// HTTP status.
    pub status_code: u16,
    /// `X-Amz-Executed-Version`.
    pub executed_version: String,
    /// `X-Amz-Function-Error`; `None` when the function reported items or an answer that could not be read.
    pub function_error: Option<String>,
}

/// The function's own words about its last failure; the beginning of each is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionError {
    /// `errorType`, at most 256 bytes of it.
    pub kind: String,
    /// `errorMessage`, at most 1 KiB of it.
    pub message: String,
}

/// Where the records came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSource {
    /// The cluster's ARN; `None` for self-managed Kafka.
    pub arn: Option<Arc<str>>,
    /// Joined by commas, as in the event.
    pub bootstrap_servers: Arc<str>,
}

/// A record's place and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPoint {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: TimestampMs,
}

/// What was given up of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedPartition {
    /// Partition index.
    pub partition: i32,
    /// Its first record.
    pub first: RecordPoint,
    /// Its last record; the first again when there is one.
    pub last: RecordPoint,
}

/// Everything a destination is told, except the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureDetails {
    /// Request id of the last invocation; our own when there was none.
    pub request_id: String,
    /// The function's ARN, as the mapping has it.
    pub function_arn: Arc<str>,
    /// Why.
    pub condition: FailureCondition,
    /// Attempts so far.
    pub approximate_invoke_count: u32,
    /// The last answer, if there was one.
    pub response: Option<ResponseContext>,
    /// The function's own words, if it had any.
    pub error: Option<FunctionError>,
    /// When it was given up.
    pub timestamp: TimestampMs,
    /// Where the records came from.
    pub source: RecordSource,
    /// Their topic.
    pub topic: Arc<str>,
    /// How many they are.
    pub batch_size: u32,
    /// Size of their event, in bytes.
    pub payload_bytes: u64,
    /// Their partitions, each once.
    pub partitions: Vec<FailedPartition>,
}
