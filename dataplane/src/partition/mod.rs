//! One topic-partition under one epoch: fetch buffer, ledger, state machine, and the actor around them.

pub mod actor;
pub mod core;
pub mod cut;
pub mod effects;
pub mod fetch_buffer;
pub mod gauge;
pub mod ledger;
pub mod messages;
mod shelf;

#[cfg(test)]
mod model_tests;
