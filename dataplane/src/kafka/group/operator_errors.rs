//! Errors of a coordinator that an operator must fix, with the remedy for each.

use std::time::Duration;

use kafka_protocol::error::ResponseError;

use super::effects::GroupProtocol;

/// Retry interval of a member that cannot join until an operator has fixed the cause.
pub(super) const FATAL_RETRY: Duration = Duration::from_secs(15);

/// Returns the cause and the remedy of `code`, or `None` if the member may recover without an operator.
pub(super) fn operator_message(protocol: GroupProtocol, code: ResponseError) -> Option<String> {
    use GroupProtocol::{Classic, Consumer};
    let text = match (protocol, code) {
        (_, ResponseError::GroupAuthorizationFailed) => {
            "the cluster refuses the consumer group: grant Read on the group"
        }
        (Classic, ResponseError::InconsistentGroupProtocol) => {
            "another program in the consumer group does not use the `cooperative-sticky` assignor, or the consumer \
             protocol (KIP-848): let it, set `kafka.group_protocol` alike on all nodes, or give the mapping a \
             ConsumerGroupId of its own"
        }
        (Classic, ResponseError::InvalidSessionTimeout) => {
            "the broker refuses the session timeout: set `kafka.session_timeout` between the broker's \
             group.min.session.timeout.ms and group.max.session.timeout.ms"
        }
        (Consumer, ResponseError::UnsupportedVersion) => {
            "the broker does not offer the consumer group protocol (KIP-848): it needs Kafka 4.0 or newer with \
             `consumer` in group.coordinator.rebalance.protocols (3.9 has a preview behind the same setting), \
             or set `kafka.group_protocol` to `classic`"
        }
        (Consumer, ResponseError::GroupIdNotFound | ResponseError::InconsistentGroupProtocol) => {
            "the consumer group still has members of the classic protocol: stop them, let the broker take \
             them over (group.consumer.migration.policy=bidirectional), or set `kafka.group_protocol` to `classic`"
        }
        (Consumer, ResponseError::TopicAuthorizationFailed) => {
            "the cluster refuses the topic to the consumer group: grant Describe and Read on the topic"
        }
        (Consumer, ResponseError::GroupMaxSizeReached) => {
            "the consumer group is full: raise the broker's group.consumer.max.size, or run fewer nodes"
        }
        (Consumer, ResponseError::UnreleasedInstanceId) => {
            "another member holds our group.instance.id and has not left: stop it, or wait for its session to end"
        }
        (Classic, ResponseError::GroupMaxSizeReached)
        | (Consumer, ResponseError::UnsupportedAssignor)
        | (_, ResponseError::InvalidGroupId) => return Some(format!("the group's coordinator says {code}")),
        _ => return None,
    };
    Some(text.to_owned())
}
