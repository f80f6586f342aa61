//! Where failed records go: a queue, a notification topic, a bucket or a Kafka topic.
//!
//! [`deliver::deliver`] sends [`letter::FailureMessage`]s through a [`letter::DestinationPort`] until all have arrived. By default it
//! never gives up, and the partition waits: nothing is dropped silently.

pub mod aws;
mod bounded;
pub mod burial;
pub mod core;
pub mod deliver;
pub mod error;
pub mod kafka;
pub mod letter;
pub mod letters;
pub mod raw;
mod router;

pub use self::router::DestinationRouter;
