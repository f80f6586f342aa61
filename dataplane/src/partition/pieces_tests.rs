//! Tests of the partition core with real codecs and a real budget: batches in pieces.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use lighterman_proto::ids::Offset;
use lighterman_proto::records::{AbortedTransactions, BatchInflater};
use lighterman_proto::units::{Moment, TimestampMs};
use proptest::prelude::*;

use super::core::PartitionCore;
use super::decompress::LeasedDecompressor;
use super::effects::{
    CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects, PartitionEvent,
};
use super::model_tests::{IDENTITY, PlainTools, batch};
use crate::credit::memory_budget::{MemoryBudget, MemoryLease};
use crate::messages::batch::BatchId;
use crate::messages::commit::CommitRequest;
use crate::messages::dead_letter::{DeadLetterResult, RawBatch};
use crate::messages::offer::Offer;
use crate::messages::outcome::Outcome;
use crate::messages::records::{PartitionBatch, PartitionBatchLimits, SharedLease};
use crate::messages::resolution::BatchResolution;
use crate::messages::skip::SkipAnswer;
use crate::partition::attempts::attempt::FailureHandling;
use crate::partition::progress::commit_window::CommitWindowLimits;
use crate::partition::reader::pieces::PieceLimits;

pub(super) const MIB: usize = 1 << 20;
const NOW: Moment = Moment::from_micros(1);

/// Compresses the uncompressed batch `plain` with zstd and removes `removed_bytes` bytes at its end; the checksum is valid.
pub(super) fn packed(plain: &[u8], removed_bytes: usize) -> Vec<u8> {
    let mut body = zstd::encode_all(&plain[61..], 1).expect("memory");
    body.truncate(body.len() - removed_bytes);
    sealed(&[&plain[..61], &body].concat(), 4)
}

/// Returns the batch with `codec` set, and with its length and checksum recomputed.
pub(super) fn sealed(bytes: &[u8], codec: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let length = bytes.len() as u32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[22] = codec;
    let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[21..]) as u32;
    bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

pub(super) fn values(base: i64, sizes: &[usize]) -> Vec<u8> {
    let deltas: Vec<(i64, usize)> = sizes.iter().enumerate().map(|(at, size)| (at as i64, *size)).collect();
    batch(base, &deltas, sizes.len() as i64 - 1, false).to_vec()
}

/// Partition whose effects are carried out at once, with the outcomes of its records.
pub(super) struct PieceDriver {
    pub(super) core: PartitionCore,
    inflater: RefCell<BatchInflater>,
    budget: MemoryBudget,
    limits: PieceLimits,
    pub(super) log: Bytes,
    /// Offset after the last batch.
    end: i64,
    pub(super) now: Moment,
    queue: VecDeque<PartitionEffect>,
    offer: Option<(u64, PartitionBatch)>,
    wanted: Option<Offset>,
    pub(super) delivered: BTreeMap<i64, usize>,
    unheld: Vec<i64>,
    pub(super) raw: Vec<RawBatch>,
    pub(super) ends: BTreeMap<i64, Outcome>,
    turns: u32,
    leased_max: usize,
    batches: u64,
}

impl PieceDriver {
    pub(super) fn new(log: Vec<u8>, committed: i64, budget_bytes: usize, limits: PieceLimits) -> Self {
        Self::under(FailureHandling::default(), log, committed, budget_bytes, limits)
    }

