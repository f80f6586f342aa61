//! The seam to destinations: whoever can deliver one message and say what came of it.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use lighterman_proto::api::{BucketArn, QueueArn, TopicArn};

use super::error::DeliveryError;

/// One message for a destination, already in its form. Cheap to keep while it is tried again: bodies are moved or shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureMessage {
    /// One SQS message.
    Queue {
        /// Where to.
        queue: QueueArn,
        /// At most [`super::aws::MESSAGE_BYTES_MAX`] bytes.
        body: Arc<str>,
    },
    /// One SNS notification.
    Notification {
        /// Where to.
        topic: TopicArn,
        /// At most [`super::aws::MESSAGE_BYTES_MAX`] bytes.
        body: Arc<str>,
    },
    /// One S3 object. The same key written again is the same object, so that a repeat leaves no second one.
    Object {
        /// Where to.
        bucket: BucketArn,
        /// Its key, at most 1,024 bytes.
        key: Arc<str>,
        /// Its content.
        body: Bytes,
    },
    /// Messages for a Kafka topic, in this order; those of one key stay in order.
    Topic {
        /// Where to.
        topic: Arc<str>,
        /// Any number; sent in requests that fit a broker's default limit.
        messages: Vec<TopicMessage>,
    },
}

/// One Kafka message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMessage {
    /// Key of the failed record; without one the partitions take turns.
    pub key: Option<Bytes>,
    /// The failure record.
    pub value: Bytes,
}

/// What has not arrived, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UndeliveredMessage {
    /// Why.
    pub error: DeliveryError,
    /// What is left to send. Of a [`FailureMessage::Topic`] only the messages that have not arrived; with
    /// [`DeliveryError::TooLarge`] exactly those that are too large.
    pub rest: FailureMessage,
}

/// Delivers letters: at most one wire attempt per message and call, each within [`super::error::CALL_DEADLINE`].
pub trait DestinationPort: Send + Sync {
    /// Delivers one. Dropping the future leaves open whether the letter arrives.
    fn deliver(&self, letter: FailureMessage) -> BoxFuture<'static, Result<(), Box<UndeliveredMessage>>>;
}
