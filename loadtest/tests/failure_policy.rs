//! Failure policy on real Apache Kafka: poisoned records, killed owners, a destination on the same cluster, and the
//! audit as a second check. Without Java or the jars a version is skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA`
//! is set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use loadtest::checker::check;
use loadtest::function::{FakeLambda, InvocationAction, InvocationEvent, PoisonRecords};
use loadtest::kafka::{self, RealKafka};
use loadtest::log_reader::await_values;
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer, ends};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(120);
const PARTITIONS: i32 = 3;
const RECORDS: usize = 1_500;

struct PolicyScene {
    servers: String,
    topic: String,
    producer: TestProducer,
    lambda: FakeLambda,
    data: tempfile::TempDir,
    produced: ProducedOffsets,
    poison: BTreeSet<(i32, i64)>,
}

impl PolicyScene {
    /// Creates a topic with records, some of which the function cannot process.
    async fn new(kafka: &RealKafka, topic: &str, names: bool) -> Result<Self> {
        println!("scenario: {topic}");
        let mut producer = TestProducer::connect(&kafka.servers()).await?;
        producer.create_topic(topic, PARTITIONS).await?;
        let produced = producer.write(topic, PARTITIONS, RECORDS, 100, Compression::None).await?;
        let lambda = FakeLambda::start().await?;
        lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(2)));
        let poison = BTreeSet::from([(0, 0), (0, 137), (1, 250), (1, 251), (2, 499)]);
        lambda.set_poison(PoisonRecords { records: poison.clone(), names });
        let (servers, topic, data) = (kafka.servers(), topic.to_owned(), tempfile::tempdir()?);
        Ok(Self { servers, topic, producer, lambda, data, produced, poison })
    }

    async fn node(&self) -> Result<NodeProcess> {
        let settings = [("LIGHTERMAN_INVOKE_BACKOFF_MAX", "1s")];
        NodeProcess::start(self.data.path(), &self.lambda.endpoint_url(), &settings).await
    }

    async fn drained(&mut self, group: &str) -> Result<()> {
        self.producer.await_committed(group, &self.topic, &ends(&self.produced), LIMIT).await
    }

    /// Asserts that every record except the poisoned ones was delivered in order, and none of the poisoned.
    fn judge_innocents(&self) {
        let mut innocent = self.produced.clone();
        for (partition, offset) in &self.poison {
            innocent.entry(*partition).or_default().remove(offset);
        }
        check(&innocent, &self.lambda.events()).assert_clean();
    }

    /// Returns the number of invocations that contained the record, including those interrupted by a kill.
    fn tries(&self, record: (i32, i64)) -> usize {
        let holds = |event: &InvocationEvent| match event {
            InvocationEvent::Start { offsets, .. } => {
                offsets.get(&record.0).is_some_and(|list| list.contains(&record.1))
            }
            InvocationEvent::End { .. } => false,
        };
        self.lambda.events().iter().filter(|event| holds(event)).count()
    }

    async fn audit(&self, node: &NodeProcess, group: &str) -> Result<AuditSummary> {
        let path = format!("/lighterman/v1/mappings/{group}/audit");
        let shown = node.api().call("GET", &path, None).await?;
        let mut audit = AuditSummary::default();
        for partition in shown["partitions"].as_array().context("partitions")? {
            audit.verdicts.insert(partition["verdict"].as_str().context("verdict")?.to_owned());
            for (outcome, sum) in partition["totals"].as_object().context("totals")? {
                *audit.totals.entry(outcome.clone()).or_default() += sum.as_u64().context("a sum")?;
            }
        }
        Ok(audit)
    }
}

#[derive(Debug, Default)]
struct AuditSummary {
    verdicts: BTreeSet<String>,
    totals: BTreeMap<String, u64>,
}

impl AuditSummary {
    fn check(&self, expected: &[(&str, u64)]) -> Result<()> {
        ensure!(self.verdicts == BTreeSet::from(["accounted".to_owned()]), "{self:?}");
        let expected: BTreeMap<String, u64> =
            expected.iter().map(|(outcome, sum)| ((*outcome).to_owned(), *sum)).collect();
        ensure!(self.totals == expected, "{self:?}");
        Ok(())
    }
}

