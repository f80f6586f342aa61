//! Batching of offers, and the single-pass payload writer.

pub mod actor;
mod answers;
pub mod core;
mod dispatch;
pub mod messages;
pub mod payload;
pub mod results;

/// Id of a batch within this process. It matches outcomes to sent batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);
