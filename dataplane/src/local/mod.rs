//! Local substitutes for Kafka and AWS: the embedded broker, the function host and sample records.

pub mod broker;
pub mod function_host;
pub mod sample_records;
