//! Tests of an earlier owner's progress on a log that has changed since: truncated and rewritten, or deleted by
//! retention.

use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::commit_metadata::{CommittedProgress, ProgressPiece};
use lighterman_proto::ids::Offset;
use lighterman_proto::records::{AbortedTransactions, BatchHeader, RecordError};
use lighterman_proto::units::{Moment, TimestampMs};

use super::core::PartitionCore;
use super::effects::{CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects};
use super::model_tests::{IDENTITY, PlainTools, hold};
use crate::messages::batch::BatchId;
use crate::messages::dead_letter::DeadLetterResult;
use crate::messages::offer::Offer;
use crate::messages::outcome::Outcome;
use crate::messages::records::{PartitionBatchLimits, SharedLease};
use crate::messages::resolution::BatchResolution;
use crate::partition::attempts::attempt::FailureHandling;
use crate::partition::progress::commit_window::CommitWindowLimits;
use crate::partition::reader::fetch_buffer::{BatchOpener, OpenedBatch, PlainSize};
use crate::partition::reader::pieces::{NextPiece, PiecedBatch};

const NOW: Moment = Moment::from_micros(1);

/// Next owner of the partition, which resumes at 0.
struct NextOwner {
    core: PartitionCore,
    batch_opener: Box<dyn BatchOpener>,
}

impl NextOwner {
    fn of(left: Option<CommittedProgress>, policy: FailureHandling) -> Self {
        let core = PartitionCore::new(PartitionConfig {
            identity: IDENTITY,
            key_bytes: 0,
            committed: Offset(0),
            leader_epoch: -1,
            progress: left,
            failures: None,
            policy,
            filters: 0,
            limits: PartitionBatchLimits { records_max: 8, payload_bytes_max: 4_000 },
            commit_window: CommitWindowLimits::CLOSED,
            buffer_bytes_target: 600,
        });
        let mut successor = Self { core, batch_opener: Box::new(PlainTools) };
        successor.step(|core, context| core.wake(NOW, context));
        successor
    }

