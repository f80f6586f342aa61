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

use super::leave::LEAVE_DEADLINE;
use super::{CoordinatorClient, text, transport_error};
use crate::error::ErrorClass;
use crate::kafka::cluster::{BrokerId, REQUEST_DEADLINE};
use crate::kafka::connection::versions;
use crate::kafka::error::KafkaError;
use crate::kafka::group::connections::ConnectionKind;
use crate::kafka::group::effects::{Kip848Heartbeat, Kip848Response, RequestError, TopicPartitions};
use crate::kafka::group::kip848::session_bounds::{BROKER_KEYS, GROUP_KEYS, SessionBounds};

/// Resource types of `DescribeConfigs`.
const BROKER: i8 = 4;
const GROUP: i8 = 32;
/// Member epoch of a leave.
const LEAVE_EPOCH: i32 = -1;

impl CoordinatorClient {
    pub(super) async fn consumer_heartbeat(
        &self,
        heartbeat: Kip848Heartbeat,
    ) -> Result<Kip848Response, RequestError> {
        let deadline = self.settings.timing.session_timeout / 3;
        let build = |_| self.heartbeat_request(heartbeat);
        match self.call(ConnectionKind::Heartbeat, versions(0, 1), deadline, build).await {
            Ok(response) => self.heartbeat_response(response),
            Err(KafkaError::Version { .. }) => Err(RequestError::Code(ResponseError::UnsupportedVersion)),
            Err(error) => Err(transport_error(error)),
        }
    }

    fn heartbeat_request(&self, heartbeat: Kip848Heartbeat) -> ConsumerGroupHeartbeatRequest {
        let request = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_member_id(text(&heartbeat.member))
            .with_member_epoch(heartbeat.epoch)
            .with_topic_partitions(heartbeat.owned.map(owned_on_wire));
        if !heartbeat.everything {
            return request.with_rebalance_timeout_ms(-1).with_subscribed_topic_names(None);
        }
        let millis = i32::try_from(heartbeat.rebalance_timeout.as_millis()).unwrap_or(i32::MAX);
        request
            .with_rebalance_timeout_ms(millis)
            .with_subscribed_topic_names(Some(vec![TopicName(text(&self.settings.topic))]))
    }

    fn heartbeat_response(
        &self,
        response: ConsumerGroupHeartbeatResponse,
    ) -> Result<Kip848Response, RequestError> {
        if let Some(code) = ResponseError::try_from_code(response.error_code) {
            return Err(self.response_error(code));
        }
        if response.member_epoch <= 0 {
            let epoch = response.member_epoch;
            return Err(RequestError::Transport(format!(
                "the group's coordinator answers with member epoch {epoch}"
            )));
        }
        let interval = u64::try_from(response.heartbeat_interval_ms).ok().filter(|ms| *ms > 0);
        let configured = self.settings.timing.heartbeat_interval;
        Ok(Kip848Response {
            member: response.member_id.map(|id| id.to_string()).unwrap_or_default(),
            epoch: response.member_epoch,
            heartbeat_interval: interval.map_or(configured, Duration::from_millis),
            assignment: response.assignment.map(assigned_shares),
        })
    }

    /// Sends the last heartbeat of a member and returns the error code of its response.
    pub(super) async fn leave_heartbeat(&self, member: &str) -> Result<i16, KafkaError> {
        let build = |_| {
            ConsumerGroupHeartbeatRequest::default()
                .with_group_id(self.group_id())
                .with_member_id(text(member))
                .with_member_epoch(LEAVE_EPOCH)
                .with_rebalance_timeout_ms(-1)
                .with_subscribed_topic_names(None)
                .with_topic_partitions(None)
        };
        let response = self.call(ConnectionKind::Heartbeat, versions(0, 1), LEAVE_DEADLINE, build).await?;
        Ok(response.error_code)
    }

    /// Returns the session bounds that the coordinator's broker reports; `None` if it does not report them, or not to
    /// this client. A broker without group configs would reject a request for both kinds, so each has its own request.
    pub(super) async fn session_bounds(&self, coordinator: BrokerId) -> Option<SessionBounds> {
        let group = &self.settings.group;
        let mut values = self.configs((BROKER, coordinator.0.to_string()), &BROKER_KEYS).await;
        if !values.is_empty() {
            values.extend(self.configs((GROUP, group.clone()), &GROUP_KEYS).await);
        }
        let bounds = SessionBounds::reported(values.iter().map(StrBytes::as_str));
        if bounds.is_none() {
            tracing::info!(
                group,
                "the broker does not tell group.consumer.session.timeout.ms: it is taken to be no less than \
                 kafka.session_timeout"
            );
        }
        bounds
    }

    /// Returns the values of `keys` of one resource, as far as the broker reports them.
    async fn configs(&self, (kind, name): (i8, String), keys: &[&'static str]) -> Vec<StrBytes> {
        let describe = || {
            let keys = keys.iter().map(|key| StrBytes::from_static_str(key)).collect();
            let resource = DescribeConfigsResource::default()
                .with_resource_type(kind)
                .with_resource_name(StrBytes::from_string(name.clone()))
                .with_configuration_keys(Some(keys));
            let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
            self.call(ConnectionKind::Heartbeat, versions(1, 4), REQUEST_DEADLINE, |_| request)
        };
        let mut response = describe().await;
        if response.as_ref().is_err_and(|error| error.class() == ErrorClass::Retry) {
            // The connection may be dead since its broker went down.
            response = describe().await;
        }
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%error, "the broker does not tell its settings");
                return Vec::new();
            }
        };
        let described = response.results.into_iter().filter(|result| result.error_code == 0);
        let known =
            described.flat_map(|result| result.configs).filter(|config| keys.contains(&config.name.as_str()));
        known.filter_map(|config| config.value).collect()
    }
}

fn owned_on_wire(share: TopicPartitions) -> Vec<WireTopicPartitions> {
    if share.is_empty() {
        return Vec::new();
    }
    let partitions = share.partitions.into_iter().collect();
    vec![WireTopicPartitions::default().with_topic_id(share.topic).with_partitions(partitions)]
}

fn assigned_shares(assignment: Assignment) -> Vec<TopicPartitions> {
    let mut by_topic: BTreeMap<_, TopicPartitions> = BTreeMap::new();
    for topic in assignment.topic_partitions {
        let share = by_topic.entry(topic.topic_id).or_default();
        share.topic = topic.topic_id;
        share.partitions.extend(topic.partitions.into_iter().filter(|partition| *partition >= 0));
    }
    by_topic.into_values().filter(|share| !share.is_empty()).collect()
}
