//! Requests of a member of the consumer protocol.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions as WireTopicPartitions;
use kafka_protocol::messages::consumer_group_heartbeat_response::Assignment;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, DescribeConfigsRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::session::{BROKER_KEYS, GROUP_KEYS, SessionBounds};
use crate::error::ErrorClass;
use crate::kafka::cluster::{BrokerId, REQUEST_DEADLINE};
use crate::kafka::connection::versions;
use crate::kafka::error::KafkaError;
use crate::kafka::group::connections::{ConnectionKind, CoordinatorConnections};
use crate::kafka::group::effects::{Kip848Heartbeat, Kip848Response, RequestError, TopicPartitions};
use crate::kafka::group::leave::LEAVE_DEADLINE;
use crate::kafka::group::membership::MembershipSettings;
use crate::kafka::group::requests::{group_id, refused, text};

/// Resource types of `DescribeConfigs`.
const BROKER: i8 = 4;
const GROUP: i8 = 32;
/// Member epoch of a leave.
const LEAVES: i32 = -1;

pub(in crate::kafka::group) async fn beat(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    beat: Kip848Heartbeat,
) -> Result<Kip848Response, RequestError> {
    let timing = settings.timing;
    let build = |_| request(settings, beat);
    let deadline = timing.session_timeout / 3;
    let reply = lines.call(ConnectionKind::Heartbeat, &settings.group, versions(0, 1), deadline, build).await;
    told(lines, reply, timing.heartbeat_interval)
}

fn request(settings: &MembershipSettings, beat: Kip848Heartbeat) -> ConsumerGroupHeartbeatRequest {
    let owned = |share: TopicPartitions| {
        if share.is_empty() {
            return Vec::new();
        }
        let partitions = share.partitions.into_iter().collect();
        vec![WireTopicPartitions::default().with_topic_id(share.topic).with_partitions(partitions)]
    };
    let request = ConsumerGroupHeartbeatRequest::default()
        .with_group_id(group_id(settings))
        .with_member_id(text(&beat.member))
        .with_member_epoch(beat.epoch)
        .with_topic_partitions(beat.owned.map(owned));
    if !beat.everything {
        return request.with_rebalance_timeout_ms(-1).with_subscribed_topic_names(None);
    }
    let millis = i32::try_from(beat.rebalance_timeout.as_millis()).unwrap_or(i32::MAX);
    request
        .with_rebalance_timeout_ms(millis)
        .with_subscribed_topic_names(Some(vec![TopicName(text(&settings.topic))]))
}

fn told(
    lines: &CoordinatorConnections,
    reply: Result<ConsumerGroupHeartbeatResponse, KafkaError>,
    usual_interval: Duration,
) -> Result<Kip848Response, RequestError> {
    let reply = match reply {
        Ok(reply) => reply,
        Err(KafkaError::Version { .. }) => return Err(RequestError::Code(ResponseError::UnsupportedVersion)),
        Err(error) => return Err(RequestError::Transport(error.to_string())),
    };
    if let Some(code) = ResponseError::try_from_code(reply.error_code) {
        return Err(refused(lines, code));
    }
    if reply.member_epoch <= 0 {
        let epoch = reply.member_epoch;
        return Err(RequestError::Transport(format!(
            "the group's coordinator answers with member epoch {epoch}"
        )));
    }
    let interval = u64::try_from(reply.heartbeat_interval_ms).ok().filter(|ms| *ms > 0);
    Ok(Kip848Response {
        member: reply.member_id.map(|id| id.to_string()).unwrap_or_default(),
        epoch: reply.member_epoch,
        heartbeat_interval: interval.map_or(usual_interval, Duration::from_millis),
        assignment: reply.assignment.map(shares),
    })
}

fn shares(assignment: Assignment) -> Vec<TopicPartitions> {
    let mut by_topic: BTreeMap<_, TopicPartitions> = BTreeMap::new();
    for topic in assignment.topic_partitions {
        let share = by_topic.entry(topic.topic_id).or_default();
        share.topic = topic.topic_id;
        share.partitions.extend(topic.partitions.into_iter().filter(|partition| *partition >= 0));
    }
    by_topic.into_values().filter(|share| !share.is_empty()).collect()
}

pub(in crate::kafka::group) async fn leave(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    member: &str,
) -> Result<i16, KafkaError> {
    let build = |_| {
        ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group_id(settings))
            .with_member_id(text(member))
            .with_member_epoch(LEAVES)
            .with_rebalance_timeout_ms(-1)
            .with_subscribed_topic_names(None)
            .with_topic_partitions(None)
    };
    let reply =
        lines.call(ConnectionKind::Heartbeat, &settings.group, versions(0, 1), LEAVE_DEADLINE, build).await?;
    Ok(reply.error_code)
}

/// Returns the session bounds that the coordinator's broker reports; `None` if it does not report them, or not to
/// this client. A broker without group configs would reject a request for both kinds, so each has its own request.
pub(in crate::kafka::group) async fn session(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    coordinator: BrokerId,
) -> Option<SessionBounds> {
    let mut values = configs(lines, settings, (BROKER, coordinator.0.to_string()), &BROKER_KEYS).await;
    if !values.is_empty() {
        values.extend(configs(lines, settings, (GROUP, settings.group.clone()), &GROUP_KEYS).await);
    }
    let session = SessionBounds::told(values.iter().map(StrBytes::as_str));
    if session.is_none() {
        tracing::info!(
            group = settings.group,
            "the broker does not tell group.consumer.session.timeout.ms: it is taken to be no less than \
             kafka.session_timeout"
        );
    }
    session
}

/// Returns the values of `keys` of one resource, as far as the broker reports them.
async fn configs(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    (kind, name): (i8, String),
    keys: &[&'static str],
) -> Vec<StrBytes> {
    let ask = || {
        let asked = keys.iter().map(|key| StrBytes::from_static_str(key)).collect();
        let resource = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(StrBytes::from_string(name.clone()))
            .with_configuration_keys(Some(asked));
        let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
        lines.call(ConnectionKind::Heartbeat, &settings.group, versions(1, 4), REQUEST_DEADLINE, |_| request)
    };
    let mut reply = ask().await;
    if reply.as_ref().is_err_and(|error| error.class() == ErrorClass::Retry) {
        // The connection may be dead since its broker went down.
        reply = ask().await;
    }
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            tracing::debug!(%error, "the broker does not tell its settings");
            return Vec::new();
        }
    };
    let answered = reply.results.into_iter().filter(|result| result.error_code == 0);
    let known =
        answered.flat_map(|result| result.configs).filter(|config| keys.contains(&config.name.as_str()));
    known.filter_map(|config| config.value).collect()
}
