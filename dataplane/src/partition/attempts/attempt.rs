//! Attempts at a batch of records, and the rules for records that fail.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::commit_metadata::ProgressPiece;
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::Record;
use lighterman_proto::units::TimestampMs;

use crate::messages::dead_letter::AbandonedRecords;
use crate::messages::records::PartitionBatch;
use crate::messages::resolution::{AttemptFailure, KnownFailures};
use crate::partition::progress::inherited::InheritedPiece;

/// Handling of records that fail, as configured for a mapping.
/// <https://docs.aws.amazon.com/lambda/latest/dg/kafka-retry-configurations.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureHandling {
    /// Effective limit of attempts beyond the first; `None`: unlimited.
    pub retries_max: Option<u32>,
    /// Maximum age of a record; older ones are not attempted. `None`: unlimited.
    pub record_age_max: Option<Duration>,
    /// `BisectBatchOnFunctionError`.
    pub bisect: bool,
    /// Set if a partial failure retries only the reported records, and not the ones after them.
    pub named_only: bool,
    /// Set if there is an on-failure destination.
    pub has_destination: bool,
}

/// Records that are attempted together, with the history of their attempts.
#[derive(Clone, Debug)]
pub struct RecordAttempt {
    /// The records.
    pub batch: PartitionBatch,
    /// Number of attempts used up.
    pub attempts_used: u32,
    /// Set if the records must not share a batch with other partitions, and no records may be added.
    pub exclusive: bool,
    /// Set once an attempt failed without another partition's records in the batch.
    pub(super) failed_alone: bool,
    /// Time of the first failure, in milliseconds since the Unix epoch.
    pub first_failure_ms: Option<i64>,
    /// The first failure that this owner has seen.
    pub first: Option<Arc<AttemptFailure>>,
    /// The last failure that this owner has seen.
    pub last: Option<Arc<AttemptFailure>>,
    /// Reason that the records are not attempted; `None` while they are.
    pub give_up_reason: Option<FailureCondition>,
    /// Set after an attempt that did not resolve the records.
    pub(super) is_retry: bool,
}

impl RecordAttempt {
    /// Returns the part of the attempt that a destination gets.
    pub fn abandoned(&self) -> AbandonedRecords {
        AbandonedRecords {
            batch: self.batch.clone(),
            attempts_used: self.attempts_used,
            last: self.last.clone(),
        }
    }

    /// Creates an attempt at records that have not been tried.
    pub fn fresh(partition_batch: PartitionBatch) -> Self {
        Self {
            batch: partition_batch,
            attempts_used: 0,
            exclusive: false,
            failed_alone: false,
            first_failure_ms: None,
            first: None,
            last: None,
            give_up_reason: None,
            is_retry: false,
        }
    }

    /// Creates an attempt without records, at `first`.
    pub fn none(first: Offset) -> Self {
        Self::fresh(PartitionBatch::empty(first))
    }

