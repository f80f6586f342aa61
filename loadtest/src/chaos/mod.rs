//! Chaos runs: nodes on a real Kafka, with faults drawn from a seed, while records flow. At the end everything must
//! be delivered and committed. At no time may a commit be ahead, order be broken, or a partition have two owners.
//!
//! [`ChaosPlan`] selects the faults, [`ChaosRun`] executes them, and [`judge`] judges the result.

mod data;
pub mod judge;
mod node;
pub mod plan;
pub mod series;
mod wall_clock;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use data::NodeData;
use judge::{FaultWindow, RunRecord, RunVerdict};
use node::{ChaosNode, ChaosNodeSettings};
use plan::{ChaosFault, ChaosFaultKind, ChaosPlan, PoisonHandling, SESSION};
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use wall_clock::WallClock;
use writer::{ChaosWriter, NonRecordOffsets};

use crate::function::{FakeLambda, InvocationAction};
use crate::kafka::RealKafka;
use crate::produce::{ProducedOffsets, TestProducer};
use crate::watch::{CommitWatch, WatchedTopic};

/// LIV-1: time limit, after the last fault, in which everything must be delivered and committed.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// Time limit of a chaos run. A run that exceeds it is stuck, which is a failure.
const ENDS_WITHIN: Duration = Duration::from_secs(100);
const WATCHES_EVERY: Duration = Duration::from_millis(50);
/// Time that a coordinator needs to load its state after the broker is back.
const BROKER_WAKES_FOR: Duration = Duration::from_secs(1);
const FUNCTION: &str = "f";

/// A chaos run.
#[derive(Clone, Debug)]
pub struct ChaosRun {
    /// Plan of the run.
    pub plan: ChaosPlan,
    /// `kafka.group_protocol` of the nodes; not set if `None`.
    pub group_protocol: Option<String>,
    /// Folder for the nodes' logs, kept if the run failed.
    pub logs: PathBuf,
}

/// Report of a chaos run.
#[derive(Clone, Debug, Default)]
pub struct ChaosReport {
    /// Verdict of the judge.
    pub judgement: RunVerdict,
    /// Other problems: a node that exited on its own or could not be controlled.
    pub problems: Vec<String>,
    /// Number of injections of each fault.
    pub done: BTreeMap<ChaosFaultKind, u32>,
    /// Faults that this machine cannot inject, with the missing prerequisite.
    pub skipped: Vec<String>,
    /// Methods by which disks were filled.
    pub disks: BTreeSet<String>,
    /// Time from the last fault until everything was committed.
    pub settled_after: Duration,
    /// Total duration.
    pub took: Duration,
}

/// Environment of a run.
struct ChaosEnv {
    servers: String,
    topic: String,
    lambda: FakeLambda,
    otherwise: NonRecordOffsets,
    seats: Vec<(ChaosNode, Vec<ChaosFault>)>,
    watch: CommitWatch,
    skipped: Vec<String>,
    disks: BTreeSet<String>,
}

impl ChaosRun {
    /// Executes the run on a Kafka of its own. Violations are in the report; an error means that the run could not
    /// be judged.
    pub async fn run(&self, kafka: &mut RealKafka) -> Result<ChaosReport> {
        let servers = kafka.servers();
        self.timed(&servers, Some(kafka)).await
    }

    /// Executes the run on a shared Kafka, for plans that leave the broker alone.
    pub async fn run_beside_others(&self, servers: &str) -> Result<ChaosReport> {
        anyhow::ensure!(!self.plan.needs_the_broker(), "this one needs a broker for itself");
        self.timed(servers, None).await
    }

    async fn timed(&self, servers: &str, kafka: Option<&mut RealKafka>) -> Result<ChaosReport> {
        let begin = Instant::now();
        let whole = async { self.perform(self.stage(servers).await?, kafka).await };
        let report = tokio::time::timeout(ENDS_WITHIN, whole).await;
        let mut report = report.with_context(|| format!("it has not ended within {ENDS_WITHIN:?}"))??;
        report.took = begin.elapsed();
        if report.is_clean() {
            let _ = std::fs::remove_dir_all(&self.logs);
        }
        Ok(report)
    }

