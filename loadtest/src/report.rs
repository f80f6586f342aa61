//! Text tables of figures: a line for each run, then the medians with minimum and maximum over all rounds, and the
//! ratio of node to baseline.

use std::fmt::Write;
use std::time::Duration;

use crate::benchmark_run::BenchFigures;
use crate::contender::Contender;

const NAME_WIDTH: usize = 34;
const FIGURE_WIDTH: usize = 28;

/// Definition of a measured figure.
struct ReportMeasure {
    name: &'static str,
    of: fn(&BenchFigures) -> Option<f64>,
    digits: usize,
}

const MEASURES: [ReportMeasure; 12] = [
    ReportMeasure { name: "records/s", of: records_per_second, digits: 0 },
    ReportMeasure {
        name: "records an invocation",
        of: |run| per(run.records as f64, run.invocations),
        digits: 1,
    },
    ReportMeasure {
        name: "event bytes a record",
        of: |run| per(run.payload_bytes as f64, run.records),
        digits: 0,
    },
    ReportMeasure { name: "CPU us a record", of: |run| per(run.cpu_us as f64, run.records), digits: 2 },
    ReportMeasure {
        name: "CPU us an invocation",
        of: |run| per(run.cpu_us as f64, run.invocations),
        digits: 1,
    },
    ReportMeasure {
        name: "TLS 1.3 handshakes",
        of: |run| run.handshakes.map(|count| count as f64),
        digits: 0,
    },
    ReportMeasure {
        name: "resident MiB at most",
        of: |run| Some(run.resident_kib as f64 / 1024.0),
        digits: 1,
    },
    ReportMeasure { name: "due -> arrived p50 ms", of: |run| took_ms(run, 500), digits: 2 },
    ReportMeasure { name: "due -> arrived p99 ms", of: |run| took_ms(run, 990), digits: 2 },
    ReportMeasure { name: "due -> arrived p99.9 ms", of: |run| took_ms(run, 999), digits: 2 },
    ReportMeasure { name: "  of that the producer p50 ms", of: |run| late_ms(run, 500), digits: 2 },
    ReportMeasure { name: "  of that the producer p99 ms", of: |run| late_ms(run, 990), digits: 2 },
];

fn per(amount: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| amount / count as f64)
}

/// Returns the rate between the first arrival and the last, which excludes startup and group join.
fn records_per_second(run: &BenchFigures) -> Option<f64> {
    (!run.took.is_zero()).then(|| run.records as f64 / run.took.as_secs_f64())
}

fn took_ms(run: &BenchFigures, permille: usize) -> Option<f64> {
    Some(ms(run.latency.as_ref()?.took.at(permille)))
}

fn late_ms(run: &BenchFigures, permille: usize) -> Option<f64> {
    Some(ms(run.latency.as_ref()?.lateness.at(permille)))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Runs of one scenario.
#[derive(Default)]
pub struct ScenarioRuns {
    node: Vec<BenchFigures>,
    baseline: Vec<BenchFigures>,
}

impl ScenarioRuns {
    /// Adds a run.
    pub fn add(&mut self, who: Contender, figures: BenchFigures) {
        match who {
            Contender::Node => self.node.push(figures),
            Contender::Baseline => self.baseline.push(figures),
        }
    }

    /// Formats the medians over the rounds, with minimum and maximum if there are several. Ratios are computed
    /// within each round, whose two runs are adjacent, and their median is shown: fluctuations of the machine then
    /// affect both runs.
    pub fn table(&self) -> String {
        let mut table = format!("{:NAME_WIDTH$}{:>FIGURE_WIDTH$}", "", "node");
        if !self.baseline.is_empty() {
            let _ = write!(table, "{:>FIGURE_WIDTH$}{:>FIGURE_WIDTH$}", "baseline", "ratio");
        }
        table.push('\n');
        for measure in &MEASURES {
            let row = |runs: &[BenchFigures]| runs.iter().filter_map(measure.of).collect::<Vec<_>>();
            let (node, baseline) = (row(&self.node), row(&self.baseline));
            if node.is_empty() {
                continue;
            }
            let ratios: Vec<f64> =
                node.iter().zip(&baseline).map(|(node, baseline)| node / baseline).collect();
            let _ =
                write!(table, "{:NAME_WIDTH$}{:>FIGURE_WIDTH$}", measure.name, spread(&node, measure.digits));
            if !baseline.is_empty() {
                let (baseline, ratio) = (spread(&baseline, measure.digits), spread(&ratios, 3));
                let _ = write!(table, "{baseline:>FIGURE_WIDTH$}{ratio:>FIGURE_WIDTH$}");
            }
            table.push('\n');
        }
        table
    }
}

/// Formats `median (minimum–maximum)`, or a single value alone.
fn spread(values: &[f64], digits: usize) -> String {
    let middle = median(values.to_vec());
    if values.len() < 2 {
        return format!("{middle:.digits$}");
    }
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{middle:.digits$} ({least:.digits$}–{most:.digits$})")
}

/// Formats a run as one line.
pub fn line(who: Contender, run: &BenchFigures) -> String {
    let mut line = format!("{:9}", who.name());
    for measure in MEASURES.iter().filter(|measure| !measure.name.starts_with(' ')) {
        if let Some(figure) = (measure.of)(run) {
            let _ = write!(line, " {figure:.*} {};", measure.digits, measure.name);
        }
    }
    let _ = write!(line, " first after {:.1} s; repeated {}", run.first_after.as_secs_f64(), run.repeated);
    line
}

/// Returns the median of `values`; for an even count, the mean of the two middle values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[odd / 2],
        even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        let medians =
            [vec![3.0, 1.0, 2.0], vec![4.0, 1.0, 2.0, 9.0]].map(|values| format!("{:.1}", median(values)));
        assert_eq!(medians, ["2.0", "3.0"]);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn ratios_are_taken_within_rounds() {
        let run = |cpu_us| BenchFigures {
            records: 100,
            invocations: 10,
            payload_bytes: 5_000,
            took: Duration::from_secs(2),
            first_after: Duration::ZERO,
            cpu_us,
            resident_kib: 2_048,
            repeated: 0,
            handshakes: None,
            latency: None,
        };
        let mut runs = ScenarioRuns::default();
        // The machine is three times slower in the second round, and the third is an outlier.
        for (node, baseline) in [(100, 400), (300, 1_200), (1_000, 1_000)] {
            runs.add(Contender::Node, run(node));
            runs.add(Contender::Baseline, run(baseline));
        }
        let table = runs.table();
        let row = |name: &str| {
            let line = table.lines().find_map(|line| line.strip_prefix(name)).expect("a row");
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let spread = ["3.00", "(1.00–10.00)", "10.00", "(4.00–12.00)", "0.250", "(0.250–1.000)"];
        assert_eq!(row("CPU us a record"), spread);
        assert_eq!(row("CPU us an invocation")[..2], ["30.0", "(10.0–100.0)"]);
        assert_eq!(row("records/s")[4], "1.000");
        assert!(!table.contains("p50"), "nothing was timed");
    }
}
