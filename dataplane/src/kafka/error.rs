//! Errors of exchanges with brokers, and their classes.

use std::io;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use thiserror::Error;

use super::transport::BrokerAddress;
use crate::egress::EgressDenied;
use crate::error::ErrorClass;

/// Failed exchange with a broker.
#[derive(Debug, Error)]
pub enum KafkaError {
    /// The address may not be dialled.
    #[error("broker {address}: {source}")]
    Egress {
        /// Address of the broker.
        address: BrokerAddress,
        /// Egress rule that denies it.
        source: EgressDenied,
    },
    /// The connection could not be opened.
    #[error(
        "broker {address} cannot be reached: {source}. Check that it runs and that its advertised listener can be reached from here"
    )]
    Connect {
        /// Address of the broker.
        address: BrokerAddress,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The request timed out.
    #[error("broker {address} did not answer {api:?} within {} ms", after.as_millis())]
    Timeout {
        /// Address of the broker.
        address: BrokerAddress,
        /// API of the request.
        api: ApiKey,
        /// Deadline that has passed.
        after: Duration,
    },
    /// The connection closed during an exchange.
    #[error("broker {address} closed the connection during {api:?}: {source}")]
    Closed {
        /// Address of the broker.
        address: BrokerAddress,
        /// API of the request.
        api: ApiKey,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The frame is not Kafka's, or exceeds the limit.
    #[error("{address} does not speak Kafka: {what}")]
    Frame {
        /// Address of the broker.
        address: BrokerAddress,
        /// Description of the defect.
        what: String,
    },
    /// The response cannot be decoded.
    #[error("broker {address} sent a {api:?} reply that cannot be read: {what}")]
    Decode {
        /// Address of the broker.
        address: BrokerAddress,
        /// API of the request.
        api: ApiKey,
        /// Description of the defect.
        what: String,
    },
    /// The broker and the client have no version of an API in common.
    #[error(
        "broker {address} offers {api:?} {theirs}, Lighterman needs {ours}: brokers 2.8 to 4.2 are supported"
    )]
    Version {
        /// Address of the broker.
        address: BrokerAddress,
        /// API of the request.
        api: ApiKey,
        /// Versions that the broker supports.
        theirs: String,
        /// Versions that the client supports.
        ours: String,
    },
    /// No bootstrap server could be reached.
    #[error(
        "none of the bootstrap servers {servers} can be reached. Check the addresses and that the brokers run. The last error: {last}"
    )]
    NoBootstrap {
        /// Addresses of all bootstrap servers.
        servers: String,
        /// Error of the last server tried.
        last: Box<KafkaError>,
    },
    /// The cluster does not have the topic.
    #[error("topic `{topic}` does not exist on {servers}: create it, or correct `Topics` of the mapping")]
    NoTopic {
        /// Name of the topic.
        topic: String,
        /// Bootstrap servers of the cluster.
        servers: String,
    },
    /// The partition has no leader at present.
    #[error("partition {partition} has no leader now; its brokers are down or electing one")]
    NoLeader {
        /// Topic and partition.
        partition: String,
    },
    /// No connection to a group's coordinator was opened in time, so nothing was requested.
    #[error(
        "the coordinator of group `{group}` was not reached within {} ms: its broker is down, or not to be dialled from here",
        after.as_millis()
    )]
    CoordinatorSilent {
        /// Group id.
        group: String,
        /// Deadline that has passed.
        after: Duration,
    },
    /// A leader exceeded its deadline, while the results of other leaders waited for it.
    #[error("broker {address} said nothing of its partitions within {} ms", after.as_millis())]
    LeaderSilent {
        /// Address of the broker.
        address: BrokerAddress,
        /// Deadline that has passed.
        after: Duration,
    },
    /// The broker that got the request has stopped being the group's coordinator.
    #[error("broker {address} was asked {api:?}, and is not the group's coordinator any more")]
    CoordinatorMoved {
        /// Address of the broker that got the request.
        address: BrokerAddress,
        /// API of the request.
        api: ApiKey,
    },
    /// The response is well-formed and does not answer the request.
    #[error(
        "{api:?} of {subject}: the broker's reply {what}. It is asked again; a proxy in between must not change replies"
    )]
    Unanswered {
        /// API of the request.
        api: ApiKey,
        /// Topic, partition or broker of the request.
        subject: String,
        /// Mismatch between request and response.
        what: ResponseMismatch,
    },
    /// The broker responded with an error code.
    #[error("{api:?} of {subject}: {code} ({})", code.code())]
    Broker {
        /// API of the request.
        api: ApiKey,
        /// Topic, partition or group of the request.
        subject: String,
        /// Error code of the response.
        code: ResponseError,
    },
}

