//! Tests of the failure policy against a model. Records fail as often as the test requires, owners die, the
//! destination fails, and an operator skips records. Every record ends once, attempts stay within the limit, and
//! order is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use lighterman_proto::commit_metadata::{CommitMetadata, CommittedProgress};
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::AbortedTransactions;
use lighterman_proto::units::{Moment, TimestampMs};
use proptest::prelude::*;

use super::core::PartitionCore;
use super::effects::{CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects};
use super::model_tests::{IDENTITY, PlainTools, RefusingFilter, batch_at, failure, hold};
use crate::messages::batch::BatchId;
use crate::messages::commit::CommitRequest;
use crate::messages::dead_letter::DeadLetterResult;
use crate::messages::offer::Offer;
use crate::messages::outcome::{Outcome, ResolvedRange};
use crate::messages::records::{PartitionBatch, PartitionBatchLimits};
use crate::messages::resolution::{BatchResolution, KnownFailures};
use crate::messages::skip::SkipAnswer;
use crate::partition::attempts::attempt::{FailureHandling, is_expired};
use crate::partition::progress::commit_window::CommitWindowLimits;

const LIMITS: PartitionBatchLimits = PartitionBatchLimits { records_max: 8, payload_bytes_max: 4_000 };
const RECORDS: i64 = 24;

/// How the function reports failed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseStyle {
    AllOrNothing,
    Names,
    /// Stops at its first failure and reports that record, as with AWS's checkpoint.
    StopsAtFirst,
}

#[derive(Clone, Debug)]
enum PolicyStep {
    Fetch,
    Seal,
    /// The seal has crossed the latest version of the offer.
    SealEarlier,
    Answer,
    Throttle,
    TooLarge,
    Acknowledge,
    Tick,
    Bury(DeadLetterResult),
    Die,
    HandOver,
    /// The mapping's filters change: a hand-over to an owner that rejects these offsets.
    Refilter(BTreeSet<i64>),
    Skip(i64),
    /// Other partitions are short of memory.
    GiveBack,
}

/// Offer as the batcher has it.
#[derive(Debug)]
struct ShownOffer {
    seq: u64,
    partition_batch: PartitionBatch,
    expires: Option<Moment>,
}

struct PolicyModel {
    policy: FailureHandling,
    says: ResponseStyle,
    core: PartitionCore,
    now: Moment,
    wall: TimestampMs,
    /// Number of times that each record still fails; `u32::MAX`: always.
    fails: BTreeMap<i64, u32>,
    /// Offsets that the current filters reject. `refused` holds those that any filters have rejected.
    refusing: RefusingFilter,
    filters: u32,
    refused: BTreeSet<i64>,
    wanted: Option<Offset>,
    /// Timestamp of a record, by its offset.
    timestamp: fn(i64) -> i64,
    offered: Option<ShownOffer>,
    earlier: Option<ShownOffer>,
    flying: Option<(BatchId, PartitionBatch)>,
    dead_letter_request: Option<(u64, Vec<i64>)>,
    commits: Vec<(u64, Offset, Option<CommittedProgress>, Vec<ResolvedRange>)>,
    committed: (Offset, Option<CommittedProgress>),
    outcomes: BTreeMap<i64, Outcome>,
    answered_for: BTreeSet<i64>,
    at_destination: BTreeSet<i64>,
    skipped: BTreeSet<i64>,
    /// Offsets that this owner has accepted to skip.
    promised: BTreeSet<i64>,
    tries: BTreeMap<i64, u32>,
    failures: BTreeMap<i64, u32>,
    deaths: u32,
    next_batch: u64,
    drained: bool,
}

