//! A node against real Apache Kafka. Each scenario has its own topic, mapping and function; all scenarios of a
//! version share a broker. Without Java or the jars a version is skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA` is
//! set.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use loadtest::checker::{HistoryVerdict, check, repeated_batches_max};
use loadtest::function::{FakeLambda, InvocationAction};
use loadtest::kafka::{self, RealKafka};
use loadtest::log_reader::await_compacted;
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer, ends};
use loadtest::transactions::TransactionalProducer;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(120);
const OK: InvocationAction = InvocationAction::Succeed(Duration::ZERO);

/// Topic, function and data folder of one scenario.
struct KafkaScene {
    servers: String,
    topic: String,
    partitions: i32,
    producer: TestProducer,
    lambda: FakeLambda,
    data: tempfile::TempDir,
    produced: ProducedOffsets,
}

impl KafkaScene {
    async fn new(kafka: &RealKafka, topic: &str, partitions: i32) -> Result<Self> {
        Self::new_with(kafka, topic, partitions, &[]).await
    }

    async fn new_with(
        kafka: &RealKafka,
        topic: &str,
        partitions: i32,
        configs: &[(&'static str, &'static str)],
    ) -> Result<Self> {
        println!("scenario: {topic}");
        let mut producer = TestProducer::connect(&kafka.servers()).await?;
        producer.create_topic_with(topic, partitions, configs).await?;
        Ok(Self {
            servers: kafka.servers(),
            topic: topic.to_owned(),
            partitions,
            producer,
            lambda: FakeLambda::start().await?,
            data: tempfile::tempdir()?,
            produced: ProducedOffsets::new(),
        })
    }

    async fn write(&mut self, count: usize, compression: Compression) -> Result<()> {
        let written = self.producer.write(&self.topic, self.partitions, count, 100, compression).await?;
        for (partition, offsets) in written {
            self.produced.entry(partition).or_default().extend(offsets);
        }
        Ok(())
    }

    async fn node(&self) -> Result<NodeProcess> {
        self.node_in(self.data.path()).await
    }

    async fn node_in(&self, data: &Path) -> Result<NodeProcess> {
        NodeProcess::start(data, &self.lambda.endpoint_url(), &[]).await
    }

    async fn map(&self, node: &NodeProcess, more: serde_json::Value) -> Result<String> {
        node.create_mapping(&self.servers, &self.topic, more).await
    }

    async fn drained(&mut self, group: &str) -> Result<()> {
        let ends = ends(&self.produced);
        self.producer.await_committed(group, &self.topic, &ends, LIMIT).await
    }

    /// Asserts that every record was delivered in order (ALO-1, ORD-1), and returns the verdict.
    fn judge(&self) -> HistoryVerdict {
        let verdict = check(&self.produced, &self.lambda.events());
        verdict.assert_clean();
        verdict
    }

    async fn until_invoked(&self, invocations: u64) -> Result<()> {
        let reached = async {
            while self.lambda.invocations() < invocations {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.context("too few invocations")
    }
}

async fn drains_everything_once_and_in_order(kafka: &RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "drain", 8).await?;
    scene.write(200_000, Compression::None).await?;
    let node = scene.node().await?;
    let more = json!({"ProvisionedPollerConfig": {"MinimumPollers": 2}, "BatchSize": 500});
    let group = scene.map(&node, more).await?;
    scene.drained(&group).await?;
    let verdict = scene.judge();
    ensure!(verdict.delivered == 200_000 && verdict.repeated.is_empty(), "{verdict:?}");
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    Ok(())
}

async fn reads_every_codec(kafka: &RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "codecs", 2).await?;
    for codec in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        scene.write(3_000, codec).await?;
    }
    let node = scene.node().await?;
    let group = scene.map(&node, json!({})).await?;
    scene.drained(&group).await?;
    ensure!(scene.judge().repeated.is_empty(), "nothing twice");
    Ok(())
}

