//! Requests of a membership, and the mapping of their responses to events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::assignor::{self, MemberSubscription, PROTOCOL};
use super::connections::{ConnectionKind, CoordinatorConnections};
use super::driver::DriverInput;
use super::effects::{GroupEffect, GroupProtocol, JoinResult, MemberIdentity, RequestError};
use super::kip848::requests as consumer;
use super::kip848::session::SessionBounds;
use super::leave::leave;
use super::member::MemberEvent;
use super::membership::MembershipSettings;
use super::wire;
use crate::kafka::cluster::REQUEST_DEADLINE;
use crate::kafka::connection::versions;
use crate::kafka::error::KafkaError;

const METADATA_AGE_MAX: Duration = Duration::from_secs(5);

/// Sends the request of `effect` and returns its response, if one is awaited.
pub(super) async fn perform(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    effect: GroupEffect,
) -> Option<DriverInput> {
    let event = match effect {
        GroupEffect::FindCoordinator => MemberEvent::CoordinatorFound(find(lines, settings).await),
        GroupEffect::Join { member, generation, owned } => {
            let who = MemberIdentity { member, generation };
            let answer = join(lines, settings, &who, &owned).await;
            MemberEvent::Joined(who, answer)
        }
        GroupEffect::AssignAndSync { member, generation, members } => {
            return Some(
                assign_and_sync(lines, settings, MemberIdentity { member, generation }, &members).await,
            );
        }
        GroupEffect::Sync { member, generation } => {
            let who = MemberIdentity { member, generation };
            let answer = sync(lines, settings, &who, Vec::new()).await;
            MemberEvent::Synced(who, answer)
        }
        GroupEffect::Heartbeat { member, generation, seq } => {
            MemberEvent::HeartbeatAnswered(seq, heartbeat(lines, settings, &member, generation).await)
        }
        GroupEffect::Beat(beat) => MemberEvent::Told(beat.seq, consumer::beat(lines, settings, beat).await),
        GroupEffect::Leave { member } => {
            // No retry: a repeated leave could remove a member that has since joined under the same id.
            leave(lines, settings, &member).await;
            return None;
        }
        _ => return None,
    };
    Some(DriverInput::Answer(event))
}

async fn find(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
) -> Result<Option<SessionBounds>, String> {
    let found = lines.find(&settings.group).await.map_err(|error| error.to_string())?;
    match settings.protocol {
        GroupProtocol::Classic => Ok(None),
        GroupProtocol::Consumer => Ok(consumer::session(lines, settings, found.broker).await),
    }
}

async fn assign_and_sync(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    who: MemberIdentity,
    members: &[(String, Bytes)],
) -> DriverInput {
    let (shares, counts) = match shares(lines, members).await {
        Ok(shared) => shared,
        Err(error) => {
            let failure = RequestError::Transport(error.to_string());
            return DriverInput::Answer(MemberEvent::Synced(who, Err(failure)));
        }
    };
    let counted = counts.get(&settings.topic).map(|count| *count as usize);
    let answer = sync(lines, settings, &who, shares).await;
    DriverInput::Assigned(MemberEvent::Synced(who, answer), counted)
}

async fn join(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    who: &MemberIdentity,
    owned: &[i32],
) -> Result<JoinResult, RequestError> {
    let (timing, rebalance_timeout) = (settings.timing, settings.rebalance.get());
    let build = |_| {
        let metadata = wire::subscription(&settings.topic, owned, who.generation);
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(StrBytes::from_static_str(PROTOCOL))
            .with_metadata(metadata);
        JoinGroupRequest::default()
            .with_group_id(group_id(settings))
            .with_session_timeout_ms(timing.session_timeout.as_millis() as i32)
            .with_rebalance_timeout_ms(rebalance_timeout.as_millis() as i32)
            .with_member_id(text(&who.member))
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(vec![protocol])
    };
    let deadline = rebalance_timeout + REQUEST_DEADLINE;
    let reply = lines.call(ConnectionKind::Join, &settings.group, versions(2, 7), deadline, build).await;
    joined(lines, reply)
}

