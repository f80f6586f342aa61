//! Metrics of one mapping.

use metrics::{Counter, Gauge as MetricGauge, Histogram, Label, counter, gauge, histogram};

use crate::messages::batch::CloseReason;
use crate::metrics as names;

pub(super) struct MappingMeters {
    pub(super) polled: Counter,
    pub(super) invoked: Counter,
    pub(super) failed: Counter,
    pub(super) dropped: Counter,
    pub(super) filtered: Counter,
    pub(super) dead_lettered: Counter,
    pub(super) lost: Counter,
    pub(super) committed: Counter,
    pub(super) poll_errors: Counter,
    pub(super) invoke_errors: Counter,
    pub(super) commit_errors: Counter,
    pub(super) commits_rewound: Counter,
    pub(super) batch_records: Histogram,
    pub(super) batch_bytes: Histogram,
    pub(super) batch_close: [Counter; CloseReason::ALL.len()],
    pub(super) e2e_seconds: Histogram,
    pub(super) offers_waiting: MetricGauge,
    pub(super) lag: MetricGauge,
    pub(super) lag_seconds: MetricGauge,
    pub(super) consumers: MetricGauge,
    pub(super) owned: MetricGauge,
    pub(super) slots_in_use: MetricGauge,
    pub(super) slots_limit: MetricGauge,
    pub(super) bytes_leased: MetricGauge,
    pub(super) memory_wait: MetricGauge,
    pub(super) fetch_throttle: MetricGauge,
}

impl MappingMeters {
    pub(super) fn new(labels: &[Label]) -> Self {
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
            bytes_leased: gauge!(names::MAPPING_BYTES_LEASED, labels()),
            memory_wait: gauge!(names::MEMORY_WAIT_SECONDS, labels()),
            fetch_throttle: gauge!(names::FETCH_THROTTLE_SECONDS, labels()),
        }
    }

    pub(super) fn see(&self, sight: MappingSight) {
        self.consumers.set(sight.consumers as f64);
        self.slots_in_use.set(f64::from(sight.slots_in_use));
        self.slots_limit.set(f64::from(sight.slots_limit));
        // Export an unknown lag as NaN: the old value would look current.
        self.lag.set(sight.lag.map_or(f64::NAN, |lag| lag as f64));
        self.lag_seconds.set(sight.lag_seconds.unwrap_or(f64::NAN));
    }
}

/// Sample of a mapping, taken once a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MappingSight {
    /// Number of consumers.
    pub consumers: usize,
    /// Number of running invocations.
    pub slots_in_use: u32,
    /// Number of invocations allowed.
    pub slots_limit: u32,
    /// Records left to process over all owned partitions, or `None` while a partition's lag is unknown.
    pub lag: Option<u64>,
    /// Time to drain the lag at the present rate, in seconds.
    pub lag_seconds: Option<f64>,
}

impl MappingSight {
    /// Sample of a mapping that does not run.
    pub(super) const NOTHING: Self =
        Self { consumers: 0, slots_in_use: 0, slots_limit: 0, lag: None, lag_seconds: None };
}
