//! A run beside an older one: what is worse by more than the machine's noise is marked.

use std::fmt::Write;

use crate::figures::{BetterWhen, FigureRow, MEASURES, RunFigures};

/// What a figure may lose before it is a regression; noise comes on top.
const TOLERANCE: f64 = 0.2;
const NAME_WIDTH: usize = 34;
const FIGURE_WIDTH: usize = 12;

/// How a figure went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trend {
    /// About the same, or neither good nor bad.
    Same,
    /// Better.
    Better,
    /// Worse: a regression.
    Worse,
}

/// One figure of two runs.
#[derive(Clone, Copy)]
pub struct ComparisonRow {
    /// Which.
    pub measure: &'static FigureRow,
    /// In the older run.
    pub old: f64,
    /// In this one.
    pub new: f64,
    /// How it went.
    pub went: Trend,
}

/// Two runs side by side.
pub struct RunComparison {
    /// What makes them hard to compare, in sentences.
    pub differences: Vec<String>,
    /// Figure by figure.
    pub rows: Vec<ComparisonRow>,
}

impl RunComparison {
    /// Of `new` with `old`.
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
        // An older file does not tell it.
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

    /// Figures that are worse.
    pub fn regressions(&self) -> impl Iterator<Item = &ComparisonRow> {
        self.rows.iter().filter(|row| row.went == Trend::Worse)
    }

    /// As people read it.
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
    fn what_is_worse_than_noise_is_marked_whichever_way_is_good() {
        let mut slow = run();
        slow.records_per_second = 700.0;
        slow.latency.p99 = 140.0;
        assert_eq!(regressions(&run(), &slow), ["records/s", "due -> arrived p99 ms"]);
        let table = RunComparison::of(&run(), &slow).table();
        let marked: Vec<&str> = table.lines().filter(|line| line.ends_with("REGRESSION")).collect();
        assert_eq!(marked.len(), 2, "{table}");
        assert!(marked[0].contains("1000") && marked[0].contains("700") && marked[0].contains("0.700"));
        // The other way round they are better.
        assert_eq!(regressions(&slow, &run()), Vec::<&str>::new());
        assert_eq!(RunComparison::of(&slow, &run()).table().matches("  better").count(), 2);
    }

    #[test]
    fn noise_and_what_only_describes_the_run_are_no_regressions() {
        let mut other = run();
        (other.records_per_second, other.latency.p99, other.cpu_us_per_record) = (850.0, 129.0, 12.5);
        (other.records, other.repeated, other.in_flight_max) = (5, 50, 100.0);
        assert_eq!(regressions(&run(), &other), Vec::<&str>::new());
        // Nothing there to divide by.
        assert!(RunComparison::of(&RunFigures::default(), &run()).table().contains('-'));
    }

    #[test]
    fn runs_of_different_things_say_so() {
        let mut other = run();
        (other.scenario, other.kafka) = ("burst".to_owned(), "4.2.1".to_owned());
        other.machine = "2 CPUs".to_owned();
        let table = RunComparison::of(&run(), &other).table();
        assert!(!table.contains("machine: "), "the older one does not say: {table}");
        let elsewhere = RunFigures { machine: "8 CPUs".to_owned(), ..run() };
        assert!(RunComparison::of(&elsewhere, &other).table().contains("machine: 8 CPUs then, 2 CPUs now"));
        assert!(table.contains("scenario: steady then, burst now") && table.contains("kafka: "), "{table}");
        assert!(!RunComparison::of(&run(), &run()).table().contains("not the same run"));
    }

    #[test]
    fn a_file_of_another_version_is_read() {
        let old: RunFigures =
            serde_json::from_str(r#"{"scenario": "steady", "gone": 1, "latency": {"p50": 3}}"#)
                .expect("reads");
        assert_eq!((old.latency.p50, old.latency.p99, old.records), (3.0, 0.0, 0));
        let text = serde_json::to_string(&run()).expect("writes");
        assert_eq!(serde_json::from_str::<RunFigures>(&text).expect("reads"), run());
    }
}
