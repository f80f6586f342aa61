//! Status of a mapping: its counters, its last processing result, and the statistics of each partition. Clones share
//! it.

mod meters;
pub mod partition;
pub mod standing;
pub mod waiting_offers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lighterman_proto::ids::{ConsumerId, Epoch, MappingId};
use metrics::Label;
use parking_lot::Mutex;

use self::meters::MappingMeters;
use self::standing::{StandingCause, StandingTroubles};
use self::waiting_offers::WaitingOffers;
use crate::credit::memory_budget::ByteShortage;
use crate::invoker::InvocationOutcome;
use crate::messages::batch::CloseReason;
use crate::messages::commit::CommitRequest;
use crate::messages::outcome::{Outcome, ResolvedRange};
use crate::runtime::clock;
use crate::status::partition::PartitionStats;
use crate::telemetry::LineLimit;

pub use self::meters::MappingSight;

/// AWS's initial `LastProcessingResult`.
pub const NO_RECORDS: &str = "No records processed";
/// AWS's `LastProcessingResult` after a good poll.
pub const OK: &str = "OK";
/// AWS's `LastProcessingResult` after a failed invocation.
pub const FUNCTION_FAILED: &str = "PROBLEM: Function call failed";

const PROBLEM: &str = "PROBLEM: ";
const LINES_EACH: Duration = Duration::from_secs(10);

/// Partition as shown in the status.
#[derive(Clone, Debug)]
pub struct PartitionRow {
    /// Id of its consumer.
    pub consumer: ConsumerId,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Statistics of the partition.
    pub stats: Arc<PartitionStats>,
}

/// Shared status of one mapping.
#[derive(Clone)]
pub struct MappingStatus {
    inner: Arc<StatusState>,
}

struct StatusState {
    labels: Vec<Label>,
    meters: MappingMeters,
    last_result: Mutex<String>,
    /// Notice shown until records are delivered.
    notice: Mutex<Option<String>>,
    standing: Mutex<StandingTroubles>,
    partitions: Mutex<BTreeMap<i32, PartitionRow>>,
    not_ready_reason: Mutex<Option<String>>,
    /// Text of a lasting memory shortage.
    starved: Mutex<Option<String>>,
    commit_lines: LineLimit,
    invocation_lines: LineLimit,
    resolved: AtomicU64,
    throttled: AtomicU64,
    answered: AtomicU64,
}

/// Responses since the last sample, as the scaler uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerCounts {
    /// Number of all responses.
    pub answered: u64,
    /// Number of throttled responses.
    pub throttled: u64,
}

impl MappingStatus {
    /// Creates the status of one mapping. `labels` are set on all its metrics.
    pub fn new(labels: Vec<Label>) -> Self {
        let meters = MappingMeters::new(&labels);
        meters.see(MappingSight::NOTHING);
        meters.owned.set(0.0);
        Self {
            inner: Arc::new(StatusState {
                labels,
                meters,
                last_result: Mutex::new(NO_RECORDS.to_owned()),
                notice: Mutex::new(None),
                standing: Mutex::default(),
                partitions: Mutex::new(BTreeMap::new()),
                not_ready_reason: Mutex::new(Some("has not started".to_owned())),
                starved: Mutex::new(None),
                commit_lines: LineLimit::new(1, LINES_EACH),
                invocation_lines: LineLimit::new(5, LINES_EACH),
                resolved: AtomicU64::new(0),
                throttled: AtomicU64::new(0),
                answered: AtomicU64::new(0),
            }),
        }
    }

    /// Returns the labels of the mapping's metrics.
    pub fn labels(&self) -> &[Label] {
        &self.inner.labels
    }

    /// Returns AWS's `LastProcessingResult`: a lasting problem, or the result of the last poll or invocation.
    pub fn last_result(&self) -> String {
        let standing = self.inner.standing.lock().first().map(|text| format!("{PROBLEM}{text}"));
        // An unreadable batch stays unreadable, even while other partitions succeed.
        let lasting = standing.or_else(|| self.unreadable());
        lasting.unwrap_or_else(|| self.inner.last_result.lock().clone())
    }

    fn unreadable(&self) -> Option<String> {
        let partitions = self.inner.partitions.lock();
        let of = |(partition, shown): (&i32, &PartitionRow)| {
            let unreadable = shown.stats.unreadable()?;
            Some(format!("{PROBLEM}{}", unreadable.damage.told(*partition, unreadable.first)))
        };
        partitions.iter().find_map(of)
    }