    async fn stage(&self, servers: &str) -> Result<ChaosEnv> {
        let plan = &self.plan;
        let topic = format!("chaos-{}-{}", plan.seed, lighterman::runtime::backoff::random() % 1_000_000);
        let mut producer = TestProducer::connect(servers).await?;
        producer.create_topic(&topic, plan.partitions).await?;
        let lambda = FakeLambda::start().await?;
        let (mood, failures, seed) = (plan.latency_profile, plan.failures, plan.seed);
        lambda.set_script(move |n| mood.act(seed, failures, n));
        lambda.set_timeout(mood.timeout());
        std::fs::create_dir_all(&self.logs)?;
        let orders = Arc::new(self.orders(&topic, &lambda));
        let (mut skipped, mut disks) = (BTreeSet::new(), BTreeSet::new());
        let mut seats = Vec::new();
        for (index, faults) in self.seats() {
            let jumps = faults.iter().any(|fault| fault.kind == ChaosFaultKind::ClockJumped);
            let clock = if jumps { WallClock::find()? } else { None };
            if jumps && clock.is_none() {
                skipped.insert("clock jumped: libfaketime is not installed (package faketime)".to_owned());
            }
            let fills_up = faults.iter().any(|fault| fault.kind == ChaosFaultKind::DiskFull);
            let data = if fills_up { NodeData::that_fills_up()? } else { NodeData::with_room()? };
            disks.extend(fills_up.then(|| data.to_string()));
            let seat = ChaosNode::new(&orders, index, servers, plan.seed, (data, clock)).await?;
            seats.push((seat, faults));
        }
        for (seat, _) in seats.iter_mut().take(plan.nodes) {
            seat.start_node().await?;
        }
        let otherwise = NonRecordOffsets::default();
        let watch = CommitWatch::over(WatchedTopic {
            producer: TestProducer::connect(servers).await?,
            lambda: lambda.clone(),
            function: FUNCTION.to_owned(),
            group: group_of(&topic),
            topic: topic.clone(),
            partitions: plan.partitions,
            ended_otherwise: Arc::clone(&otherwise),
            every: WATCHES_EVERY,
        });
        let (servers, skipped) = (servers.to_owned(), skipped.into_iter().collect());
        Ok(ChaosEnv { servers, topic, lambda, otherwise, seats, watch, skipped, disks })
    }

