//! What the partition's state machine is told, and what it asks its shell to do.

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{AbortedTransactions, RecordError};
use lighterman_proto::units::Moment;

use super::cut::{Cut, CutLimits, Hold};
use super::fetch_buffer::{Opener, Sizer};
use super::ledger::AlreadyResolved;

/// What a partition is given when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The committed offset: where it goes on.
    pub committed: Offset,
    /// What a batch may hold.
    pub limits: CutLimits,
    /// How much to hold ahead, in bytes as fetched.
    pub buffer_bytes_target: usize,
}

/// What the shell must do.
#[derive(Debug)]
pub enum Effect {
    /// Ask for records from `position` on.
    Want {
        /// First offset wanted.
        position: Offset,
        /// Leader epoch of the record before it, −1 when unknown.
        leader_epoch: i32,
        /// At most this much.
        bytes_max: usize,
    },
    /// Ask no more.
    Forget,
    /// Show `cut` to the batcher; it replaces what was shown under the same `seq`.
    Offer {
        /// Which offer.
        seq: u64,
        /// What is offered.
        cut: Cut,
        /// 1 for the first attempt.
        attempt: u32,
    },
    /// Take the offer back; answered with `withdrawn` or crossed by `sealed`.
    Withdraw {
        /// Which offer.
        seq: u64,
    },
    /// Everything before `offset` has an outcome.
    Commit {
        /// The frontier.
        offset: Offset,
        /// Leader epoch of the last record before it, −1 when unknown.
        leader_epoch: i32,
    },
    /// Call `wake` then.
    WakeAt(Moment),
    /// A batch must be inflated and there is no credit: call `wake` when there may be.
    AwaitCredit,
    /// Nothing is in flight, committed equals frontier (DRN-1).
    Drained,
    /// Start again under a new epoch at `at`: the log was truncated under us (KIP-320).
    Rebuild {
        /// Where to.
        at: Offset,
    },
    /// Worth a count, and a line in the log.
    Note(Note),
}

/// What happened.
#[derive(Debug)]
pub enum Note {
    /// A record was skipped: its payload alone would be `bytes`.
    Oversized {
        /// Which record.
        offset: Offset,
        /// What the payload would have been.
        bytes: usize,
    },
    /// Records were deleted before we read them.
    Lost(OffsetRange),
    /// A batch cannot be read; the partition rests and asks again.
    Corrupt {
        /// Where.
        offset: Offset,
        /// What is wrong.
        error: RecordError,
    },
    /// An outcome came for offsets that have one: the partition stops rather than commit.
    LedgerRefused(AlreadyResolved),
}

/// What the invoker made of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The function answered for all of it.
    Delivered,
    /// All of it is to be tried again, not before `at`.
    Again {
        /// When.
        at: Moment,
        /// Whether the attempt counts (function errors do, throttles do not).
        counts: bool,
    },
}

/// Credit and sizes that the shell lends to the core for one event.
pub struct Tools<'a> {
    /// Inflates on credit.
    pub opener: &'a mut dyn Opener,
    /// Exact sizes.
    pub sizer: &'a dyn Sizer,
}

/// Records of one fetch.
pub struct Frame<'f> {
    /// Where it was asked for.
    pub position: Offset,
    /// Record batches.
    pub records: &'f Bytes,
    /// Aborted transactions in it.
    pub aborted: AbortedTransactions,
    /// What keeps it on the budget.
    pub hold: &'f Hold,
}

/// Effects of one event, in order.
pub type Effects = Vec<Effect>;