/// Poisoned records are isolated by bisection and go to a topic, although nodes are killed meanwhile.
async fn bisects_to_a_topic_while_nodes_are_killed(kafka: &RealKafka) -> Result<()> {
    let mut scene = PolicyScene::new(kafka, "bisected", false).await?;
    scene.producer.create_topic("bisected-failed", 1).await?;
    let more = json!({
        "BatchSize": 64, "BisectBatchOnFunctionError": true, "MaximumRetryAttempts": 1,
        "DestinationConfig": {"OnFailure": {"Destination": "kafka://bisected-failed"}},
    });
    let mut group = None;
    for round in 1..=3u64 {
        let node = scene.node().await?;
        if group.is_none() {
            group = Some(node.create_mapping(&scene.servers, &scene.topic, more.clone()).await?);
        }
        let goal = scene.lambda.invocations() + 9 * round;
        let reached = async {
            while scene.lambda.invocations() < goal {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.context("too few invocations")?;
        node.kill().await?;
    }
    let (node, group) = (scene.node().await?, group.context("created")?);
    scene.drained(&group).await?;
    scene.judge_innocents();
    let values = await_values(&mut scene.producer, "bisected-failed", scene.poison.len()).await?;
    let mut buried = BTreeSet::new();
    for value in &values {
        let record: Value = serde_json::from_slice(value)?;
        ensure!(record["requestContext"]["condition"] == "RetriesExhausted", "{record}");
        ensure!(record["KafkaBatchInfo"]["batchSize"] == 1, "{record}");
        let events = record["payload"]["records"].as_object().context("payload")?;
        for one in events.values().flat_map(|list| list.as_array().into_iter().flatten()) {
            buried.insert((
                one["partition"].as_i64().context("partition")? as i32,
                one["offset"].as_i64().context("offset")?,
            ));
        }
    }
    ensure!(buried == scene.poison, "{buried:?}");
    let (poison, good) = (scene.poison.len() as u64, (RECORDS - scene.poison.len()) as u64);
    scene.audit(&node, &group).await?.check(&[("dead_lettered", poison), ("delivered", good)])?;
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    Ok(())
}

/// Reported records are attempted exactly as often as allowed. If only they are retried, no other record fails with
/// them; if order is kept, the later records of their batch do.
async fn partial_responses_keep_to_the_attempts(kafka: &RealKafka) -> Result<()> {
    for (topic, tags) in
        [("reported", json!({})), ("named", json!({"lighterman:partial-batch-response": "named"}))]
    {
        let mut scene = PolicyScene::new(kafka, topic, true).await?;
        let node = scene.node().await?;
        let more = json!({
            "BatchSize": 100, "MaximumRetryAttempts": 2, "Tags": tags,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
        });
        let group = node.create_mapping(&scene.servers, &scene.topic, more).await?;
        scene.drained(&group).await?;
        for record in &scene.poison {
            let tries = scene.tries(*record);
            ensure!(tries == 3, "{topic}: {record:?} was tried {tries} times");
        }
        let mut innocent = scene.produced.clone();
        for (partition, offset) in &scene.poison {
            innocent.entry(*partition).or_default().remove(offset);
        }
        let verdict = check(&innocent, &scene.lambda.events());
        ensure!(verdict.delivered == (RECORDS - scene.poison.len()) as u64, "{topic}: {verdict:?}");
        let (poison, good) = (scene.poison.len() as u64, (RECORDS - scene.poison.len()) as u64);
        let audit = scene.audit(&node, &group).await?;
        let exhausted = audit.totals.get("exhausted").copied().unwrap_or_default();
        let fallen = if topic == "named" { 0 } else { exhausted.saturating_sub(poison) };
        audit.check(&[("delivered", good - fallen), ("exhausted", poison + fallen)])?;
    }
    Ok(())
}

/// Attempts must survive the process that counts them.
async fn attempts_survive_kill_9(kafka: &RealKafka) -> Result<()> {
    let mut scene = PolicyScene::new(kafka, "attempts", false).await?;
    let more = json!({"BatchSize": 1, "MaximumRetryAttempts": 3});
    let node = scene.node().await?;
    let group = node.create_mapping(&scene.servers, &scene.topic, more).await?;
    let mut node = Some(node);
    for at_try in 1..=3 {
        let reached = async {
            while scene.tries((0, 0)) < at_try {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.context("too few tries")?;
        node.take().context("runs")?.kill().await?;
        node = Some(scene.node().await?);
    }
    scene.drained(&group).await?;
    scene.judge_innocents();
    for record in &scene.poison {
        let tries = scene.tries(*record);
        ensure!((1..=4).contains(&tries), "{record:?} was tried {tries} times");
    }
    let node = node.context("runs")?;
    let (poison, good) = (scene.poison.len() as u64, (RECORDS - scene.poison.len()) as u64);
    scene.audit(&node, &group).await?.check(&[("delivered", good), ("exhausted", poison)])
}

/// Without a limit, poison blocks only its own partition and is visible, until an operator skips it.
async fn poison_is_visible_and_can_be_skipped(kafka: &RealKafka) -> Result<()> {
    let mut scene = PolicyScene::new(kafka, "skipped", false).await?;
    let node = scene.node().await?;
    let group = node.create_mapping(&scene.servers, &scene.topic, json!({"BatchSize": 1})).await?;
    let path = format!("/lighterman/v1/mappings/{group}/partitions");
    for (partition, offset) in scene.poison.clone() {
        let failing = async {
            loop {
                let shown = node.api().call("GET", &path, None).await?;
                let mut all = shown["partitions"].as_array().into_iter().flatten();
                let ours = all.find(|one| one["partition"] == partition).cloned().unwrap_or_default();
                if ours["failing"]["offset"] == offset && ours["failing"]["attempts"].as_u64() > Some(0) {
                    return anyhow::Ok(ours);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let shown = tokio::time::timeout(LIMIT, failing).await.context("nothing fails")??;
        ensure!(shown["failing"]["firstError"]["errorType"] == "Boom", "{shown}");
        let skip = json!({"Offset": offset, "Reason": "a test says so"});
        let answer = node.api().call("POST", &format!("{path}/{partition}/skip"), Some(&skip)).await?;
        ensure!(answer["Offset"] == offset, "{answer}");
    }
    scene.drained(&group).await?;
    scene.judge_innocents();
    let (poison, good) = (scene.poison.len() as u64, (RECORDS - scene.poison.len()) as u64);
    scene.audit(&node, &group).await?.check(&[("delivered", good), ("skipped", poison)])?;
    let late =
        node.api().call("POST", &format!("{path}/0/skip"), Some(&json!({"Offset": 5, "Reason": "r"}))).await;
    ensure!(
        late.is_err_and(|error| error.to_string().contains("only a record that fails")),
        "a skip requires a failing record"
    );
    Ok(())
}

/// A missing destination holds its partitions; once it exists, everything continues and nothing was lost.
async fn a_missing_destination_holds_and_loses_nothing(kafka: &RealKafka) -> Result<()> {
    let mut scene = PolicyScene::new(kafka, "held", false).await?;
    let node = scene.node().await?;
    let more = json!({
        "BatchSize": 50, "BisectBatchOnFunctionError": true, "MaximumRetryAttempts": 0,
        "DestinationConfig": {"OnFailure": {"Destination": "kafka://held-failed"}},
    });
    let group = node.create_mapping(&scene.servers, &scene.topic, more).await?;
    let path = format!("/lighterman/v1/mappings/{group}/partitions");
    let held = async {
        loop {
            let shown = node.api().call("GET", &path, None).await?;
            let all = shown["partitions"].as_array().cloned().unwrap_or_default();
            if all
                .iter()
                .filter(|one| one["failing"]["onItsWayToDestination"] == "RetryAttemptsExhausted")
                .count()
                == 3
            {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, held).await.context("the partitions are not held")??;
    scene.producer.create_topic("held-failed", 1).await?;
    scene.drained(&group).await?;
    scene.judge_innocents();
    await_values(&mut scene.producer, "held-failed", scene.poison.len()).await?;
    let (poison, good) = (scene.poison.len() as u64, (RECORDS - scene.poison.len()) as u64);
    scene.audit(&node, &group).await?.check(&[("dead_lettered", poison), ("delivered", good)])
}

async fn all_scenarios(version: &str) -> Result<()> {
    let Some(_turn) = kafka::turn(version).await? else { return Ok(()) };
    let kafka = RealKafka::start(version)?;
    bisects_to_a_topic_while_nodes_are_killed(&kafka).await.context("bisected")?;
    partial_responses_keep_to_the_attempts(&kafka).await.context("partial responses")?;
    attempts_survive_kill_9(&kafka).await.context("attempts")?;
    poison_is_visible_and_can_be_skipped(&kafka).await.context("skipped")?;
    a_missing_destination_holds_and_loses_nothing(&kafka).await.context("held")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_failures_on_kafka_4_2_1() -> Result<()> {
    all_scenarios("4.2.1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_failures_on_kafka_3_9_1() -> Result<()> {
    all_scenarios("3.9.1").await
}