impl PolicyModel {
    fn new(policy: FailureHandling, says: ResponseStyle, fails: BTreeMap<i64, u32>) -> Self {
        let mut world = Self {
            policy,
            says,
            core: core(policy, 0, Offset(0), None, None),
            now: Moment::from_micros(1),
            wall: TimestampMs(0),
            fails,
            refusing: RefusingFilter::default(),
            filters: 0,
            refused: BTreeSet::new(),
            wanted: None,
            timestamp: |_| 0,
            offered: None,
            earlier: None,
            flying: None,
            dead_letter_request: None,
            commits: Vec::new(),
            committed: (Offset(0), None),
            outcomes: BTreeMap::new(),
            answered_for: BTreeSet::new(),
            at_destination: BTreeSet::new(),
            skipped: BTreeSet::new(),
            promised: BTreeSet::new(),
            tries: BTreeMap::new(),
            failures: BTreeMap::new(),
            deaths: 0,
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
        let mut context = CoreContext {
            batch_opener: &mut batch_opener,
            sizer: &PlainTools,
            record_filter: &self.refusing,
            wall: self.wall,
        };
        let effects = event(&mut self.core, self.now, &mut context);
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: PartitionEffect) {
        match effect {
            PartitionEffect::Fetch { position, .. } => self.wanted = Some(position),
            PartitionEffect::CancelFetch | PartitionEffect::Pause => self.wanted = None,
            PartitionEffect::Offer(Offer { seq, partition_batch, expires, .. }) => {
                assert!(
                    self.flying.is_none() && self.dead_letter_request.is_none(),
                    "SLT-1: one invocation or dead letter at a time"
                );
                assert!(
                    partition_batch.records > 0 && partition_batch.records <= LIMITS.records_max,
                    "LIM-1"
                );
                let first = partition_batch.walk().next().expect("a record").offset;
                let before = OffsetRange { first: Offset(0), end: first };
                assert_eq!(self.core.ledger().open_in(before), [], "ORD-1");
                for offset in offsets(&partition_batch).into_iter().map(Offset) {
                    let one = OffsetRange { first: offset, end: offset.next() };
                    assert_eq!(self.core.ledger().open_in(one), [one], "ALO-1: invoked despite an outcome");
                    assert!(!self.promised.contains(&offset.0), "{offset} was to be skipped before");
                }
                let before = self.offered.replace(ShownOffer { seq, partition_batch, expires });
                self.earlier = before.filter(|before| before.seq == seq);
            }
            PartitionEffect::Withdraw { seq } => {
                if self.offered.take_if(|shown| shown.seq == seq).is_some() {
                    self.step(|core, now, context| core.withdrawn(now, seq, context));
                }
            }
            PartitionEffect::Commit(CommitRequest { seq, offset, progress, passed, .. }) => {
                for passed in &passed {
                    self.check_passed(*passed);
                }
                self.commits.push((seq, offset, progress, passed));
            }
            PartitionEffect::DeadLetter { request_id, records, .. } => {
                assert!(self.policy.has_destination && self.dead_letter_request.is_none());
                self.dead_letter_request = Some((request_id, offsets(&records.batch)));
            }
            PartitionEffect::CancelDeadLetter { request_id } => {
                if self.dead_letter_request.take_if(|(sent, _)| *sent == request_id).is_some() {
                    self.step(|core, now, context| {
                        core.dead_letter_result(now, request_id, DeadLetterResult::Stopped, context)
                    });
                }
            }
            PartitionEffect::Drained => self.drained = true,
            PartitionEffect::WakeAt(_)
            | PartitionEffect::AwaitCredit { .. }
            | PartitionEffect::PollSoon
            | PartitionEffect::Log(_) => {}
            PartitionEffect::DeadLetterRaw { .. } | PartitionEffect::ContinueSoon => {
                panic!("all records are readable without decompression in turns")
            }
            PartitionEffect::Restart { .. } | PartitionEffect::StartNewLog => panic!("nothing was truncated"),
        }
    }

    /// COM-1: offsets that are about to be committed have ended with the given outcome.
    fn check_passed(&self, passed: ResolvedRange) {
        for offset in passed.range.first.0..passed.range.end.0 {
            let so = match passed.outcome {
                Outcome::Delivered => self.answered_for.contains(&offset),
                Outcome::DeadLettered => self.at_destination.contains(&offset),
                Outcome::Skipped => self.skipped.contains(&offset),
                Outcome::Exhausted => self.failures.contains_key(&offset) && !self.policy.has_destination,
                Outcome::Oversized => !self.policy.has_destination,
                Outcome::Dropped => self.policy.has_destination,
                Outcome::ResolvedEarlier => {
                    self.answered_for.contains(&offset) || self.skipped.contains(&offset)
                }
                Outcome::Expired => {
                    let age_max = self.policy.record_age_max.map_or(i64::MAX, |age| age.as_millis() as i64);
                    self.wall.0 - (self.timestamp)(offset) > age_max && !self.policy.has_destination
                }
                Outcome::Filtered => self.refused.contains(&offset),
                Outcome::NoRecord | Outcome::Lost => false,
            };
            assert!(so, "{offset} did not end as {:?}", passed.outcome);
        }
    }

    fn take(&mut self, step: PolicyStep) {
        match step {
            PolicyStep::Fetch => self.fetch(),
            PolicyStep::Seal => {
                let shown = self.offered.take_if(|shown| shown.expires.is_none_or(|at| self.now < at));
                self.seal(shown);
            }
            PolicyStep::SealEarlier => {
                let seq = self.offered.as_ref().map(|shown| shown.seq);
                let may = |shown: &mut ShownOffer| {
                    Some(shown.seq) == seq && shown.expires.is_none_or(|at| self.now < at)
                };
                let shown = self.earlier.take_if(may);
                if shown.is_some() {
                    self.offered = None;
                }
                self.seal(shown);
            }
            PolicyStep::Answer => self.answer(),
            PolicyStep::Throttle => {
                let at = self.now + Duration::from_secs(1);
                self.resolve(|_, _| BatchResolution::Again { at });
            }
            PolicyStep::TooLarge => {
                let again_at = self.now;
                self.resolve(|world, partition_batch| {
                    world.count_failure(partition_batch);
                    BatchResolution::TooLarge { mixed: false, failure: failure(), again_at }
                });
            }
            PolicyStep::Acknowledge => self.acknowledge(),
            PolicyStep::GiveBack => self.step(|core, _, context| core.give_back(context)),
            PolicyStep::Tick => {
                self.now = self.now + Duration::from_secs(2);
                if self.policy.record_age_max.is_some() {
                    self.wall.0 += 2_000;
                }
                self.step(PartitionCore::wake);
            }
            PolicyStep::Bury(dead_letter_result) => self.send_dead_letter(dead_letter_result),
            PolicyStep::Die => self.die(),
            PolicyStep::HandOver => self.hand_over(None),
            PolicyStep::Refilter(refusing) => self.hand_over(Some(refusing)),
            PolicyStep::Skip(offset) => {
                self.skipped.insert(offset);
                self.skip(offset);
            }
        }
    }

    fn skip(&mut self, offset: i64) {
        let mut answer = None;
        self.step(|core, now, context| {
            let (told, effects) = core.skip(now, Offset(offset), None, context);
            answer = Some(told);
            effects
        });
        if matches!(answer, Some(SkipAnswer::Skipped | SkipAnswer::AfterThisAttempt)) {
            self.promised.insert(offset);
        }
    }

    fn fetch(&mut self) {
        let Some(position) = self.wanted.take_if(|position| position.0 < RECORDS) else { return };
        let end = (position.0 + 5).min(RECORDS);
        let deltas: Vec<(i64, usize)> = (0..end - position.0).map(|delta| (delta, 10)).collect();
        let timestamp = |delta| (self.timestamp)(position.0 + delta);
        let frame: Bytes = batch_at(position.0, &deltas, end - position.0 - 1, false, timestamp);
        let hold = hold();
        self.step(|core, now, context| {
            let aborted = AbortedTransactions::default();
            core.fetched(now, FetchedFrame { position, records: &frame, aborted, hold: &hold }, context)
        });
    }

    fn seal(&mut self, shown: Option<ShownOffer>) {
        let Some(ShownOffer { seq, partition_batch, .. }) = shown else { return };
        let (batch, end) = (BatchId(self.next_batch), partition_batch.range.end);
        self.next_batch += 1;
        if let Some(age_max) = self.policy.record_age_max {
            let old = partition_batch.walk().find(|record| is_expired(record, age_max, self.wall));
            assert!(old.is_none(), "an expired record was sent, at {}: {old:?}", self.wall.0);
        }
        self.step(|core, _, context| {
            assert!(core.sealed(seq, end, batch, context));
            PartitionEffects::new()
        });
        self.flying = Some((batch, partition_batch));
    }

    fn resolve(&mut self, resolution: impl FnOnce(&mut Self, &PartitionBatch) -> BatchResolution) {
        let Some((batch, partition_batch)) = self.flying.take() else { return };
        let resolution = resolution(self, &partition_batch);
        self.step(|core, now, context| core.resolved(now, batch, resolution, context));
    }

    fn count_failure(&mut self, partition_batch: &PartitionBatch) {
        for offset in offsets(partition_batch) {
            *self.tries.entry(offset).or_default() += 1;
            *self.failures.entry(offset).or_default() += 1;
        }
    }

    fn answer(&mut self) {
        self.resolve(|world, partition_batch| {
            let all = offsets(partition_batch);
            let tried = if world.says == ResponseStyle::StopsAtFirst { 1 } else { usize::MAX };
            let fails = |offset: &i64| world.fails.get(offset).is_some_and(|left| *left > 0);
            let bad: BTreeSet<i64> = all.iter().copied().filter(fails).take(tried).collect();
            for offset in &bad {
                let left = world.fails.get_mut(offset).expect("fails");
                *left = if *left == u32::MAX { u32::MAX } else { *left - 1 };
            }
            let again_at = world.now + Duration::from_secs(1);
            if bad.is_empty() {
                world.answered_for.extend(all);
                return BatchResolution::Delivered;
            }
            world.count_failure(partition_batch);
            match world.says {
                ResponseStyle::AllOrNothing => {
                    BatchResolution::Failed { mixed: false, failure: failure(), again_at }
                }
                ResponseStyle::Names | ResponseStyle::StopsAtFirst => {
                    let answered_for = |offset: &&i64| match bad.first() {
                        Some(lowest) if !world.policy.named_only => *offset < lowest,
                        _ => !bad.contains(offset),
                    };
                    world.answered_for.extend(all.iter().filter(answered_for));
                    let failed = bad.into_iter().map(Offset).collect();
                    BatchResolution::Partial { failed, failure: failure(), again_at }
                }
            }
        });
    }

    fn acknowledge(&mut self) {
        let Some((seq, offset, progress, _)) = self.commits.last().cloned() else { return };
        for (_, _, _, passed) in std::mem::take(&mut self.commits) {
            for passed in passed {
                for offset in passed.range.first.0..passed.range.end.0 {
                    let before = self.outcomes.insert(offset, passed.outcome);
                    assert_eq!(before, None, "ALO-1: {offset} resolved twice");
                }
            }
        }
        assert!(offset >= self.committed.0, "COM-1: never backwards");
        self.committed = (offset, progress);
        self.step(|core, now, context| core.committed(now, seq, context));
    }

    fn send_dead_letter(&mut self, dead_letter_result: DeadLetterResult) {
        let Some((request_id, records)) = self.dead_letter_request.take() else { return };
        if dead_letter_result == DeadLetterResult::Acknowledged {
            self.at_destination.extend(records);
        }
        self.step(|core, now, context| core.dead_letter_result(now, request_id, dead_letter_result, context));
    }

    /// Simulates `kill -9`: only the committed progress survives, as text.
    fn die(&mut self) {
        if let Some((_, partition_batch)) = self.flying.take() {
            for offset in offsets(&partition_batch) {
                *self.tries.entry(offset).or_default() += 1;
            }
        }
        (self.offered, self.earlier, self.dead_letter_request, self.wanted) = (None, None, None, None);
        self.commits.clear();
        self.promised.clear();
        self.deaths += 1;
        let progress = self.read_back();
        self.core = core(self.policy, self.filters, self.committed.0, progress, None);
        self.step(PartitionCore::wake);
    }

    fn read_back(&self) -> Option<CommittedProgress> {
        let progress = self.committed.1.clone();
        let text = CommitMetadata { partitions_at_activation: 1, topic: None, progress: progress.clone() };
        let text = text.encode();
        let read = CommitMetadata::parse(&text).expect("ours").progress;
        assert_eq!(read, progress, "{text}");
        read
    }

    /// Drains, then starts the next owner, possibly with other filters; no record is attempted twice for it.
    fn hand_over(&mut self, refusing: Option<BTreeSet<i64>>) {
        self.step(PartitionCore::drain);
        for _ in 0..4 {
            self.take(PolicyStep::Answer);
            self.take(PolicyStep::Acknowledge);
        }
        assert!(self.drained, "DRN-1");
        assert_eq!(self.core.progress(), self.committed.1.as_ref());
        assert_eq!(self.core.ledger().frontier(), self.committed.0);
        for offset in std::mem::take(&mut self.promised).into_iter().map(Offset) {
            let one = OffsetRange { first: offset, end: offset.next() };
            assert_eq!(self.core.ledger().open_in(one), [], "an accepted skip was left to the next owner");
        }
        self.drained = false;
        if let Some(refusing) = refusing {
            self.refused.extend(&refusing);
            self.refusing = RefusingFilter(refusing);
            self.filters += 1;
        }
        let (progress, failures) = (self.read_back(), self.core.work().failures());
        self.core = core(self.policy, self.filters, self.committed.0, progress, failures);
        self.step(PartitionCore::wake);
    }

    /// Runs without faults until everything has ended (LIV-1).
    fn finish(&mut self) {
        for _ in 0..900 {
            for step in [
                PolicyStep::Fetch,
                PolicyStep::Seal,
                PolicyStep::Answer,
                PolicyStep::Bury(DeadLetterResult::Acknowledged),
                PolicyStep::Acknowledge,
                PolicyStep::Tick,
            ] {
                self.take(step);
            }
        }
        assert_eq!(self.committed.0, Offset(RECORDS), "LIV-1");
    }
}

fn core(
    policy: FailureHandling,
    filters: u32,
    committed: Offset,
    progress: Option<CommittedProgress>,
    failures: Option<KnownFailures>,
) -> PartitionCore {
    let limits = LIMITS;
    PartitionCore::new(PartitionConfig {
        identity: IDENTITY,
        key_bytes: 0,
        committed,
        leader_epoch: -1,
        progress,
        failures,
        policy,
        filters,
        limits,
        commit_window: CommitWindowLimits::CLOSED,
        buffer_bytes_target: 600,
    })
}

fn offsets(partition_batch: &PartitionBatch) -> Vec<i64> {
    partition_batch.walk().map(|record| record.offset.0).collect()
}

/// The age of the oldest record is shown. If resolved records counted, it would grow forever.
#[test]
fn oldest_is_first_held_record_without_outcome() {
    let mut world =
        PolicyModel::new(FailureHandling::default(), ResponseStyle::AllOrNothing, BTreeMap::new());
    assert_eq!(world.core.oldest(), None);
    world.take(PolicyStep::Fetch);
    let first = world.now;
    world.take(PolicyStep::Tick);
    world.take(PolicyStep::Fetch);
    let second = world.now;
    assert_eq!(world.core.oldest(), Some(first));
    world.take(PolicyStep::Seal);
    assert_eq!(world.core.oldest(), Some(first));
    world.take(PolicyStep::Answer);
    assert_eq!(world.core.oldest(), Some(second), "the first eight are delivered");
    world.take(PolicyStep::Acknowledge);
    assert_eq!(world.core.oldest(), Some(second), "in work now");
    world.take(PolicyStep::Seal);
    world.take(PolicyStep::Answer);
    assert_eq!(world.core.oldest(), None);
}

fn any_policy() -> impl Strategy<Value = FailureHandling> {
    (prop::option::of(0u32..4), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(retries_max, bisect, named_only, has_destination)| FailureHandling {
            retries_max,
            record_age_max: None,
            bisect,
            named_only,
            has_destination,
        },
    )
}

fn any_step() -> impl Strategy<Value = PolicyStep> {
    prop_oneof![
        3 => Just(PolicyStep::Fetch),
        4 => Just(PolicyStep::Seal),
        1 => Just(PolicyStep::SealEarlier),
        4 => Just(PolicyStep::Answer),
        1 => Just(PolicyStep::Throttle),
        1 => Just(PolicyStep::TooLarge),
        5 => Just(PolicyStep::Acknowledge),
        2 => Just(PolicyStep::Tick),
        1 => Just(PolicyStep::Bury(DeadLetterResult::Acknowledged)),
        1 => Just(PolicyStep::Bury(DeadLetterResult::Dropped)),
        1 => Just(PolicyStep::Bury(DeadLetterResult::Stopped)),
        1 => Just(PolicyStep::Die),
        1 => Just(PolicyStep::HandOver),
        1 => prop::collection::btree_set(0..RECORDS, 0..10).prop_map(PolicyStep::Refilter),
        1 => (0..RECORDS).prop_map(PolicyStep::Skip),
        1 => Just(PolicyStep::GiveBack),
    ]
}

fn any_failures(policy: FailureHandling) -> impl Strategy<Value = BTreeMap<i64, u32>> {
    // Without a limit, a record that always fails blocks its partition forever, as intended. Such records fail only a
    // few times here.
    let most = if policy.retries_max.is_some() { u32::MAX } else { 4 };
    prop::collection::btree_map(0..RECORDS, prop_oneof![1u32..4, Just(most)], 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn ord_1_com_1_alo_1_liv_1_every_record_ends_once_within_its_attempts(
        (policy, fails) in any_policy().prop_flat_map(|policy| (Just(policy), any_failures(policy))),
        says in prop_oneof![Just(ResponseStyle::AllOrNothing), Just(ResponseStyle::Names), Just(ResponseStyle::StopsAtFirst)],
        steps in prop::collection::vec(any_step(), 0..160),
    ) {
        let too_large = steps.iter().any(|step| matches!(step, PolicyStep::TooLarge));
        let mut world = PolicyModel::new(policy, says, fails.clone());
        for step in steps {
            world.take(step);
        }
        world.finish();
        for offset in 0..RECORDS {
            let ended = world.outcomes.get(&offset).copied();
            prop_assert!(ended.is_some(), "{} has no outcome", offset);
            let innocent = !world.refused.contains(&offset) && !fails.contains_key(&offset) && !too_large;
            let apart = policy.bisect || (policy.named_only && says != ResponseStyle::AllOrNothing);
            if innocent && (apart || policy.retries_max.is_none()) {
                let fine = matches!(ended, Some(Outcome::Delivered | Outcome::ResolvedEarlier | Outcome::Skipped));
                prop_assert!(fine, "{} fell with others: {:?}", offset, ended);
            }
            let tries = world.tries.get(&offset).copied().unwrap_or(0);
            let known = world.failures.get(&offset).copied().unwrap_or(0);
            if let Some(retries) = policy.retries_max && !too_large {
                // Splitting a batch uses up no attempt, and a batch of eight is split three times. Other filters
                // reset the count of attempts.
                let cuts = if policy.bisect { 3 * (1 + world.deaths + world.filters) } else { 0 };
                // With a single attempt nothing is committed before its outcome, so an owner that dies before that
                // repeats it.
                let unrecorded = if retries == 0 { world.deaths } else { 0 };
                prop_assert!(
                    tries <= (retries + 1) * (world.filters + 1) + cuts + unrecorded || known <= 1,
                    "{} was tried {} times, {} known to have failed", offset, tries, known
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Records wait in an offer for up to a batching window. Every seal asserts that none of them is too old.
    #[test]
    fn record_expired_while_offered_is_not_sent(
        policy in any_policy(),
        timestamp in prop_oneof![
            Just((|_| 0) as fn(i64) -> i64),
            Just((|offset| offset * 700) as fn(i64) -> i64),
            Just((|offset| (RECORDS - offset) * 700) as fn(i64) -> i64),
            Just((|offset| if offset % 3 == 0 { -1 } else { offset * 400 }) as fn(i64) -> i64),
        ],
        steps in prop::collection::vec(any_step(), 0..120),
    ) {
        let policy = FailureHandling { record_age_max: Some(Duration::from_secs(9)), ..policy };
        let mut world = PolicyModel::new(policy, ResponseStyle::AllOrNothing, BTreeMap::new());
        world.timestamp = timestamp;
        for step in steps {
            world.take(step);
        }
        world.finish();
        for offset in 0..RECORDS {
            prop_assert!(world.outcomes.contains_key(&offset), "{} has no outcome", offset);
        }
    }
}

#[test]
fn expiry_while_offered_leaves_younger_records() {
    let policy =
        FailureHandling { record_age_max: Some(Duration::from_secs(9)), ..FailureHandling::default() };
    let mut world = PolicyModel::new(policy, ResponseStyle::AllOrNothing, BTreeMap::new());
    world.timestamp = |offset| if offset < 2 { 0 } else { 60_000 };
    world.take(PolicyStep::Fetch);
    world.take(PolicyStep::Acknowledge);
    let expires = world.offered.as_ref().expect("offered").expires;
    assert_eq!(expires, Some(world.now + Duration::from_millis(9_001)), "not before");
    for _ in 0..5 {
        world.take(PolicyStep::Tick);
    }
    world.take(PolicyStep::Acknowledge);
    assert_eq!(world.outcomes, BTreeMap::from([(0, Outcome::Expired), (1, Outcome::Expired)]));
    world.take(PolicyStep::Acknowledge);
    world.take(PolicyStep::Seal);
    assert_eq!(offsets(&world.flying.as_ref().expect("the younger records").1), [2, 3, 4]);
}

/// One wake-up is scheduled at a time, however many offers are made before it.
#[test]
fn mem_1_offers_schedule_one_expiry_wakeup() {
    let policy =
        FailureHandling { record_age_max: Some(Duration::from_secs(3_600)), ..FailureHandling::default() };
    let mut core = core(policy, 0, Offset(0), None, None);
    let (mut calls, now, mut batch_opener) = (0, Moment::from_micros(1), PlainTools);
    for round in 0..100i64 {
        let mut context = CoreContext {
            batch_opener: &mut batch_opener,
            sizer: &PlainTools,
            record_filter: &PlainTools,
            wall: TimestampMs(0),
        };
        let (frame, hold) = (batch_at(round, &[(0, 10)], 0, false, |_| round), hold());
        let frame = FetchedFrame {
            position: Offset(round),
            records: &frame,
            aborted: AbortedTransactions::default(),
            hold: &hold,
        };
        let mut effects = core.fetched(now, frame, &mut context);
        let batch = BatchId(round as u64);
        assert!(core.sealed(round as u64 + 1, Offset(round + 1), batch, &context));
        effects.extend(core.resolved(now, batch, BatchResolution::Delivered, &mut context));
        let mut commits = effects.iter().filter_map(|effect| {
            if let PartitionEffect::Commit(CommitRequest { seq, .. }) = effect { Some(*seq) } else { None }
        });
        let seq = commits.next_back().expect("committed");
        effects.extend(core.committed(now, seq, &mut context));
        calls += effects.iter().filter(|effect| matches!(effect, PartitionEffect::WakeAt(_))).count();
    }
    assert_eq!(calls, 1);
}

#[test]
fn alo_1_offer_grown_after_seal_is_not_delivered() {
    let mut world =
        PolicyModel::new(FailureHandling::default(), ResponseStyle::AllOrNothing, BTreeMap::new());
    world.take(PolicyStep::Fetch);
    world.take(PolicyStep::Fetch);
    assert_eq!(offsets(&world.offered.as_ref().expect("grown").partition_batch), [0, 1, 2, 3, 4, 5, 6, 7]);
    for step in [PolicyStep::SealEarlier, PolicyStep::Answer, PolicyStep::Acknowledge] {
        world.take(step);
    }
    assert_eq!((world.committed.0, world.outcomes.len()), (Offset(5), 5), "only the sealed records");
    world.take(PolicyStep::Acknowledge);
    world.take(PolicyStep::Seal);
    assert_eq!(offsets(&world.flying.as_ref().expect("the remaining records").1), [5, 6, 7]);
}

#[test]
fn retry_limit_holds_when_owner_dies() {
    let policy = FailureHandling { retries_max: Some(3), ..FailureHandling::default() };
    for dies_in in 1..=4 {
        let mut world =
            PolicyModel::new(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(0, u32::MAX)]));
        let mut attempt = 0;
        while world.committed.0 < Offset(5) {
            for step in [
                PolicyStep::Fetch,
                PolicyStep::Acknowledge,
                PolicyStep::Tick,
                PolicyStep::Acknowledge,
                PolicyStep::Seal,
            ] {
                world.take(step);
            }
            if world.flying.is_some() {
                attempt += 1;
                world.take(if attempt == dies_in { PolicyStep::Die } else { PolicyStep::Answer });
            }
        }
        assert_eq!(world.tries[&0], 4, "died in attempt {dies_in}");
        assert_eq!(world.outcomes[&0], Outcome::Exhausted);
    }
}

/// Returns a model with one batch of five records in flight.
fn flying(policy: FailureHandling, says: ResponseStyle, fails: BTreeMap<i64, u32>) -> PolicyModel {
    let mut world = PolicyModel::new(policy, says, fails);
    for step in [PolicyStep::Fetch, PolicyStep::Acknowledge, PolicyStep::Seal] {
        world.take(step);
    }
    assert!(world.flying.is_some());
    world
}

#[test]
fn alo_1_mixed_batch_failure_retries_records_alone() {
    let policy = FailureHandling { retries_max: Some(0), ..FailureHandling::default() };
    let mut world = flying(policy, ResponseStyle::AllOrNothing, BTreeMap::new());
    let again_at = world.now;
    world.resolve(|_, _| BatchResolution::Failed { mixed: true, failure: failure(), again_at });
    world.take(PolicyStep::Acknowledge);
    world.take(PolicyStep::Tick);
    assert!(world.core.work().exclusive && world.offered.is_some(), "retried alone");
    world.finish();
    assert!(world.outcomes.values().all(|outcome| *outcome == Outcome::Delivered), "{:?}", world.outcomes);
}

#[test]
fn records_expire_before_and_between_attempts() {
    let age_max = Some(Duration::from_secs(60));
    for has_destination in [false, true] {
        let policy =
            FailureHandling { record_age_max: age_max, has_destination, ..FailureHandling::default() };
        let mut world = flying(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(0, u32::MAX)]));
        world.take(PolicyStep::Answer);
        assert_eq!(world.outcomes.len(), 0, "below the age limit: retried without limit");
        // Their timestamps are 0.
        world.wall = TimestampMs(60_001);
        world.finish();
        let expected = if has_destination { Outcome::DeadLettered } else { Outcome::Expired };
        assert!(world.outcomes.values().all(|outcome| *outcome == expected), "{:?}", world.outcomes);
        assert_eq!((world.tries.get(&0), world.tries.get(&5)), (Some(&1), None), "5 was never tried");
    }
}

#[test]
fn oversized_single_record_is_given_up() {
    for (has_destination, expected) in [(false, Outcome::Oversized), (true, Outcome::DeadLettered)] {
        let policy = FailureHandling { has_destination, ..FailureHandling::default() };
        let mut world = flying(policy, ResponseStyle::AllOrNothing, BTreeMap::new());
        while !world.outcomes.contains_key(&0) {
            for step in [
                PolicyStep::Seal,
                PolicyStep::TooLarge,
                PolicyStep::Bury(DeadLetterResult::Acknowledged),
                PolicyStep::Acknowledge,
            ] {
                world.take(step);
            }
        }
        assert_eq!(world.outcomes, BTreeMap::from([(0, expected)]));
    }
}

#[test]
fn stopped_dead_letter_backs_off_before_resending() {
    let policy =
        FailureHandling { retries_max: Some(0), has_destination: true, ..FailureHandling::default() };
    let mut world = flying(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(0, u32::MAX)]));
    world.take(PolicyStep::Answer);
    world.take(PolicyStep::Acknowledge);
    assert!(world.dead_letter_request.is_some());
    world.take(PolicyStep::Bury(DeadLetterResult::Stopped));
    world.step(PartitionCore::wake);
    assert!(world.dead_letter_request.is_none(), "not at once: the next may stop as fast");
    world.now = world.now + crate::messages::unreadable::READ_RETRY_DELAY;
    world.step(PartitionCore::wake);
    assert!(world.dead_letter_request.is_some());
}

