//! Offers: a partition shows records to its batcher, which seals them or gives them back.

use actix::{Message, Recipient};
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::units::Moment;

use super::batch::BatchId;
use super::records::PartitionBatch;
use super::report::PartitionStopped;
use super::resolution::BatchResolved;

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

/// Offer of records. It replaces the partition's earlier offer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Offer {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Sequence number of the offer.
    pub seq: u64,
    /// Offered records.
    pub partition_batch: PartitionBatch,
    /// Attempt number, from 1.
    pub attempt: u32,
    /// True if it must not share a batch with other partitions: a retry, or a part of a failed batch.
    pub alone: bool,
    /// Payload bytes of the partition's key and brackets, including the separator.
    pub key_bytes: usize,
    /// Time at which a record becomes too old. From then on the offer is not sealed, and the partition withdraws it.
    pub expires: Option<Moment>,
}

/// Withdrawal of an offer by its partition.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WithdrawOffer {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Sequence number of the offer.
    pub seq: u64,
}

/// Registration of a partition that this consumer has started.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RegisterPartition {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Recipients in the partition.
    pub replies: OfferReplies,
}

/// Recipients in a partition of what becomes of its offers.
#[derive(Clone)]
pub struct OfferReplies {
    /// Recipient of seals.
    pub sealed: Recipient<OfferSealed>,
    /// Recipient of offers that are returned.
    pub withdrawn: Recipient<OfferWithdrawn>,
    /// Recipient of the results of batches.
    pub resolved: Recipient<BatchResolved>,
}

/// Recipients in the batcher of a partition's messages.
#[derive(Clone)]
pub struct BatcherRecipients {
    /// Recipient of offers.
    pub offers: Recipient<Offer>,
    /// Recipient of withdrawals.
    pub withdrawals: Recipient<WithdrawOffer>,
    /// Recipient of the notice that a partition has stopped.
    pub ends: Recipient<PartitionStopped>,
}
