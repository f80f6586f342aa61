//! Two nodes in one group of the consumer protocol (KIP-848) on real Apache Kafka: one joins, one is stopped, one
//! is killed, the broker restarts. A watch compares every commit with what the function has taken by then, and the
//! checker judges the history. The same runs with the classic protocol, so that the hand-overs can be compared.
//! Without Java or the jars a version is skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA` is set.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use loadtest::checker::{check, repeated_batches_max};
use loadtest::function::{FakeLambda, InvocationAction, InvocationEvent};
use loadtest::kafka::{self, RealKafka};
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer, ends};
use loadtest::watch::{CommitWatch, WatchedTopic};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 6;
const BATCH: u64 = 10;
const RECORDS: usize = 36_000;
/// Slow enough for the nodes to act before the partitions are drained.
const SLOW: InvocationAction = InvocationAction::Succeed(Duration::from_millis(20));
const FAST: InvocationAction = InvocationAction::Succeed(Duration::ZERO);
/// Session as short as the classic one of these nodes: by default a broker permits none below 45 s.
const SESSIONS: [(&str, &str); 3] = [
    ("group.consumer.min.session.timeout.ms", "10000"),
    ("group.consumer.session.timeout.ms", "10000"),
    ("group.consumer.max.session.timeout.ms", "15000"),
];

struct ForeignConsumer {
    node: NodeProcess,
    mapping: String,
}

impl ForeignConsumer {
    /// Returns the number of partitions that it runs.
    async fn runs(&self) -> Result<usize> {
        let path = format!("/lighterman/v1/mappings/{}/partitions", self.mapping);
        let shown = self.node.api().call("GET", &path, None).await?;
        Ok(shown["partitions"].as_array().map_or(0, Vec::len))
    }
}

struct ProtocolScene {
    protocol: &'static str,
    servers: String,
    topic: String,
    producer: TestProducer,
    lambda: FakeLambda,
    produced: ProducedOffsets,
    folders: Vec<tempfile::TempDir>,
    watch: CommitWatch,
}

impl ProtocolScene {
    async fn new(kafka: &RealKafka, protocol: &'static str, name: &str) -> Result<Self> {
        let topic = format!("{protocol}-{name}");
        println!("scenario: {topic}");
        let servers = kafka.servers();
        let mut producer = TestProducer::connect(&servers).await?;
        producer.create_topic(&topic, PARTITIONS).await?;
        let produced = producer.write(&topic, PARTITIONS, RECORDS, 100, Compression::None).await?;
        let lambda = FakeLambda::start().await?;
        lambda.set_script(|_| SLOW);
        let watch = CommitWatch::over(WatchedTopic {
            producer: TestProducer::connect(&servers).await?,
            lambda: lambda.clone(),
            function: "f".to_owned(),
            group: topic.clone(),
            topic: topic.clone(),
            partitions: PARTITIONS,
            ended_otherwise: Arc::default(),
            every: Duration::from_millis(200),
        });
        Ok(Self { protocol, servers, topic, producer, lambda, produced, folders: Vec::new(), watch })
    }

    /// Starts a separate node that joins the group.
    async fn node(&mut self) -> Result<ForeignConsumer> {
        self.node_of(self.protocol).await
    }

    async fn node_of(&mut self, protocol: &str) -> Result<ForeignConsumer> {
        let folder = tempfile::tempdir()?;
        let settings = [("LIGHTERMAN_KAFKA_GROUP_PROTOCOL", protocol)];
        let node = NodeProcess::start(folder.path(), &self.lambda.endpoint_url(), &settings).await?;
        self.folders.push(folder);
        let group = json!({"ConsumerGroupId": self.topic});
        let more = json!({"BatchSize": BATCH, "SelfManagedKafkaEventSourceConfig": group});
        let mapping = node.create_mapping(&self.servers, &self.topic, more).await?;
        Ok(ForeignConsumer { node, mapping })
    }

