//! Record batches (magic 2), parsed in place with a borrowed cursor over the received frame.
//!
//! Tenants choose the brokers, so the bytes are untrusted. Every length and count is checked against the remaining
//! bytes before use, decompression has a limit, and malformed data becomes a [`RecordError`].
//! Layout: <https://kafka.apache.org/documentation/#recordbatch>; reading rules after Java's `DefaultRecordBatch`.

mod aborted;
mod batch;
mod crc;
mod error;
mod inflate;
mod record;
mod snappy;
mod source;
mod stream;
mod varint;

pub use aborted::AbortedTransactions;
pub use batch::{
    BatchHeader, Compression, ControlType, RecordBatch, RecordBatches, TimestampType, batches, batches_from,
    successor,
};
pub use crc::crc32c;
pub use error::RecordError;
pub use inflate::BatchInflater;
pub use record::{Header, Headers, Record, Records, records, records_at};
pub use stream::{BatchStream, PassedRecord, RecordPiece};
