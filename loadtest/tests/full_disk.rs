//! A node on a full disk: a tmpfs without free space. Skipped if none can be mounted, unless
//! `TEST_LIGHTERMAN_REQUIRE_TMPFS` is set.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use loadtest::checker::check;
use loadtest::function::FakeLambda;
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, TestProducer, ends};
use loadtest::small_disk::SmallDisk;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
/// Number of mappings after which a store needs a block that it has not allocated.
const WRITES_MAX: u32 = 60;
const RECORDS: usize = 400;
/// Session timeout of a killed node, whose partitions are reassigned after it.
const SETTINGS: [(&str, &str); 2] =
    [("LIGHTERMAN_KAFKA_SESSION_TIMEOUT", "6s"), ("LIGHTERMAN_LOG_LEVEL", "error")];

fn disk() -> Result<Option<SmallDisk>> {
    match SmallDisk::mount() {
        Ok(disk) => Ok(Some(disk)),
        Err(error) if std::env::var_os("TEST_LIGHTERMAN_REQUIRE_TMPFS").is_some() => Err(error),
        Err(error) => {
            println!("skipped: {error:#}");
            Ok(None)
        }
    }
}

/// Additional mappings of a node, besides the one that delivers.
struct MoreMappings<'n> {
    node: &'n NodeProcess,
    servers: &'n str,
}

impl MoreMappings<'_> {
    async fn one(&self, number: u32) -> Result<String> {
        // Each with its own topic: a second mapping of the same topic would be rejected for that reason.
        self.node.create_mapping(self.servers, &format!("more-{number}"), json!({"Enabled": false})).await
    }

    /// Creates mappings until the store rejects one. Returns the accepted ones and the error.
    async fn until_refused(&self) -> Result<(Vec<String>, String)> {
        let mut taken = Vec::new();
        for number in 0..WRITES_MAX {
            match self.one(number).await {
                Ok(id) => taken.push(id),
                Err(error) => return Ok((taken, format!("{error:#}"))),
            }
        }
        anyhow::bail!("{WRITES_MAX} mappings were taken on a full disk")
    }
}

async fn mappings(node: &NodeProcess) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut path = "/2015-03-31/event-source-mappings/".to_owned();
    loop {
        let page = node.api().call("GET", &path, None).await?;
        let list = page["EventSourceMappings"].as_array().context("a list")?;
        ids.extend(list.iter().filter_map(|mapping| mapping["UUID"].as_str().map(ToOwned::to_owned)));
        let Value::String(next) = &page["NextMarker"] else { return Ok(ids) };
        path = format!("/2015-03-31/event-source-mappings/?Marker={next}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_rejects_mappings_while_deliveries_continue() -> Result<()> {
    let Some(disk) = disk()? else { return Ok(()) };
    let broker = EmbeddedBroker::start(BrokerSettings::default())?;
    let servers = broker.address().to_string();
    let mut producer = TestProducer::connect(&servers).await?;
    producer.create_topic("orders", 4).await?;
    let lambda = FakeLambda::start().await?;
    let node = NodeProcess::start(disk.path(), &lambda.endpoint_url(), &SETTINGS).await?;
    let group = node.create_mapping(&servers, "orders", json!({"MaximumBatchingWindowInSeconds": 0})).await?;
    let mut produced = producer.write("orders", 4, RECORDS, 100, Compression::None).await?;
    producer.await_committed(&group, "orders", &ends(&produced), LIMIT).await?;

    disk.fill()?;
    let more = MoreMappings { node: &node, servers: &servers };
    let (mut acknowledged, said) = more.until_refused().await?;
    ensure!(said.contains("500 ServiceException") && said.contains("Free disk space"), "{said}");
    ensure!(said.contains("No space left on device"), "{said}");
    println!("{} mappings had room in the store's own blocks", acknowledged.len());
    for _ in 0..3 {
        let still = more.one(WRITES_MAX).await.err().context("the disk is no longer full")?.to_string();
        ensure!(still.contains("Free disk space"), "{still}");
        for (partition, offsets) in producer.write("orders", 4, RECORDS, 100, Compression::None).await? {
            produced.entry(partition).or_default().extend(offsets);
        }
        producer.await_committed(&group, "orders", &ends(&produced), LIMIT).await?;
    }
    disk.free()?;
    acknowledged.push(more.one(WRITES_MAX + 1).await.context("the freed disk rejects a write")?);
    node.kill().await?;

    let node = NodeProcess::start(disk.path(), &lambda.endpoint_url(), &SETTINGS).await?;
    let there = mappings(&node).await?;
    acknowledged.push(group.clone());
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
    ensure!(lost.is_empty() && there.len() == acknowledged.len(), "lost {lost:?}: {there:?}");
    for (partition, offsets) in producer.write("orders", 4, RECORDS, 100, Compression::None).await? {
        produced.entry(partition).or_default().extend(offsets);
    }
    producer.await_committed(&group, "orders", &ends(&produced), LIMIT).await?;
    let verdict = check(&produced, &lambda.events());
    ensure!(
        verdict.violations.is_empty() && verdict.repeated.values().all(|times| *times == 0),
        "{verdict:?}"
    );
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    Ok(())
}

/// A node that cannot guarantee durability exits with an error at once, and starts when there is space.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_start_on_full_disk_fails() -> Result<()> {
    let Some(disk) = disk()? else { return Ok(()) };
    let lambda = FakeLambda::start().await?;
    disk.fill()?;
    let log = tempfile::NamedTempFile::new()?;
    let started = NodeProcess::start_logged(disk.path(), &lambda.endpoint_url(), &[], log.path()).await;
    let error = started.err().context("the node started on a full disk")?.to_string();
    ensure!(error.contains("exit status: 1"), "{error}");
    let said = std::fs::read_to_string(log.path())?;
    ensure!(said.contains("No space left on device") && said.contains("Free disk space"), "{said}");
    disk.free()?;
    let node = NodeProcess::start(disk.path(), &lambda.endpoint_url(), &[]).await?;
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    Ok(())
}
