//! What a mapping shows: its counters, its last processing result, and the facts of each partition. Clones share one board.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lighterman_proto::ids::{ConsumerId, Epoch, MappingId};
use metrics::{Counter, Gauge as MetricGauge, Histogram, Label, counter, gauge, histogram};
use parking_lot::Mutex;

use super::standing::{StandingCause, StandingTroubles};
use super::waiting::WaitingOffers;
use crate::batcher::core::{CloseReason, Plan};
use crate::invoker::Verdict;
use crate::metrics as names;
use crate::offsets::committer::Frontier;
use crate::partition::gauge::Gauge;
use crate::partition::ledger::{Outcome, Passed};
use crate::runtime::clock;
use crate::telemetry::LineLimit;

/// AWS's first `LastProcessingResult`.
pub const NO_RECORDS: &str = "No records processed";
/// AWS's `LastProcessingResult` after a good poll.
pub const OK: &str = "OK";
/// AWS's `LastProcessingResult` after a failed invocation.
pub const FUNCTION_FAILED: &str = "PROBLEM: Function call failed";

const PROBLEM: &str = "PROBLEM: ";
const LINES_EACH: Duration = Duration::from_secs(10);

/// One partition as it is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Under which consumer.
    pub consumer: ConsumerId,
    /// Which ownership.
    pub epoch: Epoch,
    /// Its facts.
    pub gauge: Arc<Gauge>,
}

/// The board.
#[derive(Clone)]
pub struct StatusBoard {
    inner: Arc<Inner>,
}

struct Inner {
    labels: Vec<Label>,
    meters: Meters,
    last_result: Mutex<String>,
    standing: Mutex<StandingTroubles>,
    partitions: Mutex<BTreeMap<i32, Shown>>,
    missing: Mutex<Option<String>>,
    commit_lines: LineLimit,
    invocation_lines: LineLimit,
    resolved: AtomicU64,
    throttled: AtomicU64,
    answered: AtomicU64,
}

struct Meters {
    polled: Counter,
    invoked: Counter,
    failed: Counter,
    dropped: Counter,
    filtered: Counter,
    dead_lettered: Counter,
    lost: Counter,
    committed: Counter,
    poll_errors: Counter,
    invoke_errors: Counter,
    commit_errors: Counter,
    commits_rewound: Counter,
    batch_records: Histogram,
    batch_bytes: Histogram,
    batch_close: [Counter; CloseReason::ALL.len()],
    e2e_seconds: Histogram,
    offers_waiting: MetricGauge,
    lag: MetricGauge,
    lag_seconds: MetricGauge,
    consumers: MetricGauge,
    owned: MetricGauge,
    slots_in_use: MetricGauge,
    slots_limit: MetricGauge,
}

impl Meters {
    fn new(labels: &[Label]) -> Self {
        let labels = || labels.iter();
        Self {
            polled: counter!(names::RECORDS_POLLED, labels()),
            invoked: counter!(names::RECORDS_INVOKED, labels()),
            failed: counter!(names::RECORDS_FAILED, labels()),
            dropped: counter!(names::RECORDS_DROPPED, labels()),
            filtered: counter!(names::RECORDS_FILTERED, labels()),
            dead_lettered: counter!(names::RECORDS_DEAD_LETTERED, labels()),
            lost: counter!(names::RECORDS_LOST, labels()),
            committed: counter!(names::RECORDS_COMMITTED, labels()),
            poll_errors: counter!(names::POLL_ERRORS, labels()),
            invoke_errors: counter!(names::INVOKE_ERRORS, labels()),
            commit_errors: counter!(names::COMMIT_ERRORS, labels()),
            commits_rewound: counter!(names::COMMITS_REWOUND, labels()),
            batch_records: histogram!(names::BATCH_RECORDS, labels()),
            batch_bytes: histogram!(names::BATCH_BYTES, labels()),
            batch_close: CloseReason::ALL.map(|reason| {
                let reason = Label::from_static_parts("reason", reason.label());
                counter!(names::BATCH_CLOSE, labels().cloned().chain([reason]).collect::<Vec<_>>())
            }),
            e2e_seconds: histogram!(names::E2E_LATENCY_SECONDS, labels()),
            offers_waiting: gauge!(names::OFFERS_WAITING, labels()),
            lag: gauge!(names::OFFSET_LAG, labels()),
            lag_seconds: gauge!(names::OFFSET_LAG_SECONDS, labels()),
            consumers: gauge!(names::CONSUMERS, labels()),
            owned: gauge!(names::OWNED_PARTITIONS, labels()),
            slots_in_use: gauge!(names::SLOTS_IN_USE, labels()),
            slots_limit: gauge!(names::SLOTS_LIMIT, labels()),
        }
    }

    fn see(&self, sight: MappingSight) {
        self.consumers.set(sight.consumers as f64);
        self.slots_in_use.set(f64::from(sight.slots_in_use));
        self.slots_limit.set(f64::from(sight.slots_limit));
        // What is not a number is not shown: an old figure would be taken for one of now.
        self.lag.set(sight.lag.map_or(f64::NAN, |lag| lag as f64));
        self.lag_seconds.set(sight.lag_seconds.unwrap_or(f64::NAN));
    }
}

