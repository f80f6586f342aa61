//! What became of every offset, kept beside the store: each partition's outcome ranges, so that anyone can hold them against
//! what was committed.

pub mod book;
pub mod entry;
mod orders;
pub mod writer;

pub use book::{AuditReport, AuditVerdict, PartitionAudit, SkipReason, UncommittedRange};
pub use entry::{AuditEntry, EntryKind, OutcomeTotals, REASON_BYTES_MAX};
pub use writer::AuditLog;
