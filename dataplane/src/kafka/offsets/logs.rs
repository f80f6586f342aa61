//! Queries of leaders about their logs: ListOffsets and `OffsetForLeaderEpoch`.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId as WireBrokerId, ListOffsetsRequest, OffsetForLeaderEpochRequest,
};
use lighterman_proto::ids::Offset;

use super::by_leader::{FailedPartitions, LeaderResults, ask_leaders};
use super::response::PartitionQuery;
use super::{IsolationLevel, OffsetSpec, name};
use crate::kafka::cluster::{KafkaCluster, REQUEST_DEADLINE};
use crate::kafka::connection::{BrokerConnection, versions};
use crate::kafka::error::{KafkaError, ResponseMismatch};

/// Looks up offsets of several partitions with one request per leader. Returns all of them, or an error.
pub async fn list_offsets(
    cluster: &KafkaCluster,
    topic: &str,
    partitions: &[i32],
    at: OffsetSpec,
    isolation: IsolationLevel,
) -> Result<BTreeMap<i32, Offset>, KafkaError> {
    list_offsets_each(cluster, topic, partitions, at, isolation).await.whole()
}

/// Looks up offsets of several partitions with one request per leader, as far as the leaders answer.
pub async fn list_offsets_each(
    cluster: &KafkaCluster,
    topic: &str,
    partitions: &[i32],
    at: OffsetSpec,
    isolation: IsolationLevel,
) -> LeaderResults<Offset> {
    let questions: Vec<(i32, ())> = partitions.iter().map(|partition| (*partition, ())).collect();
    ask_leaders(cluster, topic, &questions, async |connection, asked| {
        let partitions: Vec<i32> = asked.iter().map(|(partition, ..)| *partition).collect();
        list_at_leader(connection, topic, &partitions, at, isolation).await
    })
    .await
}

async fn list_at_leader(
    connection: &mut BrokerConnection,
    topic: &str,
    partitions: &[i32],
    at: OffsetSpec,
    isolation: IsolationLevel,
) -> LeaderResults<Offset> {
    let mut learnt = list_once(connection, topic, partitions, at, isolation).await;
    let none = |learnt: &LeaderResults<Offset>| -> Vec<i32> {
        learnt.known.iter().filter(|(_, offset)| offset.0 < 0).map(|(partition, _)| *partition).collect()
    };
    let no_record: Vec<i32> =
        none(&learnt).into_iter().filter(|partition| learnt.known[partition].0 == -1).collect();
    if !no_record.is_empty() && matches!(at, OffsetSpec::Timestamp(_)) {
        // No record is that recent, so the next record will be the first one.
        learnt.known.retain(|partition, _| !no_record.contains(partition));
        learnt.join(list_once(connection, topic, &no_record, OffsetSpec::Latest, isolation).await);
    }
    let asked = PartitionQuery { api: ApiKey::ListOffsets, topic, partitions };
    for partition in none(&learnt) {
        learnt.known.remove(&partition);
        let error = asked.unanswered(partition, ResponseMismatch::NoOffset);
        learnt.unknown.push(FailedPartitions { partitions: vec![partition], error });
    }
    learnt
}

/// Builds the request that looks up `at` in the logs of `partitions`.
pub(super) fn list_request(
    topic: &str,
    partitions: &[i32],
    at: OffsetSpec,
    isolation: IsolationLevel,
    version: i16,
) -> ListOffsetsRequest {
    let timestamp = at.timestamp();
    let wanted = partitions
        .iter()
        .map(|partition| {
            ListOffsetsPartition::default().with_partition_index(*partition).with_timestamp(timestamp)
        })
        .collect();
    let topic = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(wanted);
    let request = ListOffsetsRequest::default().with_replica_id(WireBrokerId(-1)).with_topics(vec![topic]);
    if version >= 2 { request.with_isolation_level(isolation.level()) } else { request }
}

