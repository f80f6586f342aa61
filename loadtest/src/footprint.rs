//! Cost of a node that has nothing to do: memory by kind, threads, descriptors, and processor time.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::json;

use crate::function::FakeLambda;
use crate::node::NodeProcess;
use crate::process::{ProcessMemory, cpu_us, descriptors, resident_peak_kib, wakeups};
use crate::produce::{Compression, ProducedOffsets, TestProducer};
use crate::run::{KafkaChoice, RunningCluster};

const TOPIC: &str = "footprint";
const RECORD_BYTES: usize = 10;
/// Time limit for one record of every partition through every mapping.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(300);
const DRAIN_DEADLINE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Time after the last delivery until the node counts as idle; freed memory is returned to the system within it.
const REST: Duration = Duration::from_secs(5);
const MIB_IN_KIB: f64 = 1024.0;

/// Mappings and partitions of an idle node, with the limits that its cost is held against.
#[derive(Clone, Copy, Debug)]
pub struct IdleLoad {
    /// Number of mappings, all of the same topic, each with a function of its own.
    pub mappings: usize,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Time over which processor time is counted.
    pub lasting: Duration,
}

/// Limits of an idle node; `None` where it has none.
#[derive(Clone, Copy, Debug)]
pub struct FootprintLimits {
    /// Resident MiB while idle.
    pub resident_mib: f64,
    /// Processor time in percent of one core.
    pub cpu_percent: Option<f64>,
}

/// Measured cost of an idle node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeFootprint {
    /// Resident memory by kind, in KiB.
    pub memory: ProcessMemory,
    /// Peak resident memory in KiB since the start, including the join and the delivery of one record per partition.
    pub peak_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Processor time in percent of one core.
    pub cpu_percent: f64,
    /// Times per second that a thread of the node gave up the processor to wait.
    pub wakeups_per_second: f64,
}

impl NodeFootprint {
    /// Returns the limits that this cost exceeds, in words.
    pub fn excesses(&self, limits: &FootprintLimits) -> Vec<String> {
        let resident = self.memory.resident as f64 / MIB_IN_KIB;
        let mut excesses = Vec::new();
        if resident > limits.resident_mib {
            excesses.push(format!("{resident:.1} MiB resident, {:.0} allowed", limits.resident_mib));
        }
        if let Some(most) = limits.cpu_percent.filter(|most| self.cpu_percent > *most) {
            excesses.push(format!("{:.2} % of a core, {most} allowed", self.cpu_percent));
        }
        excesses
    }
}

impl fmt::Display for NodeFootprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / MIB_IN_KIB;
        let memory = &self.memory;
        writeln!(f, "{:34}{:>12.1}", "resident MiB", mib(memory.resident))?;
        writeln!(f, "{:34}{:>12.1}", "  of that allocated (anonymous)", mib(memory.anonymous))?;
        writeln!(f, "{:34}{:>12.1}", "    in pages of 2 MiB", mib(memory.huge))?;
        writeln!(f, "{:34}{:>12.1}", "  of that files (program, libraries)", mib(memory.file))?;
        writeln!(f, "{:34}{:>12.1}", "resident MiB at most", mib(self.peak_kib))?;
        writeln!(f, "{:34}{:>12}", "threads", self.threads)?;
        writeln!(f, "{:34}{:>12}", "file descriptors", self.descriptors)?;
        writeln!(f, "{:34}{:>12.2}", "CPU, percent of a core", self.cpu_percent)?;
        write!(f, "{:34}{:>12.0}", "waits per second", self.wakeups_per_second)
    }
}

impl IdleLoad {
    /// Measures a node on `kafka` once every partition has been delivered by every mapping.
    pub async fn measure(&self, kafka: &KafkaChoice, settings: &[(String, String)]) -> Result<NodeFootprint> {
        let cluster = RunningCluster::start(kafka)?;
        let servers = cluster.servers();
        let mut producer = TestProducer::connect(&servers).await?;
        producer.create_topic(TOPIC, self.partitions).await?;
        self.write_one_each(&mut producer).await?;
        let lambda = FakeLambda::start().await?;
        let data = tempfile::tempdir()?;
        let mut all = BTreeMap::from([("LIGHTERMAN_LOG_LEVEL", "error")]);
        all.extend(settings.iter().map(|(name, value)| (&**name, &**value)));
        let all: Vec<(&str, &str)> = all.into_iter().collect();
        let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &all).await?;
        for function in 0..self.mappings {
            let function = json!({"FunctionName": format!("f-{function}")});
            node.create_mapping(&servers, TOPIC, function).await?;
        }
        self.await_deliveries(&lambda).await?;
        tokio::time::sleep(REST).await;
        let footprint = self.watch(node.pid().context("the node runs")?).await?;
        ensure!(node.terminate(DRAIN_DEADLINE).await? == Some(0), "the node drains and exits 0");
        cluster.sweep(TOPIC).await;
        Ok(footprint)
    }

    async fn write_one_each(&self, producer: &mut TestProducer) -> Result<ProducedOffsets> {
        let count = self.partitions as usize;
        producer.write(TOPIC, self.partitions, count, RECORD_BYTES, Compression::None).await
    }

    async fn await_deliveries(&self, lambda: &FakeLambda) -> Result<()> {
        let expected = self.mappings as u64 * self.partitions as u64;
        let arrive = async {
            while lambda.tally().records < expected {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let arrived = tokio::time::timeout(DELIVERY_DEADLINE, arrive).await;
        arrived.with_context(|| format!("{} of {expected} records arrived", lambda.tally().records))
    }

    async fn watch(&self, pid: u32) -> Result<NodeFootprint> {
        let (begin, cpu, waits) = (Instant::now(), cpu_us(pid)?, wakeups(pid)?);
        tokio::time::sleep(self.lasting).await;
        let seconds = begin.elapsed().as_secs_f64();
        let spent = cpu_us(pid)? - cpu;
        Ok(NodeFootprint {
            memory: ProcessMemory::of(pid)?,
            peak_kib: resident_peak_kib(pid)?,
            threads: fs::read_dir(format!("/proc/{pid}/task"))?.count() as u64,
            descriptors: descriptors(pid)?,
            cpu_percent: spent as f64 / seconds / 1e4,
            wakeups_per_second: wakeups(pid)?.saturating_sub(waits) as f64 / seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_names_each_limit_that_is_exceeded() {
        let memory = ProcessMemory { resident: 30 * 1024, anonymous: 10 * 1024, file: 20 * 1024, huge: 0 };
        let cost = NodeFootprint {
            memory,
            peak_kib: 40 * 1024,
            threads: 8,
            descriptors: 40,
            cpu_percent: 3.0,
            wakeups_per_second: 10.0,
        };
        let over =
            |resident_mib, cpu_percent| cost.excesses(&FootprintLimits { resident_mib, cpu_percent }).len();
        assert_eq!((over(24.0, Some(2.0)), over(24.0, None)), (2, 1));
        assert_eq!((over(30.0, Some(3.0)), over(30.0, Some(2.9))), (0, 1));
    }
}
