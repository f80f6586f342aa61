//! A piece of work: a cut with what has been tried on it. What a failure makes of it is decided here.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::Offset;
use lighterman_proto::records::Record;
use lighterman_proto::units::TimestampMs;

use super::batch::PartitionBatch;
use crate::invoker::outcome::AnswerFacts;

/// What a mapping wants done with records that fail.
/// <https://docs.aws.amazon.com/lambda/latest/dg/kafka-retry-configurations.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureHandling {
    /// Attempts beyond the first, as they are in force; `None`: for ever.
    pub retries_max: Option<u32>,
    /// Records older than this are not tried (any more); `None`: however old.
    pub record_age_max: Option<Duration>,
    /// `BisectBatchOnFunctionError`.
    pub bisect: bool,
    /// After a partial failure only the records that were named are tried again, not those behind them.
    pub named_only: bool,
    /// There is an on-failure destination.
    pub has_destination: bool,
}

/// An attempt that failed, as people and destinations read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptFailure {
    /// When, on the wall clock.
    pub at: TimestampMs,
    /// `errorType` of the function's answer, or what kind of failure it was.
    pub error_type: String,
    /// At most 1 KiB.
    pub message: String,
    /// What Lambda answered, when it did.
    pub answer: Option<AnswerFacts>,
}

/// What is known of the failures of records, for whoever takes them over on this node: beside a committed offset there is
/// no room for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFailures {
    /// The first one.
    pub first: Arc<AttemptFailure>,
    /// The last one.
    pub last: Arc<AttemptFailure>,
}

/// Records that are tried together, and what has become of the tries.
#[derive(Clone, Debug)]
pub struct RecordAttempt {
    /// The records.
    pub batch: PartitionBatch,
    /// Attempts used up.
    pub attempts_used: u32,
    /// The records never share a batch with other partitions, and no others are added.
    pub exclusive: bool,
    /// It failed while no other partition was in the batch.
    pub failed_alone: bool,
    /// When it failed first: milliseconds since the Unix epoch.
    pub first_failure_ms: Option<i64>,
    /// The first failure that this owner has seen.
    pub first: Option<Arc<AttemptFailure>>,
    /// The last one.
    pub last: Option<Arc<AttemptFailure>>,
    /// It is not tried any more, and why.
    pub give_up_reason: Option<FailureCondition>,
    /// An attempt at it was made that did not resolve it.
    pub held_up: bool,
}

impl RecordAttempt {
    /// Work that nobody has tried.
    pub fn fresh(cut: PartitionBatch) -> Self {
        Self {
            batch: cut,
            attempts_used: 0,
            exclusive: false,
            failed_alone: false,
            first_failure_ms: None,
            first: None,
            last: None,
            give_up_reason: None,
            held_up: false,
        }
    }

    /// Nothing, from `first` on.
    pub fn none(first: Offset) -> Self {
        Self::fresh(PartitionBatch::empty(first))
    }

    /// The attempt that comes next, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempts_used.saturating_add(1)
    }

    /// Whether the record at `offset` is in it.
    pub fn holds(&self, offset: Offset) -> bool {
        self.batch.range.contains(offset) && self.batch.walk().any(|record| record.offset == offset)
    }

    /// Whether an attempt is known to have failed.
    pub fn has_failed(&self) -> bool {
        self.first_failure_ms.is_some()
    }

    /// What is known of its failures, if anything is.
    pub fn failures(&self) -> Option<KnownFailures> {
        Some(KnownFailures { first: self.first.clone()?, last: self.last.clone()? })
    }

    /// What an owner before us knew of its failures.
    pub fn remember(&mut self, known: &KnownFailures) {
        (self.first, self.last) = (Some(Arc::clone(&known.first)), Some(Arc::clone(&known.last)));
    }

    /// Whether records may still be added.
    pub fn may_grow(&self) -> bool {
        !self.exclusive && self.give_up_reason.is_none()
    }

    /// The same history over other records.
    #[must_use]
    pub fn with_records(&self, cut: PartitionBatch) -> Self {
        Self { batch: cut, exclusive: true, ..self.clone() }
    }

    /// Remembers a failure.
    pub fn failed(&mut self, failure: Arc<AttemptFailure>) {
        self.first_failure_ms = self.first_failure_ms.or(Some(failure.at.0));
        self.first.get_or_insert_with(|| Arc::clone(&failure));
        self.last = Some(failure);
        self.exclusive = true;
    }

    /// Whether the attempts are used up. Records are given up only when they are known to have failed, and failed without
    /// another partition's records beside them: a node that died, or a neighbour's poison, is not their fault.
    pub fn is_exhausted(&self, policy: &FailureHandling) -> bool {
        let attempts_max = policy.retries_max.map(|retries| retries.saturating_add(1));
        self.has_failed()
            && self.failed_alone
            && attempts_max.is_some_and(|most| {
                mutant!("retries-one-too-few", self.attempts_used >= most, self.attempts_used + 1 >= most)
            })
    }
}

/// Whether a record is too old to be tried.
pub fn is_expired(record: &Record<'_>, age_max: Duration, wall: TimestampMs) -> bool {
    until_expired(record, age_max, wall).is_some_and(|left| left.is_zero())
}

/// How long until a record is too old to be tried. Age is now − timestamp, and what it may be at most is not too old; a
/// record without a timestamp has no age.
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
    fn records_are_given_up_for_what_they_did_themselves() {
        let mut work = RecordAttempt::none(Offset(0));
        work.attempts_used = 9;
        assert!(!work.is_exhausted(&limited(3)), "nine owners died; nobody knows that it failed");
        work.failed(failure());
        assert!(!work.is_exhausted(&limited(3)), "it failed beside another partition's records");
        work.failed_alone = true;
        assert!(work.is_exhausted(&limited(3)));
        assert!(!work.is_exhausted(&limited(9)));
        assert!(!work.is_exhausted(&FailureHandling::default()), "without a limit, never");
    }
}
