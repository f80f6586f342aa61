//! Group APIs on top of the coordinator.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::coordinator::{BrokerGroup, GROUPS_MAX, GroupPhase, StoredOffset};
use super::group_messages::{DeferredResponse, JoinRequest};
use super::state::{BrokerState, NODE, SharedBroker};
use crate::runtime::clock;

/// Maximum metadata bytes of a commit, as in a broker's default.
const METADATA_BYTES_MAX: usize = 4096;

fn millis(value: i32) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or_default())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn code_of(code: Option<Code>) -> i16 {
    code.map_or(0, |code| code.code())
}

fn group<'s>(state: &'s mut BrokerState, id: &str) -> Option<&'s mut BrokerGroup> {
    if state.groups.len() >= GROUPS_MAX && !state.groups.contains_key(id) {
        return None;
    }
    Some(state.groups.entry(id.to_owned()).or_default())
}

pub(super) fn find_coordinator(
    shared: &SharedBroker,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    let state = shared.state.borrow();
    if version < 4 {
        return FindCoordinatorResponse::default()
            .with_node_id(NODE)
            .with_host(state.host())
            .with_port(state.port());
    }
    let coordinators = request.coordinator_keys.into_iter().map(|key| {
        Coordinator::default()
            .with_key(key)
            .with_node_id(NODE)
            .with_host(state.host())
            .with_port(state.port())
    });
    FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
}

pub(super) async fn join(
    shared: &SharedBroker,
    client: &str,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    let refused =
        |code: Code| JoinGroupResponse::default().with_error_code(code.code()).with_generation_id(-1);
    let session = millis(request.session_timeout_ms);
    if !(Duration::from_millis(100)..=Duration::from_secs(1800)).contains(&session) {
        return refused(Code::InvalidSessionTimeout);
    }
    let joining = JoinRequest {
        member: request.member_id.to_string(),
        instance: request.group_instance_id.map(|id| id.to_string()),
        client: client.to_owned(),
        session,
        rebalance: if version >= 1 { millis(request.rebalance_timeout_ms).max(session) } else { session },
        protocols: request
            .protocols
            .into_iter()
            .map(|known| (known.name.to_string(), known.metadata))
            .collect(),
        can_come_back: version >= 4,
    };
    let given = {
        let mut state = shared.state.borrow_mut();
        let (ticket, given) = state.ticket();
        let Some(group) = group(&mut state, &request.group_id) else { return refused(Code::PolicyViolation) };
        let answers = group.join(clock::now(), ticket, joining);
        state.hand_out(answers);
        given
    };
    let Ok(DeferredResponse::Join(answer)) = given.await else { return refused(Code::UnknownServerError) };
    let members = answer.members.into_iter().map(|(id, instance, metadata)| {
        let member = JoinGroupResponseMember::default().with_member_id(text(&id)).with_metadata(metadata);
        if version >= 5 { member.with_group_instance_id(instance.as_deref().map(text)) } else { member }
    });
    let response = JoinGroupResponse::default()
        .with_error_code(code_of(answer.code))
        .with_generation_id(answer.generation)
        .with_protocol_name(Some(text(&answer.protocol)))
        .with_leader(text(&answer.leader))
        .with_member_id(text(&answer.member))
        .with_members(members.collect());
    if version >= 7 { response.with_protocol_type(Some(request.protocol_type)) } else { response }
}

pub(super) async fn sync(
    shared: &SharedBroker,
    request: SyncGroupRequest,
    version: i16,
) -> SyncGroupResponse {
    let shares: Vec<(String, Bytes)> = request
        .assignments
        .into_iter()
        .map(|share| (share.member_id.to_string(), share.assignment))
        .collect();
    let given = {
        let mut state = shared.state.borrow_mut();
        let (ticket, given) = state.ticket();
        let Some(group) = state.groups.get_mut(request.group_id.as_str()) else {
            return SyncGroupResponse::default().with_error_code(Code::UnknownMemberId.code());
        };
        let answers = group.sync(clock::now(), ticket, &request.member_id, request.generation_id, shares);
        state.hand_out(answers);
        given
    };
    let answer = match given.await {
        Ok(DeferredResponse::Sync(answer)) => answer,
        _ => Err(Code::UnknownServerError),
    };
    let response = match answer {
        Ok(assignment) => SyncGroupResponse::default().with_assignment(assignment),
        Err(code) => SyncGroupResponse::default().with_error_code(code.code()),
    };
    if version >= 5 {
        response.with_protocol_type(request.protocol_type).with_protocol_name(request.protocol_name)
    } else {
        response
    }
}

