//! Group membership in either protocol: classic (join barrier, cooperative sticky assignment) and consumer (KIP-848), each a
//! state machine; heartbeats and lease.

pub mod assignor;
mod commands;
mod commits;
pub mod consumer;
pub mod core;
mod driver;
pub mod effects;
pub mod lease;
mod leave;
mod lines;
pub mod member;
pub mod membership;
mod rebalance;
mod requests;
pub mod wire;

pub use effects::GroupProtocol;
pub use lease::OwnershipLease;
pub use member::MembershipView;
pub use membership::{CommitFailure, GroupEvent, GroupThread, Membership, MembershipSettings};
pub use rebalance::RebalanceTimeout;