async fn passes_over_aborted_transactions_and_markers(kafka: &RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "transactions", 1).await?;
    let mut transactions = TransactionalProducer::begin(&mut scene.producer, "tx-1").await?;
    let mut visible = Vec::new();
    for round in 0..12 {
        let commit = round % 3 != 1;
        let base = transactions.write("transactions", 0, 10, commit).await?;
        if commit {
            visible.extend(base..base + 10);
        }
    }
    // The last transaction is aborted: only markers and aborted records follow the last delivery.
    transactions.write("transactions", 0, 10, false).await?;
    scene.produced.insert(0, visible.into_iter().collect());
    let node = scene.node().await?;
    let group = scene.map(&node, json!({})).await?;
    scene.producer.await_committed(&group, "transactions", &BTreeMap::from([(0, 13 * 11)]), LIMIT).await?;
    ensure!(scene.judge().repeated.is_empty(), "nothing twice");
    Ok(())
}

async fn passes_over_what_compaction_took(kafka: &RealKafka) -> Result<()> {
    const CONFIGS: [(&str, &str); 4] = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "500"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("min.compaction.lag.ms", "0"),
    ];
    let mut scene = KafkaScene::new_with(kafka, "compacted", 1, &CONFIGS).await?;
    // Every write contains the same 500 keys; each but the first rolls the segment before it.
    for _ in 0..4 {
        scene.write(500, Compression::Lz4).await?;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    let end = scene.produced[&0].last().context("written")? + 1;
    let left = await_compacted(&mut scene.producer, "compacted", end).await?;
    ensure!(left.len() < 2_000, "something was compacted");
    scene.produced.insert(0, left);
    let node = scene.node().await?;
    let group = scene.map(&node, json!({})).await?;
    scene.drained(&group).await?;
    ensure!(scene.judge().repeated.is_empty(), "nothing twice");
    Ok(())
}

async fn waits_for_a_function_that_never_answers(kafka: &RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "hanging", 2).await?;
    scene.write(400, Compression::None).await?;
    scene.lambda.set_script(|invocation| if invocation == 3 { InvocationAction::Hang } else { OK });
    let node = scene.node().await?;
    let group = scene.map(&node, json!({"BatchSize": 40})).await?;
    scene.drained(&group).await?;
    let verdict = scene.judge();
    let repeated: u64 = verdict.repeated.values().sum();
    ensure!(repeated <= 40, "only the unanswered batch may repeat: {:?}", verdict.repeated);
    drop(node);
    Ok(())
}

async fn a_killed_node_repeats_at_most_its_window(kafka: &RealKafka) -> Result<()> {
    const BATCH: u64 = 50;
    let mut scene = KafkaScene::new(kafka, "killed", 4).await?;
    scene.write(20_000, Compression::None).await?;
    scene.lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(5)));
    let mut group = None;
    let mut repeated_before = 0;
    for round in 1..=3u64 {
        let node = scene.node().await?;
        if group.is_none() {
            group = Some(scene.map(&node, json!({"BatchSize": BATCH})).await?);
        }
        scene.until_invoked(scene.lambda.invocations() + 60).await?;
        node.kill().await?;
        let seen = check(&scene.produced, &scene.lambda.events());
        let repeated: u64 = seen.repeated.values().sum();
        ensure!(
            repeated - repeated_before <= 4 * BATCH * repeated_batches_max(),
            "round {round}: {:?}",
            seen.repeated
        );
        repeated_before = repeated;
    }
    let node = scene.node().await?;
    scene.drained(&group.context("created")?).await?;
    let verdict = scene.judge();
    ensure!(
        verdict.repeated.values().all(|repeated| *repeated <= 3 * BATCH * repeated_batches_max()),
        "{:?}",
        verdict.repeated
    );
    drop(node);
    Ok(())
}

async fn a_terminated_node_repeats_nothing(kafka: &RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "terminated", 4).await?;
    scene.write(20_000, Compression::None).await?;
    scene.lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(5)));
    let node = scene.node().await?;
    let group = scene.map(&node, json!({"BatchSize": 50})).await?;
    for _ in 0..2 {
        scene.until_invoked(scene.lambda.invocations() + 40).await?;
    }
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    let node = scene.node().await?;
    scene.drained(&group).await?;
    let verdict = scene.judge();
    ensure!(verdict.repeated.is_empty(), "{:?}", verdict.repeated);
    drop(node);
    Ok(())
}

