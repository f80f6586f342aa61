//! Commits and committed-offset look-ups of a membership.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;

use super::CoordinatorClient;
use crate::kafka::connection::BrokerConnection;
use crate::kafka::error::KafkaError;
use crate::kafka::group::GroupProtocol;
use crate::kafka::group::connections::{ConnectionKind, HeldConnection};
use crate::kafka::offsets::{self, CommitIdentity, OffsetAndMetadata};

impl CoordinatorClient {
    /// Commits over a connection of its own: a blocked join must not delay the commits of partitions drained for it.
    pub(in crate::kafka::group) async fn commit(
        &self,
        who: &CommitIdentity,
        commits: &BTreeMap<i32, OffsetAndMetadata>,
    ) -> Result<BTreeMap<i32, Option<ResponseError>>, KafkaError> {
        let mut connection = self.commit_connection().await?;
        let response = offsets::commit(&mut connection, who, &self.settings.topic, commits).await;
        match &response {
            Ok(codes) => {
                for code in codes.values().flatten() {
                    self.response_error(*code);
                }
            }
            Err(_) => self.connections.forget_coordinator(),
        }
        response
    }

    /// Returns the group's committed offsets, over a new connection: the connection for commits belongs to another
    /// thread. The coordinator is looked up again when it has moved.
    pub(in crate::kafka::group) async fn committed(
        &self,
        who: &CommitIdentity,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
        let mut connection = self
            .connections
            .dial(&self.settings.group)
            .await
            .inspect_err(|_| self.connections.forget_coordinator())?;
        self.fetch_committed(&mut connection, who, partitions).await
    }

    /// Returns the group's committed offsets, over the connection for commits. Runs on the thread that commits.
    pub(in crate::kafka::group) async fn read_back(
        &self,
        who: &CommitIdentity,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
        let mut connection = self.commit_connection().await?;
        self.fetch_committed(&mut connection, who, partitions).await
    }

    async fn commit_connection(&self) -> Result<HeldConnection<'_>, KafkaError> {
        self.connections
            .take(ConnectionKind::Commit, &self.settings.group)
            .await
            .inspect_err(|_| self.connections.forget_coordinator())
    }

    async fn fetch_committed(
        &self,
        connection: &mut BrokerConnection,
        who: &CommitIdentity,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
        let topic = &self.settings.topic;
        let response = match who.protocol {
            GroupProtocol::Classic => {
                offsets::fetch_committed(connection, &who.group, topic, partitions).await
            }
            GroupProtocol::Consumer => {
                offsets::fetch_committed_as_member(connection, who, topic, partitions).await
            }
        };
        if let Err(error) = &response {
            match error.code() {
                Some(code) => drop(self.response_error(code)),
                None => self.connections.forget_coordinator(),
            }
        }
        response
    }
}
