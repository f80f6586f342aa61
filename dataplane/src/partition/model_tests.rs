//! Tests of the partition core against a model of broker, batcher, function and group that act in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::records::{AbortedTransactions, BatchHeader, Record, RecordError};
use lighterman_proto::units::{Moment, TimestampMs};
use proptest::prelude::*;

use super::core::PartitionCore;
use super::effects::{
    CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects, PartitionIdentity,
};
use crate::credit::memory_budget::MemoryBudget;
use crate::messages::batch::BatchId;
use crate::messages::commit::CommitRequest;
use crate::messages::offer::Offer;
use crate::messages::outcome::{Outcome, ResolvedRange};
use crate::messages::records::{PartitionBatch, PartitionBatchLimits, RecordSizer, SharedLease};
use crate::messages::resolution::{AttemptFailure, BatchResolution};
use crate::partition::attempts::attempt::FailureHandling;
use crate::partition::progress::commit_window::CommitWindowLimits;
use crate::partition::reader::fetch_buffer::{
    BatchOpener, FetchBuffer, FillLimits, OpenedBatch, PlainSize, RecordFilter,
};
use crate::partition::reader::pieces::{NextPiece, PiecedBatch};

/// Identity of the tests' partition.
pub(super) const IDENTITY: PartitionIdentity =
    PartitionIdentity { partition: 0, topic: None, epoch: Epoch(1) };

const LIMITS: PartitionBatchLimits = PartitionBatchLimits { records_max: 7, payload_bytes_max: 400 };

pub(super) struct PlainTools;

impl BatchOpener for PlainTools {
    fn open(
        &mut self,
        _: &BatchHeader,
        packed: &Bytes,
        _: Option<PlainSize>,
        _: &SharedLease,
    ) -> Result<OpenedBatch, RecordError> {
        Ok(OpenedBatch::Plain(packed.clone(), hold()))
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

/// Takes the value's length as the record's size, so that a test decides which records are oversized.
impl RecordSizer for PlainTools {
    fn record_bytes(&self, record: &Record<'_>, _: bool) -> usize {
        record.value.map_or(0, <[u8]>::len)
    }
}

/// Filters out values that start with `f`.
impl RecordFilter for PlainTools {
    fn passes(&self, record: &Record<'_>) -> bool {
        record.value.is_none_or(|value| !value.starts_with(b"f"))
    }
}

/// Filter that rejects these offsets.
#[derive(Clone, Debug, Default)]
pub(super) struct RefusingFilter(pub(super) BTreeSet<i64>);

impl RecordFilter for RefusingFilter {
    fn passes(&self, record: &Record<'_>) -> bool {
        !self.0.contains(&record.offset.0)
    }
}

/// Returns all records of one uncompressed batch as a partition batch.
pub(crate) fn cut_of(records: &Bytes) -> PartitionBatch {
    let mut buffer = FetchBuffer::default();
    let now = Moment::from_micros(1);
    let received = buffer.receive(records, Offset(0), AbortedTransactions::default(), &hold(), now);
    assert!(received.damage.is_none());
    let limits = PartitionBatchLimits { records_max: 100, payload_bytes_max: 10_000 };
    let mut partition_batch = PartitionBatch::empty(Offset(0));
    buffer.grow(
        &mut partition_batch,
        FillLimits { limits, end_max: None, frontier: Offset(0), known: &[], remembered: None },
        &PlainTools,
        &PlainTools,
        &mut PlainTools,
    );
    partition_batch
}

pub(super) fn failure() -> Arc<AttemptFailure> {
    Arc::new(AttemptFailure {
        at: TimestampMs(1),
        error_type: "E".into(),
        message: String::new(),
        answer: None,
    })
}

pub(crate) fn hold() -> SharedLease {
    Arc::new(MemoryBudget::new(1 << 30).try_lease(1).expect("room"))
}

fn varint(value: i64, into: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        into.push(left as u8 | 0x80);
        left >>= 7;
    }
    into.push(left as u8);
}

/// Returns one batch of records at `deltas` (offset delta, value bytes), whose last offset is `base` + `last_delta`.
pub(crate) fn batch(base: i64, deltas: &[(i64, usize)], last_delta: i64, control: bool) -> Bytes {
    batch_at(base, deltas, last_delta, control, |_| 0)
}

/// Same as [`batch`], with a timestamp for each offset delta.
pub(super) fn batch_at(
    base: i64,
    deltas: &[(i64, usize)],
    last_delta: i64,
    control: bool,
    timestamp: impl Fn(i64) -> i64,
) -> Bytes {
    let mut body = Vec::new();
    for (delta, size) in deltas {
        let mut record = vec![0u8];
        varint(timestamp(*delta), &mut record);
        varint(*delta, &mut record);
        varint(-1, &mut record);
        varint(*size as i64, &mut record);
        record.extend(std::iter::repeat_n(b'v', *size));
        varint(0, &mut record);
        varint(record.len() as i64, &mut body);
        body.extend(record);
    }
    let mut checked = BytesMut::new();
    checked.put_i16(if control { 32 } else { 0 });
    checked.put_i32(last_delta as i32);
    checked.put_i64(0);
    checked.put_i64(0);
    checked.put_i64(-1);
    checked.put_i16(-1);
    checked.put_i32(-1);
    checked.put_i32(deltas.len() as i32);
    checked.put_slice(&body);
    let mut whole = BytesMut::new();
    whole.put_i64(base);
    whole.put_i32(checked.len() as i32 + 9);
    whole.put_i32(3);
    whole.put_i8(2);
    whole.put_u32(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &checked) as u32);
    whole.put_slice(&checked);
    whole.freeze()
}

