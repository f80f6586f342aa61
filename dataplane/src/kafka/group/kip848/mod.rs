//! Consumer protocol (KIP-848): the coordinator assigns partitions, and heartbeats carry all requests and responses.

pub mod member;
pub mod session_bounds;
