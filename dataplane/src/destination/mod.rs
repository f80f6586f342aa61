//! Where failed records go: a queue, a notification topic, a bucket or a Kafka topic.
//!
//! [`deliver::deliver`] sends [`letter::FailureMessage`]s through a [`letter::DestinationPort`] until all have arrived. By default it
//! never gives up, and the partition waits: nothing is dropped silently.

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
