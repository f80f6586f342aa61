//! Registry of all metrics: name, unit and description. Definitions follow AWS's (`PolledEventCount` and its family)
//! under Prometheus names.

pub mod open_files;
mod recorder;
mod server;

pub use recorder::{MetricsHandle, SeriesRecorder};
pub use server::{MetricsServer, MetricsServerError, ReadinessCheck};

use metrics::Unit;

macro_rules! declare {
    ($($kind:ident $name:ident = $text:literal, $unit:ident, $about:literal;)*) => {
        // Prometheus shows the description too, so it has no backticks.
        $(#[doc = $about] #[allow(clippy::doc_markdown)] pub const $name: &str = concat!("lighterman_", $text);)*

        /// Names of all metrics, for tests and documentation.
        pub const ALL: &[&str] = &[$($name),*];

        /// Registers unit and description of every metric with the current recorder.
        pub fn describe() {
            $(declare!(@describe $kind $name, $unit, $about);)*
        }
    };
    (@describe counter $name:ident, $unit:ident, $about:literal) => {
        metrics::describe_counter!($name, Unit::$unit, $about)
    };
    (@describe gauge $name:ident, $unit:ident, $about:literal) => {
        metrics::describe_gauge!($name, Unit::$unit, $about)
    };
    (@describe histogram $name:ident, $unit:ident, $about:literal) => {
        metrics::describe_histogram!($name, Unit::$unit, $about)
    };
}

declare! {
    counter RECORDS_POLLED = "records_polled_total", Count, "Records read from Kafka (AWS: PolledEventCount).";
    counter RECORDS_FILTERED = "records_filtered_total", Count, "Records that no filter pattern matched (AWS: FilteredOutEventCount).";
    counter RECORDS_INVOKED = "records_invoked_total", Count, "Records sent to a function, each attempt counted (AWS: InvokedEventCount).";
    counter RECORDS_FAILED = "records_failed_total", Count, "Records whose invocation failed (AWS: FailedInvokeEventCount).";
    counter RECORDS_DROPPED = "records_dropped_total", Count, "Records given up: without a destination, or because it failed and the mapping drops (AWS: DroppedEventCount).";
    counter RECORDS_COMMITTED = "records_committed_total", Count, "Records whose offsets were committed (AWS: CommittedEventCount).";
    counter RECORDS_DEAD_LETTERED = "records_dead_lettered_total", Count, "Records sent to the on-failure destination (AWS: OnFailureDestinationDeliveredEventCount).";
    counter POLL_ERRORS = "poll_errors_total", Count, "Fetches that failed.";
    counter INVOKE_ERRORS = "invoke_errors_total", Count, "Invocations that failed, throttles included.";
    counter COMMIT_ERRORS = "commit_errors_total", Count, "Offset commits that failed.";
    counter COMMITS_REWOUND = "commits_rewound_total", Count, "Commits that the group acknowledged and did not hold any more: sent again.";
    counter DESTINATION_ERRORS = "destination_errors_total", Count, "Sends to an on-failure destination that failed, each try counted (AWS, once given up: DestinationDeliveryFailures).";
    gauge OFFSET_LAG = "offset_lag", Count, "Log end minus committed offset, in records (AWS: OffsetLag); absent while it is not known.";
    gauge OFFSET_LAG_SECONDS = "offset_lag_seconds", Seconds, "Time to drain the lag at the present rate: +Inf while nothing is drained, absent while the lag is not known.";
    gauge CONSUMERS = "consumers", Count, "Consumers that share a mapping's partitions on this node (AWS: event pollers).";
    counter FUNCTION_QUESTIONS = "function_questions_total", Count, "Questions for a function's configuration, by outcome.";
    counter INVOCATIONS = "invocations_total", Count, "Invocations, by outcome.";
    histogram INVOKE_DURATION_SECONDS = "invoke_duration_seconds", Seconds, "From sending a request to the end of its answer.";
    histogram BATCH_RECORDS = "batch_records", Count, "Records in a batch.";
    histogram BATCH_BYTES = "batch_bytes", Bytes, "Payload of a batch.";
    counter BATCH_CLOSE = "batch_close_total", Count, "Batches closed, by reason.";
    histogram E2E_LATENCY_SECONDS = "e2e_latency_seconds", Seconds, "From a record's timestamp to the function's answer.";
    gauge BYTES_LEASED = "bytes_leased", Bytes, "Bytes held under the node's memory budget.";
    gauge MAPPING_BYTES_LEASED = "mapping_bytes_leased", Bytes, "Bytes that a mapping holds under the node's memory budget.";
    gauge MEMORY_WAIT_SECONDS = "memory_wait_seconds", Seconds, "How long a mapping has waited for bytes of the memory budget; 0 when it does not.";
    gauge FETCH_THROTTLE_SECONDS = "fetch_throttle_seconds", Seconds, "For how long a broker's quota last held back the fetches of a mapping; 0 when it did not.";
    gauge SLOTS_IN_USE = "slots_in_use", Count, "Invocations in flight.";
    gauge SLOTS_LIMIT = "slots_limit", Count, "Invocations allowed at once.";
    gauge OFFERS_WAITING = "offers_waiting", Count, "Offers of partitions that no batch has answered.";
    counter REBALANCES = "rebalances_total", Count, "Rebalances of a mapping's consumer group seen by this node.";
    gauge OWNED_PARTITIONS = "owned_partitions", Count, "Partitions this node owns.";
    counter RECORDS_LOST = "records_lost_total", Count, "Offsets deleted by retention before they were read.";
    counter TRUNCATIONS = "truncations_total", Count, "Logs found cut off below what was read, by an unclean leader election.";
    counter REBUILDS = "rebuilds_total", Count, "Actors rebuilt from the committed offset after they ended.";
    counter AUDIT_ERRORS = "audit_errors_total", Count, "Audit lines that could not be written.";
    counter AUDIT_LATE = "audit_late_total", Count, "Commits that went ahead of their audit lines, which the disk had not taken within a second and which wait.";
    gauge AUDIT_WAITING = "audit_waiting", Count, "Audit lines that wait for the disk.";
    counter INVARIANT_VIOLATIONS = "invariant_violations_total", Count, "Invariants found broken at run time; the partition was stopped.";
    counter MAILBOX_FULL = "mailbox_full_total", Count, "Messages that met a full mailbox: always a bug.";
    gauge ACTORS = "actors", Count, "Actors that are alive, by kind.";
    gauge TASKS = "tasks", Count, "Tasks that are alive, of those that outlive one exchange, by kind.";
    gauge OPEN_FILES = "open_files", Count, "Files that are open, sockets included.";
    gauge OPEN_FILES_LIMIT = "open_files_limit", Count, "Files that may be open.";
    gauge BUILD_INFO = "build_info", Count, "Always 1; its labels say which build runs.";
}

/// Buckets from a millisecond to Lambda's longest invocation.
const INVOKE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0];
/// Buckets of up to a day: latency includes the time a record waited in Kafka.
const LATENCY_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 3600.0, 86_400.0];
const RECORDS_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0];
const BYTES_BUCKETS: &[f64] = &[
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    524_288.0,
    1_048_576.0,
    2_097_152.0,
    4_194_304.0,
    6_291_456.0,
];

