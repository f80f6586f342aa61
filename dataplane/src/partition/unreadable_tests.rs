//! Tests of batches that cannot be read: they are shown with their range, fetched again, and skipped only by the
//! exact range.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{AbortedTransactions, RecordError};

use super::core::PartitionCore;
use super::effects::{FetchedFrame, PartitionEffects};
use super::model_tests::hold;
use super::pieces_tests::{MIB, PieceDriver, packed, sealed, values};
use crate::messages::batch::BatchId;
use crate::messages::outcome::Outcome;
use crate::messages::resolution::BatchResolution;
use crate::messages::skip::SkipAnswer;
use crate::messages::unreadable::{BatchEnd, READ_RETRY_DELAY};
use crate::partition::attempts::attempt::FailureHandling;
use crate::partition::reader::pieces::PieceLimits;

/// Log with a readable batch of two records, a batch of three that `damage` makes unreadable, and another readable
/// one of two.
fn damaged(damage: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let middle = damage(values(2, &[50, 50, 50]));
    [values(0, &[10, 10]), middle, values(5, &[10, 10])].concat()
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0x55;
    bytes
}

type DamageFn = fn(Vec<u8>) -> Vec<u8>;

/// Kinds of damage in the middle of a log: checksum, codec, structure, magic.
const KINDS: [(&str, DamageFn); 5] = [
    ("checksum", |bytes| flipped(bytes, 100)),
    ("codec", |bytes| packed(&bytes, 3)),
    ("no codec at all", |bytes| sealed(&bytes, 4)),
    ("structure", |bytes| sealed(&flipped(bytes, 61), 0)),
    ("magic", |bytes| {
        let mut bytes = bytes;
        bytes[16] = 1;
        bytes
    }),
];

#[test]
fn alo_1_com_1_unreadable_batch_skipped_only_by_exact_range() {
    for (kind, damage) in KINDS {
        let limits = PieceLimits::of(MIB);
        let mut driver = PieceDriver::new(damaged(damage), 0, MIB, limits);
        driver.run();
        assert!(driver.delivered.keys().copied().eq(0..2), "{kind}: {:?}", driver.delivered);
        let shown = driver.core.unreadable_now().expect("shown").clone();
        assert_eq!((shown.first, shown.damage.end), (Offset(2), BatchEnd::Certain(Offset(5))), "{kind}");
        let named = SkipAnswer::Unreadable { first: Offset(2), end: BatchEnd::Certain(Offset(5)) };
        for (first, end) in [(2, None), (2, Some(4)), (1, Some(5)), (3, Some(5)), (2, Some(7))] {
            assert_eq!(driver.skip(first, end), named, "{kind} {first} {end:?}");
        }
        assert_eq!(driver.ends.len(), 2, "{kind}: nothing was passed");
        assert_eq!(driver.skip(2, Some(5)), SkipAnswer::Skipped, "{kind}");
        assert_eq!(driver.ended(Outcome::Skipped), [2, 3, 4], "{kind}");
        assert!(driver.delivered.keys().copied().eq([0, 1, 5, 6]), "{kind}: {:?}", driver.delivered);
        assert!(driver.core.unreadable_now().is_none(), "{kind}");
    }
}

#[test]
fn alo_1_unreadable_bytes_reach_destination_before_skip() {
    for (kind, damage) in KINDS {
        let policy = FailureHandling { has_destination: true, ..FailureHandling::default() };
        let log = damaged(damage);
        let mut driver = PieceDriver::under(policy, log.clone(), 0, MIB, PieceLimits::of(MIB));
        driver.run();
        assert_eq!(driver.skip(2, Some(5)), SkipAnswer::AfterThisAttempt, "{kind}");
        let [raw] = &driver.raw[..] else { panic!("{kind}: {:?}", driver.raw) };
        assert_eq!(raw.range, OffsetRange { first: Offset(2), end: Offset(5) });
        let (before, behind) = (values(0, &[10, 10]).len(), values(5, &[10, 10]).len());
        assert_eq!(&raw.raw[..], &log[before..log.len() - behind], "{kind}: the batch, and nothing else");
        assert_eq!(driver.ended(Outcome::Skipped), [2, 3, 4], "{kind}");
        assert!(driver.delivered.keys().copied().eq([0, 1, 5, 6]), "{kind}");
    }
}

