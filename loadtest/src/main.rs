//! `cargo run --release -p loadtest`: sends records from a Kafka through a node to a fake Lambda. With a scenario's
//! name it runs the scenario and writes a report. Without one it prints the cost of a drain or a fixed rate, alone
//! or alternating with a hand-written loop.

mod arguments;
mod chaos_runs;
mod footprint_runs;
mod scenarios;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use kafka_protocol::messages::ApiKey;
use loadtest::benchmark_run::BenchEnv;
use loadtest::contender::{Contender, ContenderSetup};
use loadtest::fault_proxy::{ExchangeFault, FaultCondition, FaultProxy};
use loadtest::function::{FakeLambda, InvocationAction};
use loadtest::kafka::RealKafka;
use loadtest::kafka_dist;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer};
use loadtest::report::{self, ScenarioRuns};

use crate::arguments::{ArrivalKind, CommandLine, ContenderLoad, LoadArguments, LoadtestCommand};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    let line = CommandLine::of(&words).unwrap_or_else(|error| error.exit());
    match line.command {
        None => drain_or_pace(line.arguments).await.map(|()| ExitCode::SUCCESS),
        Some(LoadtestCommand::List) => scenarios::list().map(|()| ExitCode::SUCCESS),
        Some(LoadtestCommand::Chaos(arguments)) => chaos_runs::run(arguments).await,
        Some(LoadtestCommand::Footprint(arguments)) => footprint_runs::footprint(arguments).await,
        Some(LoadtestCommand::PartitionsSweep(arguments)) => footprint_runs::sweep(arguments).await,
        Some(LoadtestCommand::Run(run)) => scenarios::run(run).await,
        Some(LoadtestCommand::Named(words)) => {
            scenarios::run(scenarios::ScenarioArguments::parse_from(named(words))).await
        }
    }
}

/// Rewrites `loadtest steady …` to `loadtest run steady …`.
fn named(words: Vec<String>) -> impl Iterator<Item = String> {
    std::iter::once("loadtest run".to_owned()).chain(words)
}

async fn drain_or_pace(arguments: LoadArguments) -> Result<()> {
    kafka_dist::install(&arguments.kafka)?;
    let kafka = RealKafka::start(&arguments.kafka)?;
    let mut producer = TestProducer::connect(&kafka.servers()).await?;
    let lambda = FakeLambda::start_with(arguments.function_tls).await?;
    let wait = Duration::from_millis(arguments.function_ms);
    lambda.set_script(move |_| InvocationAction::Succeed(wait));
    let slow_commits = slow_commits(&kafka, arguments.commit_delay_ms).await?;
    for (index, load) in arguments.loads().iter().enumerate() {
        let ground = BenchEnv { lambda: &lambda, producer: &mut producer, limit: arguments.limit() };
        let setup = ContenderSetup {
            servers: slow_commits.as_ref().map_or_else(|| kafka.servers(), FaultProxy::address),
            topic: format!("load-{index}"),
            endpoint: lambda.endpoint_url(),
            trust_file: lambda.trust_file().map(Path::to_owned),
            batch: load.batch,
            window_seconds: load.window_seconds,
            baseline_commits_each: arguments.baseline_commits_each,
            consumers: arguments.consumers,
            settings: arguments.settings()?,
        };
        println!(
            "\nkafka {}, {load}, function {} ms over {}, commits {} ms slower",
            arguments.kafka,
            arguments.function_ms,
            if arguments.function_tls { "TLS 1.3" } else { "plain HTTP" },
            arguments.commit_delay_ms
        );
        let runs = measure(ground, &arguments, load, setup).await?;
        print!("{}", runs.table());
    }
    Ok(())
}

/// Starts a proxy that delays the responses to commits, unless `delay_ms` is 0.
async fn slow_commits(kafka: &RealKafka, delay_ms: u64) -> Result<Option<FaultProxy>> {
    if delay_ms == 0 {
        return Ok(None);
    }
    let proxy = FaultProxy::start(&kafka.servers(), 1).await?;
    let fault = ExchangeFault::Delay(Duration::from_millis(delay_ms));
    proxy.faults().add(FaultCondition {
        apis: vec![ApiKey::OffsetCommit],
        times: None,
        per_mille: 1_000,
        fault,
    });
    Ok(Some(proxy))
}

async fn measure(
    mut ground: BenchEnv<'_>,
    arguments: &LoadArguments,
    load: &ContenderLoad,
    mut setup: ContenderSetup,
) -> Result<ScenarioRuns> {
    let produced = fill(ground.producer, load, &setup.topic).await?;
    let mut runs = ScenarioRuns::default();
    let topic = setup.topic.clone();
    // In the first round the broker has compiled and cached nothing, so it is not counted.
    for round in 0..=arguments.rounds {
        for who in order_of(round, arguments.baseline) {
            let run = format!("{topic}-{round}-{}", who.name());
            let figures = match load.kind {
                ArrivalKind::Drain { .. } => ground.drain(*who, &setup, &run, &produced).await?,
                ArrivalKind::Steady { rate, lasting } => {
                    setup.topic = run;
                    ground.steady(*who, &setup, load.partitions, load.value_bytes, (rate, lasting)).await?
                }
            };
            if round == 0 {
                println!("{} (warm-up, not counted)", report::line(*who, &figures));
                continue;
            }
            println!("{}", report::line(*who, &figures));
            runs.add(*who, figures);
        }
    }
    Ok(runs)
}

/// Returns the order of the contenders: A B, B A, A B, …, so that neither always follows the other.
fn order_of(round: u32, baseline: bool) -> &'static [Contender] {
    match (baseline, round.is_multiple_of(2)) {
        (false, _) => &[Contender::Node],
        (true, true) => &[Contender::Baseline, Contender::Node],
        (true, false) => &[Contender::Node, Contender::Baseline],
    }
}

/// Writes the records to drain; none if they are written while they are read.
async fn fill(producer: &mut TestProducer, load: &ContenderLoad, topic: &str) -> Result<ProducedOffsets> {
    let ArrivalKind::Drain { records } = load.kind else { return Ok(ProducedOffsets::new()) };
    producer.create_topic(topic, load.partitions).await?;
    producer.write(topic, load.partitions, records, load.value_bytes, Compression::None).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_round_starts_with_last_contender() {
        let ends = |round| (order_of(round, true).first().copied(), order_of(round, true).last().copied());
        for round in 0..5 {
            assert_eq!(ends(round).1, ends(round + 1).0);
        }
        assert_eq!(order_of(3, false), [Contender::Node]);
    }
}
