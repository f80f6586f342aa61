//! Command line of the load test.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use loadtest::kafka_dist::version;
use loadtest::latency::VALUE_BYTES_MIN;

use crate::{chaos_runs, footprint_runs, scenarios};

const DRAIN_SECONDS_MAX: u64 = 300;
const STEADY_SECONDS: u64 = 20;

/// Deliver records from Kafka through a node to a fake Lambda, check the history, and print the figures.
///
/// With the name of a scenario (`loadtest steady`; `loadtest list` shows them all), the scenario is run and a report is written.
/// Without one, a topic of a real Kafka is filled and then drained; with --rate, records are written on a fixed schedule while they
/// are read, and latency is measured from the due time of each.
#[derive(Debug, Parser)]
#[command(name = "loadtest", args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<LoadtestCommand>,
    #[command(flatten)]
    pub(crate) arguments: LoadArguments,
}

impl CommandLine {
    /// Parses a command line. clap accepts flags of a drain before a scenario's name, where nothing reads them;
    /// such a line is rejected.
    pub(crate) fn of(words: &[String]) -> Result<Self, clap::Error> {
        let line = Self::try_parse_from(words)?;
        let flags_first = words.get(1).is_some_and(|word| word.starts_with('-'));
        if line.command.is_some() && flags_first {
            let said = "a scenario stands first, and takes other flags: see `loadtest run --help`";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, said));
        }
        Ok(line)
    }
}

/// Further commands.
#[derive(Debug, Subcommand)]
pub(crate) enum LoadtestCommand {
    /// Run a scenario and write a report; `run` may be left out
    Run(scenarios::ScenarioArguments),
    /// List the included scenarios
    List,
    /// Inject faults by seed on a real Kafka, and check the history
    // The alias goes with the next release.
    #[command(alias = "ordeal")]
    Chaos(chaos_runs::ChaosArguments),
    /// Measure a node that is idle
    Footprint(footprint_runs::FootprintArguments),
    /// Measure the cost per record as partitions grow
    PartitionsSweep(footprint_runs::SweepArguments),
    /// Name of a scenario, and the arguments of `run`
    #[command(external_subcommand)]
    Named(Vec<String>),
}

/// Arguments of a drain or of a fixed rate.
#[derive(Debug, Args)]
pub(crate) struct LoadArguments {
    /// Version of Kafka, from Maven Central
    #[arg(long, default_value = "4.2.1", value_parser = version)]
    pub(crate) kafka: String,
    /// Run the hand-written loop of examples/baseline.rs as well, in alternating order from round to round, and print ratios
    #[arg(long)]
    pub(crate) baseline: bool,
    /// Make the loop commit every batch and wait for the response before the next, as the node does, instead of committing ten times
    /// a second
    #[arg(long, requires = "baseline")]
    pub(crate) baseline_commits_each: bool,
    /// Number of measurements, after one run that warms the broker and is not counted; figures are medians, with minimum and maximum
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Load with a target, instead of the flags that describe a load; may be given several times
    #[arg(long, value_enum, conflicts_with_all = ["records", "value_bytes", "batch", "window", "rate"])]
    scenario: Vec<TargetScenario>,
    /// Number of records to write before the node starts
    #[arg(long, default_value_t = 200_000, conflicts_with = "rate")]
    records: usize,
    /// Size of each value, in bytes
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Partitions of the topic
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    /// `BatchSize`
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// `MaximumBatchingWindowInSeconds` of the mapping, 0 for no wait [default: 500 ms]. The baseline never waits
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=300))]
    window: Option<u32>,
    /// Records per second to write, with their latency measured
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: Option<u64>,
    /// With --rate: seconds to write, after 2 s of warm-up [default: 20]. Otherwise: seconds until the run stops, drained or not
    /// [default: 300]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// `MinimumPollers`: consumers of the node from the start
    #[arg(long, default_value_t = 2)]
    pub(crate) consumers: u32,
    /// Duration of an invocation, in milliseconds
    #[arg(long, default_value_t = 0)]
    pub(crate) function_ms: u64,
    /// Serve the function over HTTPS, with TLS 1.3 only, instead of plain HTTP. Node and loop trust a certificate that is made for the
    /// run, and the function selects the cipher, AES-128-GCM, for both
    #[arg(long)]
    pub(crate) function_tls: bool,
    /// Milliseconds by which the response to each commit is delayed, as by replicas, for node and loop alike
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=10_000))]
    pub(crate) commit_delay_ms: u64,
    /// `memory_budget` of the node
    #[arg(long, default_value = "128MiB")]
    memory_budget: String,
    /// Setting of the node, as in its environment; may be given several times
    #[arg(long = "set", value_name = "LIGHTERMAN_KEY=VALUE")]
    set: Vec<String>,
}

