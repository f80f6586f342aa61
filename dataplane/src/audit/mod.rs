//! Audit of every offset's outcome, kept next to the store. Each partition's outcome ranges can be checked against
//! its committed offsets.

pub mod entry;
mod orders;
pub mod partition_audit;
pub mod writer;

pub use entry::{AuditEntry, EntryKind, OutcomeTotals, REASON_BYTES_MAX};
pub use partition_audit::{AuditReport, AuditVerdict, PartitionAudit, SkipReason, UncommittedRange};
pub use writer::AuditLog;
