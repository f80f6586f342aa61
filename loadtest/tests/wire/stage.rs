//! A node connected to a broker through fault proxies; each scene has a topic, a function and a mapping.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::ApiKey;
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use loadtest::checker::{HistoryVerdict, check};
use loadtest::fault_proxy::{ActiveFaults, ExchangeFault, FaultProxy};
use loadtest::function::{FakeLambda, InvocationAction};
use loadtest::kafka::RealKafka;
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer, ends};
use loadtest::watch::{CommitWatch, WatchedTopic};
use serde_json::json;
use tokio::task::JoinHandle;

const PARTITIONS: i32 = 2;
/// Time limit for delivering and committing everything once the connection works again.
pub(crate) const DRAINS_WITHIN: Duration = Duration::from_secs(30);
/// Time limit for the injection of all announced faults.
const MET_WITHIN: Duration = Duration::from_secs(40);
/// Time limit for records to flow again after a code.
const FLOWS_WITHIN: Duration = Duration::from_secs(25);
const BATCH_SIZE: u64 = 20;

/// Cluster whose frames are altered.
pub(crate) enum WireCluster {
    Embedded(EmbeddedBroker),
    Real(RealKafka),
}

impl WireCluster {
    pub(crate) fn servers(&self) -> String {
        match self {
            Self::Embedded(broker) => broker.address().to_string(),
            Self::Real(kafka) => kafka.servers(),
        }
    }
}

/// One node before one broker; each scene has its own proxy, topic, function and mapping.
pub(crate) struct WireStage {
    cluster: WireCluster,
    pub(crate) lambda: FakeLambda,
    pub(crate) node: NodeProcess,
    _data: tempfile::TempDir,
}

impl WireStage {
    pub(crate) async fn new() -> Result<Self> {
        Self::before(WireCluster::Embedded(EmbeddedBroker::start(BrokerSettings::default())?), "classic")
            .await
    }

    /// Creates a stage whose node's groups use `protocol`.
    pub(crate) async fn before(cluster: WireCluster, protocol: &str) -> Result<Self> {
        let (lambda, data) = (FakeLambda::start().await?, tempfile::tempdir()?);
        lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(2)));
        let settings = [
            ("LIGHTERMAN_INVOKE_BACKOFF_MAX", "200ms"),
            ("LIGHTERMAN_KAFKA_SESSION_TIMEOUT", "6s"),
            ("LIGHTERMAN_KAFKA_GROUP_PROTOCOL", protocol),
            ("LIGHTERMAN_MEMORY_BUDGET", "64MiB"),
        ];
        let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &settings).await?;
        Ok(Self { cluster, lambda, node, _data: data })
    }

    pub(crate) async fn scene(
        &self,
        name: &str,
        seed: u64,
        before: impl FnOnce(&ActiveFaults),
    ) -> Result<WireScene<'_>> {
        let real = self.cluster.servers();
        let mut producer = TestProducer::connect(&real).await?;
        producer.create_topic(name, PARTITIONS).await?;
        let proxy = FaultProxy::start(&real, seed).await?;
        before(proxy.faults());
        let writer = TrickleWriter::start(&real, name).await?;
        let more =
            json!({"FunctionName": name, "BatchSize": BATCH_SIZE, "MaximumBatchingWindowInSeconds": 0});
        let group = self.node.create_mapping(&proxy.address(), name, more).await?;
        let watched = WatchedTopic {
            producer: TestProducer::connect(&real).await?,
            lambda: self.lambda.clone(),
            function: name.to_owned(),
            group: group.clone(),
            topic: name.to_owned(),
            partitions: PARTITIONS,
            ended_otherwise: Arc::default(),
            every: Duration::from_millis(100),
        };
        let watch = CommitWatch::over(watched);
        Ok(WireScene { stage: self, name: name.to_owned(), producer, proxy, group, writer, watch })
    }
}

/// Writer of a continuous trickle of records, so that every fault affects records in flight.
pub(crate) struct TrickleWriter {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<ProducedOffsets>>,
}

impl TrickleWriter {
    pub(crate) async fn start(servers: &str, topic: &str) -> Result<Self> {
        let (mut producer, topic) = (TestProducer::connect(servers).await?, topic.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut produced = ProducedOffsets::new();
            while !stopped.load(Ordering::Relaxed) {
                for (partition, more) in producer.write(&topic, PARTITIONS, 6, 50, Compression::None).await? {
                    produced.entry(partition).or_default().extend(more);
                }
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            Ok(produced)
        });
        Ok(Self { stop, task })
    }

    pub(crate) async fn end(self) -> Result<ProducedOffsets> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

pub(crate) struct WireScene<'s> {
    stage: &'s WireStage,
    name: String,
    producer: TestProducer,
    pub(crate) proxy: FaultProxy,
    group: String,
    writer: TrickleWriter,
    watch: CommitWatch,
}

