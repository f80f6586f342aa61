//! Every metric once: name, unit, sentence. Definitions follow AWS's (`PolledEventCount` and its family) under Prometheus
//! names. Labels are `mapping`, `function`, `topic`, and what a line says.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

macro_rules! metric_names {
    ($($(#[doc = $sentence:literal])+ $name:ident = $text:literal, $kind:ident, $unit:ident;)+) => {
        $($(#[doc = $sentence])+ pub const $name: &str = concat!("lighterman_", $text);)+

        /// Tells the recorder every name, unit and sentence.
        pub fn describe() {
            $(metric_names!(@describe $kind, $name, $unit, concat!($($sentence),+));)+
        }
    };
    (@describe counter, $name:ident, $unit:ident, $sentence:expr) => { describe_counter!($name, Unit::$unit, $sentence) };
    (@describe gauge, $name:ident, $unit:ident, $sentence:expr) => { describe_gauge!($name, Unit::$unit, $sentence) };
    (@describe histogram, $name:ident, $unit:ident, $sentence:expr) => { describe_histogram!($name, Unit::$unit, $sentence) };
}

metric_names! {
    /// Offsets read from Kafka.
    RECORDS_POLLED = "records_polled_total", counter, Count;
    /// Records sent to the function; retries count again.
    RECORDS_INVOKED = "records_invoked_total", counter, Count;
    /// Records in invocations that failed.
    RECORDS_FAILED = "records_failed_total", counter, Count;
    /// Records skipped because their payload alone exceeds the invocation limit.
    RECORDS_DROPPED = "records_dropped_total", counter, Count;
    /// Offsets deleted by retention or truncated before they were read.
    RECORDS_LOST = "records_lost_total", counter, Count;
    /// Sum of committed offset deltas.
    RECORDS_COMMITTED = "records_committed_total", counter, Count;
    /// Polls that failed.
    POLL_ERRORS = "poll_errors_total", counter, Count;
    /// Invocations that failed or were throttled.
    INVOKE_ERRORS = "invoke_errors_total", counter, Count;
    /// Commits that failed.
    COMMIT_ERRORS = "commit_errors_total", counter, Count;
    /// Log end minus committed, over the owned partitions; keeps its value while a lag is unknown.
    OFFSET_LAG = "offset_lag", gauge, Count;
    /// Time to drain the lag at the rate of now.
    OFFSET_LAG_SECONDS = "offset_lag_seconds", gauge, Seconds;
    /// Consumers running on this node.
    CONSUMERS = "consumers", gauge, Count;
    /// Invocations by `outcome`.
    INVOCATIONS = "invocations_total", counter, Count;
    /// From sending an invocation to its answer.
    INVOKE_DURATION_SECONDS = "invoke_duration_seconds", histogram, Seconds;
    /// Records in a sealed batch.
    BATCH_RECORDS = "batch_records", histogram, Count;
    /// Payload of a sealed batch.
    BATCH_BYTES = "batch_bytes", histogram, Bytes;
    /// Sealed batches by `reason`.
    BATCH_CLOSE = "batch_close_total", counter, Count;
    /// From a record's timestamp to the function's answer, for the oldest record batch of each invocation.
    E2E_LATENCY_SECONDS = "e2e_latency_seconds", histogram, Seconds;
    /// Bytes leased from the node's budget.
    BYTES_LEASED = "bytes_leased", gauge, Bytes;
    /// Invocations running now.
    SLOTS_IN_USE = "slots_in_use", gauge, Count;
    /// Invocations allowed at once: five for each consumer, less while the function throttles.
    SLOTS_LIMIT = "slots_limit", gauge, Count;
    /// Partitions that show records and wait for a batch.
    OFFERS_WAITING = "offers_waiting", gauge, Count;
    /// Assignments received from consumer groups.
    REBALANCES = "rebalances_total", counter, Count;
    /// Partitions owned by this node.
    OWNED_PARTITIONS = "owned_partitions", gauge, Count;
    /// Actors rebuilt after a panic.
    REBUILDS = "rebuilds_total", counter, Count;
    /// Messages that met a full mailbox: always a bug.
    MAILBOX_FULL = "mailbox_full_total", counter, Count;
    /// Version of this binary, as a label; always 1.
    BUILD_INFO = "build_info", gauge, Count;
}
