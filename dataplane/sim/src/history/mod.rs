//! Histories of runs, as recorded from the outside, and a checker of the design's invariants. The simulator, runs on
//! real Kafka and load tests share the checker.
//!
//! A recorder omits a fact that it does not know (`owner: None`, no [`HistoryEvent::Accounted`]); the rules that need
//! it then report nothing. Two events recorded in one order must have happened in that order.

pub mod checker;
mod order;
mod records;

use lighterman::messages::outcome::Outcome;
use lighterman_proto::units::Moment;

pub use checker::{HistoryChecker, check};

/// Process of a node: the node and its incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerProcess {
    /// Number of the node.
    pub node: u32,
    /// Number of earlier starts of the node.
    pub incarnation: u32,
}

/// Records of one partition in an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvocationShare {
    /// Partition index.
    pub partition: i32,
    /// Epoch of the ownership inside the process; 0 if the recorder does not know it.
    pub epoch: u64,
    /// Offsets, in the order of the event.
    pub offsets: Vec<i64>,
    /// Leader epoch of each record; empty if the recorder does not know them.
    pub leader_epochs: Vec<i32>,
}

/// Recorded event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryEvent {
    /// A record was written that must be delivered to the function or accounted for.
    Produced {
        /// Partition index.
        partition: i32,
        /// Offset of the record.
        offset: i64,
    },
    /// The log was truncated: its records from `from` on are lost.
    Truncated {
        /// Partition index.
        partition: i32,
        /// First truncated offset.
        from: i64,
        /// Leader epoch of the records that replace them.
        leader_epoch: i32,
    },
    /// Retention deleted the records before an offset.
    Deleted {
        /// Partition index.
        partition: i32,
        /// First offset that remains.
        before: i64,
    },
    /// The group assigned a partition to a process.
    Granted {
        /// Partition index.
        partition: i32,
        /// Process that owns it.
        owner: OwnerProcess,
    },
    /// A process died: its invocations continue, but their responses reach nobody.
    Gone {
        /// Process that died.
        owner: OwnerProcess,
    },
    /// The group expelled a process: it owns nothing and may start nothing.
    Expelled {
        /// Process that was expelled.
        owner: OwnerProcess,
    },
    /// A process released its partitions, because it could not reach the group or the group fenced it. Until its
    /// session expires the group keeps the partitions assigned to it, and nobody may start what it has running.
    LetGo {
        /// Process that released them.
        owner: OwnerProcess,
    },
    /// The session of a process that released its partitions expired, counted from its last acknowledged request.
    SessionOver {
        /// Process with the expired session.
        owner: OwnerProcess,
    },
    /// The function started an invocation.
    Started {
        /// Number of the invocation.
        invocation: u64,
        /// Process that invoked it.
        owner: Option<OwnerProcess>,
        /// Records of the invocation.
        shares: Vec<InvocationShare>,
    },
    /// The function finished an invocation.
    Ended {
        /// Number of the invocation.
        invocation: u64,
        /// True if the function takes the records, except those in `failed` and, with [`HistoryRules::ordered`], the
        /// ones after them.
        taken: bool,
        /// Partition and offset of each record reported as failed.
        failed: Vec<(i32, i64)>,
    },
    /// An invocation or its response was lost: only the function knows of it, and it may start late.
    AnswerLost {
        /// Partitions of the invocation.
        partitions: Vec<i32>,
    },
    /// The group accepted a commit.
    Committed {
        /// Partition index.
        partition: i32,
        /// Committed offset.
        offset: i64,
        /// Leader epoch of the record before it, −1 when unknown.
        leader_epoch: i32,
    },
    /// The group accepted a commit that its sender had timed out, perhaps after a newer one.
    CommittedLate {
        /// Partition index.
        partition: i32,
        /// Committed offset.
        offset: i64,
        /// Leader epoch of the record before it, −1 when unknown.
        leader_epoch: i32,
    },
    /// A node recorded the outcome of a range.
    Accounted {
        /// Partition index.
        partition: i32,
        /// First offset.
        first: i64,
        /// Offset after the last.
        end: i64,
        /// Outcome of the range.
        outcome: Outcome,
        /// Leader epoch of the last record before `end`, −1 when unknown.
        leader_epoch: i32,
    },
    /// A record arrived at the on-failure destination.
    Arrived {
        /// Partition index.
        partition: i32,
        /// Offset of the record.
        offset: i64,
        /// Leader epoch of the record.
        leader_epoch: i32,
    },
    /// The destination rejected a record permanently, and the mapping drops such records.
    Refused {
        /// Partition index.
        partition: i32,
        /// Offset of the record.
        offset: i64,
        /// Leader epoch of the record.
        leader_epoch: i32,
    },
    /// An operator requested that a record be skipped.
    SkipWished {
        /// Partition index.
        partition: i32,
        /// Offset of the record.
        offset: i64,
    },
    /// A batch was sealed.
    Sealed {
        /// Records of the batch.
        records: u32,
        /// Payload bytes of the batch.
        payload_bytes: usize,
        /// Microseconds that the oldest record waited while nothing but the window held the batch back.
        waited_micros: u64,
    },
    /// An invocation slot was taken.
    SlotTaken {
        /// Slots in use, this one included.
        in_use: u32,
        /// Slot limit at that moment.
        limit: u32,
    },
    /// Usage of a node's memory budget.
    Leased {
        /// Bytes leased at that moment.
        bytes: usize,
    },
    /// A node reported a partition as drained.
    Drained {
        /// Process that reported it.
        owner: OwnerProcess,
        /// Partition index.
        partition: i32,
        /// Epoch of the ownership.
        epoch: u64,
        /// Frontier of the partition.
        frontier: i64,
    },
    /// A process stopped gracefully.
    Stopped {
        /// Bytes still leased.
        bytes: usize,
    },
    /// An acknowledged write to the registry was missing after a restart.
    WriteLost {
        /// Description of the write.
        what: String,
    },
    /// Fault injection ended.
    Quiet,
}

