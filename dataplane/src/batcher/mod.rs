//! Batching of offers, and the single-pass payload writer.

pub mod actor;
mod answers;
pub mod core;
#[cfg(test)]
mod core_model_tests;
mod dispatch;
pub mod messages;
pub mod payload;
mod pending;
pub mod results;
