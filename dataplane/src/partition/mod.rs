//! One topic-partition under one epoch: fetch buffer, ledger, state machine, and the actor around them.

pub mod actor;
mod begin;
pub mod core;
pub mod cut;
pub mod effects;
pub mod failing;
pub mod fetch_buffer;
pub mod gauge;
mod giving_back;
mod giving_up;
pub mod leader_epochs;
pub mod ledger;
pub mod messages;
mod notes;
mod offered;
pub mod pieces;
mod progress;
mod reports;
mod segment;
mod shelf;
pub mod skipping;
mod sparse;
mod trouble;
mod turns;
pub mod unreadable;
mod verdicts;
pub mod work;

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
