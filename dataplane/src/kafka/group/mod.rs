//! Consumer group membership: the classic protocol (join barrier, cooperative sticky assignment) and the consumer
//! protocol (KIP-848), each a state machine, with heartbeats and lease. In the classic protocol the group's leader assigns
//! partitions (`assignor.rs`), in KIP-848 the coordinator. `lease.rs` holds until when a member may start invocations.

pub mod assignor;
pub mod classic;
mod commands;
mod commits;
mod connections;
mod driver;
pub mod effects;
pub mod kip848;
pub mod lease;
mod leave;
pub mod member;
pub mod membership;
mod rebalance;
mod requests;
pub mod wire;

pub use effects::{GroupEvent, GroupProtocol};
pub use lease::OwnershipLease;
pub use member::MembershipView;
pub use membership::{CommitFailure, GroupThread, Membership, MembershipSettings};
pub use rebalance::RebalanceTimeout;