#[test]
fn given_up_records_not_retried_after_owner_dies() {
    let policy =
        FailureHandling { retries_max: Some(0), has_destination: true, ..FailureHandling::default() };
    let mut world = flying(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(0, u32::MAX)]));
    for step in [PolicyStep::Answer, PolicyStep::Acknowledge] {
        world.take(step);
    }
    assert!(world.dead_letter_request.is_some());
    world.take(PolicyStep::Die);
    world.finish();
    assert_eq!((world.tries[&0], world.outcomes[&0]), (1, Outcome::DeadLettered));
}

/// A destination that is down causes lag, and lag causes more consumers, to which partitions move.
#[test]
fn given_up_records_keep_error_across_handover() {
    let policy =
        FailureHandling { retries_max: Some(0), has_destination: true, ..FailureHandling::default() };
    let mut world = flying(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(0, u32::MAX)]));
    world.take(PolicyStep::Answer);
    world.take(PolicyStep::Acknowledge);
    world.take(PolicyStep::HandOver);
    world.take(PolicyStep::Fetch);
    assert!(world.dead_letter_request.is_some(), "the dead letter is sent again");
    assert_eq!(world.core.work().last, Some(failure()));
}

#[test]
fn skip_kept_when_attempt_splits_batch() {
    let policy = FailureHandling { bisect: true, ..FailureHandling::default() };
    let mut world = flying(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(4, 2), (3, 1)]));
    // All records fail and are split in two; the first half succeeds.
    for _ in 0..2 {
        world.take(PolicyStep::Answer);
        while world.flying.is_none() {
            world.take(PolicyStep::Acknowledge);
            world.take(PolicyStep::Seal);
        }
    }
    assert_eq!(offsets(&world.flying.as_ref().expect("the second half").1), [2, 3, 4]);
    world.take(PolicyStep::Skip(4));
    assert!(!world.outcomes.contains_key(&4), "the attempt in flight completes first");
    world.fails.insert(3, 1);
    world.finish();
    assert_eq!((world.outcomes[&4], world.outcomes[&3]), (Outcome::Skipped, Outcome::Delivered));
}

