//! Consumer group membership: the classic protocol (join barrier, cooperative sticky assignment) and the consumer
//! protocol (KIP-848), each a state machine over one member session, with heartbeats and lease. In the classic
//! protocol the group's leader assigns partitions (`assignor.rs`), in KIP-848 the coordinator. `ownership_lease.rs`
//! holds until when a member may start invocations. Each membership has three connections to its coordinator:
//! heartbeats, joins (blocked until the other members have joined) and commits.

pub mod assignor;
pub mod classic;
mod client;
mod commands;
mod connections;
mod driver;
pub mod effects;
mod group_thread;
pub mod kip848;
pub mod member;
mod member_session;
pub mod membership_handle;
mod operator_errors;
mod owned_partitions;
pub mod ownership_lease;
mod rebalance;
pub mod wire;

pub use effects::{GroupEvent, GroupProtocol};
pub use group_thread::GroupThread;
pub use member::MembershipView;
pub use membership_handle::{CommitFailure, Membership, MembershipSettings};
pub use ownership_lease::OwnershipLease;
pub use rebalance::RebalanceTimeout;
