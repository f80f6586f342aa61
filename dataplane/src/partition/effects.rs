//! What the partition's state machine is told, and what it asks its shell to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::commit_metadata::CommittedProgress;
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::AbortedTransactions;
use lighterman_proto::units::{Moment, TimestampMs};

use super::attempt::{AttemptFailure, FailureHandling, KnownFailures, RecordAttempt};
use super::batch::{PartitionBatch, PartitionBatchLimits, SharedLease};
use super::fetch_buffer::{BatchOpener, CreditShortage, RecordFilter, RecordSizer};
use super::ledger::{AlreadyResolved, Outcome, ResolvedRange};
use super::unreadable::{BatchDamage, BatchEnd, RawBatch};

/// What a partition is given when it starts.
#[derive(Clone, Debug)]
pub struct PartitionConfig {
    /// The committed offset: where it goes on.
    pub committed: Offset,
    /// Leader epoch of the record before it, −1 when unknown.
    pub leader_epoch: i32,
    /// What stands beside it: how far the owner before us got.
    pub progress: Option<CommittedProgress>,
    /// What the owner before us knew of the failures that `progress` counts, if it was on this node.
    pub failures: Option<KnownFailures>,
    /// What to do with records that fail.
    pub policy: FailureHandling,
    /// Fingerprint of the mapping's filters.
    pub filters: u32,
    /// What a batch may hold.
    pub limits: PartitionBatchLimits,
    /// How much to hold ahead, in bytes as fetched.
    pub buffer_bytes_target: usize,
}

/// What the shell must do.
#[derive(Debug)]
pub enum PartitionEffect {
    /// Ask for records from `position` on.
    Fetch {
        /// First offset wanted.
        position: Offset,
        /// Leader epoch of the record before it, −1 when unknown.
        leader_epoch: i32,
        /// At most this much.
        bytes_max: usize,
    },
    /// Ask no more.
    CancelFetch,
    /// Ask no more for now; where the log ends is still of interest.
    Pause,
    /// Show `cut` to the batcher; it replaces what was shown under the same `seq`.
    Offer {
        /// Which offer.
        seq: u64,
        /// What is offered.
        cut: PartitionBatch,
        /// 1 for the first attempt.
        attempt: u32,
        /// It shares a batch with no other partition.
        alone: bool,
        /// When the first record of it grows too old: it must not be sealed then any more.
        expires: Option<Moment>,
    },
    /// Take the offer back; answered with `withdrawn` or crossed by `sealed`.
    Withdraw {
        /// Which offer.
        seq: u64,
    },
    /// Everything before `offset` has an outcome. Answered with `committed`.
    Commit {
        /// Grows with every commit.
        seq: u64,
        /// The frontier.
        offset: Offset,
        /// Leader epoch of the last record before it, −1 when unknown.
        leader_epoch: i32,
        /// What goes beside it.
        progress: Option<CommittedProgress>,
        /// What the frontier has passed since the last commit.
        passed: Vec<ResolvedRange>,
    },
    /// Send the records to the on-failure destination until it acknowledges them. Answered with `buried`.
    DeadLetter {
        /// Which errand.
        ticket: u64,
        /// The records, and what was tried.
        work: Box<RecordAttempt>,
        /// Why.
        condition: FailureCondition,
    },
    /// Send bytes that cannot be read to the on-failure destination. Answered with `buried`.
    DeadLetterRaw {
        /// Which errand.
        ticket: u64,
        /// The bytes.
        batch: RawBatch,
    },
    /// Leave off sending; answered with `buried`, whatever came first.
    CancelDeadLetter {
        /// Which errand.
        ticket: u64,
    },
    /// Call `wake` then.
    WakeAt(Moment),
    /// A batch must be inflated and there is no credit: call `wake` with so much in hand, as soon as it is lent.
    AwaitCredit(CreditShortage),
    /// There is more to do at once: call `wake` when others on the thread have had their turn.
    ContinueSoon,
    /// Others may come to be short of credit: call `wake` soon.
    PollSoon,
    /// Nothing is in flight, committed equals frontier (DRN-1).
    Drained,
    /// Start again under a new epoch at `at`: the log was truncated under us (KIP-320).
    Restart {
        /// Where to.
        at: Offset,
        /// Leader epoch of the record before it, −1 when unknown.
        leader_epoch: i32,
    },
    /// What was read is not in the log that is there: start again where the group, asked anew, and the log say.
    StartNewLog,
    /// Worth a count, and a line in the log.
    Log(PartitionEvent),
}