#[test]
fn accepted_skips_carried_out_after_attempt_or_drain() {
    for is_drained in [false, true] {
        let policy = FailureHandling { named_only: true, ..FailureHandling::default() };
        let mut world =
            flying(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(0, u32::MAX), (3, u32::MAX)]));
        for step in [
            PolicyStep::Answer,
            PolicyStep::Tick,
            PolicyStep::Acknowledge,
            PolicyStep::Seal,
            PolicyStep::Skip(3),
            PolicyStep::Skip(0),
        ] {
            world.take(step);
        }
        assert_eq!(world.promised, BTreeSet::from([0, 3]));
        world.take(if is_drained { PolicyStep::HandOver } else { PolicyStep::Answer });
        world.finish();
        assert!(world.promised.is_empty() || !is_drained);
        let ended = [0, 1, 3].map(|offset| world.outcomes[&offset]);
        assert_eq!(ended[..2], [Outcome::Skipped, Outcome::Delivered], "in a drain: {is_drained}");
        assert!(matches!(ended[2], Outcome::Skipped | Outcome::ResolvedEarlier), "in a drain: {is_drained}");
        assert_eq!(world.tries[&3], 2, "in a drain: {is_drained}");
    }
}

/// The frontier jumps over records that are still in the buffer.
#[test]
fn alo_1_buffered_records_resolved_earlier_not_resent() {
    let policy = FailureHandling { named_only: true, ..FailureHandling::default() };
    let mut world = flying(policy, ResponseStyle::Names, BTreeMap::from([(0, 1), (3, 1)]));
    for step in [
        PolicyStep::Answer,
        PolicyStep::Tick,
        PolicyStep::Acknowledge,
        PolicyStep::Seal,
        PolicyStep::TooLarge,
        PolicyStep::HandOver,
    ] {
        world.take(step);
    }
    world.finish();
    let ended = [0, 1, 2, 3, 4].map(|offset| world.outcomes[&offset]);
    let (now, before) = (Outcome::Delivered, Outcome::ResolvedEarlier);
    assert_eq!(ended, [now, before, before, now, before]);
}