impl WireScene<'_> {
    pub(crate) fn faults(&self) -> &ActiveFaults {
        self.proxy.faults()
    }

    /// Waits until every announced fault has happened. Triggers requests again that the node does not send by
    /// itself.
    pub(crate) async fn met(&self, what: &str, provoke: RequestTrigger) -> Result<()> {
        let met = async {
            let mut provoked = Instant::now();
            while self.faults().left() > 0 {
                if provoked.elapsed() > Duration::from_secs(1) && !provoke.is_awaited(self.faults()) {
                    provoke.add_to(self.faults());
                    provoked = Instant::now();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let met = tokio::time::timeout(MET_WITHIN, met).await;
        met.with_context(|| format!("{}: {what}: {} times left", self.name, self.faults().left()))
    }

    /// Waits until something is delivered that was not when this was called: the group and the fetches work.
    pub(crate) async fn flows(&self) -> Result<()> {
        let events = || self.stage.lambda.events_of(&self.name).len();
        let enough = events() + 4;
        let flows = async {
            while events() < enough {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout(FLOWS_WITHIN, flows).await.is_ok() {
            return Ok(());
        }
        anyhow::bail!(
            "{}: writer {} nothing flows; {}",
            self.name,
            self.writer.task.is_finished(),
            self.shown().await
        )
    }

    /// Disables or enables the mapping, and waits for the state.
    pub(crate) async fn set_enabled(&self, enabled: bool) -> Result<()> {
        let path = format!("/2015-03-31/event-source-mappings/{}", self.group);
        let api = self.stage.node.api();
        api.call("PUT", &path, Some(&json!({"Enabled": enabled}))).await?;
        let wanted = if enabled { "Enabled" } else { "Disabled" };
        let settles = async {
            loop {
                let shown = api.call("GET", &path, None).await?;
                if shown["State"] == wanted {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let settled = tokio::time::timeout(MET_WITHIN, settles).await;
        settled.with_context(|| format!("{}: it is not {wanted} in time", self.name))?
    }

    /// Returns the node's view of its partitions, for diagnosis.
    pub(crate) async fn shown(&self) -> String {
        let path = format!("/lighterman/v1/mappings/{}/partitions", self.group);
        let shown = self.stage.node.api().call("GET", &path, None).await;
        shown.map_or_else(|error| error.to_string(), |shown| shown.to_string())
    }

    /// Stops the writer and waits until everything is delivered and committed.
    pub(crate) async fn falls_idle(self) -> Result<IdleScene> {
        let Self { name: topic, producer, proxy, group, writer, .. } = self;
        let mut idle = IdleScene { producer, group, topic, ends: ends(&writer.end().await?), _proxy: proxy };
        idle.is_committed(DRAINS_WITHIN).await?;
        Ok(idle)
    }

    /// Removes all faults. Everything must arrive, at least once and in order, and no commit may have been ahead.
    pub(crate) async fn ends_well(mut self) -> Result<HistoryVerdict> {
        self.proxy.calm();
        let produced = self.writer.end().await?;
        let began = Instant::now();
        let ends = ends(&produced);
        let drained = self.producer.await_committed(&self.group, &self.name, &ends, DRAINS_WITHIN);
        drained.await.with_context(|| format!("{}: it does not drain", self.name))?;
        let name = &self.name;
        self.watch.was_clean().await.with_context(|| name.clone())?;
        let verdict = check(&produced, &self.stage.lambda.events_of(name));
        let some: Vec<_> = verdict.violations.iter().take(5).collect();
        ensure!(some.is_empty(), "{name}: {} violations, among them {some:?}", verdict.violations.len());
        let path = format!("/2015-03-31/event-source-mappings/{}", self.group);
        self.stage.node.api().call("DELETE", &path, None).await?;
        let repeated: u64 = verdict.repeated.values().sum();
        println!(
            "{name}: {} records, {repeated} repeated, drained in {} ms",
            verdict.delivered,
            began.elapsed().as_millis()
        );
        Ok(verdict)
    }
}

/// Scene without further writes.
pub(crate) struct IdleScene {
    producer: TestProducer,
    group: String,
    topic: String,
    ends: BTreeMap<i32, i64>,
    _proxy: FaultProxy,
}

impl IdleScene {
    /// Waits until everything is committed, possibly again.
    pub(crate) async fn is_committed(&mut self, within: Duration) -> Result<()> {
        let Self { producer, group, topic, ends, .. } = self;
        producer.await_committed(group, topic, ends, within).await
    }

    /// Waits until the group has gone back to an offset before the last one.
    pub(crate) async fn is_taken_back(&mut self, within: Duration) -> Result<()> {
        let Self { producer, group, topic, ends, .. } = self;
        let taken_back = async {
            loop {
                let committed = producer.committed(group, topic, PARTITIONS).await?;
                if ends.iter().any(|(partition, end)| committed.get(partition).is_some_and(|at| at < end)) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(within, taken_back).await.context("the late commit was not applied")?
    }
}

/// Trigger of a request that the node sends rarely.
#[derive(Clone, Copy)]
pub(crate) enum RequestTrigger {
    /// None: the node sends the request continuously.
    Nothing,
    /// Another response with this code.
    With(ApiKey, i16),
    /// A closed connection.
    Cut(ApiKey),
}

impl RequestTrigger {
    pub(crate) fn rule(self) -> Option<(ApiKey, ExchangeFault)> {
        match self {
            Self::Nothing => None,
            Self::With(api, code) => Some((api, ExchangeFault::Code(code))),
            Self::Cut(api) => Some((api, ExchangeFault::Cut)),
        }
    }

    pub(crate) fn add_to(self, faults: &ActiveFaults) {
        if let Some((api, fault)) = self.rule() {
            faults.next_of(api, 1, fault);
        }
    }

    pub(crate) fn is_awaited(self, faults: &ActiveFaults) -> bool {
        self.rule().is_none_or(|(api, fault)| faults.left_of(api, fault) > 0)
    }
}
