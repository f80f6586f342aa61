//! Lighterman: the AWS Lambda event source mapping for Kafka, self-hosted.
//!
//! ```text
//!                     DATA (one data arbiter per consumer)                     INVOKER arbiters
//!  Kafka ──fetch──▶ FETCHER ──Fetched──▶ PARTITION ──Offer──▶ BATCHER ──Invoke──▶ INVOKER ──▶ function
//!    ▲                                   fetch buffer         seals                  │
//!    │                                   ledger ◀────────── Resolved ────────────────┘
//!    └── COMMITTER ◀──────── Frontier ───┘
//! ```
//! Data flows right, credit flows left, decisions flow down, facts flow up.

/// Expands to the right expression. The wrong one exists only under the feature `mutants`, which tests the simulator
/// with it.
#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:literal, $right:expr, $wrong:expr) => {
        $right
    };
}

/// Expands to the right expression, or to the wrong one while its mutant is on. The simulator must catch the mutant.
#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:literal, $right:expr, $wrong:expr) => {
        if $crate::mutants::is_on($name) { $wrong } else { $right }
    };
}

pub mod app;
pub mod audit;
pub mod batcher;
pub mod cli;
pub mod commits;
pub mod config;
pub mod consumer;
pub mod control;
pub mod credit;
pub mod destination;
pub mod egress;
pub mod error;
mod hex;
pub mod invoker;
pub mod kafka;
pub mod keepalive;
pub mod local;
pub mod mapping;
pub mod messages;
pub mod metrics;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod partition;
pub mod runtime;
pub mod status;
pub mod telemetry;
