//! Processing of one topic-partition under one ownership epoch: fetch buffer, ledger, state machine, and the actor
//! around them.

pub mod actor;
pub mod attempt;
pub mod commit_ledger;
mod compact;
pub mod core;
pub mod dead_letter;
mod decompress;
pub mod effects;
pub mod fetch_buffer;
mod give_up;
mod last_commit;
pub mod leader_epochs;
mod log_events;
pub mod messages;
mod offer;
pub mod pieces;
mod progress;
mod release;
mod reports;
mod resolve;
mod segment;
pub mod skip;
mod start;
mod trouble;
mod turns;
pub mod unreadable;

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
