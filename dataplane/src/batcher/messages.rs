//! What a batcher accepts.

use actix::{Addr, Message};
use lighterman_proto::ids::Epoch;
use lighterman_proto::units::Moment;

use crate::credit::memory::MemoryLease;
use crate::credit::slots::Slot;
use crate::partition::actor::PartitionActor;
use crate::partition::batch::PartitionBatch;

/// A partition of this consumer has started.
#[derive(Message)]
#[rtype(result = "()")]
pub struct RegisterPartition {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
    /// Where answers go.
    pub address: Addr<PartitionActor>,
}

/// A partition shows records; replaces what it showed under the same sequence number.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Offer {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
    /// Which offer.
    pub seq: u64,
    /// The records.
    pub cut: PartitionBatch,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// It shares a batch with no other partition.
    pub alone: bool,
    /// When it must not be sealed any more.
    pub expires: Option<Moment>,
}

/// A partition takes its offer back.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct WithdrawOffer {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
    /// Which offer.
    pub seq: u64,
}

/// A partition has ended: nothing more from or to it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct UnregisterPartition {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
}

/// The slot that was asked for.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SlotGranted(pub Slot);

/// The payload bytes that were asked for.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BytesGranted(pub MemoryLease);
