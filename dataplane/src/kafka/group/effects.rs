//! What the member's state machine is told and what it asks for, and what the coordinator's codes mean to it.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;
use uuid::Uuid;

use crate::error::ErrorClass;
use crate::kafka::error::code_class;

/// How often a member that cannot be in the group for a reason a person must mend tries again.
pub(super) const FATAL_RETRY: Duration = Duration::from_secs(15);

/// How members of a group agree on who owns what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupProtocol {
    /// Members join behind a barrier, and one of them assigns.
    #[default]
    Classic,
    /// The coordinator assigns (KIP-848).
    Consumer,
}

/// What a member is told about time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberTiming {
    /// The coordinator drops us after this long without a heartbeat.
    pub session_timeout: Duration,
    /// How often we say that we live.
    pub heartbeat_interval: Duration,
    /// How long the others wait for us to let go: never below the session timeout (H2).
    pub rebalance_timeout: Duration,
}

impl MemberTiming {
    /// Timing that keeps the rules between its parts: a heartbeat each third of the session, rebalance ≥ session (H2).
    pub fn new(session_timeout: Duration, rebalance_timeout: Duration) -> Self {
        Self {
            session_timeout,
            heartbeat_interval: (session_timeout / 3).min(Duration::from_secs(3)),
            rebalance_timeout: rebalance_timeout.max(session_timeout),
        }
    }
}

/// Who a request was sent as: what is answered to it is said to whom we were then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberIdentity {
    /// Member id; empty before we have one.
    pub member: String,
    /// Generation, or member epoch; −1 and 0 before we are in one.
    pub generation: i32,
}

/// What the shell must do. Every request is answered by exactly one event, or by its transport error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEffect {
    /// Look the coordinator up.
    FindCoordinator,
    /// Send `JoinGroup`.
    Join {
        /// Empty the first time.
        member: String,
        /// The generation in which `owned` was assigned, −1 for none.
        generation: i32,
        /// What we still own.
        owned: Vec<i32>,
    },
    /// We lead: assign, then send `SyncGroup` with everybody's share.
    AssignAndSync {
        /// Member id.
        member: String,
        /// Generation.
        generation: i32,
        /// Every member's subscription.
        members: Vec<(String, Bytes)>,
    },
    /// Send `SyncGroup` without shares.
    Sync {
        /// Member id.
        member: String,
        /// Generation.
        generation: i32,
    },
    /// Send a heartbeat; answered with the same `seq`.
    Heartbeat {
        /// Member id.
        member: String,
        /// Generation.
        generation: i32,
        /// Which one.
        seq: u64,
    },
    /// Send a heartbeat of the consumer protocol; answered with the same `seq`.
    Beat(Kip848Heartbeat),
    /// Leave the group; nobody waits for the answer.
    Leave {
        /// Member id.
        member: String,
    },
    /// The lease holds until then.
    ExtendLease(Moment),
    /// The lease is over.
    EndLease,
    /// Partitions were given to us.
    Assigned {
        /// Generation.
        generation: i32,
        /// Member id.
        member: String,
        /// All that we own and keep.
        owned: Vec<i32>,
        /// Those that are new.
        added: Vec<i32>,
    },
    /// Finish these, then say `released`.
    Revoke {
        /// Which ones.
        partitions: Vec<i32>,
    },
    /// These are gone; nothing may be done for them any more.
    Lost {
        /// Which ones.
        partitions: Vec<i32>,
        /// Why.
        reason: String,
    },
    /// Something a person should know.
    Trouble(String),
    /// The group works (again).
    Healthy,
}

/// A heartbeat of the consumer protocol: what the member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kip848Heartbeat {
    /// Member id.
    pub member: String,
    /// Member epoch; 0 to join.
    pub epoch: i32,
    /// Which one.
    pub seq: u64,
    /// The coordinator is told all, and answers with all: subscription and rebalance timeout too.
    pub everything: bool,
    /// How long it may take us to let go.
    pub rebalance_timeout: Duration,
    /// What we own, when the coordinator does not know it.
    pub owned: Option<TopicPartitions>,
}

/// Partitions of one topic, by its id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicPartitions {
    /// Topic id; nil of nothing.
    pub topic: Uuid,
    /// Partition indexes.
    pub partitions: BTreeSet<i32>,
}

impl TopicPartitions {
    /// True without partitions.
    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }
}

/// The good answer to a heartbeat of the consumer protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kip848Response {
    /// Our member id; empty when it is not said.
    pub member: String,
    /// Our member epoch, above 0.
    pub epoch: i32,
    /// How often the broker wants to hear from us.
    pub heartbeat_interval: Duration,
    /// What is ours, when it was asked for or has changed.
    pub assignment: Option<Vec<TopicPartitions>>,
}

/// The good answer to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinResult {
    /// The new generation.
    pub generation: i32,
    /// Our member id.
    pub member: String,
    /// Who leads.
    pub leader: String,
    /// Everybody's subscription, when we lead.
    pub members: Vec<(String, Bytes)>,
}

/// Why a group request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The coordinator said so.
    Code(ResponseError),
    /// It wants us to come back under this id (KIP-394).
    MemberIdRequired(String),
    /// No answer, or none that can be read.
    Transport(String),
}

impl RequestError {
    /// Whether it says that we are no member at all, in whatever generation.
    pub fn expels(&self) -> bool {
        matches!(self, Self::Code(ResponseError::UnknownMemberId | ResponseError::FencedInstanceId))
    }
}

/// Codes that say, on whatever request: you are not the member you think you are (H1).
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

/// What a coordinator's answer makes of a member that leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveResult {
    /// It is gone, or it was gone before.
    Gone,
    /// The coordinator is another one, or is not ready: it is asked again.
    Again,
    /// It stays a member until its session ends.
    Refused(ResponseError),
}

/// What `code` makes of a member that leaves, on `LeaveGroup` or on the last heartbeat of the consumer protocol. The member ids
/// are nobody else's, so that leaving twice takes nobody out.
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

pub(super) fn needs_operator(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::InconsistentGroupProtocol
            | ResponseError::GroupAuthorizationFailed
            | ResponseError::InvalidSessionTimeout
            | ResponseError::GroupMaxSizeReached
            | ResponseError::InvalidGroupId
    )
}

pub(super) fn operator_message(code: ResponseError) -> String {
    match code {
        ResponseError::InconsistentGroupProtocol => {
            "another program in the consumer group does not use the `cooperative-sticky` assignor, or the consumer \
             protocol (KIP-848): let it, set `kafka.group_protocol` alike on all nodes, or give the mapping a \
             ConsumerGroupId of its own"
                .to_owned()
        }
        ResponseError::GroupAuthorizationFailed => {
            "the cluster refuses the consumer group: grant Read on the group".to_owned()
        }
        ResponseError::InvalidSessionTimeout => {
            "the broker refuses the session timeout: set `kafka.session_timeout` between the broker's \
             group.min.session.timeout.ms and group.max.session.timeout.ms"
                .to_owned()
        }
        other => format!("the group's coordinator says {other}"),
    }
}
