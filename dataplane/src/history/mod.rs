//! What happened, as anyone outside could have seen it, and whether the invariants of the design held: one checker for the
//! simulator, for runs on real Kafka, and for load tests.
//!
//! A recorder that does not know a fact leaves it out (`owner: None`, no [`HistoryEvent::Accounted`]); the rules that need it then
//! say nothing. Two events that the recorder saw in one order must have happened in that order.

pub mod checker;
mod order;
mod records;

use lighterman_proto::units::Moment;

use crate::partition::ledger::Outcome;

pub use checker::{HistoryChecker, check};

/// A process: which node, and which life of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerProcess {
    /// Which node.
    pub node: u32,
    /// How often it had been started.
    pub incarnation: u32,
}

/// A partition's share of an invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvocationShare {
    /// Partition index.
    pub partition: i32,
    /// Under which ownership inside the process; 0 when the recorder does not know.
    pub epoch: u64,
    /// Offsets, in the order of the event.
    pub offsets: Vec<i64>,
    /// Leader epoch of each; empty when the recorder does not know.
    pub leader_epochs: Vec<i32>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryEvent {
    /// A record stands in the log that the function must see, or that must be accounted for.
    Produced {
        /// Where.
        partition: i32,
        /// Which.
        offset: i64,
    },
    /// The log was cut off: what stood from here on never was.
    Truncated {
        /// Where.
        partition: i32,
        /// From here on.
        from: i64,
        /// Leader epoch of what will stand there.
        leader_epoch: i32,
    },
    /// Retention took what lies before.
    Deleted {
        /// Where.
        partition: i32,
        /// First offset that is left.
        before: i64,
    },
    /// The group gave a partition to a process.
    Granted {
        /// Which.
        partition: i32,
        /// To whom.
        owner: OwnerProcess,
    },
    /// A process died: what it started runs on, and nobody hears of its end.
    Gone {
        /// Which.
        owner: OwnerProcess,
    },
    /// The group expelled a process: nothing is its own any more, and it may start nothing.
    Expelled {
        /// Which.
        owner: OwnerProcess,
    },
    /// A process gave up what it owned, because it could not reach the group or the group said so. Until its session is
    /// over the group still keeps its partitions for it, and nobody may start what it has running.
    LetGo {
        /// Which.
        owner: OwnerProcess,
    },
    /// The session of a process that let go is over, counted from the last thing it said that the group acknowledged.
    SessionOver {
        /// Which.
        owner: OwnerProcess,
    },
    /// The function began to run.
    Started {
        /// Which invocation.
        invocation: u64,
        /// Who invoked it.
        owner: Option<OwnerProcess>,
        /// What it was given.
        shares: Vec<InvocationShare>,
    },
    /// The function is through with an invocation.
    Ended {
        /// Which invocation.
        invocation: u64,
        /// Whether it takes the records, those in `failed` apart, and with [`HistoryRules::ordered`] those behind.
        taken: bool,
        /// Partition and offset of what it named as failed.
        failed: Vec<(i32, i64)>,
    },
    /// An invocation or its answer was lost on its way: nobody but the function knows, and it may begin late.
    AnswerLost {
        /// Its partitions.
        partitions: Vec<i32>,
    },
    /// The group took a commit.
    Committed {
        /// Which partition.
        partition: i32,
        /// The offset.
        offset: i64,
        /// Leader epoch of the record before it, −1 when unknown.
        leader_epoch: i32,
    },
    /// The group took a commit whose sender had given it up, and may have been answered for a newer one since.
    CommittedLate {
        /// Which partition.
        partition: i32,
        /// The offset.
        offset: i64,
        /// Leader epoch of the record before it, −1 when unknown.
        leader_epoch: i32,
    },
    /// A node put on record what became of a range.
    Accounted {
        /// Which partition.
        partition: i32,
        /// First offset.
        first: i64,
        /// Offset behind the last.
        end: i64,
        /// What.
        outcome: Outcome,
        /// Leader epoch of the last record before `end`, −1 when unknown.
        leader_epoch: i32,
    },
    /// A record has arrived at the on-failure destination.
    Arrived {
        /// Which partition.
        partition: i32,
        /// Which record.
        offset: i64,
        /// Its leader epoch.
        leader_epoch: i32,
    },
    /// The destination refused for good, and the mapping says to drop.
    Refused {
        /// Which partition.
        partition: i32,
        /// Which record.
        offset: i64,
        /// Its leader epoch.
        leader_epoch: i32,
    },
    /// A person wished a record skipped.
    SkipWished {
        /// Which partition.
        partition: i32,
        /// Which record.
        offset: i64,
    },
    /// A batch was fixed.
    Sealed {
        /// Records in it.
        records: u32,
        /// Bytes of its payload.
        payload_bytes: usize,
        /// Microseconds that its oldest record waited while it could have gone.
        waited_micros: u64,
    },
    /// A slot was taken.
    SlotTaken {
        /// Slots in use with it.
        in_use: u32,
        /// The limit at that moment.
        limit: u32,
    },
    /// Bytes on a node's budget.
    Leased {
        /// Leased now.
        bytes: usize,
    },
    /// A node says that a partition has drained.
    Drained {
        /// Who.
        owner: OwnerProcess,
        /// Which partition.
        partition: i32,
        /// Under which ownership.
        epoch: u64,
        /// Its frontier.
        frontier: i64,
    },
    /// A process has stopped in good order: these bytes are still leased.
    Stopped {
        /// Bytes that never came back.
        bytes: usize,
    },
    /// An acknowledged write to the registry is not there after a restart.
    WriteLost {
        /// What it was.
        what: String,
    },
    /// Faults are over.
    Quiet,
}

/// When it happened, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub at: Moment,
    /// What.
    pub event: HistoryEvent,
}

/// What the recorded run promised to keep: facts that are independent of each other. The default promises what every run does.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRules {
    /// `BatchSize`.
    pub records_max: u32,
    /// Payload limit in bytes.
    pub payload_bytes_max: usize,
    /// Microseconds that a record may wait while it could go: window and one tick.
    pub wait_micros_max: u64,
    /// Bytes that may be leased on one node.
    pub leased_bytes_max: usize,
    /// `MaximumRetryAttempts`.
    pub retries_max: Option<u32>,
    /// Records may expire.
    pub may_expire: bool,
    /// Records may be found too large.
    pub may_be_too_large: bool,
    /// After a partial answer everything of a partition from the first named record on is asked for again: nothing behind it
    /// is taken.
    pub ordered: bool,
    /// Repeats are judged: only an unknown outcome may repeat a batch.
    pub repeats: bool,
    /// Microseconds from [`HistoryEvent::Quiet`] to the end, at most.
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
            quiet_micros_max: u64::MAX,
        }
    }
}

/// The invariants, by the ids of the design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// One owner at any instant.
    Own1,
    /// Offset order.
    Ord1,
    /// Commits.
    Com1,
    /// Every record has an outcome, and only an unknown outcome repeats one.
    Alo1,
    /// Bytes.
    Mem1,
    /// What a batch holds, and how long it waits.
    Lim1,
    /// Slots.
    Slt1,
    /// Drains.
    Drn1,
    /// It ends.
    Liv1,
    /// An acknowledged write survives.
    Durable,
}

impl Invariant {
    /// Its id.
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

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant was broken.
    pub invariant: Invariant,
    /// When.
    pub at: Moment,
    /// How, for people.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} µs: {}", self.invariant.id(), self.at.as_micros(), self.what)
    }
}

#[cfg(test)]
mod bad_histories;
