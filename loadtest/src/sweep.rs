//! Processor time per record as the number of partitions grows, at the same rate in all.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::benchmark_run::BenchEnv;
use crate::contender::{Contender, ContenderSetup};
use crate::function::FakeLambda;
use crate::produce::TestProducer;
use crate::run::{KafkaChoice, RunningCluster};

const BATCH: u32 = 100;
const LIMIT: Duration = Duration::from_secs(300);

/// Load of a sweep: only the number of partitions differs between its runs.
#[derive(Clone, Debug)]
pub struct PartitionSweep {
    /// Partitions of each run.
    pub partitions: Vec<i32>,
    /// Records per second over all partitions.
    pub rate: u64,
    /// Duration of the writes of each run.
    pub lasting: Duration,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// `MinimumPollers`.
    pub consumers: u32,
    /// Settings of the node, as environment variables.
    pub settings: Vec<(String, String)>,
}

/// Cost at one number of partitions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepPoint {
    /// Partitions of the topic.
    pub partitions: i32,
    /// User and system time of the node in microseconds per record.
    pub cpu_us_per_record: f64,
    /// Records per invocation.
    pub records_per_invocation: f64,
    /// Peak resident memory of the node in MiB.
    pub resident_mib_max: f64,
}

impl PartitionSweep {
    /// Measures one number of partitions, with a node and a topic of its own.
    pub async fn point(&self, kafka: &KafkaChoice, partitions: i32) -> Result<SweepPoint> {
        let cluster = RunningCluster::start(kafka)?;
        let mut producer = TestProducer::connect(&cluster.servers()).await?;
        let lambda = FakeLambda::start().await?;
        let setup = ContenderSetup {
            servers: cluster.servers(),
            topic: format!("sweep-{partitions}"),
            endpoint: lambda.endpoint_url(),
            batch: BATCH,
            window_seconds: None,
            baseline_commits_each: false,
            consumers: self.consumers,
            settings: self.settings.clone(),
            trust_file: None,
        };
        let mut ground = BenchEnv { lambda: &lambda, producer: &mut producer, limit: LIMIT };
        let load = (self.rate, self.lasting);
        let run = ground.steady(Contender::Node, &setup, partitions, self.value_bytes, load).await?;
        cluster.sweep(&setup.topic).await;
        Ok(SweepPoint {
            partitions,
            cpu_us_per_record: run.cpu_us as f64 / run.records.max(1) as f64,
            records_per_invocation: run.records as f64 / run.invocations.max(1) as f64,
            resident_mib_max: run.resident_kib as f64 / 1024.0,
        })
    }
}

/// Returns the largest deviation from the cost at the fewest partitions, as a share of it; 0 without points.
pub fn largest_deviation(points: &[SweepPoint]) -> f64 {
    let Some(first) = points.iter().min_by_key(|point| point.partitions) else { return 0.0 };
    let deviation = |point: &SweepPoint| (point.cpu_us_per_record / first.cpu_us_per_record - 1.0).abs();
    points.iter().map(deviation).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deviation_is_from_the_fewest_partitions() {
        let point = |partitions, cpu_us_per_record| SweepPoint {
            partitions,
            cpu_us_per_record,
            records_per_invocation: 1.0,
            resident_mib_max: 1.0,
        };
        let points = [point(1000, 80.0), point(8, 100.0), point(100, 110.0)];
        assert!((largest_deviation(&points) - 0.2).abs() < 1e-9);
        assert!(largest_deviation(&[]).abs() < 1e-9);
    }
}