fn joined(
    lines: &CoordinatorConnections,
    reply: Result<JoinGroupResponse, KafkaError>,
) -> Result<JoinResult, RequestError> {
    let reply = reply.map_err(|error| RequestError::Transport(error.to_string()))?;
    let member = reply.member_id.to_string();
    match ResponseError::try_from_code(reply.error_code) {
        None => {}
        Some(ResponseError::MemberIdRequired) => return Err(RequestError::MemberIdRequired(member)),
        Some(code) => return Err(refused(lines, code)),
    }
    Ok(JoinResult {
        generation: reply.generation_id,
        member,
        leader: reply.leader.to_string(),
        members: reply
            .members
            .into_iter()
            .map(|member| (member.member_id.to_string(), member.metadata))
            .collect(),
    })
}

type TopicShares = Vec<(String, Bytes)>;

/// Computes, as the leader, the share of each member. Also returns the partition count of each topic.
async fn shares(
    lines: &CoordinatorConnections,
    members: &[(String, Bytes)],
) -> Result<(TopicShares, BTreeMap<String, i32>), KafkaError> {
    let read = |(id, metadata): &(String, Bytes)| match wire::read_subscription(id, metadata) {
        Ok(member) => Some(member),
        Err(error) => {
            tracing::warn!(
                member = id,
                error,
                "a member of the group sent a subscription that cannot be read"
            );
            None
        }
    };
    let readable: Vec<MemberSubscription> = members.iter().filter_map(read).collect();
    let topics: BTreeSet<&String> = readable.iter().flat_map(|member| &member.topics).collect();
    let mut counts = BTreeMap::new();
    for topic in topics {
        let partitions = match lines.cluster().topic(topic, METADATA_AGE_MAX).await {
            Ok(view) => view.partitions.len() as i32,
            Err(KafkaError::NoTopic { .. }) => 0,
            Err(error) => return Err(error),
        };
        counts.insert(topic.clone(), partitions);
    }
    let plan = assignor::assign(&readable, &counts);
    let share = |(id, _): &(String, Bytes)| {
        (id.clone(), wire::assignment(plan.get(id).map(Vec::as_slice).unwrap_or_default()))
    };
    Ok((members.iter().map(share).collect(), counts))
}

async fn sync(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    who: &MemberIdentity,
    shares: Vec<(String, Bytes)>,
) -> Result<Vec<i32>, RequestError> {
    let build = |_| {
        let assignments = shares
            .into_iter()
            .map(|(id, share)| {
                SyncGroupRequestAssignment::default()
                    .with_member_id(StrBytes::from_string(id))
                    .with_assignment(share)
            })
            .collect();
        SyncGroupRequest::default()
            .with_group_id(group_id(settings))
            .with_generation_id(who.generation)
            .with_member_id(text(&who.member))
            .with_assignments(assignments)
    };
    let deadline = settings.rebalance.get() + REQUEST_DEADLINE;
    let reply = lines.call(ConnectionKind::Join, &settings.group, versions(1, 4), deadline, build).await;
    let reply = reply.map_err(|error| RequestError::Transport(error.to_string()))?;
    if let Some(code) = ResponseError::try_from_code(reply.error_code) {
        return Err(refused(lines, code));
    }
    wire::read_assignment(&settings.topic, &reply.assignment).map_err(RequestError::Transport)
}

async fn heartbeat(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    member: &str,
    generation: i32,
) -> Result<(), RequestError> {
    let build = |_| {
        HeartbeatRequest::default()
            .with_group_id(group_id(settings))
            .with_generation_id(generation)
            .with_member_id(text(member))
    };
    let deadline = settings.timing.session_timeout / 3;
    let reply = lines.call(ConnectionKind::Heartbeat, &settings.group, versions(0, 4), deadline, build).await;
    let reply = reply.map_err(|error| RequestError::Transport(error.to_string()))?;
    match ResponseError::try_from_code(reply.error_code) {
        None => Ok(()),
        Some(code) => Err(refused(lines, code)),
    }
}

pub(super) fn refused(lines: &CoordinatorConnections, code: ResponseError) -> RequestError {
    if matches!(code, ResponseError::NotCoordinator | ResponseError::CoordinatorNotAvailable) {
        lines.forget_coordinator();
    }
    RequestError::Code(code)
}

pub(super) fn group_id(settings: &MembershipSettings) -> GroupId {
    GroupId(StrBytes::from_string(settings.group.clone()))
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
