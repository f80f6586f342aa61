//! SQS, SNS and S3 destinations through the AWS SDK, against AWS or `AWS_ENDPOINT_URL_SQS`, `_SNS`, `_S3`. The SDK's
//! retries are off; the delivery retries and counts the attempts. No configuration is read and no client is built
//! before the first message.

mod failure;
mod notification;
mod object;
mod queue;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::service_config::ServiceConfigKey;
use tokio::sync::OnceCell;

use self::notification::SnsPublisher;
use self::object::S3Writer;
use self::queue::SqsSender;
use super::error::{CALL_DEADLINE, DeliveryError};
use super::message::{FailureMessage, UndeliveredMessage};

/// Limit of one SQS or SNS message, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Limit of one object, in bytes. It exceeds any failure record: an invocation's 6 MiB as an escaped string, and its
/// metadata.
pub const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// S3's limit of an object key, in bytes.
const KEY_BYTES_MAX: usize = 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of cached clients, one per region.
const CLIENTS_MAX: usize = 16;

/// AWS destinations of one node. Clones share clients.
#[derive(Clone)]
pub struct AwsDestinations {
    shared: Arc<AwsClients>,
}

struct AwsClients {
    region: Arc<str>,
    config: OnceCell<SdkConfig>,
    queues: SqsSender,
    notifications: SnsPublisher,
    objects: S3Writer,
}

impl AwsDestinations {
    /// Uses the environment's credential chain, profile and endpoints. `region` is tried first for buckets. The ARNs
    /// of queues and topics name their region.
    pub fn from_environment(region: &str) -> Self {
        Self::with(region, OnceCell::new())
    }

    /// Uses the given SDK configuration.
    pub fn from_sdk(config: SdkConfig) -> Self {
        let region = config.region().map_or("us-east-1", |region| region.as_ref()).to_owned();
        Self::with(&region, OnceCell::new_with(Some(config)))
    }

    fn with(region: &str, config: OnceCell<SdkConfig>) -> Self {
        let shared = AwsClients {
            region: region.into(),
            config,
            queues: SqsSender::new(),
            notifications: SnsPublisher::new(),
            objects: S3Writer::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) async fn deliver(
        &self,
        failure_message: FailureMessage,
    ) -> Result<(), Box<UndeliveredMessage>> {
        let delivered = match &failure_message {
            FailureMessage::Queue { queue, body } => self.queue(queue, body).await,
            FailureMessage::Notification { topic, body } => self.notification(topic, body).await,
            FailureMessage::Object { bucket, key, body } => self.object(bucket, key, body).await,
            FailureMessage::Topic { topic, .. } => Err(DeliveryError::Refused {
                to: format!("kafka://{topic}").into(),
                why: "it is no destination at AWS".to_owned(),
            }),
        };
        delivered.map_err(|error| Box::new(UndeliveredMessage { error, rest: failure_message }))
    }

    async fn config(&self, to: &Arc<str>) -> Result<&SdkConfig, DeliveryError> {
        let region = Region::new(self.shared.region.to_string());
        let load = self.shared.config.get_or_init(|| async move {
            aws_config::defaults(BehaviorVersion::latest()).region(region).load().await
        });
        tokio::time::timeout(CALL_DEADLINE, load).await.map_err(|_| DeliveryError::Unreachable {
            to: Arc::clone(to),
            why: "the AWS configuration of this node was not read in time".to_owned(),
        })
    }
}

/// Runs one call within its deadline.
async fn call<T>(
    to: &Arc<str>,
    sent: impl Future<Output = Result<T, DeliveryError>>,
) -> Result<T, DeliveryError> {
    tokio::time::timeout(CALL_DEADLINE, sent)
        .await
        .unwrap_or_else(|_| Err(DeliveryError::Silent { to: Arc::clone(to) }))
}

/// Limits a call to one wire attempt.
fn once() -> RetryConfig {
    RetryConfig::disabled()
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build()
}

fn fits(to: &Arc<str>, bytes: usize, most: usize) -> Result<(), DeliveryError> {
    if bytes <= most {
        return Ok(());
    }
    let why = format!("at most {most} bytes are sent");
    Err(DeliveryError::TooLarge { to: Arc::clone(to), bytes, why })
}

/// Returns true if an endpoint is configured for `service`, or one for all of AWS.
fn has_own_endpoint(config: &SdkConfig, service: &'static str) -> bool {
    let key = ServiceConfigKey::builder()
        .service_id(service)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok();
    let own = key.and_then(|key| config.service_config()?.load_config(key));
    own.is_some() || config.endpoint_url().is_some()
}

#[cfg(test)]
mod tests {
    use lighterman_proto::api::FailureDestination;

    use super::*;
    use crate::error::ErrorClass;

    #[tokio::test]
    async fn oversized_message_is_rejected_before_dialling() {
        let port = AwsDestinations::from_sdk(SdkConfig::builder().build());
        let Ok(FailureDestination::Queue(queue)) = "arn:aws:sqs:eu-west-1:123456789012:q".parse() else {
            panic!("a queue");
        };
        let Ok(FailureDestination::Bucket(bucket)) = "arn:aws:s3:::bucket".parse() else {
            panic!("a bucket")
        };
        let body: Arc<str> = "x".repeat(MESSAGE_BYTES_MAX + 1).into();
        let long: Arc<str> = "k".repeat(KEY_BYTES_MAX + 1).into();
        let failure_messages = [
            (FailureMessage::Queue { queue, body }, ErrorClass::Poison),
            (FailureMessage::Object { bucket, key: long, body: bytes::Bytes::new() }, ErrorClass::Fatal),
        ];
        for (failure_message, class) in failure_messages {
            let back = port.deliver(failure_message.clone()).await.expect_err("does not fit");
            assert_eq!((back.error.class(), back.rest), (class, failure_message), "{}", back.error);
        }
    }
}
