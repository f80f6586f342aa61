//! A topic of real Apache Kafka is deleted and recreated under its name while a mapping reads it: all records of
//! the new topic arrive, and the audit reports the recreation. Without Java or the jars Kafka is skipped, unless
//! `TEST_LIGHTERMAN_REQUIRE_KAFKA` is set.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use loadtest::checker::check;
use loadtest::function::FakeLambda;
use loadtest::kafka::{self, RealKafka};
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer, ends};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(180);
const BEFORE: usize = 500;

/// Parameters of a run.
struct RecreatedRun {
    protocol: &'static str,
    start: &'static str,
    /// Records of the recreated topic.
    records: usize,
    /// True if the topic is recreated while no node runs.
    is_down: bool,
}

async fn reads_all_of_it(kafka: &RealKafka, run: &RecreatedRun) -> Result<()> {
    let RecreatedRun { protocol, start, records, is_down } = run;
    let topic = format!("{protocol}-{records}-{start}-{is_down}");
    println!("scenario: {topic}");
    let mut producer = TestProducer::connect(&kafka.servers()).await?;
    producer.create_topic(&topic, 1).await?;
    let (lambda, data) = (FakeLambda::start().await?, tempfile::tempdir()?);
    let settings = [("LIGHTERMAN_KAFKA_GROUP_PROTOCOL", *protocol)];
    let mut node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &settings).await?;
    let more = json!({"BatchSize": 100, "StartingPosition": start});
    let group = node.create_mapping(&kafka.servers(), &topic, more).await?;
    // The position for LATEST must be committed before anything is written.
    producer.await_committed(&group, &topic, &[(0, 0)].into(), LIMIT).await?;
    let first = producer.write(&topic, 1, BEFORE, 100, Compression::None).await?;
    producer.await_committed(&group, &topic, &ends(&first), LIMIT).await?;
    if *is_down {
        ensure!(node.terminate(LIMIT).await? == Some(0), "drains");
        node = recreated(&mut producer, &topic, &lambda, data.path(), &settings).await?;
    } else {
        recreate(&mut producer, &topic).await?;
    }
    let from = lambda.events().len();
    let second = producer.write(&topic, 1, *records, 100, Compression::None).await?;
    producer.await_committed(&group, &topic, &ends(&second), LIMIT).await?;
    until_delivered(&second, &lambda, from, *records as u64).await?;
    audit_is_true(&node, &group, *records as u64).await
}

async fn recreate(producer: &mut TestProducer, topic: &str) -> Result<()> {
    producer.delete_topic(topic).await?;
    producer.create_topic(topic, 1).await
}

/// Recreates the topic, then starts the node again.
async fn recreated(
    producer: &mut TestProducer,
    topic: &str,
    lambda: &FakeLambda,
    data: &std::path::Path,
    settings: &[(&str, &str)],
) -> Result<NodeProcess> {
    recreate(producer, topic).await?;
    NodeProcess::start(data, &lambda.endpoint_url(), settings).await
}

/// Waits for ALO-1 and ORD-1 on the new topic: the same offset of the previous topic may have been committed.
async fn until_delivered(
    produced: &ProducedOffsets,
    lambda: &FakeLambda,
    from: usize,
    records: u64,
) -> Result<()> {
    let reached = async {
        loop {
            let verdict = check(produced, &lambda.events()[from..]);
            if verdict.delivered == records {
                verdict.assert_clean();
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, reached).await.context("records of the new topic are lost")
}

async fn audit_is_true(node: &NodeProcess, group: &str, records: u64) -> Result<()> {
    let whole = async {
        loop {
            let path = format!("/lighterman/v1/mappings/{group}/audit");
            let shown = node.api().call("GET", &path, None).await?;
            let partition = &shown["partitions"][0];
            let is_whole = partition["verdict"] == "accounted" && partition["totals"]["delivered"] == records;
            if is_whole && partition["recreated"].as_array().is_some_and(|earlier| earlier.len() == 1) {
                ensure!(partition["recreated"][0]["end"] == BEFORE, "{partition}");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LIMIT, whole).await.context("the audit does not show the recreation")??;
    let printed = node.command(&["audit", group]).await?;
    let text = String::from_utf8_lossy(&printed.stdout).into_owned();
    ensure!(printed.status.success() && text.contains("topic recreated"), "{text}");
    let verified = format!("verified, every offset from 0 to {records} has ended: {records} delivered");
    ensure!(text.contains(&verified), "{text}");
    Ok(())
}

async fn all_of(version: &str, protocols: &[&'static str]) -> Result<()> {
    let Some(_turn) = kafka::turn(version).await? else { return Ok(()) };
    let kafka = RealKafka::start(version)?;
    for protocol in protocols {
        for records in [40, 700] {
            let run = RecreatedRun { protocol, start: "TRIM_HORIZON", records, is_down: false };
            reads_all_of_it(&kafka, &run).await.with_context(|| format!("{protocol}, {records} records"))?;
        }
        for is_down in [false, true] {
            let run = RecreatedRun { protocol, start: "LATEST", records: 40, is_down };
            reads_all_of_it(&kafka, &run).await.with_context(|| format!("{protocol}, LATEST, {is_down}"))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_h17_recreated_topic_on_kafka_4_2_1() -> Result<()> {
    all_of("4.2.1", &["classic", "consumer"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_h17_recreated_topic_on_kafka_3_9_1() -> Result<()> {
    all_of("3.9.1", &["classic"]).await
}
