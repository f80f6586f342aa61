//! What a run of a scenario has shown: its figures, and how they went second by second. The JSON beside a report is this.

use serde::{Deserialize, Serialize};

/// Figures of a run. Fields that are added later are 0 in an older file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunFigures {
    /// Name of the scenario.
    pub scenario: String,
    /// `embedded`, a version, or an address.
    pub kafka: String,
    /// Share of the scenario's time that was run; 1 is all.
    pub scale: f64,
    /// What it ran on, and how the programs were built.
    pub machine: String,
    /// What is wrong: violations of the promises, and what kept the run from ending. Empty when all is well.
    pub problems: Vec<String>,
    /// Records written.
    pub records: u64,
    /// Of those, taken by the function.
    pub delivered: u64,
    /// Deliveries beyond the first.
    pub repeated: u64,
    /// As many of those the promise leaves room for.
    pub repeated_max: u64,
    /// Invocations that took their records.
    pub invocations: u64,
    /// Seconds from when the first record was due to the last arrival.
    pub seconds: f64,
    /// Records that arrived, a second of that.
    pub records_per_second: f64,
    /// Seconds from when the last record was due until all was committed.
    pub settled_after: f64,
    /// From when a record was due to its arrival at the function.
    pub latency: PercentilesMs,
    /// The producer's part: from when a record was due to the start of its write.
    pub lateness: PercentilesMs,
    /// Most records seen that were due and had not arrived.
    pub waiting_max: f64,
    /// The highest lag that nodes have told, in records: of partitions that one of them has.
    pub lag_max: f64,
    /// Most invocations in flight seen.
    pub in_flight_max: f64,
    /// Most consumers seen.
    pub consumers_max: f64,
    /// The most that was resident of one node at any moment, in MiB, as the kernel keeps it.
    pub resident_mib_max: f64,
    /// User and system time of all nodes, in microseconds, of each delivery.
    pub cpu_us_per_record: f64,
    /// Second by second.
    pub samples: Vec<SecondSample>,
    /// What happened to nodes.
    pub marks: Vec<PlotMark>,
}

/// Percentiles in milliseconds; all 0 when nothing was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PercentilesMs {
    /// Half are not longer.
    pub p50: f64,
    /// 99 of a hundred.
    pub p99: f64,
    /// 999 of a thousand.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// One second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecondSample {
    /// Seconds since the first record was due.
    pub at: f64,
    /// Records due a second, by the schedule.
    pub due: f64,
    /// Records that arrived, a second, since the sample before.
    pub arrived: f64,
    /// Records whose offsets were committed, a second, since the sample before; absent while no node answers.
    pub committed: Option<f64>,
    /// Records that are due and have not arrived, those of partitions that no node has among them.
    pub waiting: f64,
    /// Records not committed, of all nodes; absent while none answers.
    pub lag: Option<f64>,
    /// Consumers of all nodes.
    pub consumers: Option<f64>,
    /// Invocations in flight of all nodes.
    pub in_flight: Option<f64>,
    /// Resident MiB of each node; absent while it is away.
    pub resident_mib: Vec<Option<f64>>,
    /// Latency of the records that were due in this second; absent when none was.
    pub latency: Option<PercentilesMs>,
}

/// A moment worth a line in every plot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlotMark {
    /// Seconds since the first record was due.
    pub at: f64,
    /// What happened.
    pub label: String,
}

/// One figure as tables show it.
#[derive(Clone, Copy)]
pub struct FigureRow {
    /// Its name and unit.
    pub name: &'static str,
    /// Its value.
    pub of: fn(&RunFigures) -> f64,
    /// Digits after the point.
    pub digits: usize,
    /// Which way is good.
    pub good: BetterWhen,
    /// Differences up to this are the machine's.
    pub noise: f64,
}

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetterWhen {
    /// The more the better.
    More,
    /// The less the better.
    Less,
    /// Neither: it says what was run.
    Neither,
}

/// Every figure that tables show, in order.
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
    /// Whether the promises were kept.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}
