//! ListOffsets, `OffsetForLeaderEpoch`, OffsetFetch, OffsetCommit: requests and their replies, typed. Deciding what to do is
//! for others.

mod as_member;
mod asked;
mod log_ends;

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId as WireBrokerId, GroupId, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use lighterman_proto::ids::Offset;

use super::cluster::{Cluster, REQUEST_DEADLINE};
use super::connection::{Connection, versions};
use super::error::{KafkaError, Unanswered};
use super::group::effects::GroupProtocol;
use asked::Asked;

pub use as_member::fetch_committed_as_member;
pub use log_ends::log_ends;

/// Which offset is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The oldest kept.
    Earliest,
    /// The one behind the newest.
    Latest,
    /// The first at or after this time (ms); the end when there is none.
    Timestamp(i64),
}

/// `read_committed` or `read_uncommitted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Only committed transactions.
    #[default]
    Committed,
    /// Everything.
    Uncommitted,
}

impl Isolation {
    /// As on the wire.
    pub fn level(self) -> i8 {
        match self {
            Self::Uncommitted => 0,
            Self::Committed => 1,
        }
    }
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the record before it, −1 when unknown.
    pub leader_epoch: i32,
    /// What the committer wrote beside it.
    pub metadata: String,
}

/// One partition of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitOffset {
    /// Partition index.
    pub partition: i32,
    /// The next offset to read.
    pub offset: Offset,
    /// Leader epoch of the record before it, −1 when unknown.
    pub leader_epoch: i32,
    /// What is written beside it.
    pub metadata: String,
}

/// Who commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitAs {
    /// Group id.
    pub group: String,
    /// Generation the member is in, or its member epoch.
    pub generation: i32,
    /// Member id.
    pub member: String,
    /// Protocol of the group: from version 9 on, a member epoch can be refused as stale.
    pub protocol: GroupProtocol,
}

/// Offsets of several partitions, one request per leader.
pub async fn list_offsets(
    cluster: &Cluster,
    topic: &str,
    partitions: &[i32],
    at: At,
    isolation: Isolation,
) -> Result<BTreeMap<i32, Offset>, KafkaError> {
    let mut by_leader: BTreeMap<_, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        let leader = cluster
            .leader(topic, *partition)
            .ok_or_else(|| KafkaError::NoLeader { partition: format!("{topic}-{partition}") })?;
        by_leader.entry(leader.address).or_default().push(*partition);
    }
    let mut found = BTreeMap::new();
    for (address, partitions) in by_leader {
        let mut connection = cluster.connect(&address).await?;
        found.extend(list_at_leader(&mut connection, topic, &partitions, at, isolation).await?);
    }
    Ok(found)
}

async fn list_at_leader(
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
    at: At,
    isolation: Isolation,
) -> Result<BTreeMap<i32, Offset>, KafkaError> {
    let mut found = list_once(connection, topic, partitions, at, isolation).await?;
    let none: Vec<i32> =
        found.iter().filter(|(_, offset)| offset.0 == -1).map(|(partition, _)| *partition).collect();
    if !none.is_empty() && matches!(at, At::Timestamp(_)) {
        // No record is that young: the next one will be.
        found.extend(list_once(connection, topic, &none, At::Latest, isolation).await?);
    }
    match found.iter().find(|(_, offset)| offset.0 < 0) {
        None => Ok(found),
        Some((partition, _)) => {
            let asked = Asked { api: ApiKey::ListOffsets, topic, partitions };
            Err(asked.unanswered(*partition, Unanswered::NoOffset))
        }
    }
}

