//! Scenario files: what is written when, how the function behaves meanwhile, and what happens to the nodes. Strict: what a file
//! says and nobody reads is refused.

mod behaviour;
mod file;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use behaviour::{BehaviourSequence, FunctionBehaviour, LatencyCurve};
pub use file::parse;

use crate::schedule::{RateRamp, RateSchedule};

/// A load, and what is to become of it.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadScenario {
    /// The file's name without `.toml`.
    pub name: String,
    /// What it shows, in a line.
    pub about: String,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// `BatchSize`.
    pub batch: u32,
    /// `MaximumBatchingWindowInSeconds`; Lighterman's default when absent.
    pub window: Option<u32>,
    /// How long the rest may take once everything is written.
    pub settle: Duration,
    /// The nodes.
    pub nodes: NodeStart,
    /// One after the other.
    pub phases: Vec<LoadPhase>,
    /// In the order in which they happen.
    pub events: Vec<NodeEvent>,
    /// The file.
    pub text: String,
}

/// How nodes start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStart {
    /// How many are there from the start; they share a consumer group.
    pub count: usize,
    /// `MinimumPollers`: consumers of each from the start.
    pub consumers: u32,
    /// `memory_budget` of each.
    pub memory_budget: String,
    /// `kafka.session_timeout`, in seconds.
    pub session_seconds: u64,
}

/// A stretch of time with one rate and one behaviour of the function.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadPhase {
    /// What is written.
    pub stretch: RateRamp,
    /// What the function does meanwhile.
    pub behaviour: FunctionBehaviour,
}

/// Something that happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// When, counted from the first record.
    pub at: Duration,
    /// What.
    pub deed: NodeAction,
}

/// What happens to a node; nodes are counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeAction {
    /// `kill -9`, and a start over the same data.
    Kill {
        /// Which.
        node: usize,
        /// How long it stays away.
        away: Duration,
    },
    /// SIGTERM, exit code 0, and a start over the same data.
    Terminate {
        /// Which.
        node: usize,
        /// How long it stays away after it has ended.
        away: Duration,
    },
    /// One more node joins the group.
    Join,
}

impl NodeAction {
    /// As plots call it.
    pub fn label(self) -> String {
        match self {
            Self::Kill { node, .. } => format!("kill -9 node {}", node + 1),
            Self::Terminate { node, .. } => format!("SIGTERM node {}", node + 1),
            Self::Join => "a node joins".to_owned(),
        }
    }
}

impl LoadScenario {
    /// When every record is due.
    pub fn schedule(&self) -> RateSchedule {
        RateSchedule::of(self.phases.iter().map(|phase| phase.stretch))
    }

    /// What the function does when.
    pub fn moods(&self) -> BehaviourSequence {
        BehaviourSequence::new(self.phases.iter().map(|phase| (phase.stretch.lasting, phase.behaviour)))
    }

    /// How long it is written to.
    pub fn lasting(&self) -> Duration {
        self.phases.iter().map(|phase| phase.stretch.lasting).sum()
    }

    /// Deliveries beyond the first that the promise leaves room for, in each partition: a batch for each node that was killed.
    pub fn repeats_max(&self) -> u64 {
        let kills = self.events.iter().filter(|event| matches!(event.deed, NodeAction::Kill { .. })).count();
        kills as u64 * u64::from(self.batch)
    }

    /// The same in `scale` of the time: phases and events move together, rates and what nodes take stay.
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

/// Where the scenarios are that come with it.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// The names of those, in order.
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

/// The scenario of a file (`….toml`), or one that comes with it by its name.
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
    fn every_scenario_that_comes_with_it_is_read() {
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
    fn the_file_that_the_readme_shows_is_read_with_the_defaults_it_tells() {
        let readme = include_str!("../../README.md");
        let shown =
            readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("shown");
        let told = parse("readme", shown).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((told.phases.len(), told.events.len()), (1, 1));
        let default = |line: &str| line.ends_with("# default") || line.contains("; default");
        let nodes = ["count", "consumers", "memory_budget", "session_seconds"];
        let kept = shown.lines().filter(|line| {
            let key = line.split(' ').next().unwrap_or_default();
            // Shares are shown with a value that is not the default.
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
    fn a_scenario_that_is_not_there_is_answered_with_those_that_are() {
        let error = read("staedy").expect_err("none").to_string();
        assert!(error.contains("`staedy`") && error.contains("steady"), "{error}");
    }

    #[test]
    fn a_shorter_one_keeps_its_rates_and_moves_its_events() {
        let whole = read("node-killed").expect("reads");
        let half = whole.clone().scaled(0.5);
        assert_eq!(half.lasting() * 2, whole.lasting());
        assert_eq!(half.events[0].at * 2, whole.events[0].at);
        assert_eq!(half.events[0].deed, whole.events[0].deed);
        assert!(half.schedule().count().abs_diff(whole.schedule().count() / 2) <= 2);
        assert_eq!(half.repeats_max(), u64::from(half.batch));
    }
}
