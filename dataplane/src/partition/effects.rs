//! Inputs of the partition's state machine, and the effects that it asks its actor to carry out.

use bytes::Bytes;
use lighterman_proto::commit_metadata::CommittedProgress;
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Epoch, Offset, OffsetRange};
use lighterman_proto::records::AbortedTransactions;
use lighterman_proto::topic_id::TopicId;
use lighterman_proto::units::{Moment, TimestampMs};

use crate::messages::commit::CommitRequest;
use crate::messages::dead_letter::{AbandonedRecords, RawBatch};
use crate::messages::offer::Offer;
use crate::messages::outcome::Outcome;
use crate::messages::records::{PartitionBatchLimits, RecordSizer, SharedLease};
use crate::messages::resolution::KnownFailures;
use crate::messages::unreadable::BatchDamage;
use crate::partition::attempts::attempt::FailureHandling;
use crate::partition::progress::commit_ledger::AlreadyResolved;
use crate::partition::progress::commit_window::CommitWindowLimits;
use crate::partition::reader::fetch_buffer::{BatchOpener, CreditShortage, RecordFilter};

/// Identity of a partition under one ownership.
#[derive(Clone, Copy, Debug)]
pub struct PartitionIdentity {
    /// Partition index.
    pub partition: i32,
    /// Topic id, if known.
    pub topic: Option<TopicId>,
    /// Ownership epoch.
    pub epoch: Epoch,
}

/// Configuration of a partition at its start.
#[derive(Clone, Debug)]
pub struct PartitionConfig {
    /// Identity of the partition under this ownership.
    pub identity: PartitionIdentity,
    /// Payload bytes of the partition's key and brackets, including the separator.
    pub key_bytes: usize,
    /// Committed offset, at which the partition resumes.
    pub committed: Offset,
    /// Leader epoch of the record before it; −1 if unknown.
    pub leader_epoch: i32,
    /// Progress committed with the offset by the previous owner.
    pub progress: Option<CommittedProgress>,
    /// Failures counted in `progress` as the previous owner saw them, if that owner was on this node.
    pub failures: Option<KnownFailures>,
    /// Handling of records that fail.
    pub policy: FailureHandling,
    /// Fingerprint of the mapping's filters.
    pub filters: u32,
    /// Limits of a batch.
    pub limits: PartitionBatchLimits,
    /// Limits of the commits that need not be acknowledged when a batch starts.
    pub commit_window: CommitWindowLimits,
    /// Target size of the fetch buffer, in bytes as fetched.
    pub buffer_bytes_target: usize,
}

/// Effect for the actor to carry out.
#[derive(Debug)]
pub enum PartitionEffect {
    /// Fetch records from `position` on.
    Fetch {
        /// First offset to fetch.
        position: Offset,
        /// Leader epoch of the record before it; −1 if unknown.
        leader_epoch: i32,
        /// Maximum number of bytes.
        bytes_max: usize,
    },
    /// Stop fetching.
    CancelFetch,
    /// Stop fetching for now, but keep watching the log end.
    Pause,
    /// Send the offer to the batcher. It replaces an earlier version of the same sequence number.
    Offer(Offer),
    /// Withdraw the offer. Completed by `withdrawn`, unless `sealed` crosses it.
    Withdraw {
        /// Sequence number of the offer.
        seq: u64,
    },
    /// Commit the frontier: every offset before it has an outcome. Completed by `committed`.
    Commit(CommitRequest),
    /// Send the records to the on-failure destination until it acknowledges them. Completed by `dead_letter_result`.
    DeadLetter {
        /// Number that identifies the dead letter.
        request_id: u64,
        /// The records and their attempts.
        records: Box<AbandonedRecords>,
        /// Reason that they are not retried.
        condition: FailureCondition,
    },
    /// Send the bytes of an unreadable batch to the on-failure destination. Completed by `dead_letter_result`.
    DeadLetterRaw {
        /// Number that identifies the dead letter.
        request_id: u64,
        /// The bytes.
        batch: RawBatch,
    },
    /// Stop sending. Completed by `dead_letter_result`, whose result is whichever came first.
    CancelDeadLetter {
        /// Number that identifies the dead letter.
        request_id: u64,
    },
    /// Call `wake` at this time.
    WakeAt(Moment),
    /// Wait for memory to decompress a batch, then call `wake` with the lease.
    AwaitCredit(CreditShortage),
    /// Call `wake` after the other tasks on the thread have run: more can be done at once.
    ContinueSoon,
    /// Call `wake` soon: other partitions may have become short of memory.
    PollSoon,
    /// Nothing is in flight, and the committed offset equals the frontier (DRN-1).
    Drained,
    /// Restart at `at` under a new epoch, because the log was truncated (KIP-320).
    Restart {
        /// Offset to restart at.
        at: Offset,
        /// Leader epoch of the record before it; −1 if unknown.
        leader_epoch: i32,
    },
    /// Restart, because the log is not the one that was read. The new position depends on that log and on the
    /// committed offset, which is read again.
    StartNewLog,
    /// Count and log an event.
    Log(PartitionEvent),
}

/// Event to be counted and logged.
#[derive(Debug)]
pub enum PartitionEvent {
    /// Records were dropped without being delivered, as there is no destination.
    GivenUp {
        /// The records and their attempts.
        records: Box<AbandonedRecords>,
        /// Reason that they are not retried.
        condition: FailureCondition,
    },
    /// A record was skipped by an operator.
    Skipped {
        /// Offset of the record.
        offset: Offset,
    },
    /// Records were deleted before they were read.
    Lost(OffsetRange),
    /// A batch cannot be read; the partition pauses and fetches it again.
    Corrupt {
        /// First offset that cannot be read.
        first: Offset,
        /// Extent and cause of the damage.
        damage: BatchDamage,
    },
    /// Unreadable offsets were skipped by an operator.
    Passed {
        /// The offsets.
        range: OffsetRange,
        /// Their outcome.
        outcome: Outcome,
    },
    /// The log was truncated and rewritten: the committed progress of an earlier owner refers to other records.
    Rewritten {
        /// The first offset without an outcome.
        from: Offset,
    },
    /// Offsets got an outcome twice: the partition stops rather than commit.
    LedgerRefused(AlreadyResolved),
}

/// Resources that the actor lends to the core for one event.
pub struct CoreContext<'a> {
    /// Decompresses batches within the memory budget.
    pub batch_opener: &'a mut dyn BatchOpener,
    /// Gives exact record sizes.
    pub sizer: &'a dyn RecordSizer,
    /// Applies the mapping's filters.
    pub record_filter: &'a dyn RecordFilter,
    /// Wall clock time, for the age of records.
    pub wall: TimestampMs,
}

/// Records of one fetch.
pub struct FetchedFrame<'f> {
    /// Offset that was fetched.
    pub position: Offset,
    /// Record batches.
    pub records: &'f Bytes,
    /// Transactions aborted within the records.
    pub aborted: AbortedTransactions,
    /// Lease on the memory of the records.
    pub hold: &'f SharedLease,
}

/// Effects of one event, in order.
pub type PartitionEffects = Vec<PartitionEffect>;
