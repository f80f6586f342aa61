//! Tools to test Lighterman from outside: a real Kafka, a fake Lambda that records every invocation, moto for AWS,
//! and a producer. A node and a hand-written baseline run as processes, and a checker judges the resulting history.

pub mod aws;
pub mod baseline;
pub mod benchmark_run;
pub mod chaos;
pub mod checker;
pub mod compare;
pub mod contender;
pub mod fault_proxy;
pub mod figures;
pub mod footprint;
pub mod function;
pub mod html_report;
pub mod kafka;
pub mod kafka_dist;
pub mod latency;
pub mod log_reader;
pub mod node;
pub mod open_loop;
pub mod plot;
pub mod process;
pub mod produce;
pub mod report;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod small_disk;
pub mod sweep;
pub mod transactions;
pub mod watch;
