//! Requests and responses of classic group members. Responses of JoinGroup and SyncGroup are deferred until the other
//! members have joined or the leader has assigned the partitions.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;

/// JoinGroup request of a member.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Id of the member, empty if it has none yet.
    pub member: String,
    /// Static instance id (KIP-345).
    pub instance: Option<String>,
    /// Client id.
    pub client: String,
    /// Session timeout.
    pub session: Duration,
    /// Rebalance timeout.
    pub rebalance: Duration,
    /// Supported assignment protocols, each with the subscription.
    pub protocols: Vec<(String, Bytes)>,
    /// True if the version of the request allows `MEMBER_ID_REQUIRED` (KIP-394).
    pub can_come_back: bool,
}

/// JoinGroup response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinAnswer {
    /// Error code, if the member did not join.
    pub code: Option<Code>,
    /// Generation that the join phase began.
    pub generation: i32,
    /// Assignment protocol that all members support.
    pub protocol: String,
    /// Id of the member that assigns the partitions.
    pub leader: String,
    /// Id of the joined member.
    pub member: String,
    /// Id, static instance id and subscription of each member; empty for all but the leader.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

impl JoinAnswer {
    /// Creates the response to a member that did not join.
    pub fn refused(code: Code, member: String) -> Self {
        Self {
            code: Some(code),
            generation: -1,
            protocol: String::new(),
            leader: String::new(),
            member,
            members: Vec::new(),
        }
    }
}

/// Identifier of a deferred response.
pub type ResponseId = u64;

/// Response that was deferred, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeferredResponse {
    /// JoinGroup response.
    Join(JoinAnswer),
    /// SyncGroup response: the assignment of the member.
    Sync(Result<Bytes, Code>),
}

/// Responses that became ready, each with its identifier.
pub type DeferredResponses = Vec<(ResponseId, DeferredResponse)>;
