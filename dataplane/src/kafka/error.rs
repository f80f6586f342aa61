//! What can go wrong with a broker, typed and classed.

use std::io;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use thiserror::Error;

use super::transport::BrokerAddress;
use crate::egress::EgressDenied;
use crate::error::ErrorClass;

/// One failed exchange with a broker.
#[derive(Debug, Error)]
pub enum KafkaError {
    /// The address may not be dialled.
    #[error("broker {address}: {source}")]
    Egress {
        /// Where to.
        address: BrokerAddress,
        /// Which rule.
        source: EgressDenied,
    },
    /// No connection.
    #[error(
        "broker {address} cannot be reached: {source}. Check that it runs and that its advertised listener can be reached from here"
    )]
    Connect {
        /// Where to.
        address: BrokerAddress,
        /// What the operating system said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("broker {address} did not answer {api:?} within {} ms", after.as_millis())]
    Timeout {
        /// Who.
        address: BrokerAddress,
        /// What was asked.
        api: ApiKey,
        /// How long we waited.
        after: Duration,
    },
    /// The connection ended in the middle of an exchange.
    #[error("broker {address} closed the connection during {api:?}: {source}")]
    Closed {
        /// Who.
        address: BrokerAddress,
        /// What was asked.
        api: ApiKey,
        /// What the operating system said.
        source: io::Error,
    },
    /// A frame that is not Kafka, or larger than the limit.
    #[error("{address} does not speak Kafka: {what}")]
    Frame {
        /// Who.
        address: BrokerAddress,
        /// What is wrong with it.
        what: String,
    },
    /// A reply whose body cannot be read.
    #[error("broker {address} sent a {api:?} reply that cannot be read: {what}")]
    Decode {
        /// Who.
        address: BrokerAddress,
        /// What was asked.
        api: ApiKey,
        /// What is wrong with it.
        what: String,
    },
    /// Broker and we have no version of an API in common.
    #[error(
        "broker {address} offers {api:?} {theirs}, Lighterman needs {ours}: brokers 2.8 to 4.2 are supported"
    )]
    Version {
        /// Who.
        address: BrokerAddress,
        /// Which API.
        api: ApiKey,
        /// What the broker offers.
        theirs: String,
        /// What we speak.
        ours: String,
    },
    /// No bootstrap server answers.
    #[error(
        "none of the bootstrap servers {servers} can be reached. Check the addresses and that the brokers run. The last error: {last}"
    )]
    NoBootstrap {
        /// All of them.
        servers: String,
        /// What the last one did.
        last: Box<KafkaError>,
    },
    /// The cluster does not have the topic.
    #[error("topic `{topic}` does not exist on {servers}: create it, or correct `Topics` of the mapping")]
    NoTopic {
        /// Which topic.
        topic: String,
        /// Where we looked.
        servers: String,
    },
    /// A partition has no leader now.
    #[error("partition {partition} has no leader now; its brokers are down or electing one")]
    NoLeader {
        /// Which partition.
        partition: String,
    },
    /// No connection to a group's coordinator in time: nothing was asked.
    #[error(
        "the coordinator of group `{group}` was not reached within {} ms: its broker is down, or not to be dialled from here",
        after.as_millis()
    )]
    CoordinatorSilent {
        /// Which group.
        group: String,
        /// How long we tried.
        after: Duration,
    },
    /// A leader took its time: others wait for what is known.
    #[error("broker {address} said nothing of its partitions within {} ms", after.as_millis())]
    LeaderSilent {
        /// Who.
        address: BrokerAddress,
        /// How long we waited.
        after: Duration,
    },
    /// The group's coordinator is another broker by now than the one that was asked.
    #[error("broker {address} was asked {api:?}, and is not the group's coordinator any more")]
    CoordinatorMoved {
        /// Who was asked.
        address: BrokerAddress,
        /// What was asked.
        api: ApiKey,
    },
    /// The reply is a good one, and does not answer what was asked.
    #[error(
        "{api:?} of {subject}: the broker's reply {what}. It is asked again; a proxy in between must not change replies"
    )]
    Unanswered {
        /// What was asked.
        api: ApiKey,
        /// For which topic, partition or broker.
        subject: String,
        /// Why it is none.
        what: ResponseMismatch,
    },
    /// The broker answered with an error code.
    #[error("{api:?} of {subject}: {code} ({})", code.code())]
    Broker {
        /// What was asked.
        api: ApiKey,
        /// For which topic, partition or group.
        subject: String,
        /// What it said.
        code: ResponseError,
    },
}

/// Why a reply is no answer to what was asked.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ResponseMismatch {
    /// Two answers to one question.
    #[error("names it twice")]
    Duplicate,
    /// Silence.
    #[error("leaves it out")]
    Missing,
    /// An answer to a question that was not put.
    #[error("names it, and it was not asked for")]
    Unexpected,
    /// An offset that there is in no log, and that says nothing else either.
    #[error("names an offset that cannot be")]
    NoOffset,
    /// A topic's partitions are counted from 0.
    #[error("does not name its partitions from 0 on without a gap")]
    Gap,
    /// The broker has not heard yet that the topic was deleted and made anew.
    #[error("speaks of the topic of that name that was deleted since")]
    Outdated,
}

impl KafkaError {
    /// An error code for `subject` (a topic, partition or group).
    pub fn broker(api: ApiKey, subject: impl Into<String>, code: ResponseError) -> Self {
        Self::Broker { api, subject: subject.into(), code }
    }

    /// The broker's code, when it is one.
    pub fn code(&self) -> Option<ResponseError> {
        if let Self::Broker { code, .. } = self { Some(*code) } else { None }
    }

    /// True when the request may have reached the broker and its outcome is not known: it may be served yet, and after one
    /// that is sent later.
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

    /// What to do about it.
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

/// What to do about a broker's code, whatever was asked.
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
