//! `loadtest chaos`: runs faults drawn from seeds against nodes on a real Kafka.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use loadtest::chaos::series::ChaosSeries;
use loadtest::kafka_dist;

use crate::scenarios::{build_node, workspace};

/// Kill, freeze, partition and drain nodes on a real Kafka, fill their disks and move their clocks, as a seed determines, while
/// records are delivered; then check the history. The exit code is 1 if any run violated an invariant.
#[derive(Debug, Parser)]
pub(crate) struct ChaosArguments {
    /// Version of Kafka, from Maven Central
    #[arg(long, default_value = "4.2.1", value_parser = kafka_dist::version)]
    kafka: String,
    /// Number of runs, with consecutive seeds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    runs: u64,
    /// First seed [default: random]
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// Maximum concurrent runs; runs that affect the broker execute one by one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    at_once: u8,
    /// `kafka.group_protocol` of the nodes: classic or consumer
    #[arg(long)]
    group_protocol: Option<String>,
}

/// Executes the runs.
pub(crate) async fn run(arguments: ChaosArguments) -> Result<ExitCode> {
    let ChaosArguments { kafka: version, runs, from, at_once, group_protocol } = arguments;
    kafka_dist::install(&version)?;
    build_node()?;
    // Short enough to be typed.
    let from = from.unwrap_or_else(|| lighterman::runtime::backoff::random() % 1_000_000_000);
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    let protocol = group_protocol.as_ref().map_or_else(String::new, |one| format!(" --group-protocol {one}"));
    let repeat = format!("cargo run{profile} -p loadtest -- chaos --kafka {version}{protocol} --from ");
    let seeds = (0..runs).map(|more| from.wrapping_add(more)).collect();
    let folder = Path::new(workspace()).join("target/loadtest");
    let series = ChaosSeries { version, seeds, at_once: at_once.into(), group_protocol, folder, repeat };
    let totals = series.run().await?;
    println!("{totals}");
    Ok(if totals.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
