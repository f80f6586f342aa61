//! Failure messages, and the port through which one message is delivered.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use lighterman_proto::api::{BucketArn, QueueArn, TopicArn};

use super::error::DeliveryError;

/// Message encoded for a destination. Keeping it for retries is cheap: bodies are moved or shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureMessage {
    /// One SQS message.
    Queue {
        /// Queue to send to.
        queue: QueueArn,
        /// At most [`super::aws::MESSAGE_BYTES_MAX`] bytes.
        body: Arc<str>,
    },
    /// One SNS notification.
    Notification {
        /// Topic to publish to.
        topic: TopicArn,
        /// At most [`super::aws::MESSAGE_BYTES_MAX`] bytes.
        body: Arc<str>,
    },
    /// One S3 object. Repeated writes have the same key, so that a repeat leaves no second object.
    Object {
        /// Bucket to write to.
        bucket: BucketArn,
        /// Object key, at most 1,024 bytes.
        key: Arc<str>,
        /// Object content.
        body: Bytes,
    },
    /// Messages for a Kafka topic in this order. Messages of one key stay in order.
    Topic {
        /// Topic to write to.
        topic: Arc<str>,
        /// Any number of messages, sent in requests that fit a broker's default limit.
        messages: Vec<TopicMessage>,
    },
}

/// Kafka message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMessage {
    /// Key of the failed record. Messages without a key are spread over the partitions in turn.
    pub key: Option<Bytes>,
    /// Failure record.
    pub value: Bytes,
}

/// Message that has not arrived, and its error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndeliveredMessage {
    /// Error of the delivery.
    pub error: DeliveryError,
    /// Remainder to send. Of a [`FailureMessage::Topic`] only the messages that have not arrived; with
    /// [`DeliveryError::TooLarge`] exactly those that are too large.
    pub rest: FailureMessage,
}

/// Port that delivers failure messages. It makes at most one wire attempt per message and call, each within
/// [`super::error::CALL_DEADLINE`].
pub trait DestinationPort: Send + Sync {
    /// Delivers one message. If the future is dropped, the message may or may not arrive.
    fn deliver(
        &self,
        failure_message: FailureMessage,
    ) -> BoxFuture<'static, Result<(), Box<UndeliveredMessage>>>;
}
