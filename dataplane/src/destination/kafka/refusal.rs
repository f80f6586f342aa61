//! Classification of broker errors.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use rskafka::BackoffError;
use rskafka::client::error::{Error, ProtocolError};

use super::super::error::{DeliveryError, bounded, causes};
use crate::kafka::error::KafkaError;

const PERMISSION: &str = "to write to the topic (kafka-cluster:WriteData at MSK)";

/// Converts an error of Lighterman's own Kafka client.
pub(super) fn of_our_client(to: &Arc<str>, error: &KafkaError) -> DeliveryError {
    let (to, why) = (Arc::clone(to), bounded(&error.to_string()).to_owned());
    match error {
        KafkaError::Egress { source, .. } => DeliveryError::Egress { to, source: source.clone() },
        KafkaError::NoBootstrap { last, .. } => match &**last {
            KafkaError::Egress { source, .. } => DeliveryError::Egress { to, source: source.clone() },
            _ => DeliveryError::Unreachable { to, why },
        },
        KafkaError::NoTopic { servers, .. } => {
            DeliveryError::Missing { to, why: format!("{} has no such topic", bounded(servers)) }
        }
        KafkaError::Timeout { .. } => DeliveryError::Silent { to },
        KafkaError::Connect { .. } | KafkaError::Closed { .. } => DeliveryError::Unreachable { to, why },
        KafkaError::Version { .. } => DeliveryError::Refused { to, why },
        KafkaError::Broker { code, .. } => match code {
            ResponseError::TopicAuthorizationFailed | ResponseError::ClusterAuthorizationFailed => {
                DeliveryError::NotAllowed { to, why, permission: PERMISSION }
            }
            ResponseError::InvalidTopicException => DeliveryError::Missing { to, why },
            _ => DeliveryError::Failed { to, why },
        },
        KafkaError::Frame { .. }
        | KafkaError::Decode { .. }
        | KafkaError::NoLeader { .. }
        | KafkaError::CoordinatorSilent { .. }
        | KafkaError::CoordinatorMoved { .. }
        | KafkaError::LeaderSilent { .. }
        | KafkaError::Unanswered { .. } => DeliveryError::Failed { to, why },
    }
}

/// Converts an error of rskafka. `bytes` is the size of the call's largest message.
pub(super) fn of_rskafka(to: &Arc<str>, bytes: usize, error: &Error) -> DeliveryError {
    let why = || causes(error);
    let to_owned = Arc::clone(to);
    match error {
        // The one attempt failed, and the deadline left no time for another.
        Error::RetryFailed(BackoffError::DeadlineExceded { source, .. }) => {
            match source.downcast_ref::<Error>() {
                Some(first) => of_rskafka(to, bytes, first),
                None => DeliveryError::Unreachable { to: to_owned, why: bounded(&source.to_string()).into() },
            }
        }
        Error::ServerError { protocol_error, .. } => of_code(to_owned, bytes, *protocol_error),
        Error::Connection(_) | Error::Request(_) => DeliveryError::Unreachable { to: to_owned, why: why() },
        Error::Timeout => DeliveryError::Silent { to: to_owned },
        _ => DeliveryError::Failed { to: to_owned, why: why() },
    }
}

fn of_code(to: Arc<str>, bytes: usize, code: ProtocolError) -> DeliveryError {
    let why = code.to_string();
    match code {
        ProtocolError::MessageTooLarge | ProtocolError::RecordListTooLarge => {
            DeliveryError::TooLarge { to, bytes, why: format!("{why}: see max.message.bytes of the topic") }
        }
        ProtocolError::UnknownTopicOrPartition | ProtocolError::InvalidTopicException => {
            DeliveryError::Missing { to, why }
        }
        ProtocolError::TopicAuthorizationFailed
        | ProtocolError::ClusterAuthorizationFailed
        | ProtocolError::SaslAuthenticationFailed => {
            DeliveryError::NotAllowed { to, why, permission: PERMISSION }
        }
        ProtocolError::ThrottlingQuotaExceeded => DeliveryError::Throttled { to, why },
        ProtocolError::PolicyViolation
        | ProtocolError::InvalidRecord
        | ProtocolError::InvalidTimestamp
        | ProtocolError::UnsupportedForMessageFormat
        | ProtocolError::UnsupportedVersion => DeliveryError::Refused { to, why },
        _ => DeliveryError::Failed { to, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    #[test]
    fn broker_errors_map_to_their_class() {
        let answers = [
            (ProtocolError::MessageTooLarge, ErrorClass::Poison),
            (ProtocolError::UnknownTopicOrPartition, ErrorClass::Fatal),
            (ProtocolError::TopicAuthorizationFailed, ErrorClass::Fatal),
            (ProtocolError::ThrottlingQuotaExceeded, ErrorClass::Throttle),
            (ProtocolError::NotEnoughReplicas, ErrorClass::Retry),
            (ProtocolError::NotLeaderOrFollower, ErrorClass::Retry),
        ];
        for (code, class) in answers {
            assert_eq!(of_code("kafka://dlq".into(), 7, code).class(), class, "{code}");
        }
    }
}
