//! Messages between the actors of a simulated node.

use lighterman::credit::slots::Slot;
use lighterman::invoker::outcome::{InvocationOutcome, InvokeResponse as FunctionReply};
use lighterman::kafka::group::GroupEvent;
use lighterman::messages::batch::BatchId;
use lighterman::messages::commit::CommitRequest;
use lighterman::messages::dead_letter::DeadLetterResult;
use lighterman::messages::offer::Offer;
use lighterman::messages::records::SharedLease;
use lighterman::messages::report::PartitionReport;
use lighterman::messages::resolution::{BatchResolution, InvocationMetadata};
use lighterman::messages::resume::ResumePoint;
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::units::Moment;

use super::super::cluster::{BrokerReply, FetchedPart};
use super::OwnershipKey;
use super::fetching::SimulatedFetch;

/// Destination of a message; each mailbox keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum MessageMailbox {
    Member,
    Group,
    Consumer(u32),
    Batcher(u32),
    Partition(i32, u64),
    Committer,
    Invoker,
    Router,
}

/// Message inside a process.
#[derive(Debug)]
pub(crate) enum NodeMessage {
    GroupWake,
    MemberTick,
    Replied {
        ask: u64,
        reply: Option<Box<BrokerReply>>,
    },
    Group(GroupEvent),
    Released(Vec<i32>),
    Quiesced,
    Leave,
    /// The last work of a member that left without a leave request has ended.
    HasLeft,
    ResolveAgain {
        resolve: u64,
    },
    StartAgain {
        wanted: Vec<i32>,
        generation: i32,
    },
    StartPartition {
        consumer: u32,
        partition: i32,
        epoch: Epoch,
        position: Box<ResumePoint>,
    },
    DrainPartition {
        partition: i32,
        epoch: Epoch,
    },
    FencePartitions {
        consumer: u32,
        which: Option<Vec<i32>>,
    },
    Report(Box<PartitionReport>),
    // To a partition.
    Wake(OwnershipKey),
    Fetched {
        key: OwnershipKey,
        position: Offset,
        part: Box<FetchedPart>,
        hold: SharedLease,
    },
    OutOfRange {
        key: OwnershipKey,
        log_start: Offset,
        log_end: Offset,
    },
    Sealed {
        key: OwnershipKey,
        seq: u64,
        end: Offset,
        batch: BatchId,
    },
    Withdrawn {
        key: OwnershipKey,
        seq: u64,
    },
    Resolved {
        key: OwnershipKey,
        epoch: Epoch,
        batch: BatchId,
        resolution: Box<BatchResolution>,
    },
    Committed {
        key: OwnershipKey,
        offset: Offset,
        seq: u64,
    },
    Drain(OwnershipKey),
    GiveBack(OwnershipKey),
    Buried {
        key: OwnershipKey,
        request_id: u64,
        dead_letter_result: DeadLetterResult,
    },
    TellDrained(OwnershipKey),
    TellParted(OwnershipKey),
    // To the neighbour mapping.
    NeighbourGrabs,
    // To a batcher.
    Offer {
        consumer: u32,
        pending: Box<Offer>,
    },
    Withdraw {
        consumer: u32,
        key: OwnershipKey,
        seq: u64,
    },
    Unregister {
        consumer: u32,
        key: OwnershipKey,
    },
    SlotGranted {
        consumer: u32,
        slot: Slot,
    },
    BatcherWake {
        consumer: u32,
    },
    Answered {
        consumer: u32,
        batch: BatchId,
        verdict: Box<InvocationOutcome>,
        facts: Option<InvocationMetadata>,
        sent_at: Moment,
    },
    // To the invoker.
    Invoke {
        consumer: u32,
        batch: BatchId,
    },
    Invoked {
        consumer: u32,
        batch: BatchId,
        reply: Box<FunctionReply>,
    },
    // To the committer.
    Frontier(Box<CommitRequest>),
    Unfollow(OwnershipKey),
    CommitterRested,
    ReadBackTick,
    // To the fetch router.
    Want(SimulatedFetch),
    Forget {
        partition: i32,
    },
    Poll {
        broker: usize,
    },
    BackedOff {
        broker: usize,
    },
    LookUp,
    AskBounds {
        broker: usize,
        partition: i32,
        position: Offset,
    },
}
