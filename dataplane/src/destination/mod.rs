//! On-failure destinations of records: an SQS queue, an SNS topic, an S3 bucket or a Kafka topic.
//!
//! [`delivery::deliver`] sends [`message::FailureMessage`]s through a [`message::DestinationPort`] until all have
//! arrived. By default it retries without end while the partition waits, and drops nothing silently.

pub mod aws;
mod bounded_map;
pub mod delivery;
pub mod encode;
pub mod error;
pub mod kafka;
pub mod message;
pub mod raw;
pub mod retry;
mod router;
pub mod sender;

pub use self::router::DestinationRouter;
