//! Comparison of a run with an older one. Figures that are worse by more than the machine's noise are marked.

use std::fmt::Write;

use crate::figures::{BetterWhen, FigureRow, MEASURES, RunFigures};

/// Share by which a figure may worsen before it counts as a regression; noise is added.
const TOLERANCE: f64 = 0.2;
const NAME_WIDTH: usize = 34;
const FIGURE_WIDTH: usize = 12;

/// Trend of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// About the same, or a figure that is neither good nor bad.
    Same,
    /// Better.
    Better,
    /// Worse, which is a regression.
    Worse,
}

/// A figure of two runs.
#[derive(Clone, Copy)]
pub struct ComparisonRow {
    /// Compared figure.
    pub measure: &'static FigureRow,
    /// Value in the older run.
    pub old: f64,
    /// Value in the newer run.
    pub new: f64,
    /// Trend from old to new.
    pub went: Trend,
}

/// Comparison of two runs.
pub struct RunComparison {
    /// Differences that make the runs hard to compare, in sentences.
    pub differences: Vec<String>,
    /// Compared figures.
    pub rows: Vec<ComparisonRow>,
}

impl RunComparison {
    /// Compares `new` with `old`.
    pub fn of(old: &RunFigures, new: &RunFigures) -> Self {
        let mut differences = Vec::new();
        let mut differ = |what: &str, old: &str, new: &str| {
            if old != new {
                differences.push(format!("{what}: {old} then, {new} now"));
            }
        };
        differ("scenario", &old.scenario, &new.scenario);
        differ("kafka", &old.kafka, &new.kafka);
        differ("scale", &old.scale.to_string(), &new.scale.to_string());
        // Older files do not have it.
        if !old.machine.is_empty() {
            differ("machine", &old.machine, &new.machine);
        }
        if !old.is_clean() {
            differences.push("the older run was not clean".to_owned());
        }
        let row = |measure: &'static FigureRow| {
            let (old, new) = ((measure.of)(old), (measure.of)(new));
            ComparisonRow { measure, old, new, went: went(measure, old, new) }
        };
        Self { differences, rows: MEASURES.iter().map(row).collect() }
    }

    /// Returns the figures that are worse.
    pub fn regressions(&self) -> impl Iterator<Item = &ComparisonRow> {
        self.rows.iter().filter(|row| row.went == Trend::Worse)
    }

    /// Formats the comparison as a text table.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for difference in &self.differences {
            let _ = writeln!(table, "not the same run: {difference}");
        }
        let (old, new, ratio) = ("old", "new", "ratio");
        let _ = writeln!(
            table,
            "{:NAME_WIDTH$}{old:>FIGURE_WIDTH$}{new:>FIGURE_WIDTH$}{ratio:>FIGURE_WIDTH$}",
            ""
        );
        for row in &self.rows {
            let digits = row.measure.digits;
            let ratio = if row.old == 0.0 { "-".to_owned() } else { format!("{:.3}", row.new / row.old) };
            let verdict = match row.went {
                Trend::Same => "",
                Trend::Better => "  better",
                Trend::Worse => "  REGRESSION",
            };
            let _ = writeln!(
                table,
                "{:NAME_WIDTH$}{:>FIGURE_WIDTH$.digits$}{:>FIGURE_WIDTH$.digits$}{ratio:>FIGURE_WIDTH$}{verdict}",
                row.measure.name, row.old, row.new
            );
        }
        table
    }
}

fn went(measure: &FigureRow, old: f64, new: f64) -> Trend {
    let room = old.abs() * TOLERANCE + measure.noise;
    let gained = match measure.good {
        BetterWhen::More => new - old,
        BetterWhen::Less => old - new,
        BetterWhen::Neither => 0.0,
    };
    if gained < -room {
        Trend::Worse
    } else if gained > room {
        Trend::Better
    } else {
        Trend::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::PercentilesMs;

    fn run() -> RunFigures {
        RunFigures {
            scenario: "steady".to_owned(),
            records_per_second: 1_000.0,
            latency: PercentilesMs { p50: 10.0, p99: 100.0, p999: 200.0, max: 300.0 },
            cpu_us_per_record: 10.0,
            ..RunFigures::default()
        }
    }

    fn regressions(old: &RunFigures, new: &RunFigures) -> Vec<&'static str> {
        RunComparison::of(old, new).regressions().map(|row| row.measure.name).collect()
    }

    #[test]
    fn either_change_beyond_noise_is_marked() {
        let mut slow = run();
        slow.records_per_second = 700.0;
        slow.latency.p99 = 140.0;
        assert_eq!(regressions(&run(), &slow), ["records/s", "due -> arrived p99 ms"]);
        let table = RunComparison::of(&run(), &slow).table();
        let marked: Vec<&str> = table.lines().filter(|line| line.ends_with("REGRESSION")).collect();
        assert_eq!(marked.len(), 2, "{table}");
        assert!(marked[0].contains("1000") && marked[0].contains("700") && marked[0].contains("0.700"));
        // In the other direction they are improvements.
        assert_eq!(regressions(&slow, &run()), Vec::<&str>::new());
        assert_eq!(RunComparison::of(&slow, &run()).table().matches("  better").count(), 2);
    }

    #[test]
    fn noise_and_neutral_figures_are_no_regressions() {
        let mut other = run();
        (other.records_per_second, other.latency.p99, other.cpu_us_per_record) = (850.0, 129.0, 12.5);
        (other.records, other.repeated, other.in_flight_max) = (5, 50, 100.0);
        assert_eq!(regressions(&run(), &other), Vec::<&str>::new());
        // Nothing to divide by.
        assert!(RunComparison::of(&RunFigures::default(), &run()).table().contains('-'));
    }

    #[test]
    fn differences_between_runs_are_listed() {
        let mut other = run();
        (other.scenario, other.kafka) = ("burst".to_owned(), "4.2.1".to_owned());
        other.machine = "2 CPUs".to_owned();
        let table = RunComparison::of(&run(), &other).table();
        assert!(!table.contains("machine: "), "the earlier run has no machine: {table}");
        let elsewhere = RunFigures { machine: "8 CPUs".to_owned(), ..run() };
        assert!(RunComparison::of(&elsewhere, &other).table().contains("machine: 8 CPUs then, 2 CPUs now"));
        assert!(table.contains("scenario: steady then, burst now") && table.contains("kafka: "), "{table}");
        assert!(!RunComparison::of(&run(), &run()).table().contains("not the same run"));
    }

    #[test]
    fn file_of_another_version_is_read() {
        let old: RunFigures =
            serde_json::from_str(r#"{"scenario": "steady", "gone": 1, "latency": {"p50": 3}}"#)
                .expect("reads");
        assert_eq!((old.latency.p50, old.latency.p99, old.records), (3.0, 0.0, 0));
        let text = serde_json::to_string(&run()).expect("writes");
        assert_eq!(serde_json::from_str::<RunFigures>(&text).expect("reads"), run());
    }
}
