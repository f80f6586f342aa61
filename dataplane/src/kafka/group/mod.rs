//! Group membership, classic protocol: join barrier, cooperative sticky assignment, heartbeats, lease.

pub mod assignor;
pub mod core;
pub mod effects;
pub mod lease;
pub mod membership;
mod requests;
pub mod wire;

pub use lease::OwnershipLease;
pub use membership::{GroupEvent, GroupThread, Membership, MembershipSettings};
