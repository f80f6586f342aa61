//! Batching of offers, and the single-pass payload writer.

pub mod actor;
mod answers;
pub mod core;
mod dispatch;
pub mod messages;
pub mod payload;
pub mod results;