/// What is seen of a mapping once a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MappingSight {
    /// Consumers.
    pub consumers: usize,
    /// Invocations.
    pub slots_in_use: u32,
    /// Invocations allowed.
    pub slots_limit: u32,
    /// Records to go, over all partitions that are ours; `None` while it is not known of each.
    pub lag: Option<u64>,
    /// How long that takes at the rate of now, in seconds.
    pub lag_seconds: Option<f64>,
}

impl MappingSight {
    /// Nothing runs, and nothing is known.
    const NOTHING: Self =
        Self { consumers: 0, slots_in_use: 0, slots_limit: 0, lag: None, lag_seconds: None };
}

/// Answers since the last look: what the scaler samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// All of them.
    pub answered: u64,
    /// Those that were throttled.
    pub throttled: u64,
}

impl StatusBoard {
    /// The board of one mapping; `labels` go on all of its metrics.
    pub fn new(labels: Vec<Label>) -> Self {
        let meters = Meters::new(&labels);
        meters.see(MappingSight::NOTHING);
        meters.owned.set(0.0);
        Self {
            inner: Arc::new(Inner {
                labels,
                meters,
                last_result: Mutex::new(NO_RECORDS.to_owned()),
                standing: Mutex::default(),
                partitions: Mutex::new(BTreeMap::new()),
                missing: Mutex::new(Some("has not begun".to_owned())),
                commit_lines: LineLimit::new(1, LINES_EACH),
                invocation_lines: LineLimit::new(5, LINES_EACH),
                resolved: AtomicU64::new(0),
                throttled: AtomicU64::new(0),
                answered: AtomicU64::new(0),
            }),
        }
    }

    /// Labels of the mapping's metrics.
    pub fn labels(&self) -> &[Label] {
        &self.inner.labels
    }

    /// AWS's `LastProcessingResult`: what stands in the way, or how the last poll or invocation went.
    pub fn last_result(&self) -> String {
        let standing = self.inner.standing.lock().first().map(|text| format!("{PROBLEM}{text}"));
        // A batch that cannot be read stays so, whatever goes well elsewhere.
        let lasting = standing.or_else(|| self.unreadable());
        lasting.unwrap_or_else(|| self.inner.last_result.lock().clone())
    }

    fn unreadable(&self) -> Option<String> {
        let partitions = self.inner.partitions.lock();
        let of = |(partition, shown): (&i32, &Shown)| {
            let unreadable = shown.gauge.unreadable()?;
            Some(format!("{PROBLEM}{}", unreadable.damage.told(*partition, unreadable.first)))
        };
        partitions.iter().find_map(of)
    }

    /// What keeps the mapping from running all that is its share on this node, as of the last second: `None` when it does,
    /// and when what is wrong lies outside (an unreachable cluster, a missing function), which `last_result` tells. Partitions
    /// that cannot begin beside others that run are missing.
    pub fn missing(&self) -> Option<String> {
        let missing = self.inner.missing.lock().clone()?;
        let (ours, outside) = {
            let standing = self.inner.standing.lock();
            (standing.is_ours(), standing.lies_outside())
        };
        let last = self.inner.last_result.lock();
        let outside = outside || (last.starts_with(PROBLEM) && *last != FUNCTION_FAILED);
        (ours || !outside).then_some(missing)
    }

    pub(crate) fn set_missing(&self, missing: Option<String>) {
        *self.inner.missing.lock() = missing;
    }

    /// Something is wrong: `PROBLEM: ` and what.
    pub fn problem(&self, what: &str) {
        self.set_result(&format!("{PROBLEM}{what}"));
    }

    /// `cause` stands in the way, or does not any more.
    pub(crate) fn stand(&self, cause: StandingCause, text: Option<String>) {
        if self.inner.standing.lock().set(cause, text) {
            self.inner.meters.poll_errors.increment(1);
        }
    }

    fn set_result(&self, result: &str) {
        let mut last = self.inner.last_result.lock();
        if *last != result {
            result.clone_into(&mut last);
        }
    }

    /// Shows a partition.
    pub fn show(&self, partition: i32, shown: Shown) {
        let mut partitions = self.inner.partitions.lock();
        partitions.insert(partition, shown);
        self.inner.meters.owned.set(partitions.len() as f64);
    }

    /// Shows a partition no more.
    pub fn hide(&self, partition: i32) {
        let mut partitions = self.inner.partitions.lock();
        partitions.remove(&partition);
        self.inner.meters.owned.set(partitions.len() as f64);
    }

    /// Every partition that is shown.
    pub fn partitions(&self) -> BTreeMap<i32, Shown> {
        self.inner.partitions.lock().clone()
    }

    /// Records resolved since the start.
    pub fn resolved_total(&self) -> u64 {
        self.inner.resolved.load(Ordering::Relaxed)
    }