    pub(super) fn under(
        policy: FailureHandling,
        log: Vec<u8>,
        committed: i64,
        budget_bytes: usize,
        limits: PieceLimits,
    ) -> Self {
        let core = PartitionCore::new(PartitionConfig {
            identity: IDENTITY,
            key_bytes: 0,
            committed: Offset(committed),
            leader_epoch: -1,
            progress: None,
            failures: None,
            policy,
            filters: 0,
            limits: PartitionBatchLimits { records_max: 100, payload_bytes_max: 6 * MIB },
            commit_window: CommitWindowLimits::CLOSED,
            buffer_bytes_target: MIB,
        });
        let mut at = 0;
        let mut end = 0;
        while let Some(header) = log.get(at..at + 27) {
            // By lengths alone: batches that cannot be read have an end too.
            let number = |from: usize, bytes: usize| {
                header[from..from + bytes].iter().fold(0i64, |number, byte| number << 8 | i64::from(*byte))
            };
            end = number(0, 8) + number(23, 4) + 1;
            at += number(8, 4) as usize + 12;
        }
        Self {
            end,
            core,
            inflater: RefCell::default(),
            budget: MemoryBudget::new(budget_bytes),
            limits,
            log: log.into(),
            now: NOW,
            queue: VecDeque::new(),
            offer: None,
            wanted: None,
            delivered: BTreeMap::new(),
            unheld: Vec::new(),
            raw: Vec::new(),
            ends: BTreeMap::new(),
            turns: 0,
            leased_max: 0,
            batches: 0,
        }
    }

