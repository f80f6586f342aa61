//! Scenario files: the schedule of records, the behaviour of the function, and the events of nodes. Parsing is
//! strict: unknown fields are rejected.

mod behaviour;
mod file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use behaviour::{BehaviourSequence, FunctionBehaviour, LatencyCurve};
pub use file::parse;

use crate::checker::repeated_batches_max;
use crate::schedule::{RateRamp, RateSchedule};

/// Scenario of a load test.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadScenario {
    /// Name of the file without `.toml`.
    pub name: String,
    /// Purpose in one line.
    pub about: String,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// `BatchSize`.
    pub batch: u32,
    /// `MaximumBatchingWindowInSeconds`; Lighterman's default if `None`.
    pub window: Option<u32>,
    /// Time limit for the rest once everything is written.
    pub settle: Duration,
    /// Nodes at the start.
    pub nodes: NodeStart,
    /// Consecutive phases.
    pub phases: Vec<LoadPhase>,
    /// Events, ordered by time.
    pub events: Vec<NodeEvent>,
    /// Text of the file.
    pub text: String,
}

/// Start settings of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStart {
    /// Number of nodes at the start; they share a consumer group.
    pub count: usize,
    /// `MinimumPollers`: initial number of consumers of each node.
    pub consumers: u32,
    /// `memory_budget` of each node.
    pub memory_budget: String,
    /// `kafka.session_timeout`, in seconds.
    pub session_seconds: u64,
}

/// Period with one rate and one behaviour of the function.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadPhase {
    /// Rate of records.
    pub stretch: RateRamp,
    /// Behaviour of the function.
    pub behaviour: FunctionBehaviour,
}

/// Event of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// Time since the first record.
    pub at: Duration,
    /// Action on the node.
    pub deed: NodeAction,
}

/// Action on a node; nodes are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAction {
    /// `kill -9`, then a restart over the same data.
    Kill {
        /// Index of the node.
        node: usize,
        /// Time until the restart.
        away: Duration,
    },
    /// SIGTERM, exit code 0, then a restart over the same data.
    Terminate {
        /// Index of the node.
        node: usize,
        /// Time from the exit until the restart.
        away: Duration,
    },
    /// Another node joins the group.
    Join,
}

impl NodeAction {
    /// Returns the label used in plots.
    pub fn label(self) -> String {
        match self {
            Self::Kill { node, .. } => format!("kill -9 node {}", node + 1),
            Self::Terminate { node, .. } => format!("SIGTERM node {}", node + 1),
            Self::Join => "a node joins".to_owned(),
        }
    }
}

impl LoadScenario {
    /// Returns the due times of all records.
    pub fn schedule(&self) -> RateSchedule {
        RateSchedule::of(self.phases.iter().map(|phase| phase.stretch))
    }

    /// Returns the behaviour of the function over time.
    pub fn moods(&self) -> BehaviourSequence {
        BehaviourSequence::new(self.phases.iter().map(|phase| (phase.stretch.lasting, phase.behaviour)))
    }

    /// Returns how long records are written.
    pub fn lasting(&self) -> Duration {
        self.phases.iter().map(|phase| phase.stretch.lasting).sum()
    }

    /// Returns the permitted deliveries beyond the first in each partition: the batches that
    /// each killed node may repeat.
    pub fn repeats_max(&self) -> u64 {
        let kills = self.events.iter().filter(|event| matches!(event.deed, NodeAction::Kill { .. })).count();
        kills as u64 * u64::from(self.batch) * repeated_batches_max()
    }

    /// Scales the duration of the scenario. Phases and events move together; rates and durations of nodes are
    /// unchanged.
    #[must_use]
    pub fn scaled(mut self, scale: f64) -> Self {
        for phase in &mut self.phases {
            phase.stretch.lasting = phase.stretch.lasting.mul_f64(scale);
        }
        for event in &mut self.events {
            event.at = event.at.mul_f64(scale);
        }
        self
    }
}

/// Returns the folder of the included scenarios.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// Returns the names of the included scenarios, sorted.
pub fn names() -> Result<Vec<String>> {
    let folder = folder();
    let entries = std::fs::read_dir(&folder).with_context(|| format!("{}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let toml = paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut names: Vec<String> =
        toml.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}

/// Reads a scenario from a file (`….toml`), or an included one by its name.
pub fn read(given: &str) -> Result<LoadScenario> {
    let is_path = Path::new(given).extension().is_some_and(|extension| extension == "toml");
    let path = if is_path { PathBuf::from(given) } else { folder().join(format!("{given}.toml")) };
    if !is_path {
        let names = names()?;
        ensure!(
            names.iter().any(|name| name == given),
            "no scenario `{given}`: there are {}, or give a file that ends in .toml",
            names.join(", ")
        );
    }
    let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or("scenario").to_owned();
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    parse(&name, &text).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_included_scenario_parses() {
        let names = names().expect("a folder");
        for expected in [
            "burst",
            "joining-node",
            "node-killed",
            "rolling-restart",
            "slow-function",
            "steady",
            "thousand-partitions",
            "throttled",
        ] {
            assert!(names.iter().any(|name| name == expected), "{expected} is missing: {names:?}");
        }
        for name in names {
            let scenario = read(&name).unwrap_or_else(|error| panic!("{error:#}"));
            assert!(scenario.schedule().count() > 0, "{name}");
            assert!(scenario.lasting() <= Duration::from_mins(5), "{name}");
            assert!(scenario.events.iter().all(|event| event.at < scenario.lasting()), "{name}");
        }
    }

    #[test]
    fn readme_example_parses_with_documented_defaults() {
        let readme = include_str!("../../README.md");
        let shown =
            readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("shown");
        let told = parse("readme", shown).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((told.phases.len(), told.events.len()), (1, 1));
        let default = |line: &str| line.ends_with("# default") || line.contains("; default");
        let nodes = ["count", "consumers", "memory_budget", "session_seconds"];
        let kept = shown.lines().filter(|line| {
            let key = line.split(' ').next().unwrap_or_default();
            // Shares are shown with a value other than the default.
            !(nodes.contains(&key) || default(line) && !["throttle", "errors"].contains(&key))
        });
        let kept = kept.collect::<Vec<_>>().join("\n");
        let without = parse("readme", &kept).unwrap_or_else(|error| panic!("{error:#}"));
        assert!(without.text.lines().count() + 9 <= told.text.lines().count(), "{kept}");
        assert_eq!(
            LoadScenario { text: String::new(), ..without },
            LoadScenario { text: String::new(), ..told }
        );
    }

    #[test]
    fn unknown_scenario_error_lists_existing_ones() {
        let error = read("staedy").expect_err("none").to_string();
        assert!(error.contains("`staedy`") && error.contains("steady"), "{error}");
    }

    #[test]
    fn scaled_scenario_keeps_rates_and_moves_events() {
        let whole = read("node-killed").expect("reads");
        let half = whole.clone().scaled(0.5);
        assert_eq!(half.lasting() * 2, whole.lasting());
        assert_eq!(half.events[0].at * 2, whole.events[0].at);
        assert_eq!(half.events[0].deed, whole.events[0].deed);
        assert!(half.schedule().count().abs_diff(whole.schedule().count() / 2) <= 2);
        assert_eq!(half.repeats_max(), u64::from(half.batch) * repeated_batches_max());
    }
}
