//! TOML format of a scenario and its validation.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::{FunctionBehaviour, LatencyCurve, LoadPhase, LoadScenario, NodeAction, NodeEvent, NodeStart};
use crate::latency::VALUE_BYTES_MIN;
use crate::schedule::RateRamp;

const PARTITIONS_MAX: i32 = 10_000;
const RATE_MAX: u64 = 200_000;
const LASTING_MAX: Duration = Duration::from_hours(1);
const NODES_MAX: usize = 8;
/// Both the broker and a node reject shorter timeouts.
const SESSION_SECONDS_MIN: u64 = 6;
const SETTLE_SECONDS: f64 = 60.0;
const AWAY_SECONDS: f64 = 1.0;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    about: String,
    partitions: i32,
    #[serde(default = "kib")]
    value_bytes: usize,
    #[serde(default = "hundred")]
    batch: u32,
    window: Option<u32>,
    #[serde(default = "settle_seconds")]
    settle_seconds: f64,
    #[serde(default)]
    nodes: NodesFile,
    #[serde(rename = "phase")]
    phases: Vec<PhaseFile>,
    #[serde(rename = "event", default)]
    events: Vec<EventFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NodesFile {
    count: usize,
    consumers: u32,
    memory_budget: String,
    session_seconds: u64,
}

