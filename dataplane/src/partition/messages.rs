//! Messages that a partition accepts.

use actix::Message;
use lighterman_proto::ids::{Epoch, Offset};
use tokio::sync::oneshot;

use super::effects::{BatchResolution, SkipAnswer};
use crate::batcher::BatchId;
use crate::credit::memory::MemoryLease;

/// The batcher sealed an offer as a batch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OfferSealed {
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Sequence number of the offer.
    pub seq: u64,
    /// Offset after the last one that the batch takes from the offer.
    pub end: Offset,
    /// The batch.
    pub batch: BatchId,
}

/// The batcher returned an offer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OfferWithdrawn {
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Sequence number of the offer.
    pub seq: u64,
}

/// Result of a batch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BatchResolved {
    /// Ownership epoch.
    pub epoch: Epoch,
    /// The batch.
    pub batch: BatchId,
    /// Result for the records of this partition.
    pub resolution: BatchResolution,
    /// Error message for operators; `None` on success.
    pub error: Option<String>,
}

/// The group permanently rejects the commits, and the member stops: the drain does not wait for them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitGivenUp {
    /// Ownership epoch.
    pub epoch: Epoch,
}

/// The group has acknowledged a commit.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitAcknowledged {
    /// Ownership epoch.
    pub epoch: Epoch,
    /// The committed offset.
    pub offset: Offset,
    /// Sequence number of the commit.
    pub seq: u64,
}

/// Memory that was waited for, to decompress the batch at the front.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CreditGranted(pub MemoryLease);

/// Finish what is in flight, commit, then report `Drained`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Ownership has ended: stop without any further effect.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Fence;

/// Other partitions are short of memory: release the records that cannot be used yet.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GiveBack;

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