/// No later batch confirms the end of the range, so the operator decides where to resume.
#[test]
fn unreadable_last_batch_skipped_to_requested_end() {
    let log = [values(0, &[10, 10]), flipped(values(2, &[50, 50, 50]), 100)].concat();
    let mut driver = PieceDriver::new(log, 0, MIB, PieceLimits::of(MIB));
    driver.run();
    let shown = driver.core.unreadable_now().expect("shown").clone();
    assert_eq!(shown.damage.end, BatchEnd::Claimed(Some(Offset(5))));
    assert!(matches!(driver.skip(2, None), SkipAnswer::Unreadable { .. }));
    assert_eq!(driver.skip(2, Some(4)), SkipAnswer::Skipped);
    assert_eq!(driver.ended(Outcome::Skipped), [2, 3]);
    // The broker still returns the same batch.
    assert_eq!(driver.core.unreadable_now().expect("shown").first, Offset(4));
    assert_eq!(driver.skip(4, Some(5)), SkipAnswer::Skipped);
    assert_eq!(driver.ended(Outcome::Skipped), [2, 3, 4]);
}

/// A batch longer than the response looks like one truncated by a fetch limit. It must not be fetched forever without
/// an error.
#[test]
fn batch_with_false_length_is_shown() {
    let mut lie = values(0, &[10, 10]);
    lie[8] = 1;
    let mut driver = PieceDriver::new(lie, 0, MIB, PieceLimits::of(MIB));
    let log = driver.log.clone();
    driver.step(None, PartitionCore::wake);
    driver.step(None, |core, now, context| {
        let (aborted, hold) = (AbortedTransactions::default(), hold());
        core.fetched(now, FetchedFrame { position: Offset(0), records: &log, aborted, hold: &hold }, context)
    });
    let shown = driver.core.unreadable_now().expect("shown");
    assert!(matches!(shown.damage.error, RecordError::Header { .. }), "{shown:?}");
    assert_eq!((shown.first, shown.damage.end), (Offset(0), BatchEnd::Claimed(None)));
}

#[test]
fn accepted_skip_of_unreadable_carried_out_during_drain() {
    let mut driver = PieceDriver::new(damaged(|bytes| flipped(bytes, 100)), 0, MIB, PieceLimits::of(MIB));
    let (seq, partition_batch) = driver.next_offer();
    let (end, batch) = (partition_batch.range.end, BatchId(7));
    driver.step(None, |core, _, context| {
        assert!(core.sealed(seq, end, batch, context));
        PartitionEffects::new()
    });
    assert_eq!(driver.skip(2, Some(5)), SkipAnswer::AfterThisAttempt);
    driver.step(None, PartitionCore::drain);
    driver.step(None, |core, now, context| core.resolved(now, batch, BatchResolution::Delivered, context));
    driver.run();
    assert_eq!(driver.ended(Outcome::Skipped), [2, 3, 4]);
}

/// The bytes were damaged on the way, and are valid when fetched again.
#[test]
fn batch_readable_again_delivered_and_skip_dropped() {
    for has_destination in [false, true] {
        let policy = FailureHandling { has_destination, ..FailureHandling::default() };
        let log = damaged(|bytes| flipped(bytes, 100));
        let mut driver = PieceDriver::under(policy, log, 0, MIB, PieceLimits::of(MIB));
        driver.run();
        assert!(driver.core.unreadable_now().is_some());
        driver.log = damaged(|bytes| bytes).into();
        if has_destination {
            assert_eq!(driver.skip(2, Some(5)), SkipAnswer::AfterThisAttempt);
        } else {
            driver.now = driver.now + READ_RETRY_DELAY;
            driver.run();
        }
        assert!(driver.delivered.keys().copied().eq(0..7), "{:?}", driver.delivered);
        assert!(driver.core.unreadable_now().is_none() && driver.raw.is_empty());
        assert_eq!(driver.skip(3, Some(5)), SkipAnswer::NotUnreadable);
        assert_eq!(driver.skip(3, None), SkipAnswer::NotFailing);
    }
}
