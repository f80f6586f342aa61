//! Edge cases of the record format, in bytes built by hand after Kafka's documentation. They cover batches that
//! brokers send but encoders cannot be made to write, and batches that no broker may send.

mod codecs;
mod events;
mod forge;
mod layout;
mod lies;
mod pieces;
mod transactions;
