//! What a mapping shows: its counters, its last processing result, and the facts of each partition. Clones share one board.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lighterman_proto::ids::{ConsumerId, Epoch, MappingId};
use metrics::{Counter, Gauge as MetricGauge, Histogram, Label, counter, gauge, histogram};
use parking_lot::Mutex;

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
            consumers: gauge!(names::CONSUMERS, labels()),
            owned: gauge!(names::OWNED_PARTITIONS, labels()),
            slots_in_use: gauge!(names::SLOTS_IN_USE, labels()),
            slots_limit: gauge!(names::SLOTS_LIMIT, labels()),
        }
    }
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
        Self {
            inner: Arc::new(Inner {
                labels,
                meters,
                last_result: Mutex::new(NO_RECORDS.to_owned()),
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

    /// AWS's `LastProcessingResult`.
    pub fn last_result(&self) -> String {
        // A batch that cannot be read stays so, whatever goes well elsewhere.
        self.unreadable().unwrap_or_else(|| self.inner.last_result.lock().clone())
    }

    fn unreadable(&self) -> Option<String> {
        let partitions = self.inner.partitions.lock();
        let of = |(partition, shown): (&i32, &Shown)| {
            let unreadable = shown.gauge.unreadable()?;
            Some(format!("PROBLEM: {}", unreadable.damage.told(*partition, unreadable.first)))
        };
        partitions.iter().find_map(of)
    }

    /// What keeps the mapping from running all that is its share on this node, as of the last second: `None` when it does,
    /// and when what is wrong lies outside (an unreachable cluster, a missing function), which `last_result` tells.
    pub fn missing(&self) -> Option<String> {
        let missing = self.inner.missing.lock().clone()?;
        let last = self.inner.last_result.lock();
        (!last.starts_with("PROBLEM: ") || *last == FUNCTION_FAILED).then_some(missing)
    }

    pub(crate) fn set_missing(&self, missing: Option<String>) {
        *self.inner.missing.lock() = missing;
    }

    /// Something is wrong: `PROBLEM: ` and what.
    pub fn problem(&self, what: &str) {
        self.set_result(&format!("PROBLEM: {what}"));
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

    /// Sets the gauges that are sampled once a second.
    pub fn sampled(&self, consumers: usize, slots_in_use: u32, slots_limit: u32) {
        let lags = self.inner.partitions.lock().values().map(|shown| shown.gauge.lag()).sum::<Option<u64>>();
        if let Some(lag) = lags {
            self.inner.meters.lag.set(lag as f64);
        }
        self.inner.meters.consumers.set(consumers as f64);
        self.inner.meters.slots_in_use.set(f64::from(slots_in_use));
        self.inner.meters.slots_limit.set(f64::from(slots_limit));
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
        if last.starts_with("PROBLEM: ") && *last != FUNCTION_FAILED {
            OK.clone_into(&mut last);
        }
    }

    pub(crate) fn offers_waiting(&self, offers: usize) {
        self.inner.meters.offers_waiting.set(offers as f64);
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
