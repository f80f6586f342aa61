//! Kafka client: connections, metadata, fetch sessions, group membership, offsets. The only module that dials
//! brokers.

pub mod cluster;
pub mod connection;
mod dialing;
pub mod divergence;
pub mod error;
pub mod fetch;
pub mod group;
pub mod offsets;
mod schema;
pub mod transport;
