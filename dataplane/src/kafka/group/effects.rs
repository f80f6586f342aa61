//! Settings, responses and effects of the member state machines, and the meaning of the coordinator's error codes.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;
use uuid::Uuid;

use crate::error::ErrorClass;
use crate::kafka::error::code_class;

/// Protocol by which the members of a group agree on the assignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The members join behind a barrier, and the leader among them assigns partitions.
    #[default]
    Classic,
    /// The coordinator assigns partitions (KIP-848).
    Consumer,
}

/// Timeouts and heartbeat interval of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberTiming {
    /// Session timeout: the coordinator removes the member after this long without a heartbeat.
    pub session_timeout: Duration,
    /// Interval between heartbeats.
    pub heartbeat_interval: Duration,
    /// Time for which the group waits for this member to release partitions; never below the session timeout (H2).
    pub rebalance_timeout: Duration,
}

impl MemberTiming {
    /// Creates a consistent timing: a heartbeat at least each third of the session, and rebalance ≥ session (H2).
    pub fn new(session_timeout: Duration, rebalance_timeout: Duration) -> Self {
        Self {
            session_timeout,
            heartbeat_interval: (session_timeout / 3).min(Duration::from_secs(3)),
            rebalance_timeout: rebalance_timeout.max(session_timeout),
        }
    }
}

/// Member id and generation that a request carried. A response applies only while they are current.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Member id; empty before one is assigned.
    pub member: String,
    /// Generation, −1 before the first; or member epoch, 0 before the first.
    pub generation: i32,
}

/// Action that the driver must carry out. Each request yields exactly one event: its response or its transport error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEffect {
    /// Look up the coordinator.
    FindCoordinator,
    /// Send `JoinGroup`.
    Join {
        /// Member id; empty on the first join.
        member: String,
        /// Generation in which `owned` was assigned, −1 for none.
        generation: i32,
        /// Partitions still owned.
        owned: Vec<i32>,
    },
    /// As the leader, assign partitions, then send `SyncGroup` with the share of each member.
    AssignAndSync {
        /// Member id.
        member: String,
        /// Generation.
        generation: i32,
        /// Subscription of each member.
        members: Vec<(String, Bytes)>,
    },
    /// As a follower, send `SyncGroup` without shares.
    Sync {
        /// Member id.
        member: String,
        /// Generation.
        generation: i32,
    },
    /// Send a heartbeat; its response carries the same `seq`.
    Heartbeat {
        /// Member id.
        member: String,
        /// Generation.
        generation: i32,
        /// Sequence number.
        seq: u64,
    },
    /// Send a heartbeat of the consumer protocol; its response carries the same `seq`.
    Beat(Kip848Heartbeat),
    /// Leave the group, without waiting for the response.
    Leave {
        /// Member id.
        member: String,
    },
    /// Extend the lease to this moment.
    ExtendLease(Moment),
    /// End the lease.
    EndLease,
    /// Event for the owner of the membership.
    Notify(GroupEvent),
}

/// Heartbeat request of the consumer protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kip848Heartbeat {
    /// Member id.
    pub member: String,
    /// Member epoch; 0 to join.
    pub epoch: i32,
    /// Sequence number.
    pub seq: u64,
    /// Set for a full heartbeat: it includes subscription and rebalance timeout, and its response the assignment.
    pub everything: bool,
    /// Time that this member may take to release partitions.
    pub rebalance_timeout: Duration,
    /// Owned partitions, unless the coordinator already knows them.
    pub owned: Option<TopicPartitions>,
}

/// Partitions of one topic, which is identified by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPartitions {
    /// Topic id; nil in the empty default.
    pub topic: Uuid,
    /// Partition indexes.
    pub partitions: BTreeSet<i32>,
}

impl TopicPartitions {
    /// Returns true if there are no partitions.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
}

/// Successful response to a heartbeat of the consumer protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kip848Response {
    /// Member id; empty if the response omits it.
    pub member: String,
    /// Member epoch, above 0.
    pub epoch: i32,
    /// Heartbeat interval that the broker requests.
    pub heartbeat_interval: Duration,
    /// Assignment, if it was requested or has changed.
    pub assignment: Option<Vec<TopicPartitions>>,
}

/// Successful response to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinResult {
    /// New generation.
    pub generation: i32,
    /// Member id.
    pub member: String,
    /// Member id of the leader.
    pub leader: String,
    /// Subscription of each member, if this member leads.
    pub members: Vec<(String, Bytes)>,
}

/// Failure of a group request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Error code from the coordinator.
    Code(ResponseError),
    /// The coordinator requires a join under this member id (KIP-394).
    MemberIdRequired(String),
    /// No response, or an unreadable one.
    Transport(String),
}

impl RequestError {
    /// Returns true if the coordinator does not know the member in any generation.
    pub fn expels(&self) -> bool {
        matches!(self, Self::Code(ResponseError::UnknownMemberId | ResponseError::FencedInstanceId))
    }
}

/// Returns true for codes that, on any request, reject the identity that the member assumes (H1).
pub fn is_fencing(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::IllegalGeneration
            | ResponseError::UnknownMemberId
            | ResponseError::FencedInstanceId
            | ResponseError::FencedMemberEpoch
            | ResponseError::StaleMemberEpoch
    )
}

/// Outcome of a leave request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveResult {
    /// The member is out of the group, or was out before.
    Gone,
    /// The coordinator has moved or is not ready: the request is retried.
    Again,
    /// The leave was rejected: the member stays until its session ends.
    Refused(ResponseError),
}

/// Classifies the error code of a `LeaveGroup` or of the last heartbeat of the consumer protocol. No two members
/// share a member id, so that a repeated leave removes nobody else.
pub fn leaving(code: Option<ResponseError>) -> LeaveResult {
    let Some(code) = code.filter(|code| *code != ResponseError::GroupIdNotFound) else {
        return LeaveResult::Gone;
    };
    match code_class(code) {
        ErrorClass::Fenced => LeaveResult::Gone,
        ErrorClass::Retry | ErrorClass::Throttle => LeaveResult::Again,
        ErrorClass::Poison | ErrorClass::Fatal => LeaveResult::Refused(code),
    }
}

/// Event of a membership, delivered in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// Partitions were assigned to this member.
    Assigned {
        /// Generation, or member epoch.
        generation: i32,
        /// All partitions that the member owns and keeps.
        owned: Vec<i32>,
        /// Newly assigned partitions: look up their start offsets, then run them.
        added: Vec<i32>,
    },
    /// Revocation: drain and commit these partitions, then call [`Membership::released`](super::Membership::released).
    Revoke {
        /// Revoked partitions.
        partitions: Vec<i32>,
    },
    /// Loss of partitions at once, without a drain.
    Lost {
        /// Lost partitions.
        partitions: Vec<i32>,
        /// Cause of the loss.
        reason: String,
    },
    /// Problem that an operator should know of.
    Trouble(String),
    /// The group works again.
    Healthy,
    /// The membership ended without a leave. It has neither lease nor identity, and sends no heartbeats.
    Ended,
}
