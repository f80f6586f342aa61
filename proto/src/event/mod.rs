//! Lambda event of a Kafka batch, written in one pass into one buffer of a precomputed size.
//!
//! Shape: <https://docs.aws.amazon.com/lambda/latest/dg/with-msk.html>. For a null key or value the field is
//! absent; an empty one is `""`. Headers are in order, one object each, with bytes as signed numbers (Java's
//! `byte[]`) and a null value as `[]`.

mod base64;
mod json;
mod size;
mod writer;

pub use size::{EventEnvelope, EventSource};
pub use writer::EventWriter;
