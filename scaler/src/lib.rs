//! Scaler: the number of consumers that share a member's partitions, and the assignment of partitions to them.
//! Pure: samples and time in, decisions out.

pub mod assignment;
pub mod policy;
