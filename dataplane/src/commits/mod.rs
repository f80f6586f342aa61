//! Coalesced commits: one `OffsetCommit` in flight per member, each partition's offset only ever growing under one epoch.

pub mod actor;
pub mod core;
pub mod start_plan;
pub mod verify;