#[test]
fn newly_passing_record_tried_despite_exhausted_neighbours() {
    let policy = FailureHandling { retries_max: Some(0), ..FailureHandling::default() };
    let mut world = PolicyModel::new(policy, ResponseStyle::AllOrNothing, BTreeMap::from([(0, u32::MAX)]));
    world.take(PolicyStep::Refilter(BTreeSet::from([1])));
    for step in [PolicyStep::Fetch, PolicyStep::Acknowledge, PolicyStep::Seal] {
        world.take(step);
    }
    world.take(PolicyStep::Refilter(BTreeSet::new()));
    world.finish();
    assert_eq!((world.outcomes[&0], world.outcomes[&1]), (Outcome::Exhausted, Outcome::Exhausted));
    assert_eq!(world.tries.get(&1), Some(&1), "not given up for failures of others");
}

#[test]
fn alo_1_records_after_reported_one_never_count_delivered() {
    let policy = FailureHandling { retries_max: Some(1), ..FailureHandling::default() };
    for says in [ResponseStyle::StopsAtFirst, ResponseStyle::Names] {
        let mut world = flying(policy, says, BTreeMap::from([(2, u32::MAX)]));
        world.finish();
        let ended: Vec<Outcome> = (0..5).map(|offset| world.outcomes[&offset]).collect();
        let (good, bad) = (Outcome::Delivered, Outcome::Exhausted);
        assert_eq!(ended, [good, good, bad, bad, bad], "{says:?}");
        assert_eq!([0, 2, 4].map(|offset| world.failures[&offset]), [1, 2, 2], "{says:?}");
    }
}

