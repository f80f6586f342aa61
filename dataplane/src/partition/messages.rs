//! What a partition accepts.

use actix::Message;
use lighterman_proto::ids::{Epoch, Offset};
use tokio::sync::oneshot;

use super::effects::{BatchResolution, SkipAnswer};
use crate::batcher::BatchId;
use crate::credit::memory::MemoryLease;

/// The batcher fixed an offer as a batch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OfferSealed {
    /// Which ownership.
    pub epoch: Epoch,
    /// Which offer.
    pub seq: u64,
    /// The offset behind what is in the batch of it.
    pub end: Offset,
    /// As which batch.
    pub batch: BatchId,
}

/// The batcher gave an offer back.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OfferWithdrawn {
    /// Which ownership.
    pub epoch: Epoch,
    /// Which offer.
    pub seq: u64,
}

/// What became of a batch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BatchResolved {
    /// Which ownership.
    pub epoch: Epoch,
    /// Which batch.
    pub batch: BatchId,
    /// What became of it.
    pub resolution: BatchResolution,
    /// What went wrong, for people; nothing when all went well.
    pub error: Option<String>,
}

/// The group refuses the commits for good, and the member stops: the drain does not wait for them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitGivenUp {
    /// Which ownership.
    pub epoch: Epoch,
}

/// The group has acknowledged a commit.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CommitAcknowledged {
    /// Which ownership.
    pub epoch: Epoch,
    /// The offset that is committed.
    pub offset: Offset,
    /// Which commit.
    pub seq: u64,
}

/// Bytes that were waited for, to inflate the batch at the front.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CreditGranted(pub MemoryLease);

/// Finish what is in flight, commit, then report `Drained`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Ownership is gone: touch nothing any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Fence;

/// Others are short of bytes: give back what is of no use now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GiveBack;

/// A person wants a record that fails resolved as skipped.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SkipRecord {
    /// Partition index.
    pub partition: i32,
    /// Which record, or the first of what cannot be read.
    pub offset: Offset,
    /// The offset behind what cannot be read.
    pub end: Option<Offset>,
    /// Why, for the log and the audit.
    pub reason: String,
    /// Dropped when nobody here owns the partition.
    pub reply: oneshot::Sender<SkipAnswer>,
}
