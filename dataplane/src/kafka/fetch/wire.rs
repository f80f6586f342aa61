//! Fetch requests and responses, versions 10 to 13. Zstd is supported from 10 on, diverging epochs from 12 on, and
//! 13 addresses topics by id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;
use uuid::Uuid;

use super::messages::FetchError;
use super::session::{FetchSession, SessionRequest};
use crate::kafka::connection::versions;
use crate::kafka::offsets::IsolationLevel;

/// Versions of Fetch that the client supports.
pub const FETCH: VersionRange = versions(10, BY_IDS);
/// First version that addresses topics by id. A broker then rejects a topic that was deleted since (KIP-516).
pub const BY_IDS: i16 = 13;
/// Last version that addresses topics by name.
pub const BY_NAMES: i16 = 12;

/// Parameters of a poll that apply to all of its partitions.
#[derive(Clone, Debug)]
pub struct FetchParams {
    /// Time that the broker may wait for records.
    pub wait: Duration,
    /// Maximum of record bytes in one response.
    pub bytes_max: usize,
    /// Isolation level.
    pub isolation: IsolationLevel,
}

/// Result for one partition in a response.
#[derive(Debug)]
pub struct PartitionResponse {
    /// Topic and partition.
    pub partition: TopicPartition,
    /// Error code, 0 for none.
    pub error_code: i16,
    /// Record batches.
    pub records: Bytes,
    /// Log end, −1 when unknown.
    pub high_watermark: i64,
    /// Offset at which the histories diverge, if they do.
    pub diverging_end: Option<Offset>,
    /// Aborted transactions: producer id, first offset.
    pub aborted: Vec<(i64, Offset)>,
}

/// Action that a partition's error code requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorAction {
    /// Query the leader for its log start and log end (H14).
    OutOfRange,
    /// Report the error to the requester.
    Trouble(FetchError),
    /// Look up the leader again, after leader moves, elections and storage errors.
    Misplaced,
}

/// Returns the action for a partition's error code.
pub fn refused(code: ResponseError) -> ErrorAction {
    match code {
        ResponseError::OffsetOutOfRange => ErrorAction::OutOfRange,
        ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed => {
            ErrorAction::Trouble(FetchError::NotAuthorized(code.to_string()))
        }
        ResponseError::CorruptMessage | ResponseError::UnsupportedCompressionType => {
            ErrorAction::Trouble(FetchError::Corrupt(code.to_string()))
        }
        _ => ErrorAction::Misplaced,
    }
}

/// Returns the version of the request for `step` to a broker that supports Fetch up to `version`.
pub fn version_of(step: &SessionRequest, version: i16) -> i16 {
    if step.by_ids { version } else { version.min(BY_NAMES) }
}

/// Topic name and id, by which a request addresses a topic.
type TopicReference<'s> = (&'s str, Option<TopicId>);

fn named(step: &SessionRequest, topic: TopicReference<'_>) -> (TopicName, Uuid) {
    match topic {
        (_, Some(id)) if step.by_ids => (TopicName::default(), id.uuid()),
        (name, _) => (TopicName(StrBytes::from_string(name.to_owned())), Uuid::nil()),
    }
}

/// Builds the request of one session step; `version` is the result of [`version_of`].
pub fn request(step: &SessionRequest, poll: &FetchParams, version: i16) -> FetchRequest {
    let mut by_topic: BTreeMap<TopicReference<'_>, Vec<FetchPartition>> = BTreeMap::new();
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
        by_topic.entry((&partition.topic, asked.topic)).or_default().push(wire);
    }
    let topics = by_topic
        .into_iter()
        .map(|(topic, partitions)| {
            let (name, id) = named(step, topic);
            FetchTopic::default().with_topic(name).with_topic_id(id).with_partitions(partitions)
        })
        .collect();
    let mut forgotten: BTreeMap<TopicReference<'_>, Vec<i32>> = BTreeMap::new();
    for (partition, topic) in &step.forgotten {
        forgotten.entry((&partition.topic, *topic)).or_default().push(partition.partition);
    }
    let forgotten = forgotten
        .into_iter()
        .map(|(topic, partitions)| {
            let (name, id) = named(step, topic);
            ForgottenTopic::default().with_topic(name).with_topic_id(id).with_partitions(partitions)
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

/// Returns the partitions of a response to the last request of `session`. A topic whose id was not requested has an
/// empty name.
pub fn parts(reply: FetchResponse, session: &FetchSession) -> Vec<PartitionResponse> {
    let name_of = |topic: &FetchableTopicResponse| match TopicId::of(topic.topic_id) {
        Some(id) => session.name_of(id).cloned().unwrap_or_else(|| Arc::from("")),
        None => Arc::from(topic.topic.as_str()),
    };
    reply
        .responses
        .into_iter()
        .flat_map(|topic| {
            let name = name_of(&topic);
            topic.partitions.into_iter().map(move |data| part(Arc::clone(&name), data))
        })
        .collect()
}

fn part(topic: Arc<str>, data: PartitionData) -> PartitionResponse {
    let diverging = data.diverging_epoch;
    PartitionResponse {
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
