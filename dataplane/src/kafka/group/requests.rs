//! The requests of a membership.

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

use super::assignor::{self, Member, PROTOCOL};
use super::consumer::requests as consumer;
use super::consumer::session::SessionBounds;
use super::driver::Incoming;
use super::effects::{Effect, Failure, GroupProtocol, Identity, Joined};
use super::leave::leave;
use super::lines::{Line, Lines};
use super::member::Event;
use super::membership::MembershipSettings;
use super::wire;
use crate::kafka::cluster::REQUEST_DEADLINE;
use crate::kafka::connection::versions;
use crate::kafka::error::KafkaError;

const METADATA_AGE_MAX: Duration = Duration::from_secs(5);

/// Sends the request of `effect`; the answer to it, if one is awaited.
pub(super) async fn perform(
    lines: &Lines,
    settings: &MembershipSettings,
    effect: Effect,
) -> Option<Incoming> {
    let event = match effect {
        Effect::FindCoordinator => Event::CoordinatorFound(find(lines, settings).await),
        Effect::Join { member, generation, owned } => {
            let who = Identity { member, generation };
            let answer = join(lines, settings, &who, &owned).await;
            Event::Joined(who, answer)
        }
        Effect::AssignAndSync { member, generation, members } => {
            return Some(assign_and_sync(lines, settings, Identity { member, generation }, &members).await);
        }
        Effect::Sync { member, generation } => {
            let who = Identity { member, generation };
            let answer = sync(lines, settings, &who, Vec::new()).await;
            Event::Synced(who, answer)
        }
        Effect::Heartbeat { member, generation, seq } => {
            Event::HeartbeatAnswered(seq, heartbeat(lines, settings, &member, generation).await)
        }
        Effect::Beat(beat) => Event::Told(beat.seq, consumer::beat(lines, settings, beat).await),
        Effect::Leave { member } => {
            // Once: asked again, it could put out who has joined under the same id since.
            leave(lines, settings, &member).await;
            return None;
        }
        _ => return None,
    };
    Some(Incoming::Answer(event))
}

async fn find(lines: &Lines, settings: &MembershipSettings) -> Result<Option<SessionBounds>, String> {
    let found = lines.find(&settings.group).await.map_err(|error| error.to_string())?;
    match settings.protocol {
        GroupProtocol::Classic => Ok(None),
        GroupProtocol::Consumer => Ok(consumer::session(lines, settings, found.broker).await),
    }
}

async fn assign_and_sync(
    lines: &Lines,
    settings: &MembershipSettings,
    who: Identity,
    members: &[(String, Bytes)],
) -> Incoming {
    let (shares, counts) = match shares(lines, members).await {
        Ok(shared) => shared,
        Err(error) => {
            let failure = Failure::Transport(error.to_string());
            return Incoming::Answer(Event::Synced(who, Err(failure)));
        }
    };
    let counted = counts.get(&settings.topic).map(|count| *count as usize);
    let answer = sync(lines, settings, &who, shares).await;
    Incoming::Assigned(Event::Synced(who, answer), counted)
}

async fn join(
    lines: &Lines,
    settings: &MembershipSettings,
    who: &Identity,
    owned: &[i32],
) -> Result<Joined, Failure> {
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
    let reply = lines.call(Line::Join, &settings.group, versions(2, 7), deadline, build).await;
    joined(lines, reply)
}

fn joined(lines: &Lines, reply: Result<JoinGroupResponse, KafkaError>) -> Result<Joined, Failure> {
    let reply = reply.map_err(|error| Failure::Transport(error.to_string()))?;
    let member = reply.member_id.to_string();
    match ResponseError::try_from_code(reply.error_code) {
        None => {}
        Some(ResponseError::MemberIdRequired) => return Err(Failure::MemberIdRequired(member)),
        Some(code) => return Err(refused(lines, code)),
    }
    Ok(Joined {
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

type Shares = Vec<(String, Bytes)>;

/// Everybody's share, when we lead, and the number of partitions of each topic.
async fn shares(
    lines: &Lines,
    members: &[(String, Bytes)],
) -> Result<(Shares, BTreeMap<String, i32>), KafkaError> {
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
    let readable: Vec<Member> = members.iter().filter_map(read).collect();
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
    lines: &Lines,
    settings: &MembershipSettings,
    who: &Identity,
    shares: Vec<(String, Bytes)>,
) -> Result<Vec<i32>, Failure> {
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
    let reply = lines.call(Line::Join, &settings.group, versions(1, 4), deadline, build).await;
    let reply = reply.map_err(|error| Failure::Transport(error.to_string()))?;
    if let Some(code) = ResponseError::try_from_code(reply.error_code) {
        return Err(refused(lines, code));
    }
    wire::read_assignment(&settings.topic, &reply.assignment).map_err(Failure::Transport)
}

async fn heartbeat(
    lines: &Lines,
    settings: &MembershipSettings,
    member: &str,
    generation: i32,
) -> Result<(), Failure> {
    let build = |_| {
        HeartbeatRequest::default()
            .with_group_id(group_id(settings))
            .with_generation_id(generation)
            .with_member_id(text(member))
    };
    let deadline = settings.timing.session_timeout / 3;
    let reply = lines.call(Line::Heartbeat, &settings.group, versions(0, 4), deadline, build).await;
    let reply = reply.map_err(|error| Failure::Transport(error.to_string()))?;
    match ResponseError::try_from_code(reply.error_code) {
        None => Ok(()),
        Some(code) => Err(refused(lines, code)),
    }
}

pub(super) fn refused(lines: &Lines, code: ResponseError) -> Failure {
    if matches!(code, ResponseError::NotCoordinator | ResponseError::CoordinatorNotAvailable) {
        lines.forget_coordinator();
    }
    Failure::Code(code)
}

pub(super) fn group_id(settings: &MembershipSettings) -> GroupId {
    GroupId(StrBytes::from_string(settings.group.clone()))
}

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