/// Returns the bucket bounds of a histogram.
fn bounds_of(histogram: &str) -> &'static [f64] {
    match histogram {
        INVOKE_DURATION_SECONDS => INVOKE_BUCKETS,
        BATCH_RECORDS => RECORDS_BUCKETS,
        BATCH_BYTES => BYTES_BUCKETS,
        _ => LATENCY_BUCKETS,
    }
}

/// Installs a [`SeriesRecorder`] as the recorder of this process, once. The handle renders its series.
pub fn install() -> Result<MetricsHandle, MetricsServerError> {
    let recorder = SeriesRecorder::default();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|_| MetricsServerError::Installed)?;
    describe();
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_prefix_and_are_unique() {
        let mut names = ALL.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        assert!(names.iter().all(|name| name.starts_with("lighterman_")));
    }

    #[test]
    fn counters_units_and_bounded_histograms_are_rendered() {
        let recorder = SeriesRecorder::default();
        let handle = recorder.handle();
        let _held = metrics::with_local_recorder(&recorder, || {
            describe();
            let polled = metrics::counter!(RECORDS_POLLED, "mapping" => "m");
            polled.increment(3);
            for n in 0..1000 {
                metrics::histogram!(BATCH_RECORDS).record(f64::from(n));
            }
            polled
        });
        let text = handle.render();
        assert!(text.contains("lighterman_records_polled_total{mapping=\"m\"} 3"), "{text}");
        assert!(text.contains("# HELP lighterman_records_polled_total Records read from Kafka"), "{text}");
        assert!(text.contains("lighterman_batch_records_bucket{le=\"10\"} 11"), "{text}");
    }
}