async fn list_once(
    connection: &mut BrokerConnection,
    topic: &str,
    partitions: &[i32],
    at: OffsetSpec,
    isolation: IsolationLevel,
) -> LeaderResults<Offset> {
    let build = |version| list_request(topic, partitions, at, isolation, version);
    let reply = match connection.call(versions(1, 7), REQUEST_DEADLINE, build).await {
        Ok((reply, _)) => reply,
        Err(error) => return LeaderResults::of_none(partitions.to_vec(), error),
    };
    let ours = reply.topics.into_iter().filter(|answer| &*answer.name.0 == topic);
    let parts = ours.flat_map(|topic| topic.partitions).map(|answer| (answer.partition_index, answer));
    let asked = PartitionQuery { api: ApiKey::ListOffsets, topic, partitions };
    asked.learn(parts, |answer| match ResponseError::try_from_code(answer.error_code) {
        Some(code) => Err(asked.refused(answer.partition_index, code)),
        None => Ok(Offset(answer.offset)),
    })
}

/// Leader epoch up to which a reader knows the history of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownEpoch {
    /// Partition index.
    pub partition: i32,
    /// Leader epoch of the last record read.
    pub leader_epoch: i32,
}

/// Looks up the end offset of each epoch in its leader's log (KIP-320). Returns the ends that the leaders know, or
/// an error.
pub async fn epoch_ends(
    cluster: &KafkaCluster,
    topic: &str,
    known: &[KnownEpoch],
) -> Result<BTreeMap<i32, Offset>, KafkaError> {
    epoch_ends_each(cluster, topic, known).await.whole()
}

/// Looks up the end offset of each epoch in its leader's log (KIP-320), as far as the leaders answer. A partition is
/// in neither part of the result if its leader does not know the epoch or does not support the API. A reader beyond
/// the end has read records that the log has lost.
pub async fn epoch_ends_each(
    cluster: &KafkaCluster,
    topic: &str,
    known: &[KnownEpoch],
) -> LeaderResults<Offset> {
    let questions: Vec<(i32, i32)> =
        known.iter().map(|known| (known.partition, known.leader_epoch)).collect();
    ask_leaders(cluster, topic, &questions, async |connection, asked| {
        epoch_ends_at_leader(connection, topic, asked).await
    })
    .await
}

/// Looks up epoch ends at one leader. Each entry of `known` holds the partition, the leader epoch of the last record
/// read, and the current leader epoch.
async fn epoch_ends_at_leader(
    connection: &mut BrokerConnection,
    topic: &str,
    known: &[(i32, i32, i32)],
) -> LeaderResults<Offset> {
    let build = |_| {
        let partitions = known
            .iter()
            .map(|(partition, leader_epoch, current)| {
                OffsetForLeaderPartition::default()
                    .with_partition(*partition)
                    .with_current_leader_epoch(*current)
                    .with_leader_epoch(*leader_epoch)
            })
            .collect();
        let topic = OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(partitions);
        OffsetForLeaderEpochRequest::default().with_replica_id(WireBrokerId(-1)).with_topics(vec![topic])
    };
    let partitions: Vec<i32> = known.iter().map(|(partition, ..)| *partition).collect();
    let reply = match connection.call(versions(2, 4), REQUEST_DEADLINE, build).await {
        Ok((reply, _)) => reply,
        Err(KafkaError::Version { .. }) => return LeaderResults::default(),
        Err(error) => return LeaderResults::of_none(partitions, error),
    };
    let ours = reply.topics.into_iter().filter(|answer| &*answer.topic.0 == topic);
    let parts = ours.flat_map(|topic| topic.partitions).map(|answer| (answer.partition, answer));
    let asked = PartitionQuery { api: ApiKey::OffsetForLeaderEpoch, topic, partitions: &partitions };
    let mut learnt = asked.learn(parts, |answer| match ResponseError::try_from_code(answer.error_code) {
        Some(code) => Err(asked.refused(answer.partition, code)),
        None => Ok(Offset(answer.end_offset)),
    });
    // A negative end means that the leader does not know the epoch.
    learnt.known.retain(|_, end| end.0 >= 0);
    learnt
}
