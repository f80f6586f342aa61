//! Requests of a member of the classic protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;

use super::leave::LEAVE_DEADLINE;
use super::{CoordinatorClient, text, transport_error};
use crate::kafka::cluster::REQUEST_DEADLINE;
use crate::kafka::connection::versions;
use crate::kafka::error::KafkaError;
use crate::kafka::group::assignor::{self, MemberSubscription, PROTOCOL};
use crate::kafka::group::connections::ConnectionKind;
use crate::kafka::group::driver::DriverInput;
use crate::kafka::group::effects::{JoinResult, MemberIdentity, RequestError};
use crate::kafka::group::member::MemberEvent;
use crate::kafka::group::wire;

const METADATA_AGE_MAX: Duration = Duration::from_secs(5);

/// Encoded assignment of each member, by member id.
type MemberAssignments = Vec<(String, Bytes)>;

impl CoordinatorClient {
    pub(super) async fn join(&self, who: &MemberIdentity, owned: &[i32]) -> Result<JoinResult, RequestError> {
        let (timing, rebalance_timeout) = (self.settings.timing, self.settings.rebalance.get());
        let build = |_| {
            let metadata = wire::subscription(&self.settings.topic, owned, who.generation);
            let protocol = JoinGroupRequestProtocol::default()
                .with_name(StrBytes::from_static_str(PROTOCOL))
                .with_metadata(metadata);
            JoinGroupRequest::default()
                .with_group_id(self.group_id())
                .with_session_timeout_ms(timing.session_timeout.as_millis() as i32)
                .with_rebalance_timeout_ms(rebalance_timeout.as_millis() as i32)
                .with_member_id(text(&who.member))
                .with_protocol_type(StrBytes::from_static_str("consumer"))
                .with_protocols(vec![protocol])
        };
        let deadline = rebalance_timeout + REQUEST_DEADLINE;
        let response = self.call(ConnectionKind::Join, versions(2, 7), deadline, build).await;
        self.join_result(response.map_err(transport_error)?)
    }

    fn join_result(&self, response: JoinGroupResponse) -> Result<JoinResult, RequestError> {
        let member = response.member_id.to_string();
        match ResponseError::try_from_code(response.error_code) {
            None => {}
            Some(ResponseError::MemberIdRequired) => return Err(RequestError::MemberIdRequired(member)),
            Some(code) => return Err(self.response_error(code)),
        }
        Ok(JoinResult {
            generation: response.generation_id,
            member,
            leader: response.leader.to_string(),
            members: response
                .members
                .into_iter()
                .map(|member| (member.member_id.to_string(), member.metadata))
                .collect(),
        })
    }

    pub(super) async fn assign_and_sync(
        &self,
        who: MemberIdentity,
        members: &[(String, Bytes)],
    ) -> DriverInput {
        let (assignments, counts) = match self.assign(members).await {
            Ok(assigned) => assigned,
            Err(error) => {
                return DriverInput::Response(MemberEvent::Synced(who, Err(transport_error(error))));
            }
        };
        let partition_count = counts.get(&self.settings.topic).map(|count| *count as usize);
        let response = self.sync(&who, assignments).await;
        DriverInput::Assigned(MemberEvent::Synced(who, response), partition_count)
    }

    /// Computes, as the leader, the assignment of each member. Also returns the partition count of each topic.
    async fn assign(
        &self,
        members: &[(String, Bytes)],
    ) -> Result<(MemberAssignments, BTreeMap<String, i32>), KafkaError> {
        let readable: Vec<MemberSubscription> = members.iter().filter_map(read_subscription).collect();
        let topics: BTreeSet<&String> = readable.iter().flat_map(|member| &member.topics).collect();
        let mut counts = BTreeMap::new();
        for topic in topics {
            let partitions = match self.cluster().topic(topic, METADATA_AGE_MAX).await {
                Ok(view) => view.partitions.len() as i32,
                Err(KafkaError::NoTopic { .. }) => 0,
                Err(error) => return Err(error),
            };
            counts.insert(topic.clone(), partitions);
        }
        let assignment = assignor::assign(&readable, &counts);
        let encode = |(id, _): &(String, Bytes)| {
            (id.clone(), wire::assignment(assignment.get(id).map(Vec::as_slice).unwrap_or_default()))
        };
        Ok((members.iter().map(encode).collect(), counts))
    }

    pub(super) async fn sync(
        &self,
        who: &MemberIdentity,
        assignments: MemberAssignments,
    ) -> Result<Vec<i32>, RequestError> {
        let build = |_| {
            let assignments = assignments
                .into_iter()
                .map(|(id, assignment)| {
                    SyncGroupRequestAssignment::default()
                        .with_member_id(StrBytes::from_string(id))
                        .with_assignment(assignment)
                })
                .collect();
            SyncGroupRequest::default()
                .with_group_id(self.group_id())
                .with_generation_id(who.generation)
                .with_member_id(text(&who.member))
                .with_assignments(assignments)
        };
        let deadline = self.settings.rebalance.get() + REQUEST_DEADLINE;
        let response = self.call(ConnectionKind::Join, versions(1, 4), deadline, build).await;
        let response = response.map_err(transport_error)?;
        if let Some(code) = ResponseError::try_from_code(response.error_code) {
            return Err(self.response_error(code));
        }
        wire::read_assignment(&self.settings.topic, &response.assignment).map_err(RequestError::Transport)
    }

    pub(super) async fn heartbeat(&self, member: &str, generation: i32) -> Result<(), RequestError> {
        let build = |_| {
            HeartbeatRequest::default()
                .with_group_id(self.group_id())
                .with_generation_id(generation)
                .with_member_id(text(member))
        };
        let deadline = self.settings.timing.session_timeout / 3;
        let response = self.call(ConnectionKind::Heartbeat, versions(0, 4), deadline, build).await;
        match ResponseError::try_from_code(response.map_err(transport_error)?.error_code) {
            None => Ok(()),
            Some(code) => Err(self.response_error(code)),
        }
    }

    /// Sends `LeaveGroup` and returns the error code of its response.
    pub(super) async fn leave_group(&self, member: &str) -> Result<i16, KafkaError> {
        let build =
            |_| LeaveGroupRequest::default().with_group_id(self.group_id()).with_member_id(text(member));
        let response = self.call(ConnectionKind::Heartbeat, versions(0, 2), LEAVE_DEADLINE, build).await?;
        Ok(response.error_code)
    }
}

fn read_subscription((id, metadata): &(String, Bytes)) -> Option<MemberSubscription> {
    wire::read_subscription(id, metadata)
        .inspect_err(|error| {
            tracing::warn!(
                member = id,
                error,
                "a member of the group sent a subscription that cannot be read"
            );
        })
        .ok()
}