/// Loads that have targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TargetScenario {
    /// Drain 400,000 records of 1 KiB in batches of 100
    #[value(name = "1kib-x-100")]
    Kib,
    /// Drain 1,000,000 records of 100 B in batches of 100
    #[value(name = "100b-x-100")]
    Small,
    /// Drain 50,000 records of 1 KiB one by one
    #[value(name = "batch-1")]
    Single,
    /// Write 1,000 records of 1 KiB per second, window 0
    #[value(name = "latency")]
    Latency,
}

/// Load that a contender handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContenderLoad {
    /// Kind of arrival: a drain of existing records, or writes at a fixed rate.
    pub(crate) kind: ArrivalKind,
    /// Bytes of each value.
    pub(crate) value_bytes: usize,
    /// Partitions of the topic.
    pub(crate) partitions: i32,
    /// `BatchSize`.
    pub(crate) batch: u32,
    /// `MaximumBatchingWindowInSeconds`; Lighterman's default if `None`.
    pub(crate) window_seconds: Option<u32>,
}

/// Arrival of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ArrivalKind {
    /// All records exist before the contender starts.
    Drain {
        /// Number of records.
        records: usize,
    },
    /// Records are written on a schedule.
    Steady {
        /// Records a second.
        rate: u64,
        /// Duration of the writes.
        lasting: Duration,
    },
}

impl LoadArguments {
    /// Returns the loads to measure, in order.
    pub(crate) fn loads(&self) -> Vec<ContenderLoad> {
        if self.scenario.is_empty() {
            return vec![self.described()];
        }
        self.scenario.iter().map(|scenario| self.of(*scenario)).collect()
    }

    fn described(&self) -> ContenderLoad {
        let (kind, value_bytes) = match self.rate {
            Some(rate) => (self.steady(rate), self.value_bytes.max(VALUE_BYTES_MIN)),
            None => (ArrivalKind::Drain { records: self.records }, self.value_bytes),
        };
        ContenderLoad {
            kind,
            value_bytes,
            partitions: self.partitions,
            batch: self.batch,
            window_seconds: self.window,
        }
    }

    fn of(&self, scenario: TargetScenario) -> ContenderLoad {
        let (kind, value_bytes, batch, window_seconds) = match scenario {
            TargetScenario::Kib => (ArrivalKind::Drain { records: 400_000 }, 1024, 100, None),
            TargetScenario::Small => (ArrivalKind::Drain { records: 1_000_000 }, 100, 100, None),
            TargetScenario::Single => (ArrivalKind::Drain { records: 50_000 }, 1024, 1, None),
            TargetScenario::Latency => (self.steady(1_000), 1024, 100, Some(0)),
        };
        ContenderLoad { kind, value_bytes, partitions: self.partitions, batch, window_seconds }
    }

    fn steady(&self, rate: u64) -> ArrivalKind {
        ArrivalKind::Steady { rate, lasting: Duration::from_secs(self.seconds.unwrap_or(STEADY_SECONDS)) }
    }

    /// Returns the time limit of a drain.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(DRAIN_SECONDS_MAX))
    }

    /// Returns the node's settings as pairs of name and value.
    pub(crate) fn settings(&self) -> Result<Vec<(String, String)>> {
        let usual = [("LIGHTERMAN_MEMORY_BUDGET", &*self.memory_budget), ("LIGHTERMAN_LOG_LEVEL", "warn")];
        let given = self.set.iter().map(|setting| {
            setting
                .split_once('=')
                .with_context(|| format!("--set takes LIGHTERMAN_KEY=VALUE, not `{setting}`"))
        });
        let all = usual.into_iter().map(Ok).chain(given);
        all.map(|pair| pair.map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
    }
}

