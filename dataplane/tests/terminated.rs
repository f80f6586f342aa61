//! SIGTERM to the binary while changes of the API are in progress: accepted changes are completed or resumed, later
//! ones are rejected, and a second signal stops at once.

#[path = "driven/listening.rs"]
mod listening;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use lighterman::control::client::{ApiClient, ClientError};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use lighterman::local::sample_records::SampleProducer;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

use self::listening::{REGION, listening_node};

const PATH: &str = "/2015-03-31/event-source-mappings";
const KEY: (&str, &str) = ("LMANTEST", "a-secret");
const LIMIT: Duration = Duration::from_secs(120);

/// Invocations seen by a fake Lambda: for each function the offsets of each answered invocation, in order.
#[derive(Default)]
struct SeenOffsets {
    begun: Mutex<BTreeMap<String, usize>>,
    answered: Mutex<BTreeMap<String, Vec<Vec<i64>>>>,
    /// Set while no response is sent.
    held: AtomicBool,
}

impl SeenOffsets {
    fn begun(&self, function: &str) -> usize {
        self.begun.lock().get(function).copied().unwrap_or_default()
    }

    fn answered(&self, function: &str) -> Vec<Vec<i64>> {
        self.answered.lock().get(function).cloned().unwrap_or_default()
    }
}

async fn lambda(seen: web::Data<SeenOffsets>, request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let path = request.path().to_owned();
    let function = path.split('/').nth(3).unwrap_or_default().rsplit(':').next().unwrap_or_default();
    let function = function.rsplit("%3A").next().unwrap_or_default().to_owned();
    if !path.ends_with("/invocations") {
        return HttpResponse::Ok().json(json!({ "FunctionName": function, "Timeout": 60 }));
    }
    *seen.begun.lock().entry(function.clone()).or_default() += 1;
    let event: Value = serde_json::from_slice(&body).expect("JSON");
    let records = event["records"].as_object().expect("records").values();
    let offsets = records.flat_map(|list| list.as_array().expect("a list").clone());
    let offsets = offsets.map(|record| record["offset"].as_i64().expect("a number")).collect();
    while seen.held.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    seen.answered.lock().entry(function).or_default().push(offsets);
    HttpResponse::Ok().json(Value::Null)
}

/// A broker, a fake Lambda, and the data folder of a node that is restarted.
struct NodeStage {
    broker: EmbeddedBroker,
    seen: web::Data<SeenOffsets>,
    lambda: SocketAddr,
    server: ServerHandle,
    folder: TempDir,
}

/// A running node of the stage.
struct StagedNode {
    child: Child,
    client: ApiClient,
}

impl NodeStage {
    fn new() -> Self {
        let broker = EmbeddedBroker::start(BrokerSettings::default()).expect("starts");
        let seen = web::Data::new(SeenOffsets::default());
        let data = web::Data::clone(&seen);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("address");
        let server = HttpServer::new(move || {
            App::new().app_data(web::Data::clone(&data)).default_service(web::to(lambda))
        });
        let server = server.workers(1).disable_signals().shutdown_timeout(0);
        let server = server.listen(listener).expect("listens").run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Self { broker, seen, lambda: address, server: handle, folder: tempfile::tempdir().expect("folder") }
    }

    async fn node(&self) -> StagedNode {
        let lambda = format!("http://{}", self.lambda);
        let (child, listen) = listening_node(self.folder.path(), &lambda, KEY).await;
        let client = ApiClient::new(format!("http://{listen}"), REGION.to_owned(), KEY.0, KEY.1);
        StagedNode { child, client }
    }

