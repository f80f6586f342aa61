//! Attempts at a partition's records: started, offered, resolved, split, given up or skipped.

pub mod attempt;
pub(in crate::partition) mod give_up;
pub(in crate::partition) mod offer;
pub(in crate::partition) mod resolve;
pub mod skip;
pub(in crate::partition) mod start;