/// Log of batches with gaps, control batches and emptied batches, with the records that must be delivered and those
/// that the filters reject.
#[derive(Clone, Debug, Default)]
struct ModelLog {
    batches: Vec<(i64, i64, Bytes)>,
    records: BTreeMap<i64, usize>,
    refused: RefusingFilter,
    end: i64,
}

fn any_log() -> impl Strategy<Value = ModelLog> {
    let one =
        (prop::collection::vec((1i64..4, 1usize..90), 0..6), 0i64..3, prop::bool::weighted(0.15), 0u8..25);
    prop::collection::vec(one, 1..12).prop_map(|specs| {
        let mut log = ModelLog::default();
        for (records, tail, control, odd) in specs {
            let mut delta = -1;
            let mut deltas = Vec::new();
            for (step, size) in records {
                delta += step;
                deltas.push((delta, if odd == 0 { 500 } else { size }));
            }
            let last = (delta + tail).max(0);
            if !control {
                log.records.extend(deltas.iter().map(|(delta, size)| (log.end + delta, *size)));
            }
            let bytes = batch(log.end, &deltas, last, control);
            log.batches.push((log.end, log.end + last + 1, bytes));
            log.end += last + 1;
        }
        log
    })
}

/// Same as [`any_log`], with filters that reject none, some, or all of the records.
fn any_filtered_log() -> impl Strategy<Value = ModelLog> {
    let share = prop_oneof![2 => Just(0.0), 3 => 0.1..0.9, 1 => Just(1.0)];
    (any_log(), prop::collection::vec(0.0..1.0, 60), share).prop_map(|(mut log, dice, share)| {
        let records: Vec<i64> = log.records.keys().copied().collect();
        let refused = records.iter().zip(dice).filter(|(_, dice)| *dice < share);
        log.refused.0 = refused.map(|(offset, _)| *offset).collect();
        log.records.retain(|offset, _| !log.refused.0.contains(offset));
        log
    })
}