    fn request(&self, function: &str, topic: &str) -> Value {
        json!({
            "FunctionName": function, "Topics": [topic], "StartingPosition": "TRIM_HORIZON", "BatchSize": 1,
            "SelfManagedEventSource":
                {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": [self.broker.address().to_string()]}},
            "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": function},
            "SourceAccessConfigurations": [
                {"Type": "VPC_SUBNET", "URI": "subnet:s"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:g"}
            ],
        })
    }

    async fn write(&self, topic: &str) {
        let servers = self.broker.address().to_string();
        let mut producer = SampleProducer::connect(&servers, topic, 1).await.expect("connects");
        producer.write(1).await.expect("written");
    }

    async fn until(&self, what: &str, fact: impl Fn(&SeenOffsets) -> bool) {
        let waited = tokio::time::timeout(LIMIT, async {
            while !fact(&self.seen) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}: {:?}", self.seen.answered.lock());
    }
}

impl StagedNode {
    async fn create(&self, request: &Value) -> String {
        let created = self.client.call("POST", PATH, Some(request)).await.expect("created");
        let path = format!("{PATH}/{}", created["UUID"].as_str().expect("text"));
        self.becomes(&path, Some("Enabled")).await;
        path
    }

    /// Waits until the mapping is in this state, or is deleted.
    async fn becomes(&self, path: &str, settled: Option<&str>) {
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                let state = match self.client.call("GET", path, None).await {
                    Ok(shown) => shown["State"].as_str().map(ToOwned::to_owned),
                    Err(ClientError::Refused { status: 404, .. }) => None,
                    Err(error) => panic!("{error}"),
                };
                if state.as_deref() == settled {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{settled:?}");
    }

    fn terminate(&self) {
        let id = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
        kill_process(id, Signal::TERM).expect("the signal is sent");
    }

    /// Waits until changes are rejected because the node drains. The probing request must change nothing.
    async fn drains(&self, path: &str) {
        let waited = tokio::time::timeout(LIMIT, async {
            loop {
                let nothing = Some(json!({}));
                match self.client.call("PUT", path, nothing.as_ref()).await {
                    Err(ClientError::Refused { status: 503, name, message }) => {
                        assert_eq!(name, "ServiceException");
                        assert!(message.contains("draining"), "{message}");
                        return;
                    }
                    Ok(_) | Err(ClientError::Refused { .. }) => {}
                    Err(error) => panic!("the API stopped before the drain ended: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "it drains");
    }

    async fn ends(&mut self) -> Option<i32> {
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        ended.expect("it ends").expect("status").code()
    }

    async fn is_refused(&self, method: &str, path: &str, body: Option<&Value>) {
        let answer = self.client.call(method, path, body).await;
        let is_so = matches!(&answer, Err(ClientError::Refused { status: 503, name, .. }) if name == "ServiceException");
        assert!(is_so, "{method} {path}: {answer:?}");
    }
}

/// Sends SIGTERM with one invocation in flight and `change` accepted.
async fn terminated_in(stage: &NodeStage, function: &str, method: &str, change: Option<Value>) -> String {
    stage.write(function).await;
    let mut node = stage.node().await;
    stage.seen.held.store(true, Ordering::Relaxed);
    let path = node.create(&stage.request(function, function)).await;
    stage.until("an invocation is in flight", |seen| seen.begun(function) == 1).await;
    node.client.call(method, &path, change.as_ref()).await.expect("accepted");
    node.terminate();
    node.drains(&path).await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(node.child.try_wait().expect("status"), None, "DRN-1: the node waits for the invocation");
    }
    stage.seen.held.store(false, Ordering::Relaxed);
    assert_eq!(node.ends().await, Some(0));
    assert_eq!(stage.seen.answered(function), [[0]], "DRN-1: nothing is broken off");
    path
}

#[actix::test]
async fn drn_1_changed_mapping_is_drained_and_not_repeated() {
    let stage = NodeStage::new();
    let disabled = terminated_in(&stage, "disabled", "PUT", Some(json!({"Enabled": false}))).await;
    let updated = terminated_in(&stage, "updated", "PUT", Some(json!({"BatchSize": 2}))).await;
    let deleted = terminated_in(&stage, "deleted", "DELETE", None).await;
    for function in ["disabled", "updated", "deleted"] {
        stage.write(function).await;
    }
    let mut node = stage.node().await;
    node.becomes(&disabled, Some("Disabled")).await;
    node.becomes(&updated, Some("Enabled")).await;
    node.becomes(&deleted, None).await;
    let shown = node.client.call("GET", &updated, None).await.expect("there");
    assert_eq!(shown["BatchSize"], 2, "an accepted change is durable");
    node.client.call("PUT", &disabled, Some(&json!({"Enabled": true}))).await.expect("accepted");
    node.create(&stage.request("deleted", "deleted")).await;
    for function in ["disabled", "updated", "deleted"] {
        stage.until("the next record", |seen| seen.answered(function).len() >= 2).await;
        assert_eq!(stage.seen.answered(function), [[0], [1]], "DRN-1: {function}");
    }
    node.terminate();
    assert_eq!(node.ends().await, Some(0));
    stage.server.stop(false).await;
}

#[actix::test]
async fn drn_1_draining_node_rejects_changes_second_signal_stops() {
    let stage = NodeStage::new();
    stage.write("slow").await;
    stage.write("other").await;
    let mut node = stage.node().await;
    stage.seen.held.store(true, Ordering::Relaxed);
    let path = node.create(&stage.request("slow", "slow")).await;
    stage.until("an invocation is in flight", |seen| seen.begun("slow") == 1).await;
    node.terminate();
    node.drains(&path).await;
    let ours = path.replace(PATH, "/lighterman/v1/mappings");
    let skip = json!({"Offset": 0, "Reason": "a test"});
    node.is_refused("POST", PATH, Some(&stage.request("other", "other"))).await;
    node.is_refused("PUT", &path, Some(&json!({"BatchSize": 9}))).await;
    node.is_refused("DELETE", &path, None).await;
    node.is_refused("POST", &format!("{ours}/pause"), None).await;
    node.is_refused("POST", &format!("{ours}/resume"), None).await;
    node.is_refused("POST", &format!("{ours}/partitions/0/skip"), Some(&skip)).await;
    let shown = node.client.call("GET", &path, None).await.expect("reads are served");
    // Updating if the last empty change was accepted before the drain.
    assert!(shown["State"] == "Enabled" || shown["State"] == "Updating", "{shown}");
    assert_eq!(shown["BatchSize"], 1);
    let listed = node.client.call("GET", PATH, None).await.expect("reads are served");
    assert_eq!(listed["EventSourceMappings"].as_array().map(Vec::len), Some(1));
    let partitions =
        node.client.call("GET", &format!("{ours}/partitions"), None).await.expect("reads are served");
    assert_eq!(partitions["partitions"][0]["inFlight"], true, "{partitions}");
    assert_eq!(stage.seen.begun("other"), 0, "nothing joins");
    node.terminate();
    assert_eq!(node.ends().await, Some(1), "a second signal stops at once, despite the running function");
    assert!(stage.seen.answered("slow").is_empty());
    stage.seen.held.store(false, Ordering::Relaxed);
    stage.server.stop(false).await;
}
