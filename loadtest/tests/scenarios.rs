//! Shortened scenarios from end to end on the embedded broker: the figures are present, and the history is judged.

use std::time::Duration;

use anyhow::{Result, ensure};
use loadtest::compare::RunComparison;
use loadtest::figures::RunFigures;
use loadtest::html_report::page;
use loadtest::run::{KafkaChoice, ScenarioRun};
use loadtest::scenario::{LoadScenario, parse, read};

async fn run(scenario: &LoadScenario, scale: f64, function_tls: bool) -> Result<RunFigures> {
    let kafka = &KafkaChoice::Embedded;
    let run = ScenarioRun { scenario, scale, kafka, settings: &[], function_tls, progress: false };
    let run = run.go().await?;
    ensure!(run.is_clean(), "{:?}", run.problems);
    ensure!(run.records == run.delivered, "{} of {}", run.delivered, run.records);
    let partitions = scenario.partitions as u64;
    ensure!(run.records == scenario.schedule().count() + partitions, "{} records", run.records);
    Ok(run)
}

/// Only conditions that hold at any speed are checked, since the machine may be busy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_steady_scenario_is_measured_and_reported() -> Result<()> {
    let scenario = read("steady")?.scaled(0.1);
    let run = run(&scenario, 0.1, false).await?;
    ensure!((run.repeated, run.repeated_max) == (0, 0), "no record repeats");
    ensure!(run.samples.len() >= 3, "{:?}", run.samples);
    let seconds = run.samples.iter().filter(|sample| sample.latency.is_some()).count();
    ensure!(seconds >= 2, "latency is sampled by second: {:?}", run.samples);
    let latency = run.latency;
    ensure!(0.0 < latency.p50 && latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{latency:?}");
    let arrived: f64 = run.samples.iter().map(|sample| sample.arrived).sum();
    ensure!(arrived > 100.0, "{arrived}");
    ensure!(run.samples.iter().any(|sample| sample.lag.is_some()), "lag: {:?}", run.samples);
    ensure!(run.samples.iter().any(|sample| sample.committed > Some(0.0)), "committed: {:?}", run.samples);
    ensure!(run.consumers_max >= 2.0 && run.resident_mib_max > 1.0 && run.cpu_us_per_record > 0.0, "{run:?}");
    let report = page(&scenario, &run, Some(&RunComparison::of(&run, &run)));
    ensure!(report.matches("<polyline").count() >= 8, "every plot has lines: {report}");
    ensure!(!RunComparison::of(&run, &run).table().contains("REGRESSION"), "no regression against itself");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_node_scenario_shows_a_gap() -> Result<()> {
    let scenario = read("node-killed")?.scaled(0.1);
    let run = run(&scenario, 0.1, false).await?;
    let labels: Vec<&str> = run.marks.iter().map(|mark| &*mark.label).collect();
    ensure!(labels == ["kill -9 node 1", "node 1 is back"], "{labels:?}");
    ensure!(run.repeated <= run.repeated_max, "{}", run.repeated);
    // The group reassigns the dead node's partitions when its session ends.
    let longest = Duration::from_secs_f64(run.latency.max / 1e3);
    ensure!(longest > Duration::from_secs(1), "{longest:?}: somebody waited for the node");
    ensure!(run.samples.iter().any(|sample| sample.resident_mib == [None]), "{:?}", run.samples);
    ensure!(run.samples.iter().any(|sample| sample.lag > Some(0.0)), "{:?}", run.samples);
    // Records due meanwhile wait, and no node owns their partitions and reports their lag.
    ensure!(run.waiting_max > 50.0, "{:?}", run.samples);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_scenario_runs_over_tls() -> Result<()> {
    let scenario = read("steady")?.scaled(0.05);
    let run = run(&scenario, 0.05, true).await?;
    ensure!(run.machine.ends_with("the function over TLS 1.3"), "{}", run.machine);
    Ok(())
}

/// The function is too slow: the run ends, reports it, and is not clean.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_work_is_reported_without_hang() -> Result<()> {
    let text = "about = \"x\"\npartitions = 1\nbatch = 1\nwindow = 0\nsettle_seconds = 0\n\
                [[phase]]\nseconds = 1\nrate = 50\nlatency = 200\n";
    let scenario = parse("late", text)?;
    let run = ScenarioRun {
        scenario: &scenario,
        scale: 1.0,
        kafka: &KafkaChoice::Embedded,
        settings: &[],
        function_tls: false,
        progress: false,
    }
    .go()
    .await?;
    ensure!(run.problems.iter().any(|problem| problem.contains("not everything was committed")), "{run:?}");
    ensure!(run.problems.iter().any(|problem| problem.contains("without an outcome")), "{:?}", run.problems);
    ensure!(run.delivered < run.records, "{} of {}", run.delivered, run.records);
    Ok(())
}
