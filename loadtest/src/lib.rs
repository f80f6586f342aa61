//! What it takes to judge Lighterman from outside: a real Kafka, a fake Lambda that remembers everything, a producer, a
//! node as a process, and a checker of the history they make.

pub mod checker;
pub mod compaction;
pub mod function;
pub mod kafka;
pub mod node;
pub mod process;
pub mod produce;
pub mod transactions;
