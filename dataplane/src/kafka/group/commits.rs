//! Commits and committed-offset look-ups over the connections of a membership.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;

use super::GroupProtocol;
use super::connections::{ConnectionKind, CoordinatorConnections};
use super::membership::MembershipSettings;
use super::requests::refused;
use crate::kafka::connection::BrokerConnection;
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::{self, CommitIdentity, OffsetAndMetadata};

/// Commits over a connection of its own: a blocked join must not delay the commits of partitions drained for it.
pub(super) async fn commit(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    who: &CommitIdentity,
    commits: &BTreeMap<i32, OffsetAndMetadata>,
) -> Result<BTreeMap<i32, Option<ResponseError>>, KafkaError> {
    let mut connection = lines
        .take(ConnectionKind::Commit, &settings.group)
        .await
        .inspect_err(|_| lines.forget_coordinator())?;
    let answer = offsets::commit(&mut connection, who, &settings.topic, commits).await;
    match &answer {
        Ok(codes) => {
            for code in codes.values().flatten() {
                refused(lines, *code);
            }
        }
        Err(_) => lines.forget_coordinator(),
    }
    answer
}

/// Returns the group's committed offsets, over a new connection: the connection for commits belongs to another
/// thread. The coordinator is looked up again when it has moved.
pub(super) async fn committed(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    who: &CommitIdentity,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
    let mut connection = lines.dial(&settings.group).await.inspect_err(|_| lines.forget_coordinator())?;
    ask_committed(lines, settings, &mut connection, who, partitions).await
}

/// Returns the group's committed offsets, over the connection for commits. Runs on the thread that commits.
pub(super) async fn read_back(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    who: &CommitIdentity,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
    let mut connection = lines
        .take(ConnectionKind::Commit, &settings.group)
        .await
        .inspect_err(|_| lines.forget_coordinator())?;
    ask_committed(lines, settings, &mut connection, who, partitions).await
}

async fn ask_committed(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    connection: &mut BrokerConnection,
    who: &CommitIdentity,
    partitions: &[i32],
) -> Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError> {
    let answer = match who.protocol {
        GroupProtocol::Classic => {
            offsets::fetch_committed(connection, &who.group, &settings.topic, partitions).await
        }
        GroupProtocol::Consumer => {
            offsets::fetch_committed_as_member(connection, who, &settings.topic, partitions).await
        }
    };
    if let Err(error) = &answer {
        match error.code() {
            Some(code) => drop(refused(lines, code)),
            None => lines.forget_coordinator(),
        }
    }
    answer
}