    fn step(
        &mut self,
        event: impl FnOnce(&mut PartitionCore, &mut CoreContext<'_>) -> PartitionEffects,
    ) -> PartitionEffects {
        let batch_opener = &mut *self.batch_opener;
        event(
            &mut self.core,
            &mut CoreContext {
                batch_opener,
                sizer: &PlainTools,
                record_filter: &PlainTools,
                wall: TimestampMs(0),
            },
        )
    }

    fn fetch(&mut self, records: &Bytes) -> PartitionEffects {
        let (position, hold) = (self.core.position(), hold());
        let aborted = AbortedTransactions::default();
        self.step(|core, context| {
            core.fetched(NOW, FetchedFrame { position, records, aborted, hold: &hold }, context)
        })
    }

    fn find_log_between(&mut self, start: i64, end: i64) {
        self.step(|core, context| core.out_of_range(NOW, Offset(start), Offset(end), context));
    }

    fn acknowledge(&mut self, seq: u64) {
        self.step(|core, context| core.committed(NOW, seq, context));
    }

    fn in_work(&self) -> Vec<i64> {
        self.core.work().batch.walk().map(|record| record.offset.0).collect()
    }

    fn count(&self, outcome: Outcome) -> u64 {
        self.core.ledger().count(outcome)
    }
}

/// Returns a batch of `count` records. The checksum does not cover the leader epoch.
fn batch(base: i64, count: i64, leader_epoch: i32) -> Vec<u8> {
    let deltas: Vec<(i64, usize)> = (0..count).map(|delta| (delta, 20)).collect();
    let mut batch = super::model_tests::batch(base, &deltas, count - 1, false).to_vec();
    batch[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
    batch
}

fn failed_together(length: u64, attempts: u32) -> CommittedProgress {
    let pieces = vec![ProgressPiece { length, attempts, alone: true }];
    CommittedProgress { pieces, first_failure_ms: Some(5), ..CommittedProgress::default() }
}

fn retrying(retries_max: u32) -> FailureHandling {
    FailureHandling { retries_max: Some(retries_max), ..FailureHandling::default() }
}

/// A log that was truncated and rewritten has a later leader epoch in its batches.
#[test]
fn alo_1_progress_of_truncated_records_not_applied_to_replacements() {
    let first_offer = |leader_epoch: i32| {
        let resolved = vec![(1, 1), (1, 1)];
        let left = CommittedProgress { leader_epoch: Some(3), resolved, ..failed_together(2, 2) };
        let mut successor = NextOwner::of(Some(left), retrying(3));
        successor.fetch(&batch(0, 5, leader_epoch).into());
        successor.acknowledge(1);
        (successor.in_work(), successor.core.work().attempts_used, successor.count(Outcome::ResolvedEarlier))
    };
    assert_eq!(first_offer(3), (vec![0], 2, 1), "progress is inherited");
    assert_eq!(first_offer(4), (vec![0, 1, 2, 3, 4], 0, 0), "other records without any attempt");
}

#[test]
fn alo_1_records_resolved_beyond_retention_loss_not_retried() {
    let left = CommittedProgress { resolved: vec![(1, 4)], ..failed_together(5, 1) };
    let mut successor = NextOwner::of(Some(left), retrying(0));
    successor.find_log_between(3, 6);
    successor.acknowledge(1);
    successor.fetch(&batch(3, 3, 0).into());
    for seq in 2..5 {
        successor.acknowledge(seq);
    }
    let counted =
        [Outcome::Lost, Outcome::ResolvedEarlier, Outcome::Exhausted].map(|outcome| successor.count(outcome));
    assert_eq!(counted, [1, 4, 0], "only the first record is lost");
    assert_eq!(successor.in_work(), [5]);
}

#[test]
fn liv_1_inherited_batch_starts_partial_when_rest_lost() {
    let mut successor = NextOwner::of(Some(failed_together(5, 1)), FailureHandling::default());
    successor.fetch(&batch(0, 2, 0).into());
    assert!(!successor.core.work().exclusive, "the rest may still arrive");
    successor.find_log_between(9, 12);
    let work = successor.core.work();
    assert_eq!((successor.in_work(), work.attempts_used, work.exclusive), (vec![0, 1], 1, true));
}

/// A recreated topic: the offered records belong to another log.
#[test]
fn alo_1_h17_log_ending_before_position_restarts_once() {
    let mut successor = NextOwner::of(None, FailureHandling::default());
    successor.fetch(&batch(0, 9, 0).into());
    let effects = successor.step(|core, context| core.out_of_range(NOW, Offset(0), Offset(4), context));
    assert!(
        matches!(
            effects[..],
            [PartitionEffect::CancelFetch, PartitionEffect::Withdraw { .. }, PartitionEffect::StartNewLog]
        ),
        "nothing is committed, nothing else is wanted: {effects:?}"
    );
    for late in [successor.step(|core, _| core.parted()), successor.step(|core, _| core.diverged(Offset(2)))]
    {
        assert!(late.is_empty(), "the partition has ended: {late:?}");
    }
    let mut draining = NextOwner::of(None, FailureHandling::default());
    draining.fetch(&batch(0, 9, 0).into());
    draining.step(|core, context| core.drain(NOW, context));
    for late in [draining.step(|core, _| core.parted()), draining.step(|core, _| core.diverged(Offset(2)))] {
        assert!(late.is_empty(), "DRN-1: only the drain is reported: {late:?}");
    }
}

/// Returns the ways in which a partition's log is found to be another one.
fn endings() -> [fn(&mut NextOwner) -> PartitionEffects; 3] {
    [
        |successor| successor.step(|core, _| core.parted()),
        |successor| successor.step(|core, _| core.diverged(Offset(4))),
        |successor| successor.step(|core, context| core.out_of_range(NOW, Offset(0), Offset(4), context)),
    ]
}

/// The log is found to be another one while a batch is in flight and later records are held.
#[test]
fn com_1_mem_1_h17_late_result_after_log_replacement_commits_nothing() {
    for end in endings() {
        let mut successor = NextOwner::of(None, FailureHandling::default());
        let (records, hold) = (Bytes::from([batch(0, 9, 0), batch(9, 5, 0)].concat()), hold());
        let effects = successor.step(|core, context| {
            let aborted = AbortedTransactions::default();
            core.fetched(
                NOW,
                FetchedFrame { position: Offset(0), records: &records, aborted, hold: &hold },
                context,
            )
        });
        let seq = offered(&effects).expect("a batch");
        drop(effects);
        successor.step(|core, context| {
            assert!(core.sealed(seq, Offset(8), BatchId(1), context));
            PartitionEffects::new()
        });
        assert!(Arc::strong_count(&hold) > 1);
        let effects = end(&mut successor);
        assert!(
            matches!(effects.last(), Some(PartitionEffect::StartNewLog | PartitionEffect::Restart { .. })),
            "{effects:?}"
        );
        assert_eq!(Arc::strong_count(&hold), 1, "a running invocation does not keep records in memory");
        assert_eq!(successor.core.buffered_bytes(), 0);
        let late = successor
            .step(|core, context| core.resolved(NOW, BatchId(1), BatchResolution::Delivered, context));
        assert!(late.is_empty(), "{late:?}");
    }
}

/// The destination may have accepted the records before the request to stop.
#[test]
fn com_1_h17_late_dead_letter_after_log_replacement_commits_nothing() {
    for end in endings() {
        for dead_letter_result in
            [DeadLetterResult::Acknowledged, DeadLetterResult::Dropped, DeadLetterResult::Stopped]
        {
            let policy = FailureHandling { has_destination: true, ..retrying(0) };
            let mut successor = NextOwner::of(Some(failed_together(5, 1)), policy);
            successor.fetch(&batch(0, 5, 0).into());
            let effects = successor.step(|core, context| core.committed(NOW, 1, context));
            let sent = effects.iter().find_map(|effect| match effect {
                PartitionEffect::DeadLetter { request_id, .. } => Some(*request_id),
                _ => None,
            });
            let request_id = sent.expect("its attempts are exhausted");
            let effects = end(&mut successor);
            assert!(
                effects.iter().any(|effect| matches!(effect, PartitionEffect::CancelDeadLetter { .. })),
                "{effects:?}"
            );
            let late = successor
                .step(|core, context| core.dead_letter_result(NOW, request_id, dead_letter_result, context));
            assert!(late.is_empty(), "{dead_letter_result:?}: {late:?}");
        }
    }
}

fn offered(effects: &PartitionEffects) -> Option<u64> {
    effects.iter().find_map(|effect| match effect {
        PartitionEffect::Offer(Offer { seq, .. }) => Some(*seq),
        _ => None,
    })
}

/// Opener that fails to decompress any batch.
struct FailingOpener;

impl BatchOpener for FailingOpener {
    fn open(
        &mut self,
        _: &BatchHeader,
        _: &Bytes,
        _: Option<PlainSize>,
        _: &SharedLease,
    ) -> Result<OpenedBatch, RecordError> {
        Err(RecordError::TooLarge { bytes_max: 0 })
    }

    fn next_piece(&mut self, _: &mut PiecedBatch) -> Result<NextPiece, RecordError> {
        Ok(NextPiece::Later)
    }

    fn has_waiters(&self) -> bool {
        false
    }

    fn lend(&mut self, _: usize) -> Option<SharedLease> {
        Some(hold())
    }
}

/// The records after the position were read once, under a later leader, and are read again.
#[test]
fn h13_fetch_carries_leader_epoch_of_preceding_record() {
    let mut successor = NextOwner::of(None, FailureHandling::default());
    successor.batch_opener = Box::new(FailingOpener);
    let mut packed = batch(2, 2, 2);
    // Attributes: gzip.
    packed[22] = 1;
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &packed[21..]) as u32;
    packed[17..21].copy_from_slice(&checksum.to_be_bytes());
    successor.fetch(&[batch(0, 2, 1), packed].concat().into());
    assert_eq!(successor.core.position(), Offset(2), "the second batch cannot be read");
    let later = NOW + crate::messages::unreadable::READ_RETRY_DELAY;
    let effects = successor.step(|core, context| core.wake(later, context));
    let asked = effects.iter().find_map(|effect| match effect {
        PartitionEffect::Fetch { position, leader_epoch, .. } => Some((position.0, *leader_epoch)),
        _ => None,
    });
    assert_eq!(asked, Some((2, 1)));
}