/// What happened.
#[derive(Debug)]
pub enum PartitionEvent {
    /// Records have ended without being delivered, and there is no destination.
    GivenUp {
        /// The records, and what was tried.
        work: Box<RecordAttempt>,
        /// Why.
        condition: FailureCondition,
    },
    /// A person had a record skipped.
    Skipped {
        /// Which record.
        offset: Offset,
    },
    /// Records were deleted before we read them.
    Lost(OffsetRange),
    /// A batch cannot be read; the partition rests and asks again.
    Corrupt {
        /// Where.
        first: Offset,
        /// How far, and what is wrong.
        damage: BatchDamage,
    },
    /// A person had offsets passed that cannot be read.
    Passed {
        /// Which.
        range: OffsetRange,
        /// How they ended.
        outcome: Outcome,
    },
    /// The log was cut off and written again: what an owner before us left beside the committed offset is of other records.
    Rewritten {
        /// The first offset without an outcome.
        from: Offset,
    },
    /// An outcome came for offsets that have one: the partition stops rather than commit.
    LedgerRefused(AlreadyResolved),
}

/// What an answer means for the records of one partition. What there is to know of time and chance comes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchResolution {
    /// The function answered for all of it.
    Delivered,
    /// The function named records that failed, and answered for the others.
    Partial {
        /// The named ones; all of them are in the cut.
        failed: BTreeSet<Offset>,
        /// What is known of it.
        failure: Arc<AttemptFailure>,
        /// When to try again, if it is to be.
        again_at: Moment,
    },
    /// The function failed.
    Failed {
        /// Other partitions' records were in the batch.
        mixed: bool,
        /// What is known of it.
        failure: Arc<AttemptFailure>,
        /// When to try again, if it is to be.
        again_at: Moment,
    },
    /// The endpoint does not take so much.
    TooLarge {
        /// Other partitions' records were in the batch.
        mixed: bool,
        /// What is known of it.
        failure: Arc<AttemptFailure>,
        /// When to try again.
        again_at: Moment,
    },
    /// The function did not run, or nobody knows whether it did: the same again, and no attempt is used up.
    Again {
        /// Not before.
        at: Moment,
    },
}

/// What became of records on their way to the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterResult {
    /// The destination has them.
    Acknowledged,
    /// It failed, and the mapping says to drop them then.
    Dropped,
    /// We left off; whether some have arrived is unknown.
    Stopped,
}

/// What became of a person's wish to skip a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipAnswer {
    /// It is skipped.
    Skipped,
    /// It will be, unless the attempt under way succeeds.
    AfterThisAttempt,
    /// Nothing fails here.
    NotFailing,
    /// The record is not among those that fail; these offsets are in work.
    NotAmong(OffsetRange),
    /// These cannot be read, and must be named as they are to be passed.
    Unreadable {
        /// The first of them.
        first: Offset,
        /// How far they go.
        end: BatchEnd,
    },
    /// More than one offset was named, and none of them is unreadable.
    NotUnreadable,
    /// The log does not go so far.
    BeyondEnd(Offset),
}

/// Credit and sizes that the shell lends to the core for one event.
pub struct CoreContext<'a> {
    /// Inflates on credit.
    pub opener: &'a mut dyn BatchOpener,
    /// Exact sizes.
    pub sizer: &'a dyn RecordSizer,
    /// The mapping's filters.
    pub sieve: &'a dyn RecordFilter,
    /// The wall clock, for the age of records.
    pub wall: TimestampMs,
}

/// Records of one fetch.
pub struct FetchedFrame<'f> {
    /// Where it was asked for.
    pub position: Offset,
    /// Record batches.
    pub records: &'f Bytes,
    /// Aborted transactions in it.
    pub aborted: AbortedTransactions,
    /// What keeps it on the budget.
    pub hold: &'f SharedLease,
}

/// Effects of one event, in order.
pub type PartitionEffects = Vec<PartitionEffect>;
