//! MEM-1 from outside: an idle node keeps no huge pages, and a further mapping costs neither threads nor much memory.
//! Linux only: it reads /proc.

use std::time::Duration;

use anyhow::{Result, ensure};
use loadtest::footprint::{IdleLoad, NodeFootprint};
use loadtest::run::KafkaChoice;

const MAPPINGS: usize = 40;
/// A mapping of one partition takes 86 KiB; the rest is for pages that are in use in part.
const MAPPING_KIB_MAX: u64 = 192;
/// Sockets of a mapping: the bootstrap server, the coordinator, the leader, and commits.
const MAPPING_DESCRIPTORS_MAX: u64 = 6;

async fn idle(mappings: usize) -> Result<NodeFootprint> {
    let load = IdleLoad { mappings, partitions: 1, lasting: Duration::from_millis(100) };
    load.measure(&KafkaChoice::Embedded, &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mem_1_idle_mapping_costs_little_memory() -> Result<()> {
    let (one, many) = (idle(1).await?, idle(MAPPINGS).await?);
    println!("{one}\n{many}");
    ensure!((one.memory.huge, many.memory.huge) == (0, 0), "pages of 2 MiB for a heap of 3 MiB");
    ensure!(one.threads == many.threads, "{} threads, then {}", one.threads, many.threads);
    let further = MAPPINGS as u64 - 1;
    let each = |of: fn(&NodeFootprint) -> u64| of(&many).saturating_sub(of(&one)) / further;
    let (kib, descriptors) = (each(|cost| cost.memory.anonymous), each(|cost| cost.descriptors));
    ensure!(kib <= MAPPING_KIB_MAX, "{kib} KiB for each mapping");
    ensure!(descriptors <= MAPPING_DESCRIPTORS_MAX, "{descriptors} descriptors for each mapping");
    Ok(())
}
