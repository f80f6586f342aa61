//! Mappings share a node's memory: one that makes no progress does not starve the others, and its backlog is still
//! shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::app::Dataplane;
use lighterman::config::Settings;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::invoker::port::{FunctionFacts, FunctionPort, Invocation};
use lighterman::kafka::offsets::OffsetSpec;
use lighterman::kafka::transport::BrokerAddress;
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use lighterman::mapping::wiring::{FailureSpec, MappingSpec};
use lighterman_proto::api::FilterCriteria;
use lighterman_proto::event::EventSource;
use lighterman_proto::ids::MappingId;
use lighterman_scaler::policy::PollerBounds;
use parking_lot::Mutex;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

/// Functions of which `bad` rejects every invocation, and `good` records its offsets.
#[derive(Default)]
struct TestFunctions {
    refused: Mutex<u64>,
    good: Mutex<BTreeSet<i64>>,
}

fn answer(status: u16) -> InvokeResponse {
    InvokeResponse::Answer {
        status,
        function_error: None,
        error_type: None,
        retry_after: None,
        executed_version: None,
        request_id: None,
        body: Bytes::from_static(b"null"),
    }
}

impl FunctionPort for TestFunctions {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse> {
        if &*invocation.function == "bad" {
            let refused = {
                let mut refused = self.refused.lock();
                *refused += 1;
                *refused
            };
            let status = if refused.is_multiple_of(2) { 404 } else { 429 };
            return std::future::ready(answer(status)).boxed();
        }
        let event: serde_json::Value = serde_json::from_slice(&invocation.payload).expect("JSON");
        let records = event["records"].as_object().expect("records");
        let offsets = records.values().flat_map(|list| list.as_array().expect("list"));
        self.good.lock().extend(offsets.map(|record| record["offset"].as_i64().expect("number")));
        std::future::ready(answer(200)).boxed()
    }

    fn facts(&self, _: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        async { FunctionFacts::Known { timeout: Duration::from_secs(1) } }.boxed()
    }
}

async fn write(client: &Client, topic: &str, partition: i32, records: usize, bytes: usize) {
    let to = client.partition_client(topic, partition, UnknownTopicHandling::Retry).await.expect("there");
    let record = || Record {
        key: None,
        value: Some(vec![b'v'; bytes]),
        headers: BTreeMap::new(),
        timestamp: Utc::now(),
    };
    let records = (0..records).map(|_| record()).collect();
    to.produce(records, Compression::NoCompression).await.expect("written");
}

fn run(function: &str, servers: &str, batch_records_max: u32) -> MappingSpec {
    let id = MappingId(uuid::Uuid::new_v4());
    MappingSpec {
        id,
        topic: Arc::from(function),
        group: id.to_string(),
        function: Arc::from(function),
        bootstrap: vec![BrokerAddress::parse(servers).expect("address")],
        source: EventSource::SelfManaged,
        batch_records_max,
        window: Duration::ZERO,
        start: OffsetSpec::Earliest,
        bounds: PollerBounds { minimum: 1, maximum: 8 },
        failure: FailureSpec::default(),
        filters: FilterCriteria::default(),
    }
}

async fn until(what: &str, fact: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(120), async {
        while !fact() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

const PARTITIONS: i32 = 64;
const BUDGET: usize = 16 << 20;

#[test]
fn mem_1_liv_1_failing_mapping_does_not_starve_others() {
    actix_rt::System::new().block_on(async {
        let broker = EmbeddedBroker::start(BrokerSettings::default()).expect("starts");
        let servers = broker.address().to_string();
        let client = ClientBuilder::new(vec![servers.clone()]).build().await.expect("connects");
        let controller = client.controller_client().expect("there");
        controller.create_topic("bad", PARTITIONS, 1, 10_000).await.expect("made");
        controller.create_topic("good", 1, 1, 10_000).await.expect("made");
        for partition in 0..PARTITIONS {
            for _ in 0..4 {
                write(&client, "bad", partition, 16, 16 * 1024).await;
            }
        }
        let functions = Arc::new(TestFunctions::default());
        let data = tempfile::tempdir().expect("scratch");
        let flags = [("memory_budget", "16MiB".to_owned()), ("data_dir", data.path().display().to_string())];
        let settings = Settings::load(None, &flags).expect("settings");
        let port: Arc<dyn FunctionPort> = Arc::<TestFunctions>::clone(&functions);
        let dataplane = Dataplane::start(&settings, port).expect("threads");
        let (bad, good) = (run("bad", &servers, 10_000), run("good", &servers, 10));
        let (bad_id, good_id) = (bad.id, good.id);
        dataplane.run(bad).await.expect("runs");
        until("the failing mapping has failed for a while", || *functions.refused.lock() > 200).await;
        dataplane.run(good).await.expect("runs");
        for round in 1..=6 {
            write(&client, "good", 0, 10, 100).await;
            until("the other's records are delivered", || functions.good.lock().len() == round * 10).await;
            assert!(dataplane.leased() <= BUDGET + (8 << 20), "MEM-1: {} leased", dataplane.leased());
        }
        let lag_of = |id, partition| {
            let mapping_status = dataplane.mapping_status(id).expect("it runs");
            mapping_status.partitions().get(&partition).and_then(|shown| shown.stats.lag())
        };
        until("no lag is left", || lag_of(good_id, 0) == Some(0)).await;
        // No fetch reports the records after a full buffer.
        until("the backlog shows", || lag_of(bad_id, 0) == Some(64)).await;
        write(&client, "bad", 0, 5, 100).await;
        until("records written later show too", || lag_of(bad_id, 0) == Some(69)).await;
    });
}
