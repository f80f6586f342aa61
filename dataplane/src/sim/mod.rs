//! The deterministic simulator: the cores of production against modelled coordinator, logs, function, destination, store and
//! clock. One thread, one seed, virtual time; a seed decides everything.
//!
//! ```text
//!   plan ──▶ world ──▶ node: the cores, wired as their actors wire them ──▶ cluster, function, destination
//!              │                     (mutants: single-line faults of them)
//!              └──▶ history ──▶ checker ──▶ violations ──▶ shrink
//! ```
//! Behind the feature `sim`, which no build for production has. `tests/sim.rs` is its command line.

// Events carry much, and each is one arm that says under which condition it counts.
#![allow(clippy::collapsible_match, clippy::too_many_arguments, clippy::redundant_closure_for_method_calls)]

mod cluster;
mod destination;
mod environment;
mod faults;
mod function;
pub mod mutants;
mod node;
mod queue;
pub mod random;
mod registry_store;
pub mod schedule;
pub mod shrink;
mod simulation;

pub use schedule::FaultSchedule;
pub use simulation::{RunOutcome, run};