impl fmt::Display for ContenderLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            ArrivalKind::Drain { records } => write!(f, "{records} records")?,
            ArrivalKind::Steady { rate, lasting } => {
                write!(f, "{rate} records/s for {} s", lasting.as_secs())?;
            }
        }
        write!(f, " of {} B, {} partitions, batch {}", self.value_bytes, self.partitions, self.batch)?;
        match self.window_seconds {
            Some(seconds) => write!(f, ", window {seconds} s"),
            None => write!(f, ", window as it comes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(line: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::of(&line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>())
    }

    fn loads(words: &str) -> Result<Vec<ContenderLoad>, clap::Error> {
        line(words).map(|line| line.arguments.loads())
    }

    #[test]
    fn help_names_actual_defaults() {
        CommandLine::command().debug_assert();
        let help = CommandLine::command().render_long_help().to_string();
        let drain =
            loads("loadtest --scenario 1kib-x-100 --scenario 100b-x-100 --scenario batch-1").expect("parses");
        let counts = drain.iter().map(|load| match load.kind {
            ArrivalKind::Drain { records } => (records, load.value_bytes, load.batch),
            ArrivalKind::Steady { .. } => (0, 0, 0),
        });
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [(400_000, 1024, 100), (1_000_000, 100, 100), (50_000, 1024, 1)]
        );
        for said in [
            "400,000 records of 1 KiB",
            "1,000,000 records of 100 B",
            "50,000 records of 1 KiB",
            "[default: 300]",
        ] {
            assert!(help.contains(said), "{said}: {help}");
        }
        let steady = loads("loadtest --rate 1000 --seconds 20 --window 0").expect("parses");
        assert_eq!(loads("loadtest --scenario latency").expect("parses"), steady);
    }

    #[test]
    fn contradictory_arguments_are_rejected() {
        for line in [
            "loadtest --rate 10 --records 5",
            "loadtest --scenario latency --rate 5",
            "loadtest --scenario batch-1 --batch 7",
            "loadtest --rounds 0",
            "loadtest --window 301",
            "loadtest --kafka 127.0.0.1:9092",
            "loadtest chaos --kafka ../4.2.1",
        ] {
            assert!(loads(line).is_err(), "{line}");
        }
    }

    #[test]
    fn scenario_parses_with_and_without_run() {
        let parse = |words: &str| line(words).map(|line| line.command);
        let run = parse("loadtest run steady --kafka 4.2.1").expect("parses");
        let Some(LoadtestCommand::Run(run)) = run else { panic!("{run:?}") };
        let named = parse("loadtest steady --kafka 4.2.1").expect("parses");
        let Some(LoadtestCommand::Named(words)) = named else { panic!("{named:?}") };
        let named = scenarios::ScenarioArguments::try_parse_from(crate::named(words)).expect("parses");
        assert_eq!(format!("{run:?}"), format!("{named:?}"));
        assert!(matches!(parse("loadtest list"), Ok(Some(LoadtestCommand::List))));
        for word in ["chaos", "ordeal"] {
            assert!(
                matches!(parse(&format!("loadtest {word}")), Ok(Some(LoadtestCommand::Chaos(_)))),
                "{word}"
            );
        }
        assert!(matches!(parse("loadtest --records 5"), Ok(None)));
        assert!(parse("loadtest --records 5 run steady").is_err(), "they do not mix");
        for wrong in ["--scale 0", "--scale 1.5", "--kafka latest", "--records 5", "--set A=b"] {
            assert!(parse(&format!("loadtest run steady {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn settings_are_pairs() {
        let parse = |set| CommandLine::parse_from(["loadtest", "--set", set]).arguments.settings();
        assert_eq!(parse("LIGHTERMAN_A=b=c").expect("a pair")[2], ("LIGHTERMAN_A".into(), "b=c".into()));
        assert!(parse("LIGHTERMAN_A").is_err());
    }
}
