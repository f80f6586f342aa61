//! Consumer protocol (KIP-848): the coordinator assigns partitions, and heartbeats carry all requests and responses.

#[cfg(any(test, feature = "sim"))]
pub(crate) mod coordinator_model;
pub mod member;
pub mod session_bounds;
