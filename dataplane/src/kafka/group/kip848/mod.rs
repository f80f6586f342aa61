//! The consumer protocol (KIP-848): the coordinator assigns, and a heartbeat says and tells everything.

#[cfg(any(test, feature = "sim"))]
pub(crate) mod coordinator_model;
pub mod member;
pub(super) mod requests;
pub mod session;