struct PartitionModel {
    core: PartitionCore,
    log: ModelLog,
    now: Moment,
    wanted: Option<Offset>,
    offered: Option<(u64, PartitionBatch)>,
    /// The same offer before it grew: a seal may have crossed its growth.
    earlier: Option<(u64, PartitionBatch)>,
    flying: Option<(BatchId, Vec<i64>)>,
    /// Commits that the group has not acknowledged, in order.
    commits: Vec<(u64, Offset)>,
    window: CommitWindowLimits,
    committed: Offset,
    delivered: Vec<i64>,
    attempts: Vec<(Vec<i64>, bool)>,
    outcomes: BTreeMap<i64, Outcome>,
    next_batch: u64,
    drained: bool,
}

impl PartitionModel {
    fn new(log: ModelLog) -> Self {
        Self::with_window(log, CommitWindowLimits::CLOSED)
    }

    fn with_window(log: ModelLog, window: CommitWindowLimits) -> Self {
        let start = PartitionConfig {
            identity: IDENTITY,
            key_bytes: 0,
            committed: Offset(0),
            leader_epoch: -1,
            progress: None,
            failures: None,
            policy: FailureHandling::default(),
            filters: 0,
            limits: LIMITS,
            commit_window: window,
            buffer_bytes_target: 600,
        };
        let mut world = Self {
            core: PartitionCore::new(start),
            log,
            now: Moment::from_micros(1),
            wanted: None,
            offered: None,
            earlier: None,
            flying: None,
            commits: Vec::new(),
            window,
            committed: Offset(0),
            delivered: Vec::new(),
            attempts: Vec::new(),
            outcomes: BTreeMap::new(),
            next_batch: 0,
            drained: false,
        };
        world.step(PartitionCore::wake);
        world
    }

