//! Fetch requests and replies, version 10 to 12: zstd from 10, diverging epochs at 12; all by topic name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use lighterman_proto::ids::{Offset, TopicPartition};

use super::messages::FetchTrouble;
use super::session::Step;
use crate::kafka::connection::versions;
use crate::kafka::offsets::Isolation;

/// Versions of Fetch that we speak.
pub const FETCH: VersionRange = versions(10, 12);

/// What does not change from poll to poll.
#[derive(Clone, Debug)]
pub struct Poll {
    /// How long the broker may wait for records.
    pub wait: Duration,
    /// At most this much in one reply.
    pub bytes_max: usize,
    /// Isolation.
    pub isolation: Isolation,
}

/// One partition of a reply.
#[derive(Debug)]
pub struct Part {
    /// Which partition.
    pub partition: TopicPartition,
    /// Error code, 0 for none.
    pub error_code: i16,
    /// Record batches.
    pub records: Bytes,
    /// Log end, −1 when unknown.
    pub high_watermark: i64,
    /// Where histories part, when they do.
    pub diverging_end: Option<Offset>,
    /// Aborted transactions: producer id, first offset.
    pub aborted: Vec<(i64, Offset)>,
}

/// What a partition's error code asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The leader is asked where its log begins and ends (H14).
    OutOfRange,
    /// Whoever wants the partition is told.
    Trouble(FetchTrouble),
    /// Leader moves, elections, storage trouble: the leader is looked up again.
    Misplaced,
}

/// What to do about a partition's error code.
pub fn refused(code: ResponseError) -> Refused {
    match code {
        ResponseError::OffsetOutOfRange => Refused::OutOfRange,
        ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed => {
            Refused::Trouble(FetchTrouble::NotAuthorized(code.to_string()))
        }
        ResponseError::CorruptMessage | ResponseError::UnsupportedCompressionType => {
            Refused::Trouble(FetchTrouble::Corrupt(code.to_string()))
        }
        _ => Refused::Misplaced,
    }
}

/// Builds the request of one session step.
pub fn request(step: &Step, poll: &Poll, version: i16) -> FetchRequest {
    let mut by_topic: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for (partition, asked) in &step.asked {
        let mut wire = FetchPartition::default()
            .with_partition(partition.partition)
            .with_current_leader_epoch(asked.current_leader_epoch)
            .with_fetch_offset(asked.position.0)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(i32::try_from(asked.bytes_max).unwrap_or(i32::MAX));
        if version >= 12 {
            wire = wire.with_last_fetched_epoch(asked.last_fetched_epoch);
        }
        by_topic.entry(&partition.topic).or_default().push(wire);
    }
    let topics = by_topic
        .into_iter()
        .map(|(topic, partitions)| FetchTopic::default().with_topic(name(topic)).with_partitions(partitions))
        .collect();
    let mut forgotten: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in &step.forgotten {
        forgotten.entry(&partition.topic).or_default().push(partition.partition);
    }
    let forgotten = forgotten
        .into_iter()
        .map(|(topic, partitions)| {
            ForgottenTopic::default().with_topic(name(topic)).with_partitions(partitions)
        })
        .collect();
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(poll.wait.as_millis() as i32)
        .with_min_bytes(1)
        .with_max_bytes(i32::try_from(poll.bytes_max).unwrap_or(i32::MAX))
        .with_isolation_level(poll.isolation.level())
        .with_session_id(step.id)
        .with_session_epoch(step.epoch)
        .with_topics(topics)
        .with_forgotten_topics_data(forgotten)
}

/// The partitions of a reply.
pub fn parts(reply: FetchResponse) -> Vec<Part> {
    reply
        .responses
        .into_iter()
        .flat_map(|topic| {
            let name: Arc<str> = Arc::from(topic.topic.as_str());
            topic.partitions.into_iter().map(move |data| part(Arc::clone(&name), data))
        })
        .collect()
}

fn part(topic: Arc<str>, data: PartitionData) -> Part {
    let diverging = data.diverging_epoch;
    Part {
        partition: TopicPartition { topic, partition: data.partition_index },
        error_code: data.error_code,
        records: data.records.unwrap_or_default(),
        high_watermark: data.high_watermark,
        diverging_end: (diverging.epoch >= 0 && diverging.end_offset >= 0)
            .then_some(Offset(diverging.end_offset)),
        aborted: data
            .aborted_transactions
            .unwrap_or_default()
            .into_iter()
            .map(|aborted| (*aborted.producer_id, Offset(aborted.first_offset)))
            .collect(),
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}
