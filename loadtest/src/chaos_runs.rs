//! `loadtest chaos`: runs faults drawn from seeds against nodes on a real Kafka.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use loadtest::chaos::series::ChaosSeries;
use loadtest::kafka_dist;

use crate::scenarios::{build_node, workspace};

/// Nodes on a real Kafka are killed, frozen, cut off, drained, their disks filled and their clocks moved, as a seed says, while
/// records flow; then the history is judged. The exit code is 1 when a promise was broken in any of them.
#[derive(Debug, Parser)]
pub(crate) struct ChaosArguments {
    /// Version of Kafka, from Maven Central
    #[arg(long, default_value = "4.2.1", value_parser = kafka_dist::version)]
    kafka: String,
    /// How many, from consecutive seeds
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    runs: u64,
    /// The first seed; a random one when absent
    #[arg(long, value_name = "SEED")]
    from: Option<u64>,
    /// So many at once, but for those that end the broker
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    at_once: u8,
    /// The nodes' `kafka.group_protocol`: classic or consumer
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
