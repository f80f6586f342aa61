//! `loadtest footprint` and `loadtest partitions-sweep`: cost of idle mappings, and of partitions at the same rate.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use loadtest::footprint::{FootprintLimits, IdleLoad};
use loadtest::run::KafkaChoice;
use loadtest::sweep::{PartitionSweep, SweepPoint, largest_deviation};
use serde::Serialize;

use crate::scenarios::{build_node, setting, workspace};

/// Deviation of the cost per record that a sweep allows, as a share.
const SWEEP_DEVIATION_MAX: f64 = 0.1;

/// Measure a node without records to deliver: memory by kind, threads, descriptors, processor time. The exit code is 1 if a limit
/// of the case is exceeded.
#[derive(Debug, Parser)]
pub(crate) struct FootprintArguments {
    /// Case to measure
    #[arg(value_enum)]
    case: FootprintCase,
    /// `embedded`, a version to start from Maven Central (4.2.1), or host:port of a single broker
    #[arg(long, default_value_t)]
    kafka: KafkaChoice,
    /// Seconds over which processor time is counted
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Setting of the node, as in its environment; may be given several times
    #[arg(long = "set", value_name = "LIGHTERMAN_KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

/// Idle nodes that have limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FootprintCase {
    /// One mapping of one partition
    #[value(name = "idle-1-mapping")]
    OneMapping,
    /// 1,000 mappings of one partition each
    #[value(name = "idle-1000-mappings")]
    ThousandMappings,
    /// One mapping of 10,000 partitions
    #[value(name = "partitions-10000")]
    TenThousandPartitions,
}

impl FootprintCase {
    fn load(self, seconds: u64) -> (IdleLoad, FootprintLimits) {
        let (mappings, partitions, resident_mib, cpu_percent) = match self {
            Self::OneMapping => (1, 1, 24.0, None),
            Self::ThousandMappings => (1_000, 1, 512.0, Some(2.0)),
            Self::TenThousandPartitions => (1, 10_000, 512.0, None),
        };
        let lasting = Duration::from_secs(seconds);
        (IdleLoad { mappings, partitions, lasting }, FootprintLimits { resident_mib, cpu_percent })
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Measures a case.
pub(crate) async fn footprint(arguments: FootprintArguments) -> Result<ExitCode> {
    build_node()?;
    let (load, limits) = arguments.case.load(arguments.seconds);
    println!("{}: {} mapping(s), {} partition(s)", arguments.case.name(), load.mappings, load.partitions);
    let footprint = load.measure(&arguments.kafka, &arguments.set).await?;
    println!("{footprint}");
    write(&arguments.case.name(), &footprint)?;
    let excesses = footprint.excesses(&limits);
    for excess in &excesses {
        println!("OVER THE LIMIT: {excess}");
    }
    Ok(if excesses.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Write at the same total rate to topics of more and more partitions, and print the node's processor time per record. The exit
/// code is 1 if it differs by more than a tenth from that of the fewest partitions.
#[derive(Debug, Parser)]
pub(crate) struct SweepArguments {
    /// `embedded`, a version to start from Maven Central (4.2.1), or host:port of a single broker
    #[arg(long, default_value_t)]
    kafka: KafkaChoice,
    /// Partitions of each run
    #[arg(long, value_delimiter = ',', default_values_t = [8, 100, 1_000, 10_000])]
    partitions: Vec<i32>,
    /// Records per second over all partitions
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// Seconds of writing in each run, after 2 s of warm-up
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Size of each value, in bytes
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// `MinimumPollers`: consumers of the node from the start
    #[arg(long, default_value_t = 2)]
    consumers: u32,
    /// Setting of the node, as in its environment; may be given several times
    #[arg(long = "set", value_name = "LIGHTERMAN_KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

/// Measures a sweep.
pub(crate) async fn sweep(arguments: SweepArguments) -> Result<ExitCode> {
    build_node()?;
    // Overridden by a later one of the same name.
    let mut settings = vec![("LIGHTERMAN_LOG_LEVEL".to_owned(), "error".to_owned())];
    settings.extend(arguments.set);
    let sweep = PartitionSweep {
        partitions: arguments.partitions,
        rate: arguments.rate,
        lasting: Duration::from_secs(arguments.seconds),
        value_bytes: arguments.value_bytes,
        consumers: arguments.consumers,
        settings,
    };
    let mut points: Vec<SweepPoint> = Vec::new();
    println!("{:>12}{:>16}{:>24}{:>16}", "partitions", "CPU us/record", "records/invocation", "MiB at most");
    for partitions in &sweep.partitions {
        let point = sweep.point(&arguments.kafka, *partitions).await?;
        println!(
            "{:>12}{:>16.2}{:>24.1}{:>16.1}",
            point.partitions, point.cpu_us_per_record, point.records_per_invocation, point.resident_mib_max
        );
        points.push(point);
    }
    write("partitions-sweep", &points)?;
    let deviation = largest_deviation(&points);
    println!("largest deviation from the fewest partitions: {:.0} %", deviation * 100.0);
    Ok(if deviation <= SWEEP_DEVIATION_MAX { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write(name: &str, figures: &impl Serialize) -> Result<()> {
    let folder = workspace().join("target/loadtest");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let path = folder.join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(figures)?;
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}
