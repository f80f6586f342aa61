//! The edges of the record format, from bytes laid down by hand after Kafka's documentation: what brokers send that
//! encoders cannot be made to write, and what no broker should.

mod codecs;
mod events;
mod forge;
mod layout;
mod lies;
mod pieces;
mod transactions;
