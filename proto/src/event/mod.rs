//! The Lambda event of a Kafka batch, written in one pass into one buffer of a size known beforehand.
//!
//! Shape: <https://docs.aws.amazon.com/lambda/latest/dg/with-msk.html>. Null key or value: field absent; empty: `""`;
//! headers in order, one object each, bytes as signed numbers (Java's `byte[]`), null value as `[]`.

mod base64;
mod json;
mod size;
mod writer;

pub use size::{EventEnvelope, EventSource};
pub use writer::EventWriter;
