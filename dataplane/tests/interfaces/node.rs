//! A node with its HTTP servers, the embedded broker, and a function whose every reply the test releases.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::DateTime;
use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::app::node::{NodeListeners, RunningNode};
use lighterman::config::Settings;
use lighterman::egress::Egress;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::invoker::port::{FunctionFacts, FunctionPort, Invocation};
use lighterman::kafka::cluster::KafkaCluster;
use lighterman::kafka::offsets::fetch_committed;
use lighterman::kafka::transport::{BrokerAddress, PlainTcp};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use parking_lot::Mutex;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::http::{HttpRequest, exchange};

pub(crate) const MAPPINGS: &str = "/2015-03-31/event-source-mappings";
const LIMIT: Duration = Duration::from_secs(60);
/// Timestamp of the first record; the next ones follow by a millisecond.
const FIRST_MS: i64 = 1_600_000_000_000;

/// Function that fails for the keys `always` and `once`, and whose replies wait until they are released.
pub(crate) struct ScriptedFunction {
    invocations: Mutex<Vec<(String, String)>>,
    /// Replies that may be sent.
    released: Arc<Semaphore>,
}

impl ScriptedFunction {
    /// Waits for the n-th invocation, from 0, whose reply is withheld. Returns its client context and its event.
    pub(crate) async fn invocation(&self, turn: usize) -> (String, String) {
        until(&format!("invocation {turn}"), async || self.invocations.lock().get(turn).cloned()).await
    }

    /// Sends the reply of one invocation.
    pub(crate) fn release(&self) {
        self.released.add_permits(1);
    }
}

/// Number of the invocation that the key `once` lets fail; the next one of the same records succeeds.
const ONCE_FAILS_AT: usize = 1;

/// Returns true if a record of the event has the key `always`, or `once` at its turn.
fn fails(event: &str, turn: usize) -> bool {
    let event: Value = serde_json::from_str(event).expect("JSON");
    let lists = event["records"].as_object().expect("records").values();
    let records = lists.flat_map(|list| list.as_array().expect("list"));
    let mut keys = records.map(|record| record["key"].as_str().expect("a key"));
    let [always, once] = ["always", "once"].map(|key| STANDARD.encode(key));
    keys.any(|key| key == always || (key == once && turn == ONCE_FAILS_AT))
}

impl FunctionPort for ScriptedFunction {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse> {
        if invocation.permit.begin().is_err() {
            return std::future::ready(InvokeResponse::Withheld).boxed();
        }
        let event = String::from_utf8(invocation.payload.to_vec()).expect("UTF-8");
        let mut invocations = self.invocations.lock();
        let (fails, released) = (fails(&event, invocations.len()), Arc::clone(&self.released));
        invocations.push((invocation.context.json(), event));
        let body =
            if fails { r#"{"errorType":"ValueError","errorMessage":"as asked","trace":[]}"# } else { "null" };
        async move {
            released.acquire().await.expect("open").forget();
            InvokeResponse::Answer {
                status: 200,
                function_error: fails.then(|| "Unhandled".to_owned()),
                error_type: None,
                retry_after: None,
                executed_version: Some("$LATEST".to_owned()),
                request_id: Some("00000000-0000-4000-8000-000000000001".to_owned()),
                body: Bytes::from_static(body.as_bytes()),
            }
        }
        .boxed()
    }

    fn facts(&self, _: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        std::future::ready(FunctionFacts::Known { timeout: Duration::from_secs(1) }).boxed()
    }
}

pub(crate) struct InterfaceNode {
    broker: EmbeddedBroker,
    node: RunningNode,
    pub(crate) api: SocketAddr,
    pub(crate) metrics: SocketAddr,
    data: tempfile::TempDir,
    pub(crate) function: Arc<ScriptedFunction>,
    records: PartitionClient,
    dead_letters: PartitionClient,
    written: Mutex<i64>,
}

impl InterfaceNode {
    /// Starts everything, with the topics `orders` and `failed`. It can be done once in a process.
    pub(crate) async fn start() -> Self {
        let broker = EmbeddedBroker::start(BrokerSettings::default()).expect("starts");
        let client = ClientBuilder::new(vec![broker.address().to_string()]).build().await.expect("connects");
        for topic in ["orders", "failed"] {
            let controller = client.controller_client().expect("there");
            controller.create_topic(topic, 1, 1, 10_000).await.expect("created");
        }
        let partition = async |topic: &str| {
            client.partition_client(topic, 0, UnknownTopicHandling::Retry).await.expect("there")
        };
        let (records, dead_letters) = (partition("orders").await, partition("failed").await);
        let data = tempfile::tempdir().expect("folder");
        let settings = settings(data.path());
        let listeners = NodeListeners::bind(&settings).expect("free ports");
        let api = listeners.api.local_addr().expect("bound");
        let metrics = listeners.metrics.local_addr().expect("bound");
        let settings = settings.listening_on(api, metrics);
        let function = Arc::new(ScriptedFunction {
            invocations: Mutex::default(),
            released: Arc::new(Semaphore::new(0)),
        });
        let port: Arc<dyn FunctionPort> = Arc::<ScriptedFunction>::clone(&function);
        let node = RunningNode::start_on(&settings, listeners, port).expect("starts");
        let written = Mutex::default();
        Self { broker, node, api, metrics, data, function, records, dead_letters, written }
    }