pub(super) fn heartbeat(shared: &SharedBroker, request: HeartbeatRequest) -> HeartbeatResponse {
    let mut state = shared.state.borrow_mut();
    let code = match state.groups.get_mut(request.group_id.as_str()) {
        Some(group) => group.heartbeat(clock::now(), &request.member_id, request.generation_id),
        None => Some(Code::UnknownMemberId),
    };
    HeartbeatResponse::default().with_error_code(code_of(code))
}

pub(super) fn leave(shared: &SharedBroker, request: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
    let mut state = shared.state.borrow_mut();
    let Some(group) = state.groups.get_mut(request.group_id.as_str()) else {
        return LeaveGroupResponse::default().with_error_code(Code::UnknownMemberId.code());
    };
    let ids: Vec<StrBytes> = if version >= 3 {
        request.members.into_iter().map(|member| member.member_id).collect()
    } else {
        vec![request.member_id]
    };
    let (mut answers, mut members, mut last) = (Vec::new(), Vec::new(), None);
    for id in ids {
        let (code, out) = group.leave(clock::now(), &id);
        answers.extend(out);
        last = code;
        members.push(MemberResponse::default().with_member_id(id).with_error_code(code_of(code)));
    }
    state.hand_out(answers);
    if version >= 3 {
        LeaveGroupResponse::default().with_members(members)
    } else {
        LeaveGroupResponse::default().with_error_code(code_of(last))
    }
}