    /// Number of the next attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempts_used.saturating_add(1)
    }

    /// True if the record at `offset` is part of the attempt.
    pub fn holds(&self, offset: Offset) -> bool {
        self.batch.range.contains(offset) && self.batch.walk().any(|record| record.offset == offset)
    }

    /// True if an attempt is known to have failed.
    pub fn has_failed(&self) -> bool {
        self.first_failure_ms.is_some()
    }

    /// True if no attempt was made at these records, and nothing of them must be on record before the first one.
    pub(in crate::partition) fn is_untried(&self) -> bool {
        self.attempts_used == 0 && !self.is_retry && !self.has_failed() && self.may_grow()
    }

    /// Returns the known failures, if there are any.
    pub fn failures(&self) -> Option<KnownFailures> {
        Some(KnownFailures { first: self.first.clone()?, last: self.last.clone()? })
    }

    /// Returns the piece to commit for these records, with `attempts` made.
    pub(in crate::partition) fn piece(&self, frontier: Offset, attempts: u32) -> ProgressPiece {
        let from = self.batch.range.first.max(frontier);
        let length = if self.may_grow() { 0 } else { from.distance_to(self.batch.range.end) };
        ProgressPiece { length, attempts, alone: self.failed_alone }
    }

    /// Moves the start of the batch to `frontier`, if that is within the batch.
    pub(super) fn move_start_to(&mut self, frontier: Offset) {
        let OffsetRange { first, end } = self.batch.range;
        self.batch.range.first = first.max(frontier).min(end);
    }

    /// Takes over the history of an earlier owner's piece, which gets no further records.
    pub(super) fn resume(&mut self, piece: &InheritedPiece) {
        self.attempts_used = piece.attempts_used;
        self.failed_alone = piece.failed_alone;
        self.first_failure_ms = piece.first_failure_ms;
        self.exclusive = true;
    }

    /// Uses up an attempt; the batch is `mixed` if it held other partitions' records.
    pub(super) fn use_up(&mut self, mixed: bool) {
        self.attempts_used = self.attempts_used.saturating_add(1);
        self.failed_alone |= !mixed;
    }

    /// Takes over the failures known to an earlier owner.
    pub fn remember(&mut self, known: &KnownFailures) {
        (self.first, self.last) = (Some(Arc::clone(&known.first)), Some(Arc::clone(&known.last)));
    }

    /// True if records may still be added.
    pub fn may_grow(&self) -> bool {
        !self.exclusive && self.give_up_reason.is_none()
    }

    /// Returns the same history for other records.
    #[must_use]
    pub fn with_records(&self, partition_batch: PartitionBatch) -> Self {
        Self { batch: partition_batch, exclusive: true, ..self.clone() }
    }

    /// Returns the same history for the second half of a split batch, to be attempted after the first.
    pub(super) fn second_half(&self, back: PartitionBatch) -> Self {
        mutant!(
            "bisecting-loses-a-half",
            self.with_records(back),
            self.with_records(PartitionBatch::empty(back.range.first))
        )
    }

    /// Stores a failure.
    pub fn failed(&mut self, failure: Arc<AttemptFailure>) {
        self.first_failure_ms = self.first_failure_ms.or(Some(failure.at.0));
        self.first.get_or_insert_with(|| Arc::clone(&failure));
        self.last = Some(failure);
        self.exclusive = true;
    }

    /// True if the attempts are used up. Records count as exhausted only after a known failure in a batch without
    /// other partitions' records: they are not to blame for a node that died, nor for another partition's poison
    /// record.
    pub fn is_exhausted(&self, policy: &FailureHandling) -> bool {
        let attempts_max = policy.retries_max.map(|retries| retries.saturating_add(1));
        self.has_failed() && self.failed_alone && attempts_max.is_some_and(|most| self.has_used(most))
    }

    /// True if `attempts_max` attempts were made.
    fn has_used(&self, attempts_max: u32) -> bool {
        mutant!(
            "retries-one-too-few",
            self.attempts_used >= attempts_max,
            self.attempts_used + 1 >= attempts_max
        )
    }
}

/// True if a record is too old to be attempted.
pub fn is_expired(record: &Record<'_>, age_max: Duration, wall: TimestampMs) -> bool {
    until_expired(record, age_max, wall).is_some_and(|left| left.is_zero())
}

/// Returns the time until a record is too old to be attempted. Its age is now − timestamp, and an age of exactly
/// `age_max` is still allowed. A record without a timestamp has no age.
pub fn until_expired(record: &Record<'_>, age_max: Duration, wall: TimestampMs) -> Option<Duration> {
    let timestamp = record.timestamp.0;
    let from = i128::from(timestamp) + age_max.as_millis() as i128 + 1;
    let left = u64::try_from((from - i128::from(wall.0)).max(0)).unwrap_or(u64::MAX);
    (timestamp >= 0).then(|| Duration::from_millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Arc<AttemptFailure> {
        Arc::new(AttemptFailure {
            at: TimestampMs(5),
            error_type: "E".into(),
            message: String::new(),
            answer: None,
        })
    }

    fn limited(retries_max: u32) -> FailureHandling {
        FailureHandling { retries_max: Some(retries_max), ..FailureHandling::default() }
    }

    #[test]
    fn exhausted_only_after_known_failure_alone() {
        let mut work = RecordAttempt::none(Offset(0));
        work.attempts_used = 9;
        assert!(!work.is_exhausted(&limited(3)), "nine owners died without a known failure");
        work.failed(failure());
        assert!(!work.is_exhausted(&limited(3)), "it failed together with another partition's records");
        work.failed_alone = true;
        assert!(work.is_exhausted(&limited(3)));
        assert!(!work.is_exhausted(&limited(9)));
        assert!(!work.is_exhausted(&FailureHandling::default()), "without a limit, never");
    }
}