    /// Returns the time until every partition has had another invocation.
    async fn until_all_flow(&self) -> Result<Duration> {
        let (began, before) = (Instant::now(), reached(&self.lambda.events()));
        let all_moved = async {
            loop {
                let now = reached(&self.lambda.events());
                if (0..PARTITIONS).all(|partition| now.get(&partition) > before.get(&partition)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, all_moved).await.context("a partition makes no progress")?;
        Ok(began.elapsed())
    }

    /// Waits until both nodes own partitions.
    async fn until_shared(&self, members: [&ForeignConsumer; 2]) -> Result<()> {
        let shared = async {
            while members[0].runs().await? == 0 || members[1].runs().await? == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(LIMIT, shared).await.context("a node owns nothing")?
    }

    /// Waits until everything is committed, and returns the deliveries beyond the first by partition.
    async fn repeated(mut self) -> Result<BTreeMap<i32, u64>> {
        self.lambda.set_script(|_| FAST);
        let ends = ends(&self.produced);
        self.producer.await_committed(&self.topic, &self.topic, &ends, LIMIT).await?;
        self.watch.was_clean().await?;
        let verdict = check(&self.produced, &self.lambda.events());
        verdict.assert_clean();
        ensure!(verdict.delivered == RECORDS as u64, "{verdict:?}");
        Ok(verdict.repeated)
    }
}

/// Returns the highest offset of each partition that the function has seen.
fn reached(events: &[InvocationEvent]) -> BTreeMap<i32, i64> {
    let mut reached = BTreeMap::new();
    for event in events {
        let InvocationEvent::Start { offsets, .. } = event else { continue };
        for (partition, list) in offsets {
            let highest: &mut i64 = reached.entry(*partition).or_insert(-1);
            *highest = (*highest).max(list.last().copied().unwrap_or(-1));
        }
    }
    reached
}

async fn hands_over(kafka: &RealKafka, protocol: &'static str) -> Result<()> {
    let mut scene = ProtocolScene::new(kafka, protocol, "hand-over").await?;
    let first = scene.node().await?;
    scene.until_all_flow().await?;
    let began = Instant::now();
    let second = scene.node().await?;
    scene.until_shared([&first, &second]).await?;
    println!("figure: {protocol}: the second node owns its share after {:?}", began.elapsed());
    scene.until_all_flow().await?;
    ensure!(first.node.terminate(LIMIT).await? == Some(0), "hands over and exits 0");
    println!(
        "figure: {protocol}: all flow {:?} after a terminated node has exited",
        scene.until_all_flow().await?
    );
    let repeated = scene.repeated().await?;
    ensure!(repeated.is_empty(), "a planned hand-over repeats nothing: {repeated:?}");
    drop(second);
    Ok(())
}

async fn takes_over_from_the_dead(kafka: &RealKafka, protocol: &'static str) -> Result<()> {
    let mut scene = ProtocolScene::new(kafka, protocol, "take-over").await?;
    let (first, second) = (scene.node().await?, scene.node().await?);
    scene.until_shared([&first, &second]).await?;
    scene.until_all_flow().await?;
    first.node.kill().await?;
    println!("figure: {protocol}: all flow {:?} after a node was killed", scene.until_all_flow().await?);
    let repeated = scene.repeated().await?;
    ensure!(
        repeated.values().all(|records| *records <= BATCH * repeated_batches_max()),
        "more than the window of a partition repeated: {repeated:?}"
    );
    drop(second);
    Ok(())
}

async fn survives_a_broker_restart(kafka: &mut RealKafka, protocol: &'static str) -> Result<()> {
    let mut scene = ProtocolScene::new(kafka, protocol, "restart").await?;
    let (first, second) = (scene.node().await?, scene.node().await?);
    scene.until_shared([&first, &second]).await?;
    scene.until_all_flow().await?;
    kafka.restart()?;
    println!("figure: {protocol}: all flow {:?} after the broker is back", scene.until_all_flow().await?);
    let repeated = scene.repeated().await?;
    ensure!(
        repeated.values().all(|records| *records <= BATCH * repeated_batches_max()),
        "more than the window of a partition repeated: {repeated:?}"
    );
    drop((first, second));
    Ok(())
}

/// Nodes are restarted one by one with the other protocol.
async fn changes_the_protocol(kafka: &RealKafka, from: &'static str, to: &'static str) -> Result<()> {
    let mut scene = ProtocolScene::new(kafka, from, &format!("becomes-{to}")).await?;
    let (first, second) = (scene.node().await?, scene.node().await?);
    scene.until_shared([&first, &second]).await?;
    ensure!(first.node.terminate(LIMIT).await? == Some(0), "hands over and exits 0");
    let first = scene.node_of(to).await?;
    scene.until_shared([&first, &second]).await?;
    scene.until_all_flow().await?;
    ensure!(second.node.terminate(LIMIT).await? == Some(0), "hands over and exits 0");
    let second = scene.node_of(to).await?;
    scene.until_shared([&first, &second]).await?;
    let repeated = scene.repeated().await?;
    ensure!(repeated.is_empty(), "a planned hand-over repeats nothing: {repeated:?}");
    drop((first, second));
    Ok(())
}

async fn all_scenarios(version: &str, more: &[(&str, &str)]) -> Result<()> {
    let Some(_turn) = kafka::turn(version).await? else { return Ok(()) };
    println!("Kafka {version}");
    let mut kafka = RealKafka::start_with(version, &[&SESSIONS, more].concat())?;
    for protocol in ["consumer", "classic"] {
        hands_over(&kafka, protocol).await.with_context(|| format!("{protocol}: hand-over"))?;
    }
    takes_over_from_the_dead(&kafka, "consumer").await.context("take-over")?;
    survives_a_broker_restart(&mut kafka, "consumer").await.context("restart")?;
    // Before 4.0 a broker does not permit members of both protocols in one group.
    if version >= "4" {
        changes_the_protocol(&kafka, "classic", "consumer").await.context("from classic to consumer")?;
        changes_the_protocol(&kafka, "consumer", "classic").await.context("from consumer to classic")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_1_drn_1_com_1_consumer_group_on_kafka_4_2_1() -> Result<()> {
    all_scenarios("4.2.1", &[]).await
}

/// The protocol is a preview in this version, and off by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_1_drn_1_com_1_consumer_group_on_kafka_3_9_1() -> Result<()> {
    all_scenarios("3.9.1", &[("group.coordinator.rebalance.protocols", "classic,consumer")]).await
}

/// A broker without the protocol is reported as a problem, and nothing starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_without_consumer_protocol_is_reported() -> Result<()> {
    let broker = EmbeddedBroker::start(BrokerSettings::default())?;
    let servers = broker.address().to_string();
    let mut producer = TestProducer::connect(&servers).await?;
    producer.create_topic("orders", 1).await?;
    let (lambda, folder) = (FakeLambda::start().await?, tempfile::tempdir()?);
    let settings = [("LIGHTERMAN_KAFKA_GROUP_PROTOCOL", "consumer")];
    let node = NodeProcess::start(folder.path(), &lambda.endpoint_url(), &settings).await?;
    let mapping = node.create_mapping(&servers, "orders", json!({})).await?;
    let path = format!("/2015-03-31/event-source-mappings/{mapping}");
    let told = async {
        loop {
            let shown = node.api().call("GET", &path, None).await?;
            let result = shown["LastProcessingResult"].as_str().unwrap_or_default().to_owned();
            if result.contains("KIP-848") && result.contains("kafka.group_protocol") {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, told).await.context("the missing protocol is not reported")??;
    ensure!(lambda.invocations() == 0, "no invocation started");
    Ok(())
}
