//! Deterministic simulator: the production cores run against a modelled coordinator, logs, function, destination,
//! store and clock. It has one thread and virtual time, and its seed determines everything.
//!
//! ```text
//!   schedule ──▶ environment ──▶ nodes: the cores, connected as their actors connect them ──▶ cluster, function
//!                     │                 (mutants: single-line faults of them)                 and destination
//!                     └──▶ history ──▶ checker ──▶ violations ──▶ shrink
//! ```
//! `tests/sim.rs` is its command line. Load tests and chaos runs share its [`history`] checker.

// Events carry many fields, and each match arm states the condition under which its event applies.
#![allow(clippy::collapsible_match, clippy::too_many_arguments, clippy::redundant_closure_for_method_calls)]

mod cluster;
mod destination;
mod environment;
mod faults;
mod function;
pub mod history;
mod node;
mod queue;
pub mod random;
mod registry_store;
pub mod schedule;
pub mod shrink;
mod simulation;

pub use schedule::FaultSchedule;
pub use simulation::{RunOutcome, run};
