//! The baseline is judged by what it has committed when it ends, so its last batch must be included.

use std::time::Duration;

use anyhow::{Result, ensure};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use loadtest::contender::{Contender, ContenderSetup};
use loadtest::function::{FakeLambda, InvocationAction};
use loadtest::produce::{Compression, TestProducer, ends};

const LIMIT: Duration = Duration::from_secs(30);
const RECORDS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn baseline_stopped_during_invocation_commits_its_batch() -> Result<()> {
    let broker = EmbeddedBroker::start(BrokerSettings::default())?;
    let servers = broker.address().to_string();
    let mut producer = TestProducer::connect(&servers).await?;
    producer.create_topic("orders", 4).await?;
    let produced = producer.write("orders", 4, RECORDS, 10, Compression::None).await?;
    let lambda = FakeLambda::start().await?;
    lambda.set_script(|_| InvocationAction::Succeed(Duration::from_secs(1)));
    let setup = ContenderSetup {
        servers,
        topic: "orders".to_owned(),
        endpoint: lambda.endpoint_url(),
        trust_file: None,
        batch: 100,
        window_seconds: None,
        baseline_commits_each: false,
        consumers: 1,
        settings: Vec::new(),
    };
    let mut started = Contender::Baseline.start(&setup, "end").await?;
    let group = started.begin().await?;
    let arrived = tokio::time::timeout(LIMIT, async {
        while lambda.tally().records < RECORDS as u64 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ensure!(arrived.await.is_ok(), "{} of {RECORDS} records arrived", lambda.tally().records);
    started.end().await?;
    let committed = producer.committed(&group, "orders", 4).await?;
    ensure!(committed == ends(&produced), "committed {committed:?} of {:?}", ends(&produced));
    Ok(())
}