pub(super) fn commit(shared: &SharedBroker, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let mut state = shared.state.borrow_mut();
    let known: Vec<String> = state.topics.keys().cloned().collect();
    let (member, generation) = (request.member_id.to_string(), request.generation_id_or_member_epoch);
    let Some(group) = group(&mut state, &request.group_id) else { return OffsetCommitResponse::default() };
    let refused = group.may_commit(clock::now(), &member, generation);
    let topics = request.topics.into_iter().map(|topic| {
        let exists = known.iter().any(|name| *name == topic.name.as_str());
        let partitions = topic.partitions.into_iter().map(|sent| {
            let metadata = sent.committed_metadata.map(|text| text.to_string()).unwrap_or_default();
            let code = match refused {
                None if !exists => Some(Code::UnknownTopicOrPartition),
                None if metadata.len() > METADATA_BYTES_MAX => Some(Code::OffsetMetadataTooLarge),
                other => other,
            };
            if code.is_none() {
                let key = (topic.name.to_string(), sent.partition_index);
                let leader_epoch = sent.committed_leader_epoch;
                group
                    .offsets
                    .insert(key, StoredOffset { offset: sent.committed_offset, leader_epoch, metadata });
            }
            OffsetCommitResponsePartition::default()
                .with_partition_index(sent.partition_index)
                .with_error_code(code_of(code))
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

fn stored(group: Option<&BrokerGroup>, topic: &str, partition: i32) -> StoredOffset {
    let known = group.and_then(|group| group.offsets.get(&(topic.to_owned(), partition)).cloned());
    known.unwrap_or(StoredOffset { offset: -1, leader_epoch: -1, metadata: String::new() })
}

fn committed_topics(group: Option<&BrokerGroup>) -> Vec<(String, Vec<i32>)> {
    let mut keys: Vec<&(String, i32)> = group.map(|group| group.offsets.keys().collect()).unwrap_or_default();
    keys.sort();
    let mut topics: Vec<(String, Vec<i32>)> = Vec::new();
    for (topic, partition) in keys {
        match topics.last_mut().filter(|(last, _)| last == topic) {
            Some((_, partitions)) => partitions.push(*partition),
            None => topics.push((topic.clone(), vec![*partition])),
        }
    }
    topics
}

pub(super) fn committed(
    shared: &SharedBroker,
    request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    let state = shared.state.borrow();
    if version >= 8 {
        let groups = request.groups.into_iter().map(|asked| {
            let group = state.groups.get(asked.group_id.as_str());
            let wanted = asked.topics.map_or_else(
                || committed_topics(group),
                |topics| {
                    topics
                        .into_iter()
                        .map(|topic| (topic.name.to_string(), topic.partition_indexes))
                        .collect()
                },
            );
            let topics = wanted.into_iter().map(|(topic, indexes)| {
                let partitions = indexes.into_iter().map(|index| {
                    let stored = stored(group, &topic, index);
                    OffsetFetchResponsePartitions::default()
                        .with_partition_index(index)
                        .with_committed_offset(stored.offset)
                        .with_committed_leader_epoch(stored.leader_epoch)
                        .with_metadata(Some(text(&stored.metadata)))
                });
                let partitions = partitions.collect();
                OffsetFetchResponseTopics::default()
                    .with_name(text(&topic).into())
                    .with_partitions(partitions)
            });
            OffsetFetchResponseGroup::default()
                .with_group_id(asked.group_id.clone())
                .with_topics(topics.collect())
        });
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let group = state.groups.get(request.group_id.as_str());
    let wanted = request.topics.map_or_else(
        || committed_topics(group),
        |topics| topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect(),
    );
    let topics = wanted.into_iter().map(|(topic, indexes)| {
        let partitions = indexes.into_iter().map(|index| {
            let stored = stored(group, &topic, index);
            let answer = OffsetFetchResponsePartition::default()
                .with_partition_index(index)
                .with_committed_offset(stored.offset)
                .with_metadata(Some(text(&stored.metadata)));
            if version >= 5 { answer.with_committed_leader_epoch(stored.leader_epoch) } else { answer }
        });
        let partitions = partitions.collect();
        OffsetFetchResponseTopic::default().with_name(text(&topic).into()).with_partitions(partitions)
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

fn phase_name(phase: GroupPhase) -> StrBytes {
    StrBytes::from_static_str(match phase {
        GroupPhase::Empty => "Empty",
        GroupPhase::Preparing { .. } => "PreparingRebalance",
        GroupPhase::Completing => "CompletingRebalance",
        GroupPhase::Stable => "Stable",
    })
}

pub(super) fn list(shared: &SharedBroker, version: i16) -> ListGroupsResponse {
    let state = shared.state.borrow();
    let groups = state.groups.iter().map(|(id, group)| {
        let listed = ListedGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_protocol_type(StrBytes::from_static_str("consumer"));
        if version >= 4 { listed.with_group_state(phase_name(group.phase)) } else { listed }
    });
    ListGroupsResponse::default().with_groups(groups.collect())
}

pub(super) fn describe(shared: &SharedBroker, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    let state = shared.state.borrow();
    let groups = request.groups.into_iter().map(|id| {
        let described = DescribedGroup::default()
            .with_group_id(id.clone())
            .with_protocol_type(StrBytes::from_static_str("consumer"));
        let Some(group) = state.groups.get(id.as_str()) else {
            return described.with_group_state(StrBytes::from_static_str("Dead"));
        };
        let members = group.members.iter().map(|(id, member)| {
            DescribedGroupMember::default()
                .with_member_id(text(id))
                .with_client_id(text(&member.client))
                .with_client_host(StrBytes::from_static_str("/127.0.0.1"))
                .with_member_assignment(member.assignment.clone())
        });
        described
            .with_group_state(phase_name(group.phase))
            .with_protocol_data(text(&group.protocol))
            .with_members(members.collect())
    });
    DescribeGroupsResponse::default().with_groups(groups.collect())
}