    /// Answers since the last call.
    pub fn take_answers(&self) -> Answers {
        Answers {
            answered: self.inner.answered.swap(0, Ordering::Relaxed),
            throttled: self.inner.throttled.swap(0, Ordering::Relaxed),
        }
    }

    /// Shows what is seen once a second.
    pub fn sampled(&self, sight: MappingSight) {
        self.inner.meters.see(sight);
    }

    /// For one batcher: the offers that wait are those of all of them.
    pub(crate) fn waiting_offers(&self) -> WaitingOffers {
        WaitingOffers::new(self.inner.meters.offers_waiting.clone())
    }

    pub(crate) fn polled(&self, records: u64) {
        self.inner.meters.polled.increment(records);
    }

    pub(crate) fn poll_failed(&self, what: &str) {
        self.inner.meters.poll_errors.increment(1);
        self.problem(what);
    }

    /// The cluster answers: a problem with reaching it is over, one with the function is not.
    pub(crate) fn reachable(&self) {
        let mut last = self.inner.last_result.lock();
        if last.starts_with(PROBLEM) && *last != FUNCTION_FAILED {
            OK.clone_into(&mut last);
        }
    }

    pub(crate) fn sealed(&self, plan: &Plan) {
        let meters = &self.inner.meters;
        meters.invoked.increment(u64::from(plan.records()));
        meters.batch_records.record(f64::from(plan.records()));
        meters.batch_bytes.record(plan.payload_bytes as f64);
        meters.batch_close[plan.reason as usize].increment(1);
    }

    pub(crate) fn answered(&self, verdict: &Verdict, records: u32, oldest_timestamp_ms: i64) {
        let meters = &self.inner.meters;
        self.inner.answered.fetch_add(1, Ordering::Relaxed);
        match verdict {
            Verdict::Delivered { .. } => {
                self.set_result(OK);
                if oldest_timestamp_ms >= 0 {
                    let elapsed_ms = clock::wall_ms().0.saturating_sub(oldest_timestamp_ms).max(0);
                    meters.e2e_seconds.record(elapsed_ms as f64 / 1000.0);
                }
            }
            Verdict::Throttled { .. } => {
                self.inner.throttled.fetch_add(1, Ordering::Relaxed);
                meters.invoke_errors.increment(1);
            }
            Verdict::Withheld => {}
            Verdict::FunctionError { .. }
            | Verdict::TooLarge
            | Verdict::ServiceError { .. }
            | Verdict::ConfigError { .. }
            | Verdict::Unknown { .. } => {
                meters.invoke_errors.increment(1);
                meters.failed.increment(u64::from(records));
                self.set_result(FUNCTION_FAILED);
            }
        }
    }

    pub(crate) fn resolved(&self, offsets: u64, gauge: &Gauge) {
        gauge.resolved.fetch_add(offsets, Ordering::Relaxed);
        self.inner.resolved.fetch_add(offsets, Ordering::Relaxed);
    }

    /// The frontier has passed these.
    pub(crate) fn passed(&self, passed: &[Passed]) {
        let filtered = passed.iter().filter(|passed| passed.outcome == Outcome::Filtered);
        let filtered: u64 = filtered.map(|passed| passed.range.first.distance_to(passed.range.end)).sum();
        if filtered > 0 {
            self.inner.meters.filtered.increment(filtered);
        }
    }

    pub(crate) fn dead_lettered(&self, records: u64) {
        self.inner.meters.dead_lettered.increment(records);
    }

    pub(crate) fn dropped(&self, records: u64) {
        self.inner.meters.dropped.increment(records);
    }

    pub(crate) fn lost(&self, records: u64) {
        self.inner.meters.lost.increment(records);
    }

    pub(crate) fn committed(&self, frontier: &Frontier) {
        if let Some(shown) = self.inner.partitions.lock().get(&frontier.partition) {
            let before = shown.gauge.committed().unwrap_or(frontier.offset);
            self.inner.meters.committed.increment(before.distance_to(frontier.offset));
            shown.gauge.set_committed(frontier.offset);
        }
    }

    /// An invocation failed: the first lines of a while are written, with how many were not.
    pub(crate) fn tell_invocation_failed(&self, mapping: MappingId, attempt: u32, error: &str) {
        if let Some(held_back) = self.inner.invocation_lines.pass(clock::now()) {
            tracing::warn!(%mapping, attempt, error, held_back, "invocation failed");
        }
    }

    pub(crate) fn commit_failed(&self, what: &str) {
        self.inner.meters.commit_errors.increment(1);
        if let Some(held_back) = self.inner.commit_lines.pass(clock::now()) {
            tracing::warn!(error = what, held_back, "commit failed; trying again");
        }
    }

    pub(crate) fn commits_rewound(&self, partitions: usize) {
        self.inner.meters.commits_rewound.increment(partitions as u64);
        if let Some(held_back) = self.inner.commit_lines.pass(clock::now()) {
            let what =
                "the group does not hold what it acknowledged; a commit was served late. Committing it again";
            tracing::warn!(partitions, held_back, "{what}");
        }
    }
}
