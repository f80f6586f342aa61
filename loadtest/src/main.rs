//! `cargo run --release -p loadtest`: drains a real Kafka through a node and prints what it cost.

fn main() {}