    /// Returns the reason, as of the last second, that the mapping does not run all its partitions on this node.
    /// `None` if it does, or if the problem is external (an unreachable cluster, a missing function), which
    /// `last_result` shows. Partitions that cannot start while others run count as not ready.
    pub fn not_ready_reason(&self) -> Option<String> {
        if let Some(starved) = self.inner.starved.lock().clone() {
            return Some(starved);
        }
        let missing = self.inner.not_ready_reason.lock().clone()?;
        let (ours, outside) = {
            let standing = self.inner.standing.lock();
            (standing.is_ours(), standing.lies_outside())
        };
        let last = self.inner.last_result.lock();
        let outside = outside || (last.starts_with(PROBLEM) && *last != FUNCTION_FAILED);
        (ours || !outside).then_some(missing)
    }

    /// Shows the memory that the mapping holds, and the shortage if it has waited long for more.
    pub(crate) fn remembered(&self, held: usize, shortage: Option<&ByteShortage>) {
        let waited = shortage.map_or(0.0, |shortage| shortage.waited.as_secs_f64());
        self.inner.meters.bytes_leased.set(held as f64);
        self.inner.meters.memory_wait.set(waited);
        let starved = shortage.map(ToString::to_string);
        let before = std::mem::replace(&mut *self.inner.starved.lock(), starved.clone());
        match starved {
            Some(text) => self.problem(&text),
            None if before.is_some() => self.reachable(),
            None => {}
        }
    }

    pub(crate) fn fetch_throttled(&self, wait: Duration) {
        self.inner.meters.fetch_throttle.set(wait.as_secs_f64());
    }

    pub(crate) fn set_missing(&self, missing: Option<String>) {
        *self.inner.not_ready_reason.lock() = missing;
    }

    /// Sets the last result to `PROBLEM: ` and `what`.
    pub fn problem(&self, what: &str) {
        self.set_result(&format!("{PROBLEM}{what}"));
    }

    /// Sets or clears the lasting problem `cause`.
    pub(crate) fn stand(&self, cause: StandingCause, text: Option<String>) {
        if self.inner.standing.lock().set(cause, text) {
            self.inner.meters.poll_errors.increment(1);
        }
    }

    /// Resets the status after the member ended by a fault of this node. `what` describes the recovery.
    pub(crate) fn ended(&self, what: &str) {
        self.remembered(0, None);
        self.set_missing(Some(what.to_owned()));
        let mut standing = StandingTroubles::default();
        standing.set(StandingCause::Member, Some(format!("the mapping {what}")));
        *self.inner.standing.lock() = standing;
        self.inner.partitions.lock().clear();
        self.inner.meters.owned.set(0.0);
        self.inner.meters.see(MappingSight::NOTHING);
    }

    /// Logs a notice for operators and shows it until records are delivered, even if the cluster responds meanwhile.
    pub(crate) fn notice(&self, what: &str) {
        tracing::warn!("{what}");
        *self.inner.notice.lock() = Some(format!("PROBLEM: {what}"));
        self.problem(what);
    }

    fn set_result(&self, result: &str) {
        let mut last = self.inner.last_result.lock();
        if *last != result {
            result.clone_into(&mut last);
        }
    }

    /// Adds or replaces the row of a partition.
    pub fn show(&self, partition: i32, shown: PartitionRow) {
        let mut partitions = self.inner.partitions.lock();
        partitions.insert(partition, shown);
        self.inner.meters.owned.set(partitions.len() as f64);
    }

    /// Removes the row of a partition.
    pub fn hide(&self, partition: i32) {
        let mut partitions = self.inner.partitions.lock();
        partitions.remove(&partition);
        self.inner.meters.owned.set(partitions.len() as f64);
    }

    /// Returns the rows of all partitions.
    pub fn partitions(&self) -> BTreeMap<i32, PartitionRow> {
        self.inner.partitions.lock().clone()
    }

    /// Returns the number of records resolved since the start.
    pub fn resolved_total(&self) -> u64 {
        self.inner.resolved.load(Ordering::Relaxed)
    }

    /// Returns the responses counted since the last call.
    pub fn take_answers(&self) -> AnswerCounts {
        AnswerCounts {
            answered: self.inner.answered.swap(0, Ordering::Relaxed),
            throttled: self.inner.throttled.swap(0, Ordering::Relaxed),
        }
    }

