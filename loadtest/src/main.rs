//! `cargo run --release -p loadtest`: drains a real Kafka through a node and prints what it cost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use loadtest::checker::check;
use loadtest::function::{Act, FakeLambda};
use loadtest::kafka::RealKafka;
use loadtest::node::Node;
use loadtest::process::{cpu_us, watch_resident_kib};
use loadtest::produce::{Compression, Producer, ends};
use serde_json::json;

/// Fill a topic of a real Kafka, drain it through a node into a fake Lambda, judge the history, print the figures.
#[derive(Debug, Parser)]
struct Arguments {
    /// Version of Kafka; .ci/install-kafka brings it
    #[arg(long, default_value = "4.2.1")]
    kafka: String,
    /// Records to write before the node starts
    #[arg(long, default_value_t = 200_000)]
    records: usize,
    /// Bytes of each value
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Partitions of the topic
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    /// `BatchSize`
    #[arg(long, default_value_t = 100)]
    batch: u32,
    /// `MinimumPollers`: consumers from the start
    #[arg(long, default_value_t = 2)]
    consumers: u32,
    /// How long the function takes
    #[arg(long, default_value_t = 0)]
    function_ms: u64,
    /// The node's `memory_budget`
    #[arg(long, default_value = "128MiB")]
    memory_budget: String,
    /// A setting of the node's, as its environment has it; may be given several times
    #[arg(long = "set", value_name = "LIGHTERMAN_KEY=VALUE")]
    settings: Vec<String>,
    /// Stop after this many seconds, drained or not
    #[arg(long, default_value_t = 300)]
    seconds: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let kafka = RealKafka::start(&arguments.kafka)?;
    let mut producer = Producer::connect(&kafka.servers()).await?;
    producer.create_topic("load", arguments.partitions).await?;
    let produced = producer
        .write("load", arguments.partitions, arguments.records, arguments.value_bytes, Compression::None)
        .await?;
    let lambda = FakeLambda::start().await?;
    let wait = Duration::from_millis(arguments.function_ms);
    lambda.set_script(move |_| Act::Succeed(wait));
    let data = tempfile::tempdir()?;
    let mut settings = vec![
        ("LIGHTERMAN_MEMORY_BUDGET", arguments.memory_budget.as_str()),
        ("LIGHTERMAN_LOG_LEVEL", "warn"),
    ];
    for setting in &arguments.settings {
        settings.push(setting.split_once('=').context("--set takes LIGHTERMAN_KEY=VALUE")?);
    }
    let node = Node::start(data.path(), &lambda.endpoint_url(), &settings).await?;
    let pid = node.pid().context("the node has ended")?;
    let before = cpu_us(pid)?;
    let began = Instant::now();
    let more = json!({
        "BatchSize": arguments.batch,
        "ProvisionedPollerConfig": {"MinimumPollers": arguments.consumers, "MaximumPollers": 200},
    });
    let group = node.create_mapping(&kafka.servers(), "load", more).await?;
    let peak = watch_resident_kib(pid);
    let limit = Duration::from_secs(arguments.seconds);
    let drained = producer.await_committed(&group, "load", &ends(&produced), limit).await.is_ok();
    let elapsed = began.elapsed();
    let after = cpu_us(pid)?;
    let verdict = check(&produced, &lambda.events());
    let (records, invocations) = (verdict.delivered.max(1), lambda.invocations().max(1));
    let spent_us = (after - before) as f64;
    println!(
        "kafka {}  records {}  value {} B  partitions {}  batch {}  function {} ms",
        arguments.kafka,
        arguments.records,
        arguments.value_bytes,
        arguments.partitions,
        arguments.batch,
        arguments.function_ms
    );
    println!(
        "delivered     {} in {:.1} s, {:.0} records/s",
        verdict.delivered,
        elapsed.as_secs_f64(),
        records as f64 / elapsed.as_secs_f64()
    );
    println!("invocations   {invocations}");
    println!(
        "CPU           {:.2} µs a record, {:.1} µs an invocation (user + system, the node alone)",
        spent_us / records as f64,
        spent_us / invocations as f64
    );
    println!("resident      {} MiB at most", peak.load(std::sync::atomic::Ordering::Relaxed) / 1024);
    println!("repeated      {}", verdict.repeated.values().sum::<u64>());
    if drained {
        ensure!(
            verdict.violations.is_empty(),
            "{} violations: {:?}",
            verdict.violations.len(),
            verdict.violations.first()
        );
    }
    ensure!(node.terminate(Duration::from_secs(60)).await? == Some(0), "the node drains and exits 0");
    Ok(())
}