/// Recorded event with its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Time of the event.
    pub at: Moment,
    /// The event.
    pub event: HistoryEvent,
}

/// Properties that the recorded run must have, independent of each other. The default has only those of every run.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRules {
    /// `BatchSize`.
    pub records_max: u32,
    /// Payload limit, in bytes.
    pub payload_bytes_max: usize,
    /// Maximum microseconds that a record may wait while its batch could be sent: the window and one tick.
    pub wait_micros_max: u64,
    /// Maximum bytes leased on one node.
    pub leased_bytes_max: usize,
    /// `MaximumRetryAttempts`.
    pub retries_max: Option<u32>,
    /// True if records may expire.
    pub may_expire: bool,
    /// True if records may be too large.
    pub may_be_too_large: bool,
    /// True if a partial response makes a partition retry everything from the first failed record on; no record after
    /// it counts as taken.
    pub ordered: bool,
    /// True if repeats are checked: only an unknown outcome may repeat a batch.
    pub repeats: bool,
    /// Batches of each partition that a node which dies may repeat besides the one in flight: their commits need not
    /// have been acknowledged.
    pub unacknowledged_batches_max: u32,
    /// Maximum microseconds from [`HistoryEvent::Quiet`] to the end.
    pub quiet_micros_max: u64,
}

impl Default for HistoryRules {
    fn default() -> Self {
        Self {
            records_max: u32::MAX,
            payload_bytes_max: usize::MAX,
            wait_micros_max: u64::MAX,
            leased_bytes_max: usize::MAX,
            retries_max: None,
            may_expire: false,
            may_be_too_large: false,
            ordered: false,
            repeats: false,
            unacknowledged_batches_max: 0,
            quiet_micros_max: u64::MAX,
        }
    }
}

/// Invariants of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// A partition has at most one owner at any instant.
    Own1,
    /// Records of a partition are delivered in offset order.
    Ord1,
    /// Commits cover only resolved records and do not move back.
    Com1,
    /// Every record has an outcome, and only an unknown outcome repeats a record.
    Alo1,
    /// Leased bytes stay within the budget and are returned.
    Mem1,
    /// A batch stays within its record, byte and time limits.
    Lim1,
    /// Invocations stay within the slot limit.
    Slt1,
    /// A drained partition is committed and runs nothing.
    Drn1,
    /// The run finishes after the faults.
    Liv1,
    /// An acknowledged registry write survives a restart.
    Durable,
}

impl Invariant {
    /// Returns the invariant's id.
    pub fn id(self) -> &'static str {
        match self {
            Self::Own1 => "OWN-1",
            Self::Ord1 => "ORD-1",
            Self::Com1 => "COM-1",
            Self::Alo1 => "ALO-1",
            Self::Mem1 => "MEM-1",
            Self::Lim1 => "LIM-1",
            Self::Slt1 => "SLT-1",
            Self::Drn1 => "DRN-1",
            Self::Liv1 => "LIV-1",
            Self::Durable => "durable writes",
        }
    }
}

/// Violation of an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Violated invariant.
    pub invariant: Invariant,
    /// Time of the violation.
    pub at: Moment,
    /// Description of the violation.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} µs: {}", self.invariant.id(), self.at.as_micros(), self.what)
    }
}

#[cfg(test)]
mod bad_histories;
