//! The embedded broker and the function host: what runs when there is no Kafka and no AWS.

pub mod broker;
pub mod function_host;
pub mod sample_records;