    pub(crate) async fn stop(self) {
        assert!(self.node.drain().await);
    }

    pub(crate) fn servers(&self) -> String {
        self.broker.address().to_string()
    }

    /// Calls the API. Returns the body of the response.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = exchange(self.api, &HttpRequest::signed("GET", path, "")).await;
        serde_json::from_str(&answer.body).unwrap_or_default()
    }

    /// Waits until no change of the mapping is in progress.
    pub(crate) async fn settled(&self, path: &str) {
        until("the mapping settles", async || {
            let state = self.get(path).await["State"].clone();
            ["Enabled", "Disabled"].iter().any(|settled| state == *settled).then_some(())
        })
        .await;
    }

    /// Writes one batch of records: keys and values.
    pub(crate) async fn write(&self, records: &[(&str, &str)]) {
        let records = records.iter().map(|(key, value)| {
            let mut written = self.written.lock();
            *written += 1;
            Record {
                key: Some(key.as_bytes().to_vec()),
                value: Some(value.as_bytes().to_vec()),
                headers: BTreeMap::from([("source".to_owned(), b"test".to_vec())]),
                timestamp: DateTime::from_timestamp_millis(FIRST_MS + *written).expect("in range"),
            }
        });
        self.records.produce(records.collect(), Compression::NoCompression).await.expect("written");
    }

    /// Waits until the group has committed `offset`.
    pub(crate) async fn committed(&self, group: &str, offset: i64) {
        until(&format!("offset {offset} is committed"), async || {
            self.committed_offset(group).await.starts_with(&format!("offset {offset} ")).then_some(())
        })
        .await;
    }

    /// Returns the committed offset of a group as the broker stores it.
    pub(crate) async fn committed_offset(&self, group: &str) -> String {
        let connector = Arc::new(PlainTcp::new(Arc::new(Egress::laptop())));
        let address = BrokerAddress::parse(&self.servers()).expect("address");
        let cluster = KafkaCluster::new(vec![address.clone()], connector, "operator");
        let mut connection = cluster.connect(&address).await.expect("connects");
        let all = fetch_committed(&mut connection, group, "orders", &[0]).await.expect("answered");
        all[&0].as_ref().map_or_else(
            || "nothing".to_owned(),
            |known| format!("offset {} leader epoch {} {}", known.offset, known.leader_epoch, known.metadata),
        )
    }

    /// Returns what the API shows of the records that fail.
    pub(crate) async fn failing(&self, mapping: &str) -> Value {
        let shown = self.get(&format!("/lighterman/v1/mappings/{mapping}/partitions")).await;
        shown["partitions"][0]["failing"].clone()
    }

    /// Returns the audit file of a mapping.
    pub(crate) fn audit(&self, mapping: &str) -> String {
        let path = self.data.path().join("audit").join(format!("{mapping}.log"));
        std::fs::read_to_string(path).expect("readable")
    }

    /// Returns the dead letters: keys, headers and values.
    pub(crate) async fn dead_letters(&self) -> String {
        let (records, _) = self.dead_letters.fetch_records(0, 1..1 << 20, 1_000).await.expect("fetched");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut shown = String::new();
        for Record { key, value, headers, .. } in records.into_iter().map(|record| record.record) {
            let _ = writeln!(shown, "key: {}", key.as_deref().map_or("none".to_owned(), text));
            for (name, value) in &headers {
                let _ = writeln!(shown, "{name}: {}", text(value));
            }
            let _ = writeln!(shown, "{}", text(&value.unwrap_or_default()));
        }
        shown
    }
}

fn settings(data: &std::path::Path) -> Settings {
    let flags = [
        ("listen", "127.0.0.1:0"),
        ("metrics_listen", "127.0.0.1:0"),
        ("data_dir", data.to_str().expect("UTF-8")),
        ("region", super::http::REGION),
        ("node.id", "node-a"),
        ("root_access_key_id", super::http::KEY.0),
        ("root_secret_access_key", super::http::KEY.1),
        ("memory_budget", "32MiB"),
        ("invoke.backoff_base", "1ms"),
        ("invoke.backoff_max", "1ms"),
    ];
    let flags = flags.map(|(key, value)| (key, value.to_owned()));
    Settings::load_with(None, [], &flags).expect("settings")
}

/// Waits until `found` returns something.
pub(crate) async fn until<T>(what: &str, found: impl AsyncFn() -> Option<T>) -> T {
    let waited = async {
        loop {
            match found().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(LIMIT, waited).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}
