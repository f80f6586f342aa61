//! Newtypes for offsets, partitions, epochs, consumers and mappings.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Offset in a partition's log. Kafka assigns offsets densely, but a log may have gaps: arithmetic here never
/// assumes that `offset + 1` holds a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// Returns the next offset, which is the one that Kafka stores in a commit.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the number of offsets from `self` to `end`, never negative.
    #[must_use]
    pub const fn distance_to(self, end: Self) -> u64 {
        if end.0 > self.0 { (end.0 - self.0) as u64 } else { 0 }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Range of offsets `first..end`; `end` is exclusive, as in a Kafka commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset of the range.
    pub first: Offset,
    /// First offset after the range.
    pub end: Offset,
}

impl OffsetRange {
    /// Returns true if the range is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end.0 <= self.first.0
    }

    /// Returns true if `offset` is in the range.
    #[must_use]
    pub const fn contains(self, offset: Offset) -> bool {
        self.first.0 <= offset.0 && offset.0 < self.end.0
    }

    /// Splits the range at `offset`, which is inside it or at one of its ends.
    #[must_use]
    pub const fn split_at(self, offset: Offset) -> (Self, Self) {
        (Self { first: self.first, end: offset }, Self { first: offset, end: self.end })
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.first, self.end)
    }
}

/// Partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name, 1–249 characters.
    pub topic: Arc<str>,
    /// Partition index, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Creates a partition of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Ownership generation of a partition within one process. An effect that carries an older epoch is ignored
/// (OWN-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Returns the next epoch.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Consumer of one mapping on one node; the unit that the scaler adds and removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConsumerId(pub u32);

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// UUID of an event source mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MappingId(pub uuid::Uuid);

impl fmt::Display for MappingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
