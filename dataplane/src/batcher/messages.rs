//! Messages to the batcher.

use actix::{Addr, Message};
use lighterman_proto::ids::Epoch;
use lighterman_proto::units::Moment;

use crate::credit::memory::MemoryLease;
use crate::credit::slots::Slot;
use crate::partition::actor::PartitionActor;
use crate::partition::batch::PartitionBatch;

/// Registration of a partition that this consumer has started.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RegisterPartition {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Recipient of the resolutions.
    pub address: Addr<PartitionActor>,
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
    pub cut: PartitionBatch,
    /// Attempt number, from 1.
    pub attempt: u32,
    /// True if it must not share a batch with other partitions.
    pub alone: bool,
    /// Time from which it must not be sealed.
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

/// Notice that a partition has stopped: no further messages from or to it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct UnregisterPartition {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
}

/// Requested slot.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SlotGranted(pub Slot);

/// Requested payload bytes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BytesGranted(pub MemoryLease);
