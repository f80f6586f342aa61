//! Error responses created by the proxy: the request is rejected before any broker handles it.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use bytes::Bytes;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{
    ApiKey, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse,
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, RequestKind, ResponseKind, TopicName,
    metadata_request,
};

use super::frame::{self, RequestIdentity};
use super::reply::set_code;

/// Requests of one connection, as far as an error response must name their content.
#[derive(Default)]
pub(super) struct RefusalBuilder {
    /// Partitions of the fetch session; an incremental fetch names only changed partitions.
    fetched: BTreeSet<(TopicName, i32)>,
}

impl RefusalBuilder {
    /// Records a request that passes.
    pub(super) fn note(&mut self, asked: RequestIdentity, request: &Bytes) -> Result<()> {
        if asked.api != ApiKey::Fetch {
            return Ok(());
        }
        let RequestKind::Fetch(fetch) = frame::open_request(asked, request)? else { return Ok(()) };
        if fetch.session_epoch <= 0 {
            self.fetched.clear();
        }
        for topic in fetch.topics {
            self.fetched.extend(topic.partitions.iter().map(|part| (topic.topic.clone(), part.partition)));
        }
        for topic in fetch.forgotten_topics_data {
            for partition in topic.partitions {
                self.fetched.remove(&(topic.topic.clone(), partition));
            }
        }
        Ok(())
    }

    /// Returns the response to `request` with `code` in every error field, for everything that was requested.
    pub(super) fn refusal(&self, asked: RequestIdentity, request: &Bytes, code: i16) -> Result<Bytes> {
        let mut reply = self.empty(frame::open_request(asked, request)?)?;
        set_code(&mut reply, code);
        if let ResponseKind::Metadata(reply) = &mut reply {
            // A broker that has handled nothing knows no partitions, so the whole topic carries the code.
            reply.topics.iter_mut().for_each(|topic| topic.error_code = code);
        }
        frame::close(frame::refused_in(asked, code), &reply)
    }

    /// Returns a response of the right shape without an error code.
    fn empty(&self, request: RequestKind) -> Result<ResponseKind> {
        Ok(match request {
            RequestKind::Fetch(_) => ResponseKind::Fetch(self.fetch()),
            RequestKind::ListOffsets(request) => ResponseKind::ListOffsets(list_offsets(request)),
            RequestKind::OffsetForLeaderEpoch(request) => ResponseKind::OffsetForLeaderEpoch(epochs(request)),
            RequestKind::OffsetCommit(request) => ResponseKind::OffsetCommit(commit(request)),
            RequestKind::OffsetFetch(request) => ResponseKind::OffsetFetch(committed(request)),
            RequestKind::Metadata(request) => ResponseKind::Metadata(metadata(request)),
            RequestKind::FindCoordinator(_) => ResponseKind::FindCoordinator(Default::default()),
            RequestKind::JoinGroup(_) => ResponseKind::JoinGroup(Default::default()),
            RequestKind::SyncGroup(_) => ResponseKind::SyncGroup(Default::default()),
            RequestKind::Heartbeat(_) => ResponseKind::Heartbeat(Default::default()),
            RequestKind::LeaveGroup(_) => ResponseKind::LeaveGroup(Default::default()),
            RequestKind::ConsumerGroupHeartbeat(_) => {
                ResponseKind::ConsumerGroupHeartbeat(Default::default())
            }
            RequestKind::ApiVersions(_) => ResponseKind::ApiVersions(Default::default()),
            other => bail!("no refusal is made of {other:?}"),
        })
    }

    /// Session 0 makes the client start a new session.
    fn fetch(&self) -> FetchResponse {
        let topics: BTreeSet<&TopicName> = self.fetched.iter().map(|(topic, _)| topic).collect();
        let topic = |topic: &TopicName| {
            let own = self.fetched.iter().filter(|(name, _)| name == topic);
            let part = |(_, index): &(TopicName, i32)| {
                PartitionData::default().with_partition_index(*index).with_high_watermark(-1)
            };
            let parts = own.map(part).collect();
            FetchableTopicResponse::default().with_topic(topic.clone()).with_partitions(parts)
        };
        FetchResponse::default().with_responses(topics.into_iter().map(topic).collect())
    }
}

fn list_offsets(request: ListOffsetsRequest) -> ListOffsetsResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let parts = topic
            .partitions
            .iter()
            .map(|part| ListOffsetsPartitionResponse::default().with_partition_index(part.partition_index));
        ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(parts.collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

fn epochs(request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let parts =
            topic.partitions.iter().map(|part| EpochEndOffset::default().with_partition(part.partition));
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(parts.collect())
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn commit(request: OffsetCommitRequest) -> OffsetCommitResponse {
    let topics = request.topics.into_iter().map(|topic| {
        let parts = topic
            .partitions
            .iter()
            .map(|part| OffsetCommitResponsePartition::default().with_partition_index(part.partition_index));
        OffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(parts.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn committed(request: OffsetFetchRequest) -> OffsetFetchResponse {
    let topics = request.topics.unwrap_or_default().into_iter().map(|topic| {
        let parts = topic
            .partition_indexes
            .iter()
            .map(|index| OffsetFetchResponsePartition::default().with_partition_index(*index));
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(parts.collect())
    });
    let groups = request.groups.into_iter().map(|group| {
        let topics = group.topics.unwrap_or_default().into_iter().map(|topic| {
            let parts = topic
                .partition_indexes
                .iter()
                .map(|index| OffsetFetchResponsePartitions::default().with_partition_index(*index));
            OffsetFetchResponseTopics::default().with_name(topic.name).with_partitions(parts.collect())
        });
        OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_topics(topics.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect()).with_groups(groups.collect())
}

fn metadata(request: MetadataRequest) -> MetadataResponse {
    let topic = |topic: metadata_request::MetadataRequestTopic| {
        MetadataResponseTopic::default().with_name(topic.name)
    };
    let topics = request.topics.unwrap_or_default().into_iter().map(topic).collect();
    MetadataResponse::default().with_topics(topics)
}
