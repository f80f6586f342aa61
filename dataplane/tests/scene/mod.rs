//! Common parts of the tests on the embedded broker: a broker, a dataplane, and a function that records its
//! records.
#![allow(dead_code)] // each test file uses its part

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::app::Dataplane;
use lighterman::config::Settings;
use lighterman::egress::Egress;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::invoker::port::{FunctionFacts, FunctionPort, Invocation};
use lighterman::kafka::cluster::KafkaCluster;
use lighterman::kafka::group::GroupProtocol;
use lighterman::kafka::offsets::{CommitIdentity, OffsetAndMetadata, OffsetSpec, commit};
use lighterman::kafka::transport::{BrokerAddress, PlainTcp};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use lighterman::local::sample_records::SampleProducer;
use lighterman::mapping::wiring::{FailureSpec, MappingSpec};
use lighterman_proto::api::FilterCriteria;
use lighterman_proto::event::EventSource;
use lighterman_proto::ids::{MappingId, Offset};
use lighterman_scaler::policy::PollerBounds;
use parking_lot::Mutex;

/// Response of a scripted function to an invocation.
pub(crate) type FunctionScript = fn(u32) -> Option<InvokeResponse>;

/// Function that records the offsets of each partition in order of arrival, and always succeeds.
#[derive(Default)]
pub(crate) struct RecordingFunction {
    pub(crate) seen: Mutex<BTreeMap<i64, Vec<i64>>>,
    pub(crate) values: Mutex<Vec<String>>,
    /// Response to the n-th invocation, from 0, instead of success; its records are not recorded.
    pub(crate) script: Mutex<Option<FunctionScript>>,
    /// Set while no response is sent.
    pub(crate) held: Arc<AtomicBool>,
    /// Timeout of the function from its first invocation on, in seconds; 0 leaves it at 1.
    pub(crate) raised_to: AtomicU32,
    invocations: AtomicU32,
}

impl RecordingFunction {
    /// Returns the number of invocations.
    pub(crate) fn invocations(&self) -> u32 {
        self.invocations.load(Ordering::Relaxed)
    }

    /// Returns the number of records received since `before`.
    pub(crate) fn count_since(&self, before: &BTreeMap<i64, Vec<i64>>) -> usize {
        let count = |seen: &BTreeMap<i64, Vec<i64>>| seen.values().map(Vec::len).sum::<usize>();
        count(&self.seen.lock()) - count(before)
    }
}

impl FunctionPort for RecordingFunction {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse> {
        if invocation.permit.begin().is_err() {
            return std::future::ready(InvokeResponse::Withheld).boxed();
        }
        let turn = self.invocations.fetch_add(1, Ordering::Relaxed);
        if let Some(reply) = self.script.lock().as_ref().and_then(|script| script(turn)) {
            return std::future::ready(reply).boxed();
        }
        let event: serde_json::Value = serde_json::from_slice(&invocation.payload).expect("JSON");
        for record in event["records"]
            .as_object()
            .expect("records")
            .values()
            .flat_map(|list| list.as_array().expect("list"))
        {
            let partition = record["partition"].as_i64().expect("number");
            self.seen.lock().entry(partition).or_default().push(record["offset"].as_i64().expect("number"));
            let value =
                base64::engine::general_purpose::STANDARD.decode(record["value"].as_str().expect("value"));
            self.values.lock().push(String::from_utf8(value.expect("base64")).expect("text"));
        }
        let (body, held) = (Bytes::from_static(b"null"), Arc::clone(&self.held));
        async move {
            while held.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            InvokeResponse::Answer {
                status: 200,
                function_error: None,
                error_type: None,
                retry_after: None,
                executed_version: None,
                request_id: None,
                body,
            }
        }
        .boxed()
    }

    fn facts(&self, _: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        let raised = if self.invocations() > 0 { self.raised_to.load(Ordering::Relaxed) } else { 0 };
        std::future::ready(FunctionFacts::Known { timeout: Duration::from_secs(raised.max(1).into()) })
            .boxed()
    }
}

/// An embedded broker, a dataplane on it, and its recording function.
pub(crate) struct DataplaneScene {
    pub(crate) broker: EmbeddedBroker,
    pub(crate) servers: String,
    pub(crate) memory: Arc<RecordingFunction>,
    pub(crate) dataplane: Arc<Dataplane>,
    pub(crate) id: MappingId,
}

/// Runs `test` in its own actix system.
pub(crate) fn scene<F: Future<Output = ()>>(test: impl FnOnce(DataplaneScene) -> F) {
    scene_on(2, test);
}

/// Like [`scene`], with threads for `cores` cores.
pub(crate) fn scene_on<F: Future<Output = ()>>(cores: usize, test: impl FnOnce(DataplaneScene) -> F) {
    scene_with(BrokerSettings::default(), cores, test);
}

/// Like [`scene`], on a broker with `settings`.
pub(crate) fn scene_of<F: Future<Output = ()>>(
    settings: BrokerSettings,
    test: impl FnOnce(DataplaneScene) -> F,
) {
    scene_with(settings, 2, test);
}

fn scene_with<F: Future<Output = ()>>(
    settings: BrokerSettings,
    cores: usize,
    test: impl FnOnce(DataplaneScene) -> F,
) {
    actix_rt::System::new().block_on(async {
        let broker = EmbeddedBroker::start(settings).expect("starts");
        let memory = Arc::new(RecordingFunction::default());
        let data = tempfile::tempdir().expect("scratch");
        let dataplane = node_on(cores, &memory, data.path(), "6s");
        let servers = broker.address().to_string();
        test(DataplaneScene { broker, servers, memory, dataplane, id: MappingId(uuid::Uuid::new_v4()) })
            .await;
    });
}

