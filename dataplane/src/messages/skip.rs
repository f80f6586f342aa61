//! Skips that an operator asks for.

use actix::Message;
use lighterman_proto::ids::{Offset, OffsetRange};
use tokio::sync::oneshot;

use super::unreadable::BatchEnd;

/// Result of an operator's request to skip a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipAnswer {
    /// The record is skipped.
    Skipped,
    /// The record will be skipped, unless the current attempt succeeds.
    AfterThisAttempt,
    /// No record is failing.
    NotFailing,
    /// The record is not among the failing ones, which have these offsets.
    NotAmong(OffsetRange),
    /// These offsets cannot be read. A request must name exactly this range to skip them.
    Unreadable {
        /// The first of them.
        first: Offset,
        /// End of the range.
        end: BatchEnd,
    },
    /// The request names more than one offset, and none of them is unreadable.
    NotUnreadable,
    /// The range ends beyond the log end, which is this offset.
    BeyondEnd(Offset),
}

/// Request of an operator to skip a failing record or an unreadable range.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SkipRecord {
    /// Partition index.
    pub partition: i32,
    /// Offset of the record, or the first offset of the unreadable range.
    pub offset: Offset,
    /// Offset after the unreadable range.
    pub end: Option<Offset>,
    /// Reason, for the log and the audit.
    pub reason: String,
    /// Sender of the reply; dropped if the partition is not owned here.
    pub reply: oneshot::Sender<SkipAnswer>,
}
