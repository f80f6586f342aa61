//! Outcomes of offsets.

use lighterman_proto::ids::OffsetRange;

/// Outcome of an offset. Every offset ends with exactly one (ALO-1); a new way to end is a new variant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The function succeeded for it. An offset without a record between delivered ones counts with them.
    Delivered,
    /// There is no record at the offset: control record, aborted transaction, compaction gap.
    NoRecord,
    /// Rejected by the mapping's filters.
    Filtered,
    /// Acknowledged by the on-failure destination.
    DeadLettered,
    /// Older than `MaximumRecordAgeInSeconds`, and there is no destination.
    Expired,
    /// `MaximumRetryAttempts` are used up, and there is no destination.
    Exhausted,
    /// Its payload alone exceeds the invocation limit, and there is no destination.
    Oversized,
    /// The destination failed, and the mapping is configured to drop the record rather than hold it.
    Dropped,
    /// Skipped by an operator while it was failing.
    Skipped,
    /// Deleted by the topic's retention, or truncated by the broker, before it was read.
    Lost,
    /// Resolved beyond the frontier by an earlier owner, whose audit has the actual outcome.
    ResolvedEarlier,
}

impl Outcome {
    /// All outcomes, in the order of their counts.
    pub const ALL: [Self; 11] = [
        Self::Delivered,
        Self::NoRecord,
        Self::Filtered,
        Self::DeadLettered,
        Self::Expired,
        Self::Exhausted,
        Self::Oversized,
        Self::Dropped,
        Self::Skipped,
        Self::Lost,
        Self::ResolvedEarlier,
    ];

    /// Returns the name used in metrics and messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::NoRecord => "absent",
            Self::Filtered => "filtered",
            Self::DeadLettered => "dead_lettered",
            Self::Expired => "expired",
            Self::Exhausted => "exhausted",
            Self::Oversized => "oversized",
            Self::Dropped => "dropped",
            Self::Skipped => "skipped",
            Self::Lost => "lost",
            Self::ResolvedEarlier => "resolved_earlier",
        }
    }

    /// True if an operator may ask about the outcome later; false for outcomes of ordinary operation.
    pub fn is_notable(self) -> bool {
        !matches!(self, Self::Delivered | Self::NoRecord | Self::Filtered)
    }

    /// True if the next owner must not process the record again when it finds it beyond the frontier. It recognizes
    /// filtered and absent offsets itself.
    pub fn is_worth_remembering(self) -> bool {
        !matches!(self, Self::NoRecord | Self::Filtered)
    }
}

/// Range of offsets with one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedRange {
    /// The offsets.
    pub range: OffsetRange,
    /// Outcome of all of them.
    pub outcome: Outcome,
}