    fn orders(&self, topic: &str, lambda: &FakeLambda) -> ChaosNodeSettings {
        let plan = &self.plan;
        let mut settings = vec![
            ("LIGHTERMAN_KAFKA_SESSION_TIMEOUT".to_owned(), format!("{}s", SESSION.as_secs())),
            ("LIGHTERMAN_INVOKE_BACKOFF_MAX".to_owned(), "200ms".to_owned()),
            ("LIGHTERMAN_MEMORY_BUDGET".to_owned(), "64MiB".to_owned()),
            ("LIGHTERMAN_LOG_FORMAT".to_owned(), "text".to_owned()),
            ("LIGHTERMAN_LOG_LEVEL".to_owned(), "info".to_owned()),
        ];
        if let Some(protocol) = &self.group_protocol {
            settings.push(("LIGHTERMAN_KAFKA_GROUP_PROTOCOL".to_owned(), protocol.clone()));
        }
        let mut mapping = json!({
            "FunctionName": FUNCTION,
            "BatchSize": plan.batch,
            "MaximumBatchingWindowInSeconds": plan.window_seconds,
            "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": group_of(topic)},
        });
        match plan.failures {
            PoisonHandling::Whole => {}
            PoisonHandling::Halves => mapping["BisectBatchOnFunctionError"] = true.into(),
            PoisonHandling::FromTheFirst | PoisonHandling::Named => {
                mapping["FunctionResponseTypes"] = json!(["ReportBatchItemFailures"]);
            }
        }
        if plan.failures == PoisonHandling::Named {
            mapping["Tags"] = json!({"lighterman:partial-batch-response": "named"});
        }
        ChaosNodeSettings {
            lambda: lambda.clone(),
            topic: topic.to_owned(),
            mapping,
            settings,
            broker_ends: plan.needs_the_broker(),
            logs: self.logs.clone(),
            callers: AtomicU32::new(1),
        }
    }

    /// Returns every seat with its faults. Seats of joining nodes follow the others.
    fn seats(&self) -> BTreeMap<usize, Vec<ChaosFault>> {
        let mut seats: BTreeMap<usize, Vec<ChaosFault>> =
            (0..self.plan.nodes).map(|index| (index, vec![])).collect();
        for fault in self.plan.faults.iter().filter(|fault| !fault.kind.is_of_the_broker()) {
            let index = if fault.kind == ChaosFaultKind::Joined {
                seats.len().max(self.plan.nodes)
            } else {
                fault.node
            };
            seats.entry(index).or_default().push(*fault);
        }
        seats
    }

    async fn perform(&self, stage: ChaosEnv, kafka: Option<&mut RealKafka>) -> Result<ChaosReport> {
        let ChaosEnv { servers, topic, lambda, otherwise, seats, watch, skipped, disks } = stage;
        let mut report = ChaosReport { done: self.done(&skipped), skipped, disks, ..ChaosReport::default() };
        let start = Instant::now();
        let (stop, stopped) = oneshot::channel();
        let writer = ChaosWriter {
            plan: self.plan.clone(),
            servers: servers.clone(),
            topic: topic.clone(),
            otherwise: Arc::clone(&otherwise),
        };
        let writing = tokio::spawn(writer.run(stopped));
        let mut at_work: JoinSet<ChaosNode> = JoinSet::new();
        for (seat, faults) in seats {
            at_work.spawn(seat.go_through(faults, start));
        }
        let mut disturbances = match kafka {
            Some(kafka) => self.at_the_broker(kafka, start).await?,
            None => Vec::new(),
        };
        let seats = at_work.join_all().await;
        tokio::time::sleep_until((start + self.plan.writes_for()).into()).await;
        // The receiver is gone only if the writer has failed, which its task reports.
        let _ = stop.send(());
        writing.await??;
        lambda.set_script(|_| InvocationAction::Succeed(Duration::ZERO));
        let ends = self.await_quiet(&servers, &topic, &mut report).await?;
        let mut leaving: JoinSet<ChaosNode> = JoinSet::new();
        for seat in seats {
            leaving.spawn(seat.end());
        }
        for seat in leaving.join_all().await {
            disturbances.extend(seat.disturbances);
            report.problems.extend(seat.problems);
        }
        report.problems.extend(watch.was_clean().await.err().map(|error| format!("{error:#}")));
        let otherwise = otherwise.lock().clone();
        let (produced, told) = (records(&ends, &otherwise), lambda.told());
        report.judgement =
            RunRecord { produced, told, disturbances, batch: u64::from(self.plan.batch) }.judge();
        Ok(report)
    }

    /// Waits for LIV-1 and returns the end of each log.
    async fn await_quiet(
        &self,
        servers: &str,
        topic: &str,
        report: &mut ChaosReport,
    ) -> Result<BTreeMap<i32, i64>> {
        let quiet = Instant::now();
        let mut producer = TestProducer::connect(servers).await?;
        let ends = producer.log_ends(topic, self.plan.partitions).await?;
        let settled = producer.await_committed(&group_of(topic), topic, &ends, SETTLES_WITHIN).await;
        report.settled_after = quiet.elapsed();
        if let Err(error) = settled {
            let seconds = SETTLES_WITHIN.as_secs();
            report.problems.push(format!("LIV-1: {seconds} s after the faults {error:#}"));
        }
        Ok(ends)
    }

    /// Stops the broker and starts it again, as planned.
    async fn at_the_broker(&self, kafka: &mut RealKafka, start: Instant) -> Result<Vec<FaultWindow>> {
        let mut disturbances = Vec::new();
        for fault in self.plan.faults.iter().filter(|fault| fault.kind.is_of_the_broker()) {
            tokio::time::sleep_until((start + fault.at).into()).await;
            let from = Instant::now();
            // The wait for Kafka blocks a thread.
            tokio::task::block_in_place(|| match fault.kind {
                ChaosFaultKind::BrokerStopped => kafka.stop(),
                _ => {
                    kafka.kill();
                    Ok(())
                }
            })?;
            tokio::time::sleep(fault.lasting).await;
            tokio::task::block_in_place(|| kafka.boot())?;
            tokio::time::sleep(BROKER_WAKES_FOR).await;
            disturbances.push(FaultWindow { caller: None, from, until: Instant::now(), deadly: false });
        }
        Ok(disturbances)
    }

    fn done(&self, skipped: &[String]) -> BTreeMap<ChaosFaultKind, u32> {
        let mut done = self.plan.kinds();
        if !skipped.is_empty() {
            done.remove(&ChaosFaultKind::ClockJumped);
        }
        done
    }
}

impl ChaosReport {
    /// Returns true if no invariant was violated.
    pub fn is_clean(&self) -> bool {
        self.wrong().next().is_none()
    }

    /// Returns all problems and violations.
    pub fn wrong(&self) -> impl Iterator<Item = &String> {
        self.problems.iter().chain(&self.judgement.violations)
    }
}

impl fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunVerdict { delivered, repeated, overlaps, .. } = self.judgement;
        write!(
            f,
            "{} in {:.1} s: {delivered} delivered, {repeated} again, {overlaps} overlaps allowed, settled after {:.1} s",
            if self.is_clean() { "clean" } else { "WRONG" },
            self.took.as_secs_f64(),
            self.settled_after.as_secs_f64()
        )?;
        self.skipped.iter().try_for_each(|what| write!(f, "; skipped {what}"))?;
        self.disks.iter().try_for_each(|how| write!(f, "; disk full: {how}"))?;
        self.wrong().try_for_each(|what| write!(f, "\n    {what}"))
    }
}

fn group_of(topic: &str) -> String {
    format!("{topic}-group")
}

/// Returns every offset below `ends` except those in `otherwise`.
fn records(ends: &BTreeMap<i32, i64>, otherwise: &BTreeSet<(i32, i64)>) -> ProducedOffsets {
    let of = |(partition, end): (&i32, &i64)| {
        let is_record = |offset: &i64| !otherwise.contains(&(*partition, *offset));
        (*partition, (0..*end).filter(is_record).collect())
    };
    ends.iter().map(of).collect()
}