    fn step(
        &mut self,
        event: impl FnOnce(&mut PartitionCore, Moment, &mut CoreContext<'_>) -> PartitionEffects,
    ) {
        let mut batch_opener = PlainTools;
        let record_filter = &self.log.refused;
        let mut context = CoreContext {
            batch_opener: &mut batch_opener,
            sizer: &PlainTools,
            record_filter,
            wall: TimestampMs(0),
        };
        let effects = event(&mut self.core, self.now, &mut context);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: PartitionEffects) {
        for effect in effects {
            match effect {
                PartitionEffect::Fetch { position, .. } => self.wanted = Some(position),
                PartitionEffect::CancelFetch | PartitionEffect::Pause => self.wanted = None,
                PartitionEffect::Offer(Offer { seq, partition_batch, .. }) => {
                    assert!(self.flying.is_none(), "SLT-1: one invocation of a partition at a time");
                    assert!(
                        partition_batch.records <= LIMITS.records_max
                            && partition_batch.payload_bytes <= LIMITS.payload_bytes_max,
                        "LIM-1"
                    );
                    let is_new = self.offered.as_ref().is_none_or(|(offered, _)| *offered != seq);
                    if is_new {
                        self.assert_within_window(&partition_batch);
                    }
                    let before = self.offered.replace((seq, partition_batch));
                    self.earlier = before.filter(|(before, _)| *before == seq);
                }
                PartitionEffect::Withdraw { seq } => {
                    if self.offered.take_if(|(offered, _)| *offered == seq).is_some() {
                        self.step(|core, now, context| core.withdrawn(now, seq, context));
                    }
                }
                PartitionEffect::Commit(CommitRequest { seq, offset, passed, .. }) => {
                    assert!(offset >= self.committed, "COM-1: never backwards");
                    let undelivered = self.log.records.iter().find(|(at, size)| {
                        **size <= LIMITS.payload_bytes_max && !self.delivered.contains(at)
                    });
                    assert!(
                        undelivered.is_none_or(|(at, _)| offset.0 <= *at),
                        "COM-1: {offset} overtakes {undelivered:?}"
                    );
                    self.note(&passed);
                    self.commits.push((seq, offset));
                }
                PartitionEffect::Drained => {
                    assert!(
                        self.flying.is_none() && self.committed == self.core.ledger().frontier(),
                        "DRN-1"
                    );
                    self.drained = true;
                }
                PartitionEffect::WakeAt(_)
                | PartitionEffect::AwaitCredit { .. }
                | PartitionEffect::PollSoon
                | PartitionEffect::Log(_) => {}
                PartitionEffect::ContinueSoon => panic!("nothing is inflated in turns"),
                PartitionEffect::DeadLetter { .. }
                | PartitionEffect::DeadLetterRaw { .. }
                | PartitionEffect::CancelDeadLetter { .. } => {
                    panic!("no destination")
                }
                PartitionEffect::Restart { .. } | PartitionEffect::StartNewLog => {
                    panic!("nothing was truncated")
                }
            }
        }
    }

    /// ALO-1: every offset ends once, and as filtered exactly if the filters reject its record.
    fn note(&mut self, passed: &[ResolvedRange]) {
        for passed in passed {
            for offset in passed.range.first.0..passed.range.end.0 {
                assert_eq!(self.outcomes.insert(offset, passed.outcome), None, "{offset} ended twice");
                let refused = self.log.refused.0.contains(&offset);
                assert_eq!(passed.outcome == Outcome::Filtered, refused, "{offset}: {:?}", passed.outcome);
            }
        }
    }

    fn fetch(&mut self, batches: usize) {
        let Some(position) = self.wanted else { return };
        let from = self.log.batches.iter().position(|(_, end, _)| *end > position.0);
        let Some(from) = from else { return };
        let frame: Vec<u8> =
            self.log.batches[from..].iter().take(batches).flat_map(|(_, _, bytes)| bytes.to_vec()).collect();
        self.wanted = None;
        let (frame, hold) = (Bytes::from(frame), hold());
        self.step(|core, now, context| {
            let frame = FetchedFrame {
                position,
                records: &frame,
                aborted: AbortedTransactions::default(),
                hold: &hold,
            };
            core.fetched(now, frame, context)
        });
    }

    fn seal(&mut self) {
        let Some((seq, partition_batch)) = self.offered.take() else { return };
        self.seal_as(seq, partition_batch);
    }

    /// Seals the offer as it was before it grew: the batcher had not received the growth.
    fn seal_earlier(&mut self) {
        let Some((seq, partition_batch)) = self.earlier.take() else { return };
        if self.offered.take_if(|(offered, _)| *offered == seq).is_some() {
            self.seal_as(seq, partition_batch);
        }
    }

    fn seal_as(&mut self, seq: u64, partition_batch: PartitionBatch) {
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        let end = partition_batch.range.end;
        self.step(|core, _, context| {
            assert!(core.sealed(seq, end, batch, context));
            PartitionEffects::new()
        });
        let offsets: Vec<i64> = partition_batch
            .runs
            .iter()
            .flat_map(|slice| slice.walk().map(|record| record.offset.0).collect::<Vec<_>>())
            .collect();
        assert_eq!(offsets.len(), partition_batch.records as usize);
        self.flying = Some((batch, offsets));
    }

    fn answer(&mut self, good: bool) {
        let Some((batch, offsets)) = self.flying.take() else { return };
        if good {
            let expected: Vec<i64> = self
                .log
                .records
                .iter()
                .filter(|(at, size)| **size <= LIMITS.payload_bytes_max && !self.delivered.contains(at))
                .map(|(at, _)| *at)
                .take(offsets.len())
                .collect();
            assert_eq!(offsets, expected, "ORD-1: exactly the next offsets");
            self.delivered.extend(&offsets);
        }
        self.attempts.push((offsets, good));
        let again_at = self.now + Duration::from_secs(1);
        let failed = BatchResolution::Failed { mixed: false, failure: failure(), again_at };
        let resolution = if good { BatchResolution::Delivered } else { failed };
        self.step(|core, now, context| core.resolved(now, batch, resolution, context));
    }

    /// Asserts that a node which dies now repeats no more than the window allows, and that a retry is on record.
    fn assert_within_window(&self, offered: &PartitionBatch) {
        let unacknowledged = self.commits.len();
        assert!(unacknowledged <= self.window.batches_max as usize, "ALO-1: {unacknowledged} batches repeat");
        let is_retry = offered
            .walk()
            .any(|record| self.attempts.iter().any(|(offsets, _)| offsets.contains(&record.offset.0)));
        assert!(!is_retry || unacknowledged == 0, "ALO-1: the first attempt is not on record");
    }

    fn acknowledge(&mut self) {
        self.acknowledge_first(usize::MAX);
    }

    /// Acknowledges the first `count` commits at once.
    fn acknowledge_first(&mut self, count: usize) {
        let count = count.min(self.commits.len());
        let Some((seq, offset)) = self.commits.drain(..count).next_back() else { return };
        self.committed = offset;
        self.step(|core, now, context| core.committed(now, seq, context));
    }

    fn tick(&mut self) {
        self.now = self.now + Duration::from_secs(2);
        self.step(PartitionCore::wake);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn ord_1_com_1_alo_1_liv_1_events_in_any_order_deliver_everything(
        log in any_filtered_log(),
        steps in prop::collection::vec((0u8..11, 1usize..4), 0..120),
        batches_max in 0u32..4,
    ) {
        let window = CommitWindowLimits { batches_max, age_max: Duration::from_secs(5) };
        let mut world = PartitionModel::with_window(log, window);
        for (kind, amount) in steps {
            match kind {
                8 => world.seal_earlier(),
                9 => world.step(|core, _, context| core.give_back(context)),
                10 => world.acknowledge_first(amount),
                0 | 1 => world.fetch(amount),
                2 | 3 => world.seal(),
                4 => world.answer(true),
                5 => world.answer(false),
                6 => world.acknowledge(),
                _ => world.tick(),
            }
        }
        // The faults are over: everything is delivered and committed (LIV-1).
        for _ in 0..400 {
            world.fetch(3);
            world.seal();
            world.answer(true);
            world.acknowledge();
            world.tick();
        }
        prop_assert_eq!(world.committed, Offset(world.log.end));
        let deliverable = world.log.records.values().filter(|size| **size <= LIMITS.payload_bytes_max).count();
        prop_assert_eq!(world.delivered.len(), deliverable);
        let oversized = world.log.records.len() - deliverable;
        prop_assert_eq!(world.core.ledger().count(Outcome::Oversized), oversized as u64);
        let filtered = world.log.refused.0.len();
        prop_assert_eq!(world.core.ledger().count(Outcome::Filtered), filtered as u64);
        prop_assert_eq!(world.outcomes.len() as i64, world.log.end, "every offset has an outcome");
        // After a failure exactly the same records are retried.
        for pair in world.attempts.windows(2) {
            if !pair[0].1 {
                prop_assert_eq!(&pair[0].0, &pair[1].0);
            }
        }
    }

    #[test]
    fn drn_1_drain_ends_leaving_nothing_behind(
        log in any_filtered_log(),
        steps in prop::collection::vec((0u8..7, 1usize..4), 0..60),
        good in any::<bool>(),
        batches_max in 0u32..4,
    ) {
        let window = CommitWindowLimits { batches_max, age_max: Duration::from_secs(5) };
        let mut world = PartitionModel::with_window(log, window);
        for (kind, amount) in steps {
            match kind {
                0 | 1 => world.fetch(amount),
                2 | 3 => world.seal(),
                4 => world.answer(true),
                5 => world.answer(false),
                _ => world.acknowledge(),
            }
        }
        world.step(PartitionCore::drain);
        world.answer(good);
        prop_assert!(world.commits.is_empty() || !world.drained, "DRN-1: a commit is unacknowledged");
        world.acknowledge();
        world.acknowledge();
        world.tick();
        prop_assert!(world.drained);
        prop_assert!(world.offered.is_none() || world.flying.is_none());
        world.fetch(2);
        prop_assert!(world.wanted.is_none(), "a drained partition requests no fetch");
    }
}

#[test]
fn own_1_result_for_other_batch_is_ignored() {
    let log = ModelLog {
        batches: vec![(0, 1, batch(0, &[(0, 5)], 0, false))],
        records: BTreeMap::from([(0, 5)]),
        refused: RefusingFilter::default(),
        end: 1,
    };
    let mut world = PartitionModel::new(log);
    world.fetch(1);
    world.seal();
    world.step(|core, now, context| core.resolved(now, BatchId(77), BatchResolution::Delivered, context));
    assert!(world.commits.is_empty());
    world.answer(true);
    assert_eq!(world.commits, [(1, Offset(1))]);
}

/// Model with `count` batches of one record each, of which those in `delivered` pass the filters.
fn sparse(count: i64, delivered: &[i64]) -> PartitionModel {
    PartitionModel::new(ModelLog {
        batches: (0..count).map(|at| (at, at + 1, batch(at, &[(0, 5)], 0, false))).collect(),
        records: delivered.iter().map(|at| (*at, 5)).collect(),
        refused: RefusingFilter((0..count).filter(|at| !delivered.contains(at)).collect()),
        end: count,
    })
}

#[test]
fn liv_1_filtered_range_committed_without_invocation() {
    let mut world = sparse(40, &[]);
    let mut before = Offset(0);
    while world.committed < Offset(40) {
        world.fetch(3);
        assert!(world.offered.is_none(), "nothing to invoke with");
        world.acknowledge();
        assert!(world.committed > before, "every fetch advances the commit, from {before}");
        before = world.committed;
    }
    assert_eq!((world.attempts.len(), world.core.ledger().count(Outcome::Filtered)), (0, 40));
    assert_eq!(world.core.position(), Offset(40));
}

#[test]
fn com_1_filtered_records_after_undelivered_one_wait() {
    let mut world = sparse(9, &[2, 6]);
    world.fetch(9);
    assert_eq!(
        world.commits,
        [],
        "2 is offered, not delivered: filtered records before it wait for its commit"
    );
    world.seal();
    world.answer(false);
    world.tick();
    world.acknowledge();
    assert_eq!(world.committed, Offset(2), "the attempt is recorded at 2, not after the filtered records");
    world.seal();
    world.answer(true);
    world.acknowledge();
    assert_eq!((world.committed, world.delivered.as_slice()), (Offset(9), &[2, 6][..]));
    assert_eq!(world.outcomes.values().filter(|outcome| **outcome == Outcome::Filtered).count(), 7);
}

#[test]
fn filtered_record_costs_no_allocation() {
    let refuse = |count: i64| {
        let deltas: Vec<(i64, usize)> = (0..count).map(|delta| (delta, 20)).collect();
        let frame = batch(0, &deltas, count - 1, false);
        let mut buffer = FetchBuffer::default();
        buffer.receive(&frame, Offset(0), AbortedTransactions::default(), &hold(), Moment::from_micros(1));
        let (mut partition_batch, refusing) =
            (PartitionBatch::empty(Offset(0)), RefusingFilter((0..count).collect()));
        let fill_limits =
            FillLimits { limits: LIMITS, end_max: None, frontier: Offset(0), known: &[], remembered: None };
        let counted = allocation_counter::measure(|| {
            buffer.grow(&mut partition_batch, fill_limits, &PlainTools, &refusing, &mut PlainTools);
        });
        assert_eq!(
            (partition_batch.excluded.len(), partition_batch.range.end),
            (1, Offset(count)),
            "one range, whatever its length"
        );
        counted.count_total
    };
    assert_eq!(refuse(1_000), refuse(1));
}
