//! Encoding of failed records in the format of their destination.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lighterman_proto::api::FailureDestination;
use lighterman_proto::event::{EventEnvelope, EventWriter};
use lighterman_proto::failure::{
    FailedPartition, FailureCondition, FailureDetails, FunctionError, RecordPoint, RecordSource,
    ResponseContext, object_key, object_record, queue_record, topic_record,
};
use lighterman_proto::ids::MappingId;
use lighterman_proto::records::Record;
use lighterman_proto::units::TimestampMs;
use uuid::Uuid;

use super::message::{FailureMessage, TopicMessage};
use super::retry::MessageForm;
use crate::messages::dead_letter::AbandonedRecords;

/// Data that all failure messages of a mapping share.
#[derive(Clone, Debug)]
pub struct FailureEncoder {
    /// UUID of the mapping.
    pub mapping: MappingId,
    /// Function ARN as the mapping names it.
    pub function_arn: Arc<str>,
    /// Event source of the records.
    pub source: RecordSource,
    /// Topic of the records.
    pub topic: Arc<str>,
    /// JSON envelope around the records.
    pub envelope: Arc<EventEnvelope>,
}

/// Context of one failure. `random` names the message if it has no other name.
#[derive(Debug)]
pub struct FailureContext<'w> {
    /// Partition of the records.
    pub partition: i32,
    /// Records and their attempts.
    pub records: &'w AbandonedRecords,
    /// Condition that ended the retries.
    pub condition: FailureCondition,
    /// Time at which the retries ended.
    pub at: TimestampMs,
    /// Random id.
    pub random: Uuid,
}

impl FailureEncoder {
    /// Returns the message that carries all records of `facts` to `destination`, or `None` if there is no record.
    pub fn failure_message(
        &self,
        destination: &FailureDestination,
        facts: &FailureContext<'_>,
    ) -> Option<FailureMessage> {
        let failure = self.failure(facts)?;
        let has_content = !facts.records.batch.is_unheld();
        Some(match destination {
            FailureDestination::Queue(queue) => {
                FailureMessage::Queue { queue: queue.clone(), body: queue_record(&failure).into() }
            }
            FailureDestination::Notification(topic) => {
                FailureMessage::Notification { topic: topic.clone(), body: queue_record(&failure).into() }
            }
            FailureDestination::Bucket(bucket) => {
                let key = object_key(self.mapping, &self.topic, facts.partition, facts.at, facts.random);
                let body = if has_content {
                    let partition_batch = &facts.records.batch;
                    object_record(
                        &failure,
                        &self.event(facts.partition, partition_batch.payload_bytes, partition_batch.walk()),
                    )
                } else {
                    queue_record(&failure).into_bytes()
                };
                let body = Bytes::from(body);
                FailureMessage::Object { bucket: bucket.clone(), key: key.into(), body }
            }
            FailureDestination::Topic(topic) => {
                let messages = facts
                    .records
                    .batch
                    .walk()
                    .map(|record| self.message(&failure, facts.partition, &record, has_content))
                    .collect();
                FailureMessage::Topic { topic: Arc::clone(topic), messages }
            }
        })
    }

    /// Returns the form of the messages of `records`. A topic message has a payload that can be left out, unless the
    /// payload was never held. SQS and SNS messages have metadata only, and an object always has the whole event.
    pub fn form(destination: &FailureDestination, records: &AbandonedRecords) -> MessageForm {
        match destination {
            FailureDestination::Topic(_) if !records.batch.is_unheld() => MessageForm::Whole,
            _ => MessageForm::Smallest,
        }
    }

    /// Returns `messages`, which were too large, without their payload. They still contain the record's offset.
    pub fn without_payload(
        &self,
        topic: &Arc<str>,
        facts: &FailureContext<'_>,
        messages: &[TopicMessage],
    ) -> Option<FailureMessage> {
        let failure = self.failure(facts)?;
        let too_large = |record: &Record<'_>| {
            let whole = self.message(&failure, facts.partition, record, true);
            messages.contains(&whole)
        };
        let messages = facts
            .records
            .batch
            .walk()
            .filter(too_large)
            .map(|record| self.message(&failure, facts.partition, &record, false))
            .collect();
        Some(FailureMessage::Topic { topic: Arc::clone(topic), messages })
    }

    /// Returns an upper estimate of the message's bytes, for its memory lease.
    pub fn bytes_max(destination: &FailureDestination, records: &AbandonedRecords) -> usize {
        const FACTS_BYTES: usize = 4 * 1024;
        let payload = if records.batch.is_unheld() { 0 } else { records.batch.payload_bytes };
        let records = records.batch.records as usize;
        match destination {
            FailureDestination::Queue(_) | FailureDestination::Notification(_) => FACTS_BYTES,
            // The event, and the same event as an escaped string.
            FailureDestination::Bucket(_) => FACTS_BYTES + payload * 2 + payload / 4,
            FailureDestination::Topic(_) => payload + records * FACTS_BYTES,
        }
    }

    fn message(
        &self,
        failure: &FailureDetails,
        partition: i32,
        record: &Record<'_>,
        payload: bool,
    ) -> TopicMessage {
        let event = payload.then(|| {
            let bytes = self.envelope.record_bytes(partition, record, true);
            self.event(partition, bytes, std::iter::once(*record))
        });
        let value = topic_record(failure, partition, point(record), event.as_deref());
        TopicMessage { key: record.key.map(Bytes::copy_from_slice), value: value.into() }
    }

    fn event<'r>(
        &self,
        partition: i32,
        records_bytes: usize,
        records: impl Iterator<Item = Record<'r>>,
    ) -> BytesMut {
        let bytes =
            self.envelope.base_bytes() + self.envelope.partition_bytes(partition, true) + records_bytes;
        let mut writer = EventWriter::new(&self.envelope, BytesMut::with_capacity(bytes));
        writer.begin_partition(partition);
        for record in records {
            writer.record(&record);
        }
        writer.finish()
    }

    fn failure(&self, facts: &FailureContext<'_>) -> Option<FailureDetails> {
        let (records, partition_batch) = (facts.records, &facts.records.batch);
        let first = point(&partition_batch.walk().next()?);
        let last = partition_batch.walk().last().map_or(first, |record| point(&record));
        let answer = records.last.as_ref().and_then(|failure| failure.answer.clone());
        let request_id = answer.as_ref().and_then(|answer| answer.request_id.clone());
        let base = self.envelope.base_bytes() + self.envelope.partition_bytes(facts.partition, true);
        Some(FailureDetails {
            request_id: request_id.unwrap_or_else(|| facts.random.to_string()),
            function_arn: Arc::clone(&self.function_arn),
            condition: facts.condition,
            approximate_invoke_count: records.attempts_used,
            response: answer.map(|answer| ResponseContext {
                status_code: answer.status,
                executed_version: answer.executed_version.unwrap_or_else(|| "$LATEST".to_owned()),
                function_error: answer.function_error,
            }),
            error: records.last.as_ref().map(|failure| FunctionError {
                kind: failure.error_type.clone(),
                message: failure.message.clone(),
            }),
            timestamp: facts.at,
            source: self.source.clone(),
            topic: Arc::clone(&self.topic),
            batch_size: partition_batch.records,
            payload_bytes: (base + partition_batch.payload_bytes) as u64,
            partitions: vec![FailedPartition { partition: facts.partition, first, last }],
        })
    }
}

fn point(record: &Record<'_>) -> RecordPoint {
    RecordPoint { offset: record.offset, timestamp: record.timestamp }
}
