//! Constant parts of an event, and the exact size of the rest before any of it is written.

use super::{base64, json};
use crate::records::{Record, TimestampType};

/// Type of the event source; determines the event's first fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventSource {
    /// `aws:kafka`, with the cluster's ARN.
    Msk {
        /// `eventSourceArn`.
        arn: String,
    },
    /// `SelfManagedKafka`, without an ARN.
    SelfManaged,
}

/// Parts of an event that are the same for all events of a mapping.
#[derive(Clone, Debug)]
pub struct EventEnvelope {
    pub(super) head: Vec<u8>,
    /// Topic as an escaped JSON string without its quotes.
    pub(super) topic: Vec<u8>,
    /// `{"topic":"…","partition":`
    pub(super) record_head: Vec<u8>,
}

pub(super) const TAIL: &[u8] = b"}}";
pub(super) const OFFSET: &[u8] = b",\"offset\":";
pub(super) const TIMESTAMP: &[u8] = b",\"timestamp\":";
pub(super) const CREATE_TIME: &[u8] = b",\"timestampType\":\"CREATE_TIME\"";
pub(super) const LOG_APPEND_TIME: &[u8] = b",\"timestampType\":\"LOG_APPEND_TIME\"";
pub(super) const KEY: &[u8] = b",\"key\":\"";
pub(super) const VALUE: &[u8] = b",\"value\":\"";
pub(super) const HEADERS: &[u8] = b",\"headers\":[";
pub(super) const RECORD_TAIL: &[u8] = b"]}";

impl EventEnvelope {
    /// Creates the envelope of a mapping; `bootstrap_servers` are joined by commas.
    pub fn new(source: &EventSource, bootstrap_servers: &str, topic: &str) -> Self {
        let quoted = |text: &str| {
            let mut into = bytes::BytesMut::new();
            json::append_string(text.as_bytes(), &mut into);
            into.to_vec()
        };
        let mut head = Vec::new();
        match source {
            EventSource::Msk { arn } => {
                head.extend(b"{\"eventSource\":\"aws:kafka\",\"eventSourceArn\":");
                head.extend(quoted(arn));
            }
            EventSource::SelfManaged => head.extend(b"{\"eventSource\":\"SelfManagedKafka\""),
        }
        head.extend(b",\"bootstrapServers\":");
        head.extend(quoted(bootstrap_servers));
        head.extend(b",\"records\":{");
        let topic = quoted(topic);
        let record_head = [b"{\"topic\":", &topic[..], b",\"partition\":"].concat();
        Self { head, topic: topic[1..topic.len() - 1].to_vec(), record_head }
    }

    /// Returns the size in bytes of the event without its partitions.
    pub fn base_bytes(&self) -> usize {
        self.head.len() + TAIL.len()
    }

    /// Returns the size in bytes of `"topic-partition":[]`, with the preceding comma unless it is the `first`.
    pub fn partition_bytes(&self, partition: i32, first: bool) -> usize {
        const FRAME: usize = "\"-\":[]".len();
        self.topic.len() + json::decimal_len(i64::from(partition)) + FRAME + usize::from(!first)
    }

    /// Returns the size in bytes of one record, with the preceding comma unless it is the `first` of its
    /// partition.
    pub fn record_bytes(&self, partition: i32, record: &Record<'_>, first: bool) -> usize {
        let field = |name: &[u8], value: Option<&[u8]>| {
            value.map_or(0, |value| name.len() + base64::encoded_len(value.len()) + 1)
        };
        self.record_head.len()
            + json::decimal_len(i64::from(partition))
            + OFFSET.len()
            + json::decimal_len(record.offset.0)
            + TIMESTAMP.len()
            + json::decimal_len(record.timestamp.0)
            + timestamp_type(record.timestamp_type).len()
            + field(KEY, record.key)
            + field(VALUE, record.value)
            + headers_bytes(record)
            + RECORD_TAIL.len()
            + usize::from(!first)
    }
}

pub(super) fn timestamp_type(kind: TimestampType) -> &'static [u8] {
    match kind {
        TimestampType::CreateTime => CREATE_TIME,
        TimestampType::LogAppendTime => LOG_APPEND_TIME,
    }
}

fn headers_bytes(record: &Record<'_>) -> usize {
    const FRAME: usize = "{:},".len();
    let headers: usize = record
        .headers
        .map(|header| {
            FRAME + json::string_len(header.name) + json::signed_array_len(header.value.unwrap_or_default())
        })
        .sum();
    HEADERS.len() + headers.saturating_sub(1)
}
