//! Coalesced commits: one `OffsetCommit` in flight per member. Each partition's offset only grows under one epoch.

pub mod actor;
pub mod coalescing;
pub mod start_plan;
pub mod verify;
