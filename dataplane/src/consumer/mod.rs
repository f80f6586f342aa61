//! Consumers, the scaler's unit: each runs some of the member's partitions on one data arbiter.

pub mod actor;
pub mod messages;