fn list_request(
    topic: &str,
    partitions: &[i32],
    at: At,
    isolation: Isolation,
    version: i16,
) -> ListOffsetsRequest {
    let timestamp = match at {
        At::Earliest => -2,
        At::Latest => -1,
        At::Timestamp(ms) => ms,
    };
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
    connection: &mut Connection,
    topic: &str,
    partitions: &[i32],
    at: At,
    isolation: Isolation,
) -> Result<BTreeMap<i32, Offset>, KafkaError> {
    let build = |version| list_request(topic, partitions, at, isolation, version);
    let (reply, _) = connection.call(versions(1, 7), REQUEST_DEADLINE, build).await?;
    let ours = reply.topics.into_iter().filter(|answer| &*answer.name.0 == topic);
    let parts = ours.flat_map(|topic| topic.partitions).map(|answer| (answer.partition_index, answer));
    let asked = Asked { api: ApiKey::ListOffsets, topic, partitions };
    asked.sort(parts, |answer| match ResponseError::try_from_code(answer.error_code) {
        Some(code) => Err(asked.refused(answer.partition_index, code)),
        None => Ok(Offset(answer.offset)),
    })
}

/// How far the leader of a partition has the history that a reader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownEpoch {
    /// Partition index.
    pub partition: i32,
    /// Leader epoch of the last record that was read.
    pub leader_epoch: i32,
}