/// Reason why a response does not answer its request.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ResponseMismatch {
    /// The response has two answers to one question.
    #[error("names it twice")]
    Duplicate,
    /// The response has no answer.
    #[error("leaves it out")]
    Missing,
    /// The response answers a question that was not asked.
    #[error("names it, and it was not asked for")]
    Unexpected,
    /// The offset is one that no log has, and has no special meaning either.
    #[error("names an offset that cannot be")]
    NoOffset,
    /// The partitions of the topic are not numbered from 0 without a gap.
    #[error("does not name its partitions from 0 on without a gap")]
    Gap,
    /// The broker has not learned yet that the topic was deleted and recreated.
    #[error("speaks of the topic of that name that was deleted since")]
    Outdated,
}

impl KafkaError {
    /// Creates an error from a broker's code for `subject` (a topic, partition or group).
    pub fn broker(api: ApiKey, subject: impl Into<String>, code: ResponseError) -> Self {
        Self::Broker { api, subject: subject.into(), code }
    }

    /// Returns the broker's error code, if the error has one.
    pub fn code(&self) -> Option<ResponseError> {
        if let Self::Broker { code, .. } = self { Some(*code) } else { None }
    }

    /// True when the request may have reached the broker and its outcome is unknown. The broker may still apply it,
    /// even after a request that is sent later.
    pub fn may_still_apply(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. }
                | Self::Closed { .. }
                | Self::Frame { .. }
                | Self::Decode { .. }
                | Self::CoordinatorMoved { .. }
        )
    }

    /// Returns the class of the error, which decides how it is handled.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Frame { .. }
            | Self::NoBootstrap { .. }
            | Self::NoLeader { .. }
            | Self::CoordinatorSilent { .. }
            | Self::CoordinatorMoved { .. }
            | Self::LeaderSilent { .. }
            | Self::Unanswered { .. } => ErrorClass::Retry,
            Self::Decode { .. } => ErrorClass::Poison,
            Self::Egress { .. } | Self::Version { .. } | Self::NoTopic { .. } => ErrorClass::Fatal,
            Self::Broker { code, .. } => code_class(*code),
        }
    }
}

/// Returns the class of a broker's error code, for any API.
pub(super) fn code_class(code: ResponseError) -> ErrorClass {
    use ResponseError as E;
    match code {
        E::IllegalGeneration
        | E::UnknownMemberId
        | E::FencedInstanceId
        | E::FencedMemberEpoch
        | E::StaleMemberEpoch => ErrorClass::Fenced,
        E::ThrottlingQuotaExceeded => ErrorClass::Throttle,
        E::CorruptMessage | E::UnsupportedCompressionType => ErrorClass::Poison,
        E::TopicAuthorizationFailed
        | E::GroupAuthorizationFailed
        | E::ClusterAuthorizationFailed
        | E::SaslAuthenticationFailed
        | E::InvalidTopicException
        | E::InconsistentGroupProtocol
        | E::InvalidGroupId
        | E::InvalidSessionTimeout
        | E::GroupMaxSizeReached
        | E::UnsupportedVersion => ErrorClass::Fatal,
        _ => ErrorClass::Retry,
    }
}
