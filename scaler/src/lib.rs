//! Decides how many consumers share a member's partitions, and who owns what. Pure: samples and time in, decisions out.

pub mod assignment;
pub mod policy;