/// Where each of these epochs ends in its leader's log (KIP-320). A partition whose leader does not know the epoch, and
/// every one of a broker that does not speak the API, is left out. A reader beyond the end has read what is gone.
pub async fn epoch_ends(
    cluster: &Cluster,
    topic: &str,
    known: &[KnownEpoch],
) -> Result<BTreeMap<i32, Offset>, KafkaError> {
    let mut by_leader: BTreeMap<_, Vec<(KnownEpoch, i32)>> = BTreeMap::new();
    for known in known {
        let leader = cluster
            .leader(topic, known.partition)
            .ok_or_else(|| KafkaError::NoLeader { partition: format!("{topic}-{}", known.partition) })?;
        by_leader.entry(leader.address).or_default().push((*known, leader.epoch));
    }
    let mut found = BTreeMap::new();
    for (address, known) in by_leader {
        let mut connection = cluster.connect(&address).await?;
        match epoch_ends_at_leader(&mut connection, topic, &known).await {
            Ok(ends) => found.extend(ends),
            Err(KafkaError::Version { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

async fn epoch_ends_at_leader(
    connection: &mut Connection,
    topic: &str,
    known: &[(KnownEpoch, i32)],
) -> Result<BTreeMap<i32, Offset>, KafkaError> {
    let build = |_| {
        let partitions = known
            .iter()
            .map(|(known, current)| {
                OffsetForLeaderPartition::default()
                    .with_partition(known.partition)
                    .with_current_leader_epoch(*current)
                    .with_leader_epoch(known.leader_epoch)
            })
            .collect();
        let topic = OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(partitions);
        OffsetForLeaderEpochRequest::default().with_replica_id(WireBrokerId(-1)).with_topics(vec![topic])
    };
    let (reply, _) = connection.call(versions(2, 4), REQUEST_DEADLINE, build).await?;
    let ours = reply.topics.into_iter().filter(|answer| &*answer.topic.0 == topic);
    let parts = ours.flat_map(|topic| topic.partitions).map(|answer| (answer.partition, answer));
    let partitions: Vec<i32> = known.iter().map(|(known, _)| known.partition).collect();
    let asked = Asked { api: ApiKey::OffsetForLeaderEpoch, topic, partitions: &partitions };
    let mut found = asked.sort(parts, |answer| match ResponseError::try_from_code(answer.error_code) {
        Some(code) => Err(asked.refused(answer.partition, code)),
        None => Ok(Offset(answer.end_offset)),
    })?;
    // Of an epoch that it does not know.
    found.retain(|_, end| end.0 >= 0);
    Ok(found)
}

/// What `group` has committed for `partitions` of `topic`. Only `error == 0 ∧ offset == −1` is "none" (H11); offsets that
/// an open transaction may still change are waited for (KIP-447).
pub async fn fetch_committed(
    connection: &mut Connection,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Option<CommittedOffset>>, KafkaError> {
    let build = |version: i16| {
        let wanted = OffsetFetchRequestTopic::default()
            .with_name(name(topic))
            .with_partition_indexes(partitions.to_vec());
        let request =
            OffsetFetchRequest::default().with_group_id(group_id(group)).with_topics(Some(vec![wanted]));
        if version >= 7 { request.with_require_stable(true) } else { request }
    };
    let (reply, _) = connection.call(versions(1, 7), REQUEST_DEADLINE, build).await?;
    of_group(group, reply.error_code)?;
    let ours = reply.topics.into_iter().filter(|answer| &*answer.name.0 == topic);
    let stated = ours.flat_map(|topic| topic.partitions).map(|answer| Stated {
        code: answer.error_code,
        partition: answer.partition_index,
        offset: answer.committed_offset,
        leader_epoch: answer.committed_leader_epoch,
        metadata: answer.metadata,
    });
    gather(stated, group, topic, partitions)
}

type Found = BTreeMap<i32, Option<CommittedOffset>>;

/// One partition's part of either layout.
struct Stated {
    code: i16,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
}

/// What an `OffsetFetch` states of `partitions`. Two answers, silence, or an offset that there cannot be: none of them says that
/// nothing is committed.
fn gather(
    stated: impl Iterator<Item = Stated>,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<Found, KafkaError> {
    let asked = Asked { api: ApiKey::OffsetFetch, topic, partitions };
    let parts = stated.map(|stated| (stated.partition, stated));
    asked.sort(parts, |Stated { code, partition, offset, leader_epoch, metadata }| {
        of_group(group, code)?;
        let metadata = metadata.map(|text| text.to_string()).unwrap_or_default();
        match offset {
            -1 => Ok(None),
            0.. => Ok(Some(CommittedOffset { offset: Offset(offset), leader_epoch, metadata })),
            _ => Err(asked.unanswered(partition, Unanswered::NoOffset)),
        }
    })
}

/// The error of an `OffsetFetch` of `group`, if `code` is one.
fn of_group(group: &str, code: i16) -> Result<(), KafkaError> {
    let failed = |code| KafkaError::broker(ApiKey::OffsetFetch, format!("group `{group}`"), code);
    ResponseError::try_from_code(code).map_or(Ok(()), |code| Err(failed(code)))
}

/// Commits in one request; the answer holds the error of each partition that has one.
pub async fn commit(
    connection: &mut Connection,
    who: &CommitAs,
    topic: &str,
    offsets: &[CommitOffset],
) -> Result<BTreeMap<i32, Option<ResponseError>>, KafkaError> {
    let build = |version: i16| {
        let partitions = offsets
            .iter()
            .map(|offset| {
                let partition = OffsetCommitRequestPartition::default()
                    .with_partition_index(offset.partition)
                    .with_committed_offset(offset.offset.0)
                    .with_committed_metadata(Some(StrBytes::from_string(offset.metadata.clone())));
                if version >= 6 {
                    partition.with_committed_leader_epoch(offset.leader_epoch)
                } else {
                    partition
                }
            })
            .collect();
        let topic = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(partitions);
        OffsetCommitRequest::default()
            .with_group_id(group_id(&who.group))
            .with_generation_id_or_member_epoch(who.generation)
            .with_member_id(StrBytes::from_string(who.member.clone()))
            .with_topics(vec![topic])
    };
    let spoken = match who.protocol {
        GroupProtocol::Classic => versions(2, 8),
        GroupProtocol::Consumer => versions(9, 9),
    };
    let (reply, _) = connection.call(spoken, REQUEST_DEADLINE, build).await?;
    let ours = reply.topics.into_iter().filter(|answer| &*answer.name.0 == topic);
    // What the broker does not speak of is not committed.
    let silence = |offset: &CommitOffset| (offset.partition, Some(ResponseError::UnknownServerError));
    let mut codes: BTreeMap<i32, Option<ResponseError>> = offsets.iter().map(silence).collect();
    let mut spoken_of = BTreeSet::new();
    for answer in ours.flat_map(|topic| topic.partitions) {
        let Some(said) = codes.get_mut(&answer.partition_index) else { continue };
        let code = ResponseError::try_from_code(answer.error_code);
        // Of two words about one partition the bad one counts.
        *said = if spoken_of.insert(answer.partition_index) { code } else { said.or(code) };
    }
    Ok(codes)
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn group_id(group: &str) -> GroupId {
    GroupId(StrBytes::from_string(group.to_owned()))
}
