//! What a broker's refusal means.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use rskafka::BackoffError;
use rskafka::client::error::{Error, ProtocolError};

use super::super::error::{DestinationError, bounded, causes};
use crate::kafka::error::KafkaError;

const PERMISSION: &str = "to write to the topic (kafka-cluster:WriteData at MSK)";

/// The error of a question that our own client asked.
pub(super) fn of_our_client(to: &Arc<str>, error: &KafkaError) -> DestinationError {
    let (to, why) = (Arc::clone(to), bounded(&error.to_string()).to_owned());
    match error {
        KafkaError::Egress { source, .. } => DestinationError::Egress { to, source: source.clone() },
        KafkaError::NoBootstrap { last, .. } => match &**last {
            KafkaError::Egress { source, .. } => DestinationError::Egress { to, source: source.clone() },
            _ => DestinationError::Unreachable { to, why },
        },
        KafkaError::NoTopic { servers, .. } => {
            DestinationError::Missing { to, why: format!("{} has no such topic", bounded(servers)) }
        }
        KafkaError::Timeout { .. } => DestinationError::Silent { to },
        KafkaError::Connect { .. } | KafkaError::Closed { .. } => DestinationError::Unreachable { to, why },
        KafkaError::Version { .. } => DestinationError::Refused { to, why },
        KafkaError::Broker { code, .. } => match code {
            ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed => {
                DestinationError::NotAllowed { to, why, permission: PERMISSION }
            }
            ResponseError::InvalidTopicException => DestinationError::Missing { to, why },
            _ => DestinationError::Failed { to, why },
        },
        KafkaError::Frame { .. }
        | KafkaError::Decode { .. }
        | KafkaError::NoLeader { .. }
        | KafkaError::CoordinatorSilent { .. }
        | KafkaError::CoordinatorMoved { .. }
        | KafkaError::LeaderSilent { .. }
        | KafkaError::Unanswered { .. } => DestinationError::Failed { to, why },
    }
}

/// The error of a call of rskafka; `bytes` is the largest message in it.
pub(super) fn of_rskafka(to: &Arc<str>, bytes: usize, error: &Error) -> DestinationError {
    let why = || causes(error);
    let to_owned = Arc::clone(to);
    match error {
        // Its one attempt failed, and no time was left for another.
        Error::RetryFailed(BackoffError::DeadlineExceded { source, .. }) => {
            match source.downcast_ref::<Error>() {
                Some(first) => of_rskafka(to, bytes, first),
                None => {
                    DestinationError::Unreachable { to: to_owned, why: bounded(&source.to_string()).into() }
                }
            }
        }
        Error::ServerError { protocol_error, .. } => of_code(to_owned, bytes, *protocol_error),
        Error::Connection(_) | Error::Request(_) => {
            DestinationError::Unreachable { to: to_owned, why: why() }
        }
        Error::Timeout => DestinationError::Silent { to: to_owned },
        _ => DestinationError::Failed { to: to_owned, why: why() },
    }
}

fn of_code(to: Arc<str>, bytes: usize, code: ProtocolError) -> DestinationError {
    let why = code.to_string();
    match code {
        ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge => DestinationError::TooLarge {
            to,
            bytes,
            why: format!("{why}: see max.message.bytes of the topic"),
        },
        ProtocolError::UnknownTopicOrPartition | ProtocolError::InvalidTopicException => {
            DestinationError::Missing { to, why }
        }
        ProtocolError::TopicAuthorizationFailed
        | ProtocolError::ClusterAuthorizationFailed
        | ProtocolError::SaslAuthenticationFailed => {
            DestinationError::NotAllowed { to, why, permission: PERMISSION }
        }
        ProtocolError::ThrottlingQuotaExceeded => DestinationError::Throttled { to, why },
        ProtocolError::PolicyViolation
        | ProtocolError::InvalidRecord
        | ProtocolError::InvalidTimestamp
        | ProtocolError::UnsupportedForMessageFormat
        | ProtocolError::UnsupportedVersion => DestinationError::Refused { to, why },
        _ => DestinationError::Failed { to, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn answers_of_brokers_have_their_class() {
        let answers = [
            (ProtocolError::MessageTooLarge, Class::Poison),
            (ProtocolError::UnknownTopicOrPartition, Class::Fatal),
            (ProtocolError::TopicAuthorizationFailed, Class::Fatal),
            (ProtocolError::ThrottlingQuotaExceeded, Class::Throttle),
            (ProtocolError::NotEnoughReplicas, Class::Retry),
            (ProtocolError::NotLeaderOrFollower, Class::Retry),
        ];
        for (code, class) in answers {
            assert_eq!(of_code("kafka://dlq".into(), 7, code).class(), class, "{code}");
        }
    }
}
