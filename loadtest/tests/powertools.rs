//! Unmodified functions written with Powertools for Python in the function host: its Kafka consumer and partial
//! batch responses. Without Powertools the tests are skipped, unless `TEST_LIGHTERMAN_REQUIRE_CLIENTS` is set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use lighterman::local::function_host::command::{FunctionCommand, InterpreterPaths};
use lighterman::local::function_host::observer::LoggingObserver;
use lighterman::local::function_host::{FunctionHost, FunctionHostSettings, FunctionSpec};
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, TestProducer, batch_of};
use serde::Deserialize;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const RECORDS: usize = 12;

/// Returns a Python with Powertools and the Lambda runtime. Prints one line and returns `None` if there is none.
fn python() -> Result<Option<PathBuf>> {
    let given = std::env::var_os("TEST_LIGHTERMAN_PYTHON").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients/python/bin/python");
    let python = given.unwrap_or(installed);
    let imports = "import awslambdaric, aws_lambda_powertools.utilities.kafka";
    let status = Command::new(&python).args(["-c", imports]).stderr(Stdio::null()).status();
    if status.is_ok_and(|status| status.success()) {
        return Ok(Some(python));
    }
    let required = std::env::var_os("TEST_LIGHTERMAN_REQUIRE_CLIENTS").is_some();
    ensure!(!required, "Python with awslambdaric and Powertools is required: run .ci/install-clients");
    println!("skipped: Powertools is not installed (.ci/install-clients brings it)");
    Ok(None)
}

/// Record as the function saw it.
#[derive(Debug, Deserialize, PartialEq)]
struct SeenRecord {
    topic: String,
    partition: i32,
    offset: i64,
    key: String,
    value: Value,
    header: String,
}

/// A broker, the function host with one function, a node, and the file in which the function records what it saw.
struct PowertoolsScene {
    node: NodeProcess,
    producer: TestProducer,
    servers: String,
    host: FunctionHost,
    folder: tempfile::TempDir,
    _broker: EmbeddedBroker,
}

impl PowertoolsScene {
    async fn new(python: PathBuf, handler: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let code = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(handler);
        let interpreters = InterpreterPaths { python, ..InterpreterPaths::default() };
        let seen = folder.path().join("seen").display().to_string();
        let host = FunctionHost::start(FunctionHostSettings {
            listen: "127.0.0.1:0".parse()?,
            region: "us-east-1".to_owned(),
            account_id: "000000000000".to_owned(),
            functions: vec![FunctionSpec {
                name: "f".to_owned(),
                command: FunctionCommand::resolve(&code.to_string_lossy(), folder.path(), &interpreters)?,
                timeout: Duration::from_secs(20),
                max_concurrency: 2,
                env: BTreeMap::from([("SEEN".to_owned(), seen)]),
                initialized_early: false,
            }],
            observer: Arc::new(LoggingObserver),
        })?;
        let broker = EmbeddedBroker::start(BrokerSettings::default())?;
        let servers = broker.address().to_string();
        let mut producer = TestProducer::connect(&servers).await?;
        producer.create_topic("orders", 1).await?;
        let settings = [("LIGHTERMAN_INVOKE_BACKOFF_MAX", "200ms")];
        let node = NodeProcess::start(&folder.path().join("data"), &host.endpoint_url(), &settings).await?;
        Ok(Self { node, producer, servers, host, folder, _broker: broker })
    }

    /// Writes these values and maps the topic with `more`. Returns the mapping's UUID.
    async fn run(&mut self, values: &[Bytes], more: Value) -> Result<String> {
        let batch = batch_of(values, Compression::None, -1, -1)?;
        self.producer.send("orders", 0, batch, None).await?;
        self.node.create_mapping(&self.servers, "orders", more).await
    }

    async fn drained(&mut self, group: &str) -> Result<()> {
        self.producer.await_committed(group, "orders", &BTreeMap::from([(0, RECORDS as i64)]), LIMIT).await
    }

    fn seen(&self) -> Result<Vec<SeenRecord>> {
        let text = std::fs::read_to_string(self.folder.path().join("seen")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).context("a record")).collect()
    }

    async fn totals(&self, group: &str) -> Result<Value> {
        let shown =
            self.node.api().call("GET", &format!("/lighterman/v1/mappings/{group}/audit"), None).await?;
        ensure!(shown["partitions"][0]["verdict"] == "accounted", "{shown}");
        Ok(shown["partitions"][0]["totals"].clone())
    }

    async fn end(self) -> Result<()> {
        ensure!(self.node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
        self.host.stop().await;
        Ok(())
    }
}

fn order(index: usize, needs: Option<&str>) -> Value {
    json!({"order": index, "city": "Zürich", "needs": needs})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn powertools_consumer_fails_only_unreadable_value() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let mut scene = PowertoolsScene::new(python, "powertools.reads").await?;
    let mut values: Vec<Bytes> = (0..RECORDS).map(|index| order(index, None).to_string().into()).collect();
    values[5] = Bytes::from_static(b"{no JSON");
    let more = json!({"BatchSize": 100, "MaximumRetryAttempts": 1, "BisectBatchOnFunctionError": true});
    let group = scene.run(&values, more).await?;
    scene.drained(&group).await?;
    ensure!(
        scene.totals(&group).await? == json!({"delivered": 11, "exhausted": 1}),
        "one record is exhausted, alone"
    );
    let seen = scene.seen()?;
    let expected = |index: usize| SeenRecord {
        topic: "orders".to_owned(),
        partition: 0,
        offset: index as i64,
        key: format!("key-{index}"),
        value: order(index, None),
        header: "x".to_owned(),
    };
    let innocents: Vec<SeenRecord> = (0..RECORDS).filter(|index| *index != 5).map(expected).collect();
    assert_eq!(seen, innocents, "each record once, in order, with its key, value and header");
    scene.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn powertools_partial_batch_response_is_respected() -> Result<()> {
    let Some(python) = python()? else { return Ok(()) };
    let mut scene = PowertoolsScene::new(python, "powertools.reports").await?;
    let needs = |index| (index == 5 || index == 9).then_some("ready");
    let values: Vec<Bytes> =
        (0..RECORDS).map(|index| order(index, needs(index)).to_string().into()).collect();
    let more = json!({
        "BatchSize": 100, "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "Tags": {"lighterman:partial-batch-response": "named"},
    });
    let group = scene.run(&values, more).await?;
    let tried = async {
        while scene.seen().is_ok_and(|seen| seen.len() < RECORDS - 2) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, tried).await.context("unnamed records are not delivered")?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let committed = scene.producer.committed(&group, "orders", 1).await?;
    ensure!(committed == BTreeMap::from([(0, 5)]), "committed up to the lowest named record: {committed:?}");
    let path = format!("/lighterman/v1/mappings/{group}/partitions");
    let shown = scene.node.api().call("GET", &path, None).await?;
    ensure!(shown["partitions"][0]["failing"]["firstError"]["errorType"] == "BatchItemFailures", "{shown}");
    std::fs::write(scene.folder.path().join("seenready"), "")?;
    scene.drained(&group).await?;
    ensure!(scene.totals(&group).await? == json!({"delivered": RECORDS}), "all records are delivered");
    let offsets: Vec<i64> = scene.seen()?.iter().map(|seen| seen.offset).collect();
    let each: BTreeSet<i64> = offsets.iter().copied().collect();
    assert_eq!((offsets.len(), each.len()), (RECORDS, RECORDS), "each once: {offsets:?}");
    assert_eq!(offsets[RECORDS - 2..], [5, 9], "the named records last, and no other again");
    scene.end().await
}
