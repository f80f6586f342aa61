//! Destination port of one mapping: the node's AWS destinations, and topics of the mapping's cluster.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::aws::AwsDestinations;
use super::error::DeliveryError;
use super::kafka::TopicDestinations;
use super::message::{DestinationPort, FailureMessage, UndeliveredMessage};

/// Port to every kind of destination. Cheap to clone.
#[derive(Clone)]
pub struct DestinationRouter {
    aws: AwsDestinations,
    topics: Option<TopicDestinations>,
}

impl DestinationRouter {
    /// Creates a router. `aws` is shared by all mappings of a node; `topics` belong to the mapping's cluster. Without
    /// `topics`, messages to a topic are rejected.
    pub fn new(aws: AwsDestinations, topics: Option<TopicDestinations>) -> Self {
        Self { aws, topics }
    }
}

impl DestinationPort for DestinationRouter {
    fn deliver(
        &self,
        failure_message: FailureMessage,
    ) -> BoxFuture<'static, Result<(), Box<UndeliveredMessage>>> {
        let FailureMessage::Topic { topic, messages } = failure_message else {
            let aws = self.aws.clone();
            return Box::pin(async move { aws.deliver(failure_message).await });
        };
        let topics = self.topics.clone();
        Box::pin(async move {
            match topics {
                Some(topics) => topics.deliver(topic, messages).await,
                None => Err(Box::new(no_cluster(topic, messages))),
            }
        })
    }
}

fn no_cluster(topic: Arc<str>, messages: Vec<super::message::TopicMessage>) -> UndeliveredMessage {
    let error = DeliveryError::Refused {
        to: format!("kafka://{topic}").into(),
        why: "this mapping has no Kafka cluster for failed records".to_owned(),
    };
    UndeliveredMessage { error, rest: FailureMessage::Topic { topic, messages } }
}
