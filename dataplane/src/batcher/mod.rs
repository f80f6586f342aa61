//! When to seal a batch, and the one-pass payload.

pub mod actor;
mod answers;
pub mod core;
mod dispatch;
pub mod messages;
pub mod payload;
pub mod results;

/// A batch of this process: matches answers to what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);
