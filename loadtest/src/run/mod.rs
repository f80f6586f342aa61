//! Execution of a scenario: a Kafka, a function, nodes and a producer on a fixed schedule, then the check of the
//! history.

mod cluster;
mod fleet;
mod sampler;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lighterman::runtime::clock;
use tokio::sync::oneshot;

pub use cluster::{KafkaChoice, RunningCluster};
use fleet::{FleetEvents, FleetNodeSettings, NodeFleet};
use sampler::{RunSampler, SamplerResult};

use crate::checker::{HistoryVerdict, check};
use crate::contender::TRUST_VARIABLE;
use crate::figures::{PercentilesMs, RunFigures, SecondSample};
use crate::function::{ArrivalCount, FakeLambda};
use crate::latency::{LatencyPercentiles, LatencyStopwatch};
use crate::open_loop::{OpenLoop, OpenLoopTarget, WrittenRecords};
use crate::produce::{Compression, ProducedOffsets, TestProducer, ends};
use crate::scenario::LoadScenario;

/// Time limit for one record through every partition before the measurement starts.
const GREET_DEADLINE: Duration = Duration::from_secs(90);
const GREETING_BYTES: usize = 10;
/// Time between the decision to start and the first record.
const LEAD: Duration = Duration::from_millis(50);
/// Time for startup and shutdown in addition to the scenario's own time.
const AROUND: Duration = Duration::from_mins(5);
/// Maximum number of violations reported; the rest is counted.
const TOLD_MAX: usize = 5;

/// Settings of a run.
pub struct ScenarioRun<'r> {
    /// Scenario, already scaled.
    pub scenario: &'r LoadScenario,
    /// Share of the scenario's time that is run.
    pub scale: f64,
    /// Kafka to use.
    pub kafka: &'r KafkaChoice,
    /// Settings of the nodes as environment variables, which override the scenario's.
    pub settings: &'r [(String, String)],
    /// True if the function is served over TLS 1.3.
    pub function_tls: bool,
    /// True if progress is printed on standard output.
    pub progress: bool,
}

/// Environment when the first record is due.
struct RunEnv {
    topic: String,
    group: String,
    producer: TestProducer,
    open_loop: OpenLoop,
    lambda: FakeLambda,
    fleet: NodeFleet,
    greeted: ProducedOffsets,
}

/// Results of a run before they are judged.
struct RunRemains {
    produced: ProducedOffsets,
    lateness: LatencyPercentiles,
    stopwatch: LatencyStopwatch,
    tally: ArrivalCount,
    verdict: HistoryVerdict,
    seen: SamplerResult,
    happened: FleetEvents,
    start: Instant,
    settled_after: Duration,
}

