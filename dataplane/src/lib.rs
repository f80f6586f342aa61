//! Lighterman: the AWS Lambda event source mapping for Kafka, self-hosted.
//!
//! ```text
//!                     DATA (one data arbiter per consumer)                     INVOKER arbiters
//!  Kafka ──fetch──▶ FETCHER ──Fetched──▶ PARTITION ──Offer──▶ BATCHER ──Invoke──▶ INVOKER ──▶ function
//!    ▲                                   fetch buffer         seals                  │
//!    │                                   ledger ◀────────── Resolved ────────────────┘
//!    └── COMMITTER ◀──────── Frontier ───┘
//! ```
//! Data flows right, credit flows left, decisions flow down, facts flow up. Modules stand in data-flow order.

pub mod app;
pub mod audit;
pub mod batcher;
pub mod cli;
pub mod config;
pub mod consumer;
pub mod control;
pub mod credit;
pub mod destination;
pub mod egress;
pub mod error;
pub mod invoker;
pub mod kafka;
pub mod local;
pub mod metrics;
pub mod offsets;
pub mod partition;
pub mod runtime;
pub mod telemetry;
