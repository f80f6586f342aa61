//! MEM-1 from outside: memory of a node on a real Kafka, under load and idle. Linux only: it reads /proc.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use loadtest::checker::check;
use loadtest::function::{FakeLambda, InvocationAction};
use loadtest::kafka::{self, RealKafka};
use loadtest::node::NodeProcess;
use loadtest::process::watch_resident_kib;
use loadtest::produce::{Compression, TestProducer, ends};
use serde_json::json;

const VERSION: &str = "4.2.1";
const LIMIT: Duration = Duration::from_secs(300);
const MIB_IN_KIB: u64 = 1024;

/// Sequential, since both measure on the same machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mem_1_memory_stays_bounded_loaded_and_idle() -> Result<()> {
    let Some(_turn) = kafka::turn(VERSION).await? else { return Ok(()) };
    let kafka = RealKafka::start(VERSION)?;
    full(&kafka).await.context("64 partitions, slow function")?;
    idle(&kafka).await.context("1,000 idle partitions")
}

/// 200,000 records of 1 KiB wait in 64 partitions, and the function takes 2 s.
async fn full(kafka: &RealKafka) -> Result<()> {
    let mut producer = TestProducer::connect(&kafka.servers()).await?;
    producer.create_topic("full", 64).await?;
    let produced = producer.write("full", 64, 200_000, 1024, Compression::None).await?;
    let lambda = FakeLambda::start().await?;
    lambda.set_script(|_| InvocationAction::Succeed(Duration::from_secs(2)));
    let data = tempfile::tempdir()?;
    let settings = [("LIGHTERMAN_MEMORY_BUDGET", "128MiB"), ("LIGHTERMAN_LOG_LEVEL", "warn")];
    let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &settings).await?;
    let peak = watch_resident_kib(node.pid().context("runs")?);
    let more =
        json!({"BatchSize": 500, "ProvisionedPollerConfig": {"MinimumPollers": 13, "MaximumPollers": 64}});
    let group = node.create_mapping(&kafka.servers(), "full", more).await?;
    producer.await_committed(&group, "full", &ends(&produced), LIMIT).await?;
    check(&produced, &lambda.events()).assert_clean();
    let peak_mib = peak.load(Ordering::Relaxed) / MIB_IN_KIB;
    println!("resident at most {peak_mib} MiB, 64 partitions, function of 2 s, memory_budget 128 MiB");
    ensure!(peak_mib < 256, "{peak_mib} MiB");
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    Ok(())
}

/// 1,000 empty partitions.
async fn idle(kafka: &RealKafka) -> Result<()> {
    let mut producer = TestProducer::connect(&kafka.servers()).await?;
    producer.create_topic("idle", 1_000).await?;
    let lambda = FakeLambda::start().await?;
    let data = tempfile::tempdir()?;
    let settings = [("LIGHTERMAN_MEMORY_BUDGET", "128MiB"), ("LIGHTERMAN_LOG_LEVEL", "warn")];
    let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &settings).await?;
    let peak = watch_resident_kib(node.pid().context("runs")?);
    let group = node.create_mapping(&kafka.servers(), "idle", json!({})).await?;
    let beginnings: BTreeMap<i32, i64> = (0..1_000).map(|partition| (partition, 0)).collect();
    producer.await_committed(&group, "idle", &beginnings, LIMIT).await?;
    // One record each: every partition must have fetched, delivered and committed before it counts as idle.
    let produced = producer.write("idle", 1_000, 1_000, 10, Compression::None).await?;
    producer.await_committed(&group, "idle", &ends(&produced), LIMIT).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let peak_mib = peak.load(Ordering::Relaxed) / MIB_IN_KIB;
    println!("resident at most {peak_mib} MiB, 1,000 partitions");
    ensure!(peak_mib < 128, "{peak_mib} MiB");
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    Ok(())
}