impl ScenarioRun<'_> {
    /// Executes the run. Violations are in the figures; an error means that the run could not be judged.
    pub async fn go(&self) -> Result<RunFigures> {
        // Outside the time limit: jars may have to be downloaded first.
        let cluster = RunningCluster::start(self.kafka)?;
        // An existing Kafka may hold the topic of an earlier run.
        let topic = format!("load-{}-{}", self.scenario.name, clock::wall_ms().0);
        let servers = cluster.servers();
        let producer = TestProducer::connect(&servers).await?;
        let limit = self.scenario.lasting() + self.scenario.settle + AROUND;
        let ran = async { self.perform(self.stage(&servers, &topic, producer).await?).await };
        let ended = tokio::time::timeout(limit, ran).await;
        cluster.sweep(&topic).await;
        ended.with_context(|| format!("it has not ended within {} s", limit.as_secs()))?
    }

    async fn stage(&self, servers: &str, topic: &str, mut producer: TestProducer) -> Result<RunEnv> {
        let scenario = self.scenario;
        producer.create_topic(topic, scenario.partitions).await?;
        let (partitions, value_bytes) = (scenario.partitions, scenario.value_bytes);
        let target = OpenLoopTarget { servers, topic, partitions, value_bytes };
        let open_loop = OpenLoop::connect(&target, scenario.schedule()).await?;
        let lambda = FakeLambda::start_with(self.function_tls).await?;
        let mut orders = FleetNodeSettings::of(scenario, servers, topic, lambda.endpoint_url());
        if let Some(roots) = lambda.trust_file() {
            orders.settings.push((TRUST_VARIABLE.to_owned(), roots.display().to_string()));
        }
        orders.settings.extend_from_slice(self.settings);
        let group = orders.group.clone();
        let fleet = NodeFleet::start(orders, scenario.nodes.count).await?;
        let consumers = scenario.nodes.count as u64 * u64::from(scenario.nodes.consumers);
        fleet.assemble(consumers.min(partitions as u64)).await;
        let count = partitions as usize;
        let greeted = producer.write(topic, partitions, count, GREETING_BYTES, Compression::None).await?;
        let all_are_read = producer.await_committed(&group, topic, &ends(&greeted), GREET_DEADLINE).await;
        all_are_read.context("the nodes do not read every partition")?;
        Ok(RunEnv { topic: topic.to_owned(), group, producer, open_loop, lambda, fleet, greeted })
    }

    async fn perform(&self, mut stage: RunEnv) -> Result<RunFigures> {
        let (scenario, start) = (self.scenario, Instant::now() + LEAD);
        let greetings = stage.lambda.tally().records;
        let moods = scenario.moods();
        stage.lambda.set_script(move |n| moods.act(n, start.elapsed()));
        stage.lambda.time_with(LatencyStopwatch::new(start, Duration::ZERO));
        let sampler = RunSampler {
            lambda: stage.lambda.clone(),
            shown: stage.fleet.shown(),
            schedule: scenario.schedule(),
            start,
            progress: self.progress,
        };
        let (stop, stopped) = oneshot::channel();
        let sampling = tokio::spawn(sampler.run(stopped));
        let followed = stage.fleet.follow(&scenario.events, start);
        let (written, happened) = tokio::join!(stage.open_loop.run(start), followed);
        let (WrittenRecords { produced: mut all, lateness }, mut happened) = (written?, happened?);
        for (partition, offsets) in stage.greeted {
            all.entry(partition).or_default().extend(offsets);
        }
        let ends = ends(&all);
        let settled =
            stage.producer.await_committed(&stage.group, &stage.topic, &ends, scenario.settle).await;
        if settled.is_err() {
            let seconds = scenario.settle.as_secs();
            happened.problems.push(format!("not everything was committed {seconds} s after the last record"));
        }
        let settled_after = start.elapsed().saturating_sub(scenario.lasting());
        // The receiver is gone only if the sampler has panicked, which its task reports.
        let _ = stop.send(());
        let seen = sampling.await?;
        happened.problems.extend(stage.fleet.end().await);
        let stopwatch = stage.lambda.take_times().context("the stopwatch is gone")?;
        let mut tally = stage.lambda.tally();
        tally.records = tally.records.saturating_sub(greetings);
        let verdict = check(&all, &stage.lambda.events());
        let left = RunRemains {
            produced: all,
            lateness,
            stopwatch,
            tally,
            verdict,
            seen,
            happened,
            start,
            settled_after,
        };
        Ok(self.outcome(left))
    }

    fn outcome(&self, left: RunRemains) -> RunFigures {
        let scenario = self.scenario;
        let RunRemains {
            seen: SamplerResult { mut samples, cpu_us, resident_peak_mib },
            happened,
            verdict,
            tally,
            ..
        } = left;
        let mut problems = happened.problems;
        problems.extend(problems_of(&verdict, scenario.repeats_max()));
        with_latency(&mut samples, &left.stopwatch.by_second());
        let last =
            tally.between.map_or(Duration::ZERO, |(_, last)| last.saturating_duration_since(left.start));
        let most = |of: fn(&SecondSample) -> Option<f64>| samples.iter().filter_map(of).fold(0.0, f64::max);
        RunFigures {
            scenario: scenario.name.clone(),
            kafka: self.kafka.to_string(),
            scale: self.scale,
            machine: machine(self.function_tls),
            problems,
            records: left.produced.values().map(|offsets| offsets.len() as u64).sum(),
            delivered: verdict.delivered,
            repeated: verdict.repeated.values().sum(),
            repeated_max: scenario.repeats_max() * scenario.partitions as u64,
            invocations: tally.invocations,
            seconds: last.as_secs_f64(),
            records_per_second: tally.records as f64 / last.as_secs_f64().max(f64::MIN_POSITIVE),
            settled_after: left.settled_after.as_secs_f64(),
            latency: milliseconds(&left.stopwatch.percentiles()),
            lateness: milliseconds(&left.lateness),
            waiting_max: most(|sample| Some(sample.waiting)),
            lag_max: most(|sample| sample.lag),
            in_flight_max: most(|sample| sample.in_flight),
            consumers_max: most(|sample| sample.consumers),
            resident_mib_max: resident_peak_mib,
            cpu_us_per_record: cpu_us as f64 / tally.records.max(1) as f64,
            samples,
            marks: happened.marks,
        }
    }
}