    /// Exports a sample to the metrics.
    pub fn sampled(&self, sight: MappingSight) {
        self.inner.meters.see(sight);
    }

    /// Returns one batcher's share of the gauge of pending offers.
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

    /// Clears a problem of reaching the cluster, but not one of the function.
    pub(crate) fn reachable(&self) {
        // The cluster may respond while memory for its responses is short.
        let is_starved = self.inner.starved.lock().is_some();
        let mut last = self.inner.last_result.lock();
        if last.starts_with(PROBLEM) && *last != FUNCTION_FAILED && !is_starved {
            self.inner.notice.lock().as_deref().unwrap_or(OK).clone_into(&mut last);
        }
    }

    pub(crate) fn sealed(&self, records: u32, payload_bytes: usize, reason: CloseReason) {
        let meters = &self.inner.meters;
        meters.invoked.increment(u64::from(records));
        meters.batch_records.record(f64::from(records));
        meters.batch_bytes.record(payload_bytes as f64);
        meters.batch_close[reason as usize].increment(1);
    }

    pub(crate) fn answered(&self, verdict: &InvocationOutcome, records: u32, oldest_timestamp_ms: i64) {
        let meters = &self.inner.meters;
        self.inner.answered.fetch_add(1, Ordering::Relaxed);
        match verdict {
            InvocationOutcome::Delivered { .. } => {
                self.inner.notice.lock().take();
                self.set_result(OK);
                if oldest_timestamp_ms >= 0 {
                    let elapsed_ms = clock::wall_ms().0.saturating_sub(oldest_timestamp_ms).max(0);
                    meters.e2e_seconds.record(elapsed_ms as f64 / 1000.0);
                }
            }
            InvocationOutcome::Throttled { .. } => {
                self.inner.throttled.fetch_add(1, Ordering::Relaxed);
                meters.invoke_errors.increment(1);
            }
            InvocationOutcome::Withheld => {}
            InvocationOutcome::FunctionError { .. }
            | InvocationOutcome::TooLarge
            | InvocationOutcome::ServiceError { .. }
            | InvocationOutcome::ConfigError { .. }
            | InvocationOutcome::Unknown { .. } => {
                meters.invoke_errors.increment(1);
                meters.failed.increment(u64::from(records));
                self.set_result(FUNCTION_FAILED);
            }
        }
    }

    pub(crate) fn resolved(&self, offsets: u64, stats: &PartitionStats) {
        stats.resolved.fetch_add(offsets, Ordering::Relaxed);
        self.inner.resolved.fetch_add(offsets, Ordering::Relaxed);
    }

    /// Counts the ranges that the frontier has passed.
    pub(crate) fn passed(&self, passed: &[ResolvedRange]) {
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

    pub(crate) fn committed(&self, frontier: &CommitRequest) {
        if let Some(shown) = self.inner.partitions.lock().get(&frontier.partition) {
            let before = shown.stats.committed().unwrap_or(frontier.offset);
            self.inner.meters.committed.increment(before.distance_to(frontier.offset));
            shown.stats.set_committed(frontier.offset);
        }
    }

    /// Logs a failed invocation, rate-limited. Each line carries the number of lines held back before it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liv_1_memory_shortage_is_shown_with_its_holders() {
        let mapping_status = MappingStatus::new(Vec::new());
        let waited = Duration::from_secs(12);
        let shortage = ByteShortage {
            waited,
            held: 1 << 20,
            limit: 16 << 20,
            largest: "mapping 1-2-3".into(),
            largest_held: 14 << 20,
        };
        mapping_status.set_missing(None);
        mapping_status.remembered(1 << 20, Some(&shortage));
        mapping_status.reachable();
        for text in [mapping_status.last_result(), mapping_status.not_ready_reason().expect("not ready")] {
            assert!(text.contains("waited 12 s for memory") && text.contains("memory_budget"), "{text}");
            assert!(text.contains("14.0 MiB, by mapping 1-2-3"), "{text}");
        }
        assert!(mapping_status.last_result().starts_with("PROBLEM: "));
        mapping_status.remembered(1 << 20, None);
        assert_eq!((mapping_status.last_result().as_str(), mapping_status.not_ready_reason()), (OK, None));
    }
}
