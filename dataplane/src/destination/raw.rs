//! Encoding of unreadable batches for their destination. An S3 object and a Kafka message hold the raw bytes; SQS and
//! SNS messages hold metadata only, as they do for records.

use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::api::FailureDestination;
use lighterman_proto::failure::{
    FailedPartition, FailureCondition, FailureDetails, FunctionError, RecordPoint, object_key, queue_record,
};
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::units::TimestampMs;
use uuid::Uuid;

use super::encode::FailureEncoder;
use super::message::{FailureMessage, TopicMessage};
use super::retry::MessageForm;
use crate::messages::dead_letter::RawBatch;

const FACTS_BYTES: usize = 4 * 1024;
/// Placeholder timestamp of records that cannot be read.
const NO_TIMESTAMP: TimestampMs = TimestampMs(-1);

/// Context of one unreadable batch.
#[derive(Debug)]
pub struct RawFacts<'b> {
    /// Partition of the batch.
    pub partition: &'b TopicPartition,
    /// Raw bytes of the batch.
    pub batch: &'b RawBatch,
    /// Time at which an operator skipped the batch.
    pub at: TimestampMs,
    /// Random id.
    pub random: Uuid,
}

impl FailureEncoder {
    /// Returns the message that carries the bytes of `facts` to `destination`. An object's key ends in the offsets,
    /// `-<first>-<end>.batch`. A Kafka message has the key `<topic>-<partition>:<first>-<end>`.
    pub fn raw_failure_message(
        &self,
        destination: &FailureDestination,
        facts: &RawFacts<'_>,
    ) -> FailureMessage {
        let (first, end) = (facts.batch.range.first, facts.batch.range.end);
        match destination {
            FailureDestination::Queue(queue) => {
                FailureMessage::Queue { queue: queue.clone(), body: self.raw_facts(facts).into() }
            }
            FailureDestination::Notification(topic) => {
                FailureMessage::Notification { topic: topic.clone(), body: self.raw_facts(facts).into() }
            }
            FailureDestination::Bucket(bucket) => {
                let partition = facts.partition.partition;
                let key = object_key(self.mapping, &self.topic, partition, facts.at, facts.random);
                let key = format!("{key}-{first}-{end}.batch").into();
                FailureMessage::Object { bucket: bucket.clone(), key, body: facts.batch.raw.clone() }
            }
            FailureDestination::Topic(topic) => raw_message(topic, facts, facts.batch.raw.clone()),
        }
    }

    /// Returns the form of a raw message: only a topic message has bytes that can be left out.
    pub fn raw_form(destination: &FailureDestination) -> MessageForm {
        if matches!(destination, FailureDestination::Topic(_)) {
            MessageForm::Whole
        } else {
            MessageForm::Smallest
        }
    }

    /// Returns the message without the raw bytes, for a topic that rejects it as too large.
    pub fn raw_letter_without_bytes(&self, topic: &Arc<str>, facts: &RawFacts<'_>) -> FailureMessage {
        raw_message(topic, facts, self.raw_facts(facts).into())
    }

    /// Returns the message's bytes beyond those leased for the batch. A topic message is copied when it is sent.
    pub fn raw_bytes_max(destination: &FailureDestination, batch: &RawBatch) -> usize {
        match destination {
            FailureDestination::Queue(_)
            | FailureDestination::Notification(_)
            | FailureDestination::Bucket(_) => FACTS_BYTES,
            FailureDestination::Topic(_) => FACTS_BYTES + batch.raw.len(),
        }
    }

    fn raw_facts(&self, facts: &RawFacts<'_>) -> String {
        let range = facts.batch.range;
        let point = |offset| RecordPoint { offset, timestamp: NO_TIMESTAMP };
        let last = Offset(range.end.0 - 1);
        queue_record(&FailureDetails {
            request_id: facts.random.to_string(),
            function_arn: Arc::clone(&self.function_arn),
            condition: FailureCondition::BatchUnreadable,
            approximate_invoke_count: 0,
            response: None,
            error: Some(FunctionError { kind: "BatchUnreadable".into(), message: facts.batch.why.clone() }),
            timestamp: facts.at,
            source: self.source.clone(),
            topic: Arc::clone(&self.topic),
            batch_size: u32::try_from(range.first.distance_to(range.end)).unwrap_or(u32::MAX),
            payload_bytes: facts.batch.raw.len() as u64,
            partitions: vec![FailedPartition {
                partition: facts.partition.partition,
                first: point(range.first),
                last: point(last),
            }],
        })
    }
}

fn raw_message(topic: &Arc<str>, facts: &RawFacts<'_>, value: Bytes) -> FailureMessage {
    let (first, end) = (facts.batch.range.first, facts.batch.range.end);
    let key = format!("{}-{}:{first}-{end}", facts.partition.topic, facts.partition.partition);
    let message = TopicMessage { key: Some(key.into()), value };
    FailureMessage::Topic { topic: Arc::clone(topic), messages: vec![message] }
}