fn machine(function_tls: bool) -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let built = if cfg!(debug_assertions) { "not optimised" } else { "optimised" };
    let wire = if function_tls { ", the function over TLS 1.3" } else { "" };
    format!("{cpus} CPUs for Kafka, the function, the producer and the nodes; {built}{wire}")
}

/// Returns the violations in sentences.
fn problems_of(verdict: &HistoryVerdict, repeats_max: u64) -> Vec<String> {
    let all = verdict.violations.len();
    let mut problems: Vec<String> =
        verdict.violations.iter().take(TOLD_MAX).map(ToString::to_string).collect();
    if all > TOLD_MAX {
        problems.push(format!("and {} more violations", all - TOLD_MAX));
    }
    let over = verdict.repeated.iter().filter(|(_, repeated)| **repeated > repeats_max);
    problems.extend(over.map(|(partition, repeated)| {
        format!("partition {partition}: {repeated} records were delivered again; {repeats_max} are allowed")
    }));
    problems
}

/// Assigns to each sample the latency of the records due in the second that it closes; the last sample may close
/// none.
fn with_latency(samples: &mut [SecondSample], seconds: &BTreeMap<u64, LatencyPercentiles>) {
    let mut taken = None;
    for sample in samples {
        let second = (sample.at.round() as u64).checked_sub(1).filter(|second| taken != Some(*second));
        sample.latency = second.and_then(|second| seconds.get(&second)).map(milliseconds);
        taken = second.or(taken);
    }
}

fn milliseconds(of: &LatencyPercentiles) -> PercentilesMs {
    let at = |permille| of.at(permille).as_secs_f64() * 1e3;
    PercentilesMs { p50: at(500), p99: at(990), p999: at(999), max: at(1000) }
}

#[cfg(test)]
mod tests {
    use lighterman_proto::units::Moment;
    use lighterman_sim::history::{Invariant, Violation};

    use super::*;

    #[test]
    fn violations_are_reported_and_counted() {
        let missing = |offset| Violation {
            invariant: Invariant::Alo1,
            at: Moment::default(),
            what: format!("{offset} of partition 3 is missing"),
        };
        let violations = (0..8).map(missing).collect();
        let verdict =
            HistoryVerdict { violations, repeated: BTreeMap::from([(0, 50), (1, 51)]), delivered: 1 };
        let problems = problems_of(&verdict, 50);
        assert_eq!(problems.len(), 7, "{problems:?}");
        assert_eq!(problems[0], "ALO-1 at 0 µs: 0 of partition 3 is missing");
        assert_eq!(problems[5], "and 3 more violations");
        assert!(problems[6].contains("partition 1: 51"), "{problems:?}");
        let clean = HistoryVerdict { violations: Vec::new(), ..verdict };
        assert!(problems_of(&clean, 51).is_empty());
    }

    #[test]
    fn latency_is_assigned_to_due_second() {
        let mut samples =
            [0.3, 1.001, 1.999, 2.3, 4.0].map(|at| SecondSample { at, ..SecondSample::default() });
        let took = |ms| LatencyPercentiles::of(vec![Duration::from_millis(ms)]);
        with_latency(&mut samples, &BTreeMap::from([(0, took(5)), (1, took(7))]));
        let medians = samples.map(|sample| sample.latency.map(|latency| latency.p50 as u64));
        assert_eq!(medians, [None, Some(5), Some(7), None, None], "reported once");
    }
}
