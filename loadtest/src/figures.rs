//! Figures of a scenario run, overall and second by second. They are the JSON file next to a report.

use serde::{Deserialize, Serialize};

/// Figures of a run. Fields added later are 0 in an older file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFigures {
    /// Name of the scenario.
    pub scenario: String,
    /// `embedded`, a version, or an address.
    pub kafka: String,
    /// Share of the scenario's time that was run; 1 is all of it.
    pub scale: f64,
    /// Machine and build profile of the run.
    pub machine: String,
    /// Violations, and errors that ended the run early. Empty if the run was clean.
    pub problems: Vec<String>,
    /// Records written.
    pub records: u64,
    /// Records taken by the function.
    pub delivered: u64,
    /// Deliveries beyond the first.
    pub repeated: u64,
    /// Permitted number of deliveries beyond the first.
    pub repeated_max: u64,
    /// Invocations that took their records.
    pub invocations: u64,
    /// Seconds from the due time of the first record to the last arrival.
    pub seconds: f64,
    /// Records that arrived per second of that time.
    pub records_per_second: f64,
    /// Seconds from the due time of the last record until everything was committed.
    pub settled_after: f64,
    /// Latency from a record's due time to its arrival at the function.
    pub latency: PercentilesMs,
    /// The producer's part: time from a record's due time to the start of its write.
    pub lateness: PercentilesMs,
    /// Largest observed number of records that were due and had not arrived.
    pub waiting_max: f64,
    /// Highest lag in records that nodes have reported, over the partitions that a node owns.
    pub lag_max: f64,
    /// Largest observed number of invocations in flight.
    pub in_flight_max: f64,
    /// Largest observed number of consumers.
    pub consumers_max: f64,
    /// Peak resident memory of any node in MiB, as reported by the kernel.
    pub resident_mib_max: f64,
    /// User and system time of all nodes in microseconds per delivery.
    pub cpu_us_per_record: f64,
    /// Samples, one per second.
    pub samples: Vec<SecondSample>,
    /// Events of nodes.
    pub marks: Vec<PlotMark>,
}

/// Percentiles in milliseconds; all 0 if nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PercentilesMs {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Maximum.
    pub max: f64,
}

/// Sample of one second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecondSample {
    /// Seconds since the first record was due.
    pub at: f64,
    /// Scheduled records per second.
    pub due: f64,
    /// Records that arrived per second since the previous sample.
    pub arrived: f64,
    /// Records committed per second since the previous sample; `None` while no node answers.
    pub committed: Option<f64>,
    /// Records that are due and have not arrived, including those of partitions without an owner.
    pub waiting: f64,
    /// Uncommitted records of all nodes; `None` while no node answers.
    pub lag: Option<f64>,
    /// Consumers of all nodes.
    pub consumers: Option<f64>,
    /// Invocations in flight of all nodes.
    pub in_flight: Option<f64>,
    /// Resident memory of each node in MiB; `None` while the node is down.
    pub resident_mib: Vec<Option<f64>>,
    /// Latency of the records that were due in this second; `None` if there were none.
    pub latency: Option<PercentilesMs>,
}

/// Event that every plot marks with a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlotMark {
    /// Seconds since the first record was due.
    pub at: f64,
    /// Description of the event.
    pub label: String,
}

/// Definition of a figure in tables.
#[derive(Clone, Copy)]
pub struct FigureRow {
    /// Name and unit.
    pub name: &'static str,
    /// Value for a run.
    pub of: fn(&RunFigures) -> f64,
    /// Decimal places.
    pub digits: usize,
    /// Direction that is better.
    pub good: BetterWhen,
    /// Difference that is attributed to the machine's noise.
    pub noise: f64,
}

/// Direction in which a figure improves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetterWhen {
    /// Higher is better.
    More,
    /// Lower is better.
    Less,
    /// Neither: the figure describes the run.
    Neither,
}

/// Figures shown in tables, in order.
pub const MEASURES: &[FigureRow] = &[
    measure("records written", |run| run.records as f64, 0, BetterWhen::Neither, 0.0),
    measure("records delivered", |run| run.delivered as f64, 0, BetterWhen::Neither, 0.0),
    measure("delivered again", |run| run.repeated as f64, 0, BetterWhen::Neither, 0.0),
    measure("records/s", |run| run.records_per_second, 0, BetterWhen::More, 1.0),
    measure("records an invocation", records_an_invocation, 1, BetterWhen::Neither, 0.0),
    measure("due -> arrived p50 ms", |run| run.latency.p50, 2, BetterWhen::Less, 2.0),
    measure("due -> arrived p99 ms", |run| run.latency.p99, 2, BetterWhen::Less, 10.0),
    measure("due -> arrived p99.9 ms", |run| run.latency.p999, 2, BetterWhen::Less, 25.0),
    measure("due -> arrived at most ms", |run| run.latency.max, 2, BetterWhen::Less, 50.0),
    measure("  of that the producer p99 ms", |run| run.lateness.p99, 2, BetterWhen::Neither, 0.0),
    measure("settled after s", |run| run.settled_after, 2, BetterWhen::Less, 1.0),
    measure("due and waiting at most, records", |run| run.waiting_max, 0, BetterWhen::Less, 200.0),
    measure("lag at most, records", |run| run.lag_max, 0, BetterWhen::Less, 200.0),
    measure("invocations in flight at most", |run| run.in_flight_max, 0, BetterWhen::Neither, 0.0),
    measure("consumers at most", |run| run.consumers_max, 0, BetterWhen::Neither, 0.0),
    measure("resident MiB of a node at most", |run| run.resident_mib_max, 1, BetterWhen::Less, 4.0),
    measure("CPU us a record", |run| run.cpu_us_per_record, 2, BetterWhen::Less, 1.0),
];

const fn measure(
    name: &'static str,
    of: fn(&RunFigures) -> f64,
    digits: usize,
    good: BetterWhen,
    noise: f64,
) -> FigureRow {
    FigureRow { name, of, digits, good, noise }
}

fn records_an_invocation(run: &RunFigures) -> f64 {
    (run.delivered + run.repeated) as f64 / run.invocations.max(1) as f64
}

impl RunFigures {
    /// Returns true if there are no problems.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}
