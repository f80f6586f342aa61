//! Client of a group's coordinator: sends the requests of one membership and classifies their responses. Requests of
//! a single protocol are in `client/classic.rs` and `client/kip848.rs`.

mod classic;
mod committed_offsets;
mod kip848;
mod leave;

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::GroupId;
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};

use super::connections::{ConnectionKind, CoordinatorConnections};
use super::driver::DriverInput;
use super::effects::{GroupEffect, GroupProtocol, MemberIdentity, RequestError};
use super::kip848::session_bounds::SessionBounds;
use super::member::{MemberEvent, MembershipView};
use super::membership_handle::MembershipSettings;
use crate::kafka::cluster::KafkaCluster;
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::CommitIdentity;

/// Client of one membership. It is shared by the group thread and by the threads that commit.
pub(super) struct CoordinatorClient {
    settings: Arc<MembershipSettings>,
    connections: CoordinatorConnections,
}

impl CoordinatorClient {
    pub(super) fn new(cluster: KafkaCluster, settings: Arc<MembershipSettings>) -> Self {
        Self { settings, connections: CoordinatorConnections::new(cluster) }
    }

    pub(super) fn cluster(&self) -> &KafkaCluster {
        self.connections.cluster()
    }

    /// Sends the request of `effect` and returns its response, if one is awaited.
    pub(super) async fn perform(&self, effect: GroupEffect) -> Option<DriverInput> {
        let event = match effect {
            GroupEffect::FindCoordinator => MemberEvent::CoordinatorFound(self.find_coordinator().await),
            GroupEffect::Join { member, generation, owned } => {
                let who = MemberIdentity { member, generation };
                let response = self.join(&who, &owned).await;
                MemberEvent::Joined(who, response)
            }
            GroupEffect::AssignAndSync { member, generation, members } => {
                return Some(self.assign_and_sync(MemberIdentity { member, generation }, &members).await);
            }
            GroupEffect::Sync { member, generation } => {
                let who = MemberIdentity { member, generation };
                let response = self.sync(&who, Vec::new()).await;
                MemberEvent::Synced(who, response)
            }
            GroupEffect::Heartbeat { member, generation, seq } => {
                MemberEvent::HeartbeatAnswered(seq, self.heartbeat(&member, generation).await)
            }
            GroupEffect::Beat(heartbeat) => {
                MemberEvent::Told(heartbeat.seq, self.consumer_heartbeat(heartbeat).await)
            }
            GroupEffect::Leave { member } => {
                // No retry: a repeated leave could remove a member that has since joined under the same id.
                self.leave(&member).await;
                return None;
            }
            GroupEffect::ExtendLease(_) | GroupEffect::EndLease | GroupEffect::Notify(_) => return None,
        };
        Some(DriverInput::Response(event))
    }

    /// Returns the identity to commit with under `view`.
    pub(super) fn commit_identity(&self, view: &MembershipView) -> CommitIdentity {
        CommitIdentity {
            group: self.settings.group.clone(),
            generation: view.generation,
            member: view.member.clone(),
            protocol: self.settings.protocol,
        }
    }

    async fn find_coordinator(&self) -> Result<Option<SessionBounds>, String> {
        let found = self.connections.find(&self.settings.group).await.map_err(|error| error.to_string())?;
        match self.settings.protocol {
            GroupProtocol::Classic => Ok(None),
            GroupProtocol::Consumer => Ok(self.session_bounds(found.broker).await),
        }
    }

    async fn call<R: Request>(
        &self,
        connection: ConnectionKind,
        versions: VersionRange,
        deadline: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, KafkaError> {
        self.connections.call(connection, &self.settings.group, versions, deadline, build).await
    }

    /// Returns the error of a response. The coordinator is looked up again if `code` says that it has moved.
    fn response_error(&self, code: ResponseError) -> RequestError {
        if matches!(code, ResponseError::NotCoordinator | ResponseError::CoordinatorNotAvailable) {
            self.connections.forget_coordinator();
        }
        RequestError::Code(code)
    }

    fn group_id(&self) -> GroupId {
        GroupId(StrBytes::from_string(self.settings.group.clone()))
    }
}

fn transport_error(error: KafkaError) -> RequestError {
    RequestError::Transport(error.to_string())
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