/// Starts a node without a control API, which stores its files in `data`.
pub(crate) fn node(memory: &Arc<RecordingFunction>, data: &Path, session: &str) -> Arc<Dataplane> {
    node_on(2, memory, data, session)
}

/// Like [`node`], with threads for `cores` cores.
pub(crate) fn node_on(
    cores: usize,
    memory: &Arc<RecordingFunction>,
    data: &Path,
    session: &str,
) -> Arc<Dataplane> {
    let flags = [
        ("memory_budget", "32MiB".to_owned()),
        ("kafka.session_timeout", session.to_owned()),
        ("data_dir", data.display().to_string()),
    ];
    let settings = Settings::load(None, &flags).expect("settings");
    let port: Arc<dyn FunctionPort> = Arc::<RecordingFunction>::clone(memory);
    Dataplane::start_on(cores, &settings, port).expect("threads")
}

impl DataplaneScene {
    pub(crate) fn run(&self, start: OffsetSpec) {
        self.run_on(&self.servers, start, FilterCriteria::default());
    }

    pub(crate) fn run_filtered(&self, start: OffsetSpec, filters: FilterCriteria) {
        self.run_on(&self.servers, start, filters);
    }

    /// Returns the mapping's problem.
    pub(crate) fn problem(&self) -> Option<String> {
        let result = self.dataplane.mapping_status(self.id)?.last_result();
        result.starts_with("PROBLEM: ").then_some(result)
    }

    pub(crate) fn run_on(&self, servers: &str, start: OffsetSpec, filters: FilterCriteria) {
        self.dataplane.run(self.mapping(servers, start, filters));
    }

    /// Returns the mapping of the scene, for any node.
    pub(crate) fn mapping(&self, servers: &str, start: OffsetSpec, filters: FilterCriteria) -> MappingSpec {
        let bootstrap =
            servers.split(',').map(|server| BrokerAddress::parse(server).expect("address")).collect();
        MappingSpec { bootstrap, start, filters, ..self.mapping_run(self.id, "f", 50) }
    }

    /// Returns a mapping on the scene's broker, from the earliest record, with one to four consumers.
    pub(crate) fn mapping_run(&self, id: MappingId, function: &str, batch_records_max: u32) -> MappingSpec {
        MappingSpec {
            id,
            topic: Arc::from("orders"),
            group: id.to_string(),
            function: Arc::from(function),
            bootstrap: vec![BrokerAddress::parse(&self.servers).expect("address")],
            source: EventSource::SelfManaged,
            batch_records_max,
            window: Duration::ZERO,
            start: OffsetSpec::Earliest,
            bounds: PollerBounds { minimum: 1, maximum: 4 },
            failure: FailureSpec::default(),
            filters: FilterCriteria::default(),
        }
    }

    pub(crate) async fn producer(&self, partitions: i32) -> SampleProducer {
        SampleProducer::connect(&self.servers, "orders", partitions).await.expect("connects")
    }

    /// Waits for a condition, for at most a minute.
    pub(crate) async fn until(&self, what: &str, fact: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !fact(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "{what}: {:?}",
            self.dataplane.mapping_status(self.id).map(|mapping_status| mapping_status.last_result())
        );
    }

    /// Returns the number of running partitions.
    pub(crate) fn owned(&self) -> usize {
        self.dataplane.mapping_status(self.id).map_or(0, |mapping_status| mapping_status.partitions().len())
    }

    /// Commits an offset for the mapping's group as an operator's tool does: without leader epoch or metadata.
    pub(crate) async fn commit_by_hand(&self, partition: i32, offset: i64) {
        let connector = Arc::new(PlainTcp::new(Arc::new(Egress::laptop())));
        let address = BrokerAddress::parse(&self.servers).expect("address");
        let cluster = KafkaCluster::new(vec![address.clone()], connector, "operator");
        let mut connection = cluster.connect(&address).await.expect("connects");
        let who = CommitIdentity {
            group: self.id.to_string(),
            generation: -1,
            member: String::new(),
            protocol: GroupProtocol::Classic,
        };
        let offset = OffsetAndMetadata { offset: Offset(offset), leader_epoch: -1, metadata: String::new() };
        let offsets = [(partition, offset)].into();
        let codes = commit(&mut connection, &who, "orders", &offsets).await.expect("answered");
        assert!(codes.values().all(Option::is_none), "{codes:?}");
    }

    pub(crate) fn committed(&self) -> i64 {
        let mapping_status = self.dataplane.mapping_status(self.id);
        let shown = mapping_status.map(|mapping_status| mapping_status.partitions()).unwrap_or_default();
        shown.values().filter_map(|shown| shown.stats.committed()).map(|Offset(offset)| offset).sum()
    }

    /// Asserts ORD-1 and ALO-1: every partition arrived from its start, without gap or repeat.
    pub(crate) fn assert_each_once_in_order(&self, records: usize) {
        let seen = self.memory.seen.lock();
        assert_eq!(seen.values().map(Vec::len).sum::<usize>(), records);
        for (partition, offsets) in seen.iter() {
            assert!(
                offsets.iter().copied().eq(0..offsets.len() as i64),
                "partition {partition}: {offsets:?}"
            );
        }
    }
}