#[test]
fn alo_1_next_owner_retries_from_lowest_reported_record() {
    for owner_changes in [false, true] {
        let fails = BTreeMap::from([(2, 1)]);
        let mut world = flying(FailureHandling::default(), ResponseStyle::StopsAtFirst, fails);
        world.take(PolicyStep::Answer);
        if owner_changes {
            world.take(PolicyStep::HandOver);
        }
        for step in [
            PolicyStep::Tick,
            PolicyStep::Fetch,
            PolicyStep::Acknowledge,
            PolicyStep::Acknowledge,
            PolicyStep::Seal,
        ] {
            world.take(step);
        }
        let again = world.flying.as_ref().map(|(_, partition_batch)| offsets(partition_batch));
        assert_eq!(again, Some(vec![2, 3, 4]), "the owner changes: {owner_changes}");
        world.finish();
        assert_eq!(world.outcomes[&4], Outcome::Delivered);
    }
}

#[test]
fn alo_1_ordered_partial_failure_bisected_to_single_record() {
    let policy = FailureHandling { retries_max: Some(0), bisect: true, ..FailureHandling::default() };
    let mut world =
        flying(policy, ResponseStyle::StopsAtFirst, BTreeMap::from([(1, u32::MAX), (3, u32::MAX)]));
    world.finish();
    let given_up: Vec<i64> = (0..RECORDS).filter(|at| world.outcomes[at] == Outcome::Exhausted).collect();
    assert_eq!(given_up, [1, 3]);
}
