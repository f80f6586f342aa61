//! Processing of one topic-partition under one ownership epoch: fetch buffer, ledger, state machine, and the actor
//! around them.

pub mod actor;
pub mod attempts;
pub mod core;
pub mod dead_letter;
mod decompress;
pub mod effects;
mod log_events;
pub mod messages;
pub mod progress;
pub mod reader;
mod reports;
mod turns;

#[cfg(test)]
mod inherited_tests;
#[cfg(test)]
pub(crate) mod model_tests;
#[cfg(test)]
mod pieces_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod unreadable_tests;
