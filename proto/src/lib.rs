//! Wire formats: Kafka record batches, the Lambda event, the event source mapping API, and the ids and units they
//! share. No I/O, no async, no clock.

pub mod api;
pub mod commit_metadata;
pub mod control;
pub mod event;
pub mod failure;
pub mod filter;
pub mod ids;
pub mod records;
pub mod response;
pub mod topic_id;
pub mod units;
