//! Typed requests and responses of ListOffsets, `OffsetForLeaderEpoch`, OffsetFetch and OffsetCommit. Decisions on
//! their results are made by the callers.

mod as_member;
mod by_leader;
mod log_ends;
mod logs;
mod response;

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{ApiKey, GroupId, OffsetCommitRequest, OffsetFetchRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use lighterman_proto::ids::Offset;
use response::PartitionQuery;

use super::cluster::REQUEST_DEADLINE;
use super::connection::{BrokerConnection, versions};
use super::error::{KafkaError, ResponseMismatch};
use super::group::effects::GroupProtocol;

pub use as_member::fetch_committed_as_member;
pub use by_leader::{FailedPartitions, LeaderResults};
pub use log_ends::log_ends;
pub use logs::{KnownEpoch, epoch_ends, epoch_ends_each, list_offsets, list_offsets_each};

/// Offset to look up in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// Oldest offset kept.
    Earliest,
    /// Offset after the newest record.
    Latest,
    /// First offset at or after this timestamp (ms), or the log end if there is none.
    Timestamp(i64),
}

impl OffsetSpec {
    /// Returns the timestamp that ListOffsets uses for it.
    pub fn timestamp(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::Timestamp(ms) => ms,
        }
    }

    /// Converts a ListOffsets timestamp, the inverse of [`OffsetSpec::timestamp`]. Returns `None` for other special
    /// values.
    pub fn of_timestamp(timestamp: i64) -> Option<Self> {
        match timestamp {
            -2 => Some(Self::Earliest),
            -1 => Some(Self::Latest),
            0.. => Some(Self::Timestamp(timestamp)),
            _ => None,
        }
    }
}

/// Isolation level of reads: `read_committed` or `read_uncommitted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Records of committed transactions only.
    #[default]
    Committed,
    /// All records.
    Uncommitted,
}

impl IsolationLevel {
    /// Returns the value on the wire.
    pub fn level(self) -> i8 {
        match self {
            Self::Uncommitted => 0,
            Self::Committed => 1,
        }
    }
}

/// Offset of a partition that a group commits or has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// Next offset to read.
    pub offset: Offset,
    /// Leader epoch of the record before it, −1 when unknown.
    pub leader_epoch: i32,
    /// Metadata that the committer attaches.
    pub metadata: String,
}

/// Identity of the committing group member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitIdentity {
    /// Group id.
    pub group: String,
    /// Generation of the member, or its member epoch.
    pub generation: i32,
    /// Member id.
    pub member: String,
    /// Protocol of the group. From version 9 on, a member epoch can be rejected as stale.
    pub protocol: GroupProtocol,
}

/// Fetches the offsets that `group` has committed for `partitions` of `topic`. Only `error == 0 ∧ offset == −1`
/// means that nothing is committed (H11). Offsets that an open transaction may still change are waited for
/// (KIP-447).
pub async fn fetch_committed(
    connection: &mut BrokerConnection,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
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
    let stated = ours.flat_map(|topic| topic.partitions).map(|answer| StatedOffset {
        code: answer.error_code,
        partition: answer.partition_index,
        offset: answer.committed_offset,
        leader_epoch: answer.committed_leader_epoch,
        metadata: answer.metadata,
    });
    gather(stated, group, topic, partitions)
}

/// Result for one partition, from either response layout.
struct StatedOffset {
    code: i16,
    partition: i32,
    offset: i64,
    leader_epoch: i32,
    metadata: Option<StrBytes>,
}

/// Collects the offsets that an OffsetFetch response states for `partitions`. A duplicate, missing or impossible
/// offset is an error and does not mean that nothing is committed.
fn gather(
    stated: impl Iterator<Item = StatedOffset>,
    group: &str,
    topic: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
    let asked = PartitionQuery { api: ApiKey::OffsetFetch, topic, partitions };
    let parts = stated.map(|stated| (stated.partition, stated));
    asked.match_response(parts, |StatedOffset { code, partition, offset, leader_epoch, metadata }| {
        of_group(group, code)?;
        let metadata = metadata.map(|text| text.to_string()).unwrap_or_default();
        match offset {
            -1 => Ok(None),
            0.. => Ok(Some(OffsetAndMetadata { offset: Offset(offset), leader_epoch, metadata })),
            _ => Err(asked.unanswered(partition, ResponseMismatch::NoOffset)),
        }
    })
}

/// Returns an error if `code` is an error code of an OffsetFetch of `group`.
fn of_group(group: &str, code: i16) -> Result<(), KafkaError> {
    let failed = |code| KafkaError::broker(ApiKey::OffsetFetch, format!("group `{group}`"), code);
    ResponseError::try_from_code(code).map_or(Ok(()), |code| Err(failed(code)))
}

/// Commits `offsets` in one request. The result holds the error code of each partition, or `None` on success.
pub async fn commit(
    connection: &mut BrokerConnection,
    who: &CommitIdentity,
    topic: &str,
    offsets: &BTreeMap<i32, OffsetAndMetadata>,
) -> Result<BTreeMap<i32, Option<ResponseError>>, KafkaError> {
    let build = |version: i16| {
        let partitions = offsets
            .iter()
            .map(|(partition, offset)| {
                let partition = OffsetCommitRequestPartition::default()
                    .with_partition_index(*partition)
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
    // A partition that the response omits is not committed.
    let silence = |partition: &i32| (*partition, Some(ResponseError::UnknownServerError));
    let mut codes: BTreeMap<i32, Option<ResponseError>> = offsets.keys().map(silence).collect();
    let mut spoken_of = BTreeSet::new();
    for answer in ours.flat_map(|topic| topic.partitions) {
        let Some(said) = codes.get_mut(&answer.partition_index) else { continue };
        let code = ResponseError::try_from_code(answer.error_code);
        // Of two results for one partition, the error counts.
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
