//! What became of every offset, kept beside the store: each partition's outcome ranges, so that anyone can hold them against
//! what was committed.

pub mod entry;
mod orders;
pub mod partition_audit;
pub mod writer;

pub use entry::{AuditEntry, EntryKind, OutcomeTotals, REASON_BYTES_MAX};
pub use partition_audit::{AuditReport, AuditVerdict, PartitionAudit, SkipReason, UncommittedRange};
pub use writer::AuditLog;