    pub(super) fn step(
        &mut self,
        granted: Option<MemoryLease>,
        event: impl FnOnce(&mut PartitionCore, Moment, &mut CoreContext<'_>) -> PartitionEffects,
    ) {
        let (inflater, budget, limits) = (&self.inflater, &self.budget, self.limits);
        let mut batch_opener = LeasedDecompressor { inflater, budget, limits, spent: 0, granted };
        let batch_opener = &mut batch_opener;
        let mut context = CoreContext {
            batch_opener,
            sizer: &PlainTools,
            record_filter: &PlainTools,
            wall: TimestampMs(0),
        };
        let effects = event(&mut self.core, self.now, &mut context);
        self.queue.extend(effects);
        self.leased_max = self.leased_max.max(self.budget.leased());
    }

    /// Runs until nothing can be done at once.
    pub(super) fn run(&mut self) {
        self.step(None, PartitionCore::wake);
        loop {
            while let Some(effect) = self.queue.pop_front() {
                self.carry_out(effect);
            }
            let log_end = self.log_end();
            if let Some((seq, partition_batch)) = self.offer.take() {
                self.deliver(seq, &partition_batch);
            } else if let Some(position) = self.wanted.take_if(|position| position.0 < log_end) {
                self.fetch(position);
            } else {
                return;
            }
        }
    }

    /// Runs until records are offered.
    pub(super) fn next_offer(&mut self) -> (u64, PartitionBatch) {
        self.step(None, PartitionCore::wake);
        loop {
            while let Some(effect) = self.queue.pop_front() {
                self.carry_out(effect);
            }
            if let Some(offer) = self.offer.take() {
                return offer;
            }
            let position = self.wanted.take().expect("the next fetch is requested");
            self.fetch(position);
        }
    }

    fn log_end(&self) -> i64 {
        self.end
    }

    fn fetch(&mut self, position: Offset) {
        let hold: SharedLease = Arc::new(self.budget.try_lease(self.log.len()).expect("room"));
        let log = self.log.clone();
        self.step(None, |core, now, context| {
            let aborted = AbortedTransactions::default();
            core.fetched(now, FetchedFrame { position, records: &log, aborted, hold: &hold }, context)
        });
    }

    fn deliver(&mut self, seq: u64, partition_batch: &PartitionBatch) {
        for record in partition_batch.walk() {
            let size = record.value.map_or(0, <[u8]>::len);
            assert_eq!(self.delivered.insert(record.offset.0, size), None, "{} twice", record.offset);
        }
        let (batch, end) = (BatchId(self.batches), partition_batch.range.end);
        self.batches += 1;
        self.step(None, |core, _, context| {
            assert!(core.sealed(seq, end, batch, context));
            PartitionEffects::new()
        });
        self.step(None, |core, now, context| core.resolved(now, batch, BatchResolution::Delivered, context));
    }

    fn carry_out(&mut self, effect: PartitionEffect) {
        match effect {
            PartitionEffect::Fetch { position, .. } => self.wanted = Some(position),
            PartitionEffect::CancelFetch | PartitionEffect::Pause => self.wanted = None,
            PartitionEffect::Offer(Offer { seq, partition_batch, .. }) => {
                self.offer = Some((seq, partition_batch));
            }
            PartitionEffect::ContinueSoon => {
                self.turns += 1;
                self.step(None, PartitionCore::wake);
            }
            PartitionEffect::AwaitCredit(short) => {
                let budget = self.budget.clone();
                let granted = budget.lease_or_overdraft(short.bytes, short.purpose).now_or_never();
                // Without the lease, its current holder must make progress first.
                if granted.is_some() {
                    self.step(granted, PartitionCore::wake);
                }
            }
            PartitionEffect::Commit(CommitRequest { seq, passed, .. }) => {
                for passed in passed {
                    for offset in passed.range.first.0..passed.range.end.0 {
                        assert_eq!(self.ends.insert(offset, passed.outcome), None, "{offset} ended twice");
                    }
                }
                self.step(None, |core, now, context| core.committed(now, seq, context));
            }
            PartitionEffect::DeadLetter { request_id, records, .. } => {
                assert!(records.batch.is_unheld());
                self.unheld.extend(records.batch.walk().map(|record| record.offset.0));
                self.step(None, |core, now, context| {
                    core.dead_letter_result(now, request_id, DeadLetterResult::Acknowledged, context)
                });
            }
            PartitionEffect::DeadLetterRaw { request_id, batch } => {
                self.raw.push(batch);
                self.step(None, |core, now, context| {
                    core.dead_letter_result(now, request_id, DeadLetterResult::Acknowledged, context)
                });
            }
            PartitionEffect::Log(PartitionEvent::LedgerRefused(refused)) => panic!("{refused}"),
            PartitionEffect::Withdraw { .. }
            | PartitionEffect::CancelDeadLetter { .. }
            | PartitionEffect::WakeAt(_)
            | PartitionEffect::PollSoon
            | PartitionEffect::Drained
            | PartitionEffect::Restart { .. }
            | PartitionEffect::StartNewLog
            | PartitionEffect::Log(_) => {}
        }
    }

    pub(super) fn skip(&mut self, first: i64, end: Option<i64>) -> SkipAnswer {
        let mut answer = SkipAnswer::NotFailing;
        self.step(None, |core, now, context| {
            let (told, effects) = core.skip(now, Offset(first), end.map(Offset), context);
            answer = told;
            effects
        });
        self.run();
        answer
    }

    pub(super) fn ended(&self, outcome: Outcome) -> Vec<i64> {
        self.ends.iter().filter(|(_, end)| **end == outcome).map(|(offset, _)| *offset).collect()
    }
}

/// Batch of less than 100 kB that decompresses to 70 MB, which is more than 67108864 bytes.
#[test]
fn mem_1_batch_larger_than_budget_delivered_within_it() {
    let log = packed(&values(0, &[1_000_000; 70]), 0);
    assert!(log.len() < 100_000);
    let mut driver = PieceDriver::new(log, 0, 16 * MIB, PieceLimits::of(16 * MIB));
    driver.run();
    assert!(driver.delivered.keys().copied().eq(0..70), "ALO-1: {:?}", driver.delivered.keys());
    assert!(driver.delivered.values().all(|size| *size == 1_000_000));
    assert!(driver.leased_max <= 16 * MIB, "{}", driver.leased_max);
    assert_eq!(driver.budget.leased(), 0);
    // LIM-1: batches are as full as a payload allows, not as a piece does.
    assert_eq!(driver.batches, 70 / 6 + 1);
}

#[test]
fn mem_1_batch_delivered_while_others_hold_budget() {
    let log = packed(&values(0, &[300_000; 20]), 0);
    let mut driver = PieceDriver::new(log, 0, 16 * MIB, PieceLimits::of(16 * MIB));
    let others = driver.budget.try_lease(16 * MIB - 40_000).expect("room");
    driver.run();
    assert!(driver.delivered.keys().copied().eq(0..20), "LIV-1: {:?}", driver.delivered.keys());
    assert_eq!(driver.budget.leased(), others.bytes());
}

/// The decoder is dropped with the batch, as it cannot start in the middle.
#[test]
fn mem_1_alo_1_batch_released_between_pieces_delivered_once() {
    let log = packed(&values(0, &[300_000; 40]), 0);
    let mut driver = PieceDriver::new(log, 0, 16 * MIB, PieceLimits::of(16 * MIB));
    let (seq, partition_batch) = driver.next_offer();
    let (end, again) = (partition_batch.range.end, NOW + std::time::Duration::from_secs(5));
    assert!(
        (1..40).contains(&end.0) && driver.core.buffered_bytes() > 0,
        "a piece ends within the batch: {end}"
    );
    drop(partition_batch);
    driver.step(None, |core, now, context| {
        assert!(core.sealed(seq, end, BatchId(1_000), context));
        core.resolved(now, BatchId(1_000), BatchResolution::Again { at: again }, context)
    });
    driver.step(None, |core, _, context| core.give_back(context));
    assert_eq!((driver.core.position(), driver.core.buffered_bytes()), (end, 0));
    driver.now = again;
    driver.run();
    assert!(driver.delivered.keys().copied().eq(0..40), "{:?}", driver.delivered.keys());
    assert_eq!(driver.budget.leased(), 0);
}

/// A decompression bomb is processed in turns, whether its records are wanted, were delivered before, or are too
/// large.
#[test]
fn liv_1_decompression_bomb_processed_in_turns() {
    let log = packed(&values(0, &[2_000_000; 40]), 0);
    let mut driver = PieceDriver::new(log, 39, 16 * MIB, PieceLimits::of(16 * MIB));
    driver.run();
    assert_eq!(driver.delivered.keys().copied().collect::<Vec<_>>(), [39]);
    assert!(driver.turns >= 8, "{}", driver.turns);
}

#[test]
fn alo_1_record_too_large_to_hold_is_given_up() {
    let sizes = [100, 30_000_000, 200];
    for has_destination in [false, true] {
        let policy = FailureHandling { has_destination, ..FailureHandling::default() };
        let log = packed(&values(0, &sizes), 0);
        let mut driver = PieceDriver::under(policy, log, 0, 16 * MIB, PieceLimits::of(16 * MIB));
        driver.run();
        assert_eq!(driver.delivered.keys().copied().collect::<Vec<_>>(), [0, 2]);
        let outcome = if has_destination { Outcome::DeadLettered } else { Outcome::Oversized };
        assert_eq!(driver.ended(outcome), [1]);
        assert_eq!(driver.unheld.len(), usize::from(has_destination));
        assert!(driver.leased_max <= 16 * MIB, "MEM-1: {}", driver.leased_max);
        assert!(driver.turns >= 3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same records have the same outcomes, for any piece size and start offset.
    #[test]
    fn pieced_and_whole_batches_end_the_same(
        batches in prop::collection::vec(prop::collection::vec(0usize..400, 1..20), 1..5),
        piece_bytes in 1usize..500, turn_bytes in 1usize..2_000, committed in 0i64..30,
    ) {
        let mut log = Vec::new();
        let mut base = 0;
        for sizes in &batches {
            log.extend(packed(&values(base, sizes), 0));
            base += sizes.len() as i64;
        }
        let committed = committed.min(base);
        let small = PieceLimits { piece_bytes, turn_bytes, ..PieceLimits::of(MIB) };
        let mut pieced = PieceDriver::new(log.clone(), committed, MIB, small);
        let mut whole = PieceDriver::new(log, committed, MIB, PieceLimits::of(MIB));
        pieced.run();
        whole.run();
        prop_assert!(whole.delivered.keys().copied().eq(committed..base));
        prop_assert_eq!(pieced.delivered, whole.delivered);
        prop_assert_eq!(pieced.ends, whole.ends);
        prop_assert_eq!(pieced.budget.leased(), 0);
    }
}