impl Default for NodesFile {
    fn default() -> Self {
        Self {
            count: 1,
            consumers: 2,
            memory_budget: "128MiB".to_owned(),
            session_seconds: SESSION_SECONDS_MIN,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseFile {
    seconds: f64,
    rate: RateFile,
    latency: CurveFile,
    #[serde(default)]
    throttle: f64,
    #[serde(default)]
    errors: f64,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a rate is a whole number of records a second, or { from = …, to = … }")]
enum RateFile {
    Even(u64),
    Ramp(RampFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RampFile {
    from: u64,
    to: u64,
}

/// Duration in milliseconds.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a latency is milliseconds, or { p50 = …, p90 = …, p99 = …, max = … }, or { from = …, to = … }"
)]
enum CurveFile {
    Constant(u64),
    Percentiles(PercentilesFile),
    Ramp(RampFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PercentilesFile {
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventFile {
    at: f64,
    #[serde(rename = "do")]
    deed: DeedFile,
    node: Option<usize>,
    away: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum DeedFile {
    Kill,
    Terminate,
    Join,
}

fn kib() -> usize {
    1024
}

fn hundred() -> u32 {
    100
}

fn settle_seconds() -> f64 {
    SETTLE_SECONDS
}

/// Parses and validates the text of a scenario file.
pub fn parse(name: &str, text: &str) -> Result<LoadScenario> {
    let file: ScenarioFile = toml::from_str(text)?;
    ensure!(
        (1..=PARTITIONS_MAX).contains(&file.partitions),
        "`partitions` is {}, not 1 to {PARTITIONS_MAX}",
        file.partitions
    );
    ensure!((1..=10_000).contains(&file.batch), "`batch` is {}, not 1 to 10000", file.batch);
    ensure!(file.window.is_none_or(|window| window <= 300), "`window` is more than 300 seconds");
    ensure!(
        (VALUE_BYTES_MIN..=1_000_000).contains(&file.value_bytes),
        "`value_bytes` is {}, not {VALUE_BYTES_MIN} (a value carries when it was due) to 1000000",
        file.value_bytes
    );
    ensure!(!file.phases.is_empty(), "there is no [[phase]]");
    let nodes = nodes(file.nodes)?;
    let numbered = file.phases.iter().zip(1..);
    let phases = numbered.map(|(phase, n)| of_phase(phase).with_context(|| format!("[[phase]] {n}")));
    let numbered = file.events.iter().zip(1..);
    let events = numbered.map(|(event, n)| of_event(event).with_context(|| format!("[[event]] {n}")));
    let scenario = LoadScenario {
        name: name.to_owned(),
        about: file.about,
        partitions: file.partitions,
        value_bytes: file.value_bytes,
        batch: file.batch,
        window: file.window,
        settle: seconds("settle_seconds", file.settle_seconds)?,
        phases: phases.collect::<Result<_>>()?,
        events: events.collect::<Result<_>>()?,
        nodes,
        text: text.to_owned(),
    };
    ensure!(scenario.schedule().count() > 0, "no record is due in any [[phase]]");
    judge_events(&scenario)?;
    Ok(scenario)
}

fn nodes(file: NodesFile) -> Result<NodeStart> {
    ensure!((1..=NODES_MAX).contains(&file.count), "`nodes.count` is {}, not 1 to {NODES_MAX}", file.count);
    ensure!((1..=200).contains(&file.consumers), "`nodes.consumers` is {}, not 1 to 200", file.consumers);
    ensure!(
        (SESSION_SECONDS_MIN..=60).contains(&file.session_seconds),
        "`nodes.session_seconds` is {}, not {SESSION_SECONDS_MIN} to 60",
        file.session_seconds
    );
    let NodesFile { count, consumers, memory_budget, session_seconds } = file;
    Ok(NodeStart { count, consumers, memory_budget, session_seconds })
}

fn of_phase(phase: &PhaseFile) -> Result<LoadPhase> {
    let (from, to) = match phase.rate {
        RateFile::Even(rate) => (rate, rate),
        RateFile::Ramp(RampFile { from, to }) => (from, to),
    };
    ensure!(from.max(to) <= RATE_MAX, "`rate` is more than {RATE_MAX} records a second");
    let (throttle, errors) = (thousandths("throttle", phase.throttle)?, thousandths("errors", phase.errors)?);
    ensure!(throttle + errors < 1000, "`throttle` and `errors` leave nothing that succeeds");
    let lasting = seconds("seconds", phase.seconds)?;
    ensure!(!lasting.is_zero(), "`seconds` is 0");
    let latency = curve(&phase.latency)?;
    Ok(LoadPhase {
        stretch: RateRamp { lasting, from, to },
        behaviour: FunctionBehaviour { latency, throttle, errors },
    })
}

fn curve(file: &CurveFile) -> Result<LatencyCurve> {
    let ms = Duration::from_millis;
    let curve = match file {
        CurveFile::Constant(always) => LatencyCurve::Constant(ms(*always)),
        CurveFile::Ramp(RampFile { from, to }) => LatencyCurve::Ramp { from: ms(*from), to: ms(*to) },
        CurveFile::Percentiles(PercentilesFile { p50, p90, p99, max }) => {
            ensure!([p50, p90, p99, max].is_sorted(), "`latency` falls from one percentile to the next");
            LatencyCurve::Percentiles { p50: ms(*p50), p90: ms(*p90), p99: ms(*p99), max: ms(*max) }
        }
    };
    ensure!(curve.max() <= Duration::from_mins(15), "`latency` is longer than Lambda's 15 minutes");
    Ok(curve)
}

fn of_event(event: &EventFile) -> Result<NodeEvent> {
    let node = event.node.unwrap_or(1).checked_sub(1).context("`node` is 0: nodes are counted from 1")?;
    let away = seconds("away", event.away.unwrap_or(AWAY_SECONDS))?;
    let deed = match event.deed {
        DeedFile::Kill => NodeAction::Kill { node, away },
        DeedFile::Terminate => NodeAction::Terminate { node, away },
        DeedFile::Join if event.node.is_some() || event.away.is_some() => {
            bail!("a node that joins has neither `node` nor `away`")
        }
        DeedFile::Join => NodeAction::Join,
    };
    Ok(NodeEvent { at: seconds("at", event.at)?, deed })
}

/// Checks that events are ordered and refer to existing nodes.
fn judge_events(scenario: &LoadScenario) -> Result<()> {
    let mut there = scenario.nodes.count;
    ensure!(scenario.events.is_sorted_by_key(|event| event.at), "[[event]] are not in the order of `at`");
    for (event, n) in scenario.events.iter().zip(1..) {
        ensure!(event.at < scenario.lasting(), "[[event]] {n} is after the last [[phase]]");
        match event.deed {
            NodeAction::Join => there += 1,
            NodeAction::Kill { node, .. } | NodeAction::Terminate { node, .. } => {
                ensure!(node < there, "[[event]] {n}: there is no node {} then", node + 1);
            }
        }
        ensure!(there <= NODES_MAX, "[[event]] {n}: more than {NODES_MAX} nodes");
    }
    let longest = scenario.phases.iter().map(|phase| phase.behaviour.latency.max()).max();
    let session = Duration::from_secs(scenario.nodes.session_seconds);
    // A function outlives the node that invoked it: a longer invocation would still run when the next owner invokes
    // it.
    ensure!(
        scenario.repeats_max() == 0 || longest < Some(session),
        "a node is killed, and `latency` is not shorter than `nodes.session_seconds`: two invocations of a partition would run \
         at once, and nobody could tell whose fault it is"
    );
    Ok(())
}

fn seconds(name: &str, given: f64) -> Result<Duration> {
    let range = 0.0..=LASTING_MAX.as_secs_f64();
    ensure!(range.contains(&given), "`{name}` is {given}, not 0 to {} seconds", LASTING_MAX.as_secs());
    Ok(Duration::from_secs_f64(given))
}

fn thousandths(name: &str, share: f64) -> Result<u32> {
    ensure!((0.0..1.0).contains(&share), "`{name}` is {share}, not a share from 0 up to 1");
    Ok((share * 1000.0).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASE: &str = "[[phase]]\nseconds = 10\nrate = 100\nlatency = 5\n";

    fn refused(text: &str) -> String {
        format!("{:#}", parse("x", text).expect_err(text))
    }

    #[test]
    fn every_setting_in_file_is_parsed() {
        let text = r#"
            about = "all"
            partitions = 3
            value_bytes = 64
            batch = 7
            window = 2
            settle_seconds = 9.5
            nodes = { count = 2, consumers = 4, memory_budget = "64MiB", session_seconds = 8 }
            [[phase]]
            seconds = 2.5
            rate = { from = 10, to = 30 }
            latency = { p50 = 1, p90 = 2, p99 = 3, max = 4 }
            throttle = 0.25
            errors = 0.125
            [[phase]]
            seconds = 1
            rate = 5
            latency = { from = 3, to = 1 }
            [[event]]
            at = 1.5
            do = "kill"
            node = 2
            away = 0.5
            [[event]]
            at = 2
            do = "join"
            [[event]]
            at = 3
            do = "terminate"
            node = 3
        "#;
        let scenario = parse("all", text).expect("reads");
        let ms = Duration::from_millis;
        assert_eq!((scenario.partitions, scenario.value_bytes, scenario.batch), (3, 64, 7));
        assert_eq!((scenario.window, scenario.settle), (Some(2), ms(9_500)));
        assert_eq!(
            (scenario.nodes.count, scenario.nodes.consumers, scenario.nodes.session_seconds),
            (2, 4, 8)
        );
        let [first, second] = &scenario.phases[..] else { panic!("two") };
        assert_eq!(first.stretch, RateRamp { lasting: ms(2_500), from: 10, to: 30 });
        assert_eq!((first.behaviour.throttle, first.behaviour.errors), (250, 125));
        assert_eq!(second.behaviour.latency, LatencyCurve::Ramp { from: ms(3), to: ms(1) });
        let deeds: Vec<NodeAction> = scenario.events.iter().map(|event| event.deed).collect();
        let (kill, end) =
            (NodeAction::Kill { node: 1, away: ms(500) }, NodeAction::Terminate { node: 2, away: ms(1_000) });
        assert_eq!(deeds, [kill, NodeAction::Join, end]);
    }

    #[test]
    fn unknown_field_is_rejected_with_line() {
        for (unknown, text) in [
            ("partition", format!("about = \"x\"\npartitions = 1\npartition = 2\n{PHASE}")),
            ("seconds_", format!("about = \"x\"\npartitions = 1\n{PHASE}seconds_ = 1\n")),
            ("sessions", format!("about = \"x\"\npartitions = 1\nnodes.sessions = 1\n{PHASE}")),
            (
                "wait",
                format!("about = \"x\"\npartitions = 1\n{PHASE}[[event]]\nat = 1\ndo = \"kill\"\nwait = 1\n"),
            ),
        ] {
            let said = refused(&text);
            assert!(said.contains(&format!("unknown field `{unknown}`")) && said.contains("line "), "{said}");
        }
    }

    #[test]
    fn invalid_values_are_rejected_by_name() {
        let start = "about = \"x\"\npartitions = 1\n";
        let event = |event: &str| format!("{start}{PHASE}[[event]]\n{event}");
        for (said, text) in [
            ("`partitions` is 0", format!("about = \"x\"\npartitions = 0\n{PHASE}")),
            ("`batch` is 0", format!("{start}batch = 0\n{PHASE}")),
            ("`value_bytes` is 8", format!("{start}value_bytes = 8\n{PHASE}")),
            ("missing field `phase`", start.to_owned()),
            ("[[phase]] 1: `throttle` is 1", format!("{start}{PHASE}throttle = 1\n")),
            ("nothing that succeeds", format!("{start}{PHASE}throttle = 0.5\nerrors = 0.5\n")),
            ("a rate is", format!("{start}[[phase]]\nseconds = 1\nrate = \"fast\"\nlatency = 1\n")),
            ("a latency is", format!("{start}[[phase]]\nseconds = 1\nrate = 1\nlatency = {{ p50 = 1 }}\n")),
            ("no record is due", format!("{start}[[phase]]\nseconds = 1\nrate = 0\nlatency = 1\n")),
            ("there is no node 2", event("at = 1\ndo = \"kill\"\nnode = 2\n")),
            ("after the last [[phase]]", event("at = 10\ndo = \"join\"\n")),
            ("neither `node` nor `away`", event("at = 1\ndo = \"join\"\nnode = 1\n")),
            ("counted from 1", event("at = 1\ndo = \"kill\"\nnode = 0\n")),
            ("order of `at`", event("at = 2\ndo = \"join\"\n[[event]]\nat = 1\ndo = \"join\"\n")),
            ("whose fault", event("at = 1\ndo = \"kill\"\n").replace("latency = 5", "latency = 6000")),
            ("falls", format!("{start}{PHASE}").replace("= 5", "= { p50 = 9, p90 = 2, p99 = 3, max = 4 }")),
        ] {
            assert!(refused(&text).contains(said), "{said}: {}", refused(&text));
        }
    }
}
