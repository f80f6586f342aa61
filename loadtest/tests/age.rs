//! A record that exceeds the maximum age while a long batching window keeps its offer open, on the embedded broker.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use lighterman::runtime::clock;
use loadtest::function::{FakeLambda, InvocationEvent};
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, TestProducer, stamped_batch};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn record_expired_in_window_spares_younger() -> Result<()> {
    let broker = EmbeddedBroker::start(BrokerSettings::default())?;
    let servers = broker.address().to_string();
    let mut producer = TestProducer::connect(&servers).await?;
    producer.create_topic("orders", 1).await?;
    let (lambda, data) = (FakeLambda::start().await?, tempfile::tempdir()?);
    let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &[]).await?;
    let more = json!({
        "BatchSize": 100, "MaximumBatchingWindowInSeconds": 12, "MaximumRecordAgeInSeconds": 60,
    });
    let group = node.create_mapping(&servers, "orders", more).await?;
    let now = clock::wall_ms().0;
    let stamped = [(Bytes::from_static(b"old soon"), now - 55_000), (Bytes::from_static(b"young"), now)];
    producer.send("orders", 0, stamped_batch(&stamped, Compression::None, -1, -1)?, None).await?;

    producer.await_committed(&group, "orders", &BTreeMap::from([(0, 1)]), LIMIT).await?;
    let age = clock::wall_ms().0 - stamped[0].1;
    ensure!((60_000..65_000).contains(&age), "given up on expiry, at {age} ms, not when the window closed");
    producer.await_committed(&group, "orders", &BTreeMap::from([(0, 2)]), LIMIT).await?;
    let sent: Vec<_> =
        lambda.events().into_iter().filter(|event| matches!(event, InvocationEvent::Start { .. })).collect();
    let [InvocationEvent::Start { offsets, .. }] = &sent[..] else {
        anyhow::bail!("one invocation: {sent:?}")
    };
    ensure!(*offsets == BTreeMap::from([(0, vec![1])]), "the younger record, alone: {offsets:?}");
    let shown = node.api().call("GET", &format!("/lighterman/v1/mappings/{group}/audit"), None).await?;
    ensure!(shown["partitions"][0]["totals"] == json!({"delivered": 1, "expired": 1}), "{shown}");
    Ok(())
}
