//! What became of every offset, kept beside the store: each partition's outcome ranges, so that anyone can hold them against
//! what was committed.

pub mod book;
pub mod entry;
mod orders;
pub mod writer;

pub use book::{Book, Page, Reason, Uncommitted, Verdict};
pub use entry::{Entry, REASON_BYTES_MAX, Sums, What};
pub use writer::AuditLog;