async fn survives_what_functions_do(kafka: &RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "faults", 4).await?;
    scene.write(4_000, Compression::None).await?;
    scene.lambda.set_script(|invocation| match invocation % 23 {
        3 => InvocationAction::FunctionError,
        7 => InvocationAction::Throttle,
        11 => InvocationAction::Status(503),
        13 => InvocationAction::CutBefore,
        17 if invocation < 40 => InvocationAction::CutAfter,
        _ => OK,
    });
    let node = scene.node().await?;
    let group = scene.map(&node, json!({"BatchSize": 40})).await?;
    scene.drained(&group).await?;
    let verdict = scene.judge();
    let repeated: u64 = verdict.repeated.values().sum();
    // Only a reply that was lost after the function took the records may cause a repeat: at most two of them here.
    ensure!(repeated <= 80, "{:?}", verdict.repeated);
    drop(node);
    Ok(())
}

async fn shares_the_group_and_takes_over(kafka: &RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "members", 6).await?;
    scene.write(30_000, Compression::None).await?;
    scene.lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(5)));
    let more =
        json!({"BatchSize": 50, "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": "shared-group"}});
    let first = scene.node().await?;
    scene.map(&first, more.clone()).await?;
    scene.until_invoked(30).await?;
    let elsewhere = tempfile::tempdir()?;
    let second = scene.node_in(elsewhere.path()).await?;
    scene.map(&second, more).await?;
    scene.until_invoked(scene.lambda.invocations() + 150).await?;
    ensure!(first.terminate(LIMIT).await? == Some(0), "hands over and exits 0");
    scene.drained("shared-group").await?;
    let verdict = scene.judge();
    ensure!(verdict.repeated.is_empty(), "a planned hand-over repeats nothing: {:?}", verdict.repeated);
    drop(second);
    Ok(())
}

async fn survives_a_broker_restart(kafka: &mut RealKafka) -> Result<()> {
    let mut scene = KafkaScene::new(kafka, "restart", 4).await?;
    scene.write(10_000, Compression::None).await?;
    scene.lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(5)));
    let node = scene.node().await?;
    let group = scene.map(&node, json!({"BatchSize": 50})).await?;
    scene.until_invoked(40).await?;
    kafka.restart()?;
    scene.drained(&group).await?;
    let verdict = scene.judge();
    let most = 50 * repeated_batches_max();
    ensure!(verdict.repeated.values().all(|repeated| *repeated <= most), "{:?}", verdict.repeated);
    drop(node);
    Ok(())
}

async fn all_scenarios(version: &str) -> Result<()> {
    let Some(_turn) = kafka::turn(version).await? else { return Ok(()) };
    let mut kafka = RealKafka::start(version)?;
    drains_everything_once_and_in_order(&kafka).await.context("drain")?;
    reads_every_codec(&kafka).await.context("codecs")?;
    passes_over_aborted_transactions_and_markers(&kafka).await.context("transactions")?;
    passes_over_what_compaction_took(&kafka).await.context("compacted")?;
    waits_for_a_function_that_never_answers(&kafka).await.context("hanging")?;
    a_killed_node_repeats_at_most_its_window(&kafka).await.context("killed")?;
    a_terminated_node_repeats_nothing(&kafka).await.context("terminated")?;
    survives_what_functions_do(&kafka).await.context("faults")?;
    shares_the_group_and_takes_over(&kafka).await.context("members")?;
    survives_a_broker_restart(&mut kafka).await.context("restart")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_own_1_com_1_on_kafka_4_2_1() -> Result<()> {
    all_scenarios("4.2.1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_own_1_com_1_on_kafka_3_9_1() -> Result<()> {
    all_scenarios("3.9.1").await
}
