//! Names of things, as types.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A position in one partition's log. Kafka's offsets are dense in time, sparse in records: arithmetic here never
/// assumes that `offset + 1` holds a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The offset after this one: what Kafka stores in a commit.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Records between `self` and `end`, never negative.
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

/// Offsets `first..end`; `end` is exclusive, as in a Kafka commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset inside.
    pub first: Offset,
    /// First offset behind.
    pub end: Offset,
}

impl OffsetRange {
    /// True when nothing lies inside.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end.0 <= self.first.0
    }

    /// True when `offset` lies inside.
    #[must_use]
    pub const fn contains(self, offset: Offset) -> bool {
        self.first.0 <= offset.0 && offset.0 < self.end.0
    }

    /// What lies before `offset`, and the rest; `offset` lies inside or at an end.
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

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// Topic name, 1–249 characters.
    pub topic: Arc<str>,
    /// Partition index, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Ownership generation of a partition inside one process. An effect that carries an older epoch changes nothing (OWN-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
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

/// A consumer of one mapping on one node: what the scaler adds and removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConsumerId(pub u32);

impl fmt::Display for ConsumerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The UUID of an event source mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MappingId(pub uuid::Uuid);

impl fmt::Display for MappingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
