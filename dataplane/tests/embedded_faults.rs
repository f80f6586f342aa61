//! A dataplane against the embedded broker with its faults: cut connections, garbage, retention, partitions that appear.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::app::Dataplane;
use lighterman::config::Settings;
use lighterman::consumer::member::floor::MappingRun;
use lighterman::invoker::port::{FunctionFacts, FunctionPort, Invocation};
use lighterman::invoker::verdict::Reply;
use lighterman::kafka::offsets::At;
use lighterman::kafka::transport::BrokerAddress;
use lighterman::local::broker::{Broker, BrokerSettings, Fault};
use lighterman::local::sample_records::SampleProducer;
use lighterman_proto::event::EventSource;
use lighterman_proto::ids::{MappingId, Offset};
use lighterman_scaler::policy::Bounds;
use parking_lot::Mutex;

const FETCH: i16 = 1;
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const FIND_COORDINATOR: i16 = 10;
const JOIN_GROUP: i16 = 11;
const HEARTBEAT: i16 = 12;
const SYNC_GROUP: i16 = 14;

/// Remembers the offsets of each partition in the order they came; always succeeds.
#[derive(Default)]
struct Memory {
    seen: Mutex<BTreeMap<i64, Vec<i64>>>,
    values: Mutex<Vec<String>>,
}

impl FunctionPort for Memory {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, Reply> {
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
        let body = Bytes::from_static(b"null");
        async move {
            Reply::Answer { status: 200, function_error: None, error_type: None, retry_after: None, body }
        }
        .boxed()
    }

    fn facts(&self, _: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        async { FunctionFacts::Known { timeout: Duration::from_secs(1) } }.boxed()
    }
}

struct Scene {
    broker: Broker,
    servers: String,
    memory: Arc<Memory>,
    dataplane: Arc<Dataplane>,
    id: MappingId,
}

/// Runs `test` in an actix system of its own.
fn scene<F: Future<Output = ()>>(test: impl FnOnce(Scene) -> F) {
    actix_rt::System::new().block_on(async {
        let broker = Broker::start(BrokerSettings::default()).expect("starts");
        let memory = Arc::new(Memory::default());
        let flags = [("memory_budget", "32MiB".to_owned()), ("kafka.session_timeout", "6s".to_owned())];
        let settings = Settings::load(None, &flags).expect("settings");
        let port: Arc<dyn FunctionPort> = Arc::<Memory>::clone(&memory);
        let dataplane = Dataplane::start(&settings, port).expect("threads");
        let servers = broker.address().to_string();
        test(Scene { broker, servers, memory, dataplane, id: MappingId(uuid::Uuid::new_v4()) }).await;
    });
}

impl Scene {
    fn run(&self, start: At) {
        self.dataplane.run(MappingRun {
            id: self.id,
            topic: Arc::from("orders"),
            group: self.id.to_string(),
            function: Arc::from("f"),
            bootstrap: vec![BrokerAddress::parse(&self.servers).expect("address")],
            source: EventSource::SelfManaged,
            batch_records_max: 50,
            window: Duration::ZERO,
            start,
            bounds: Bounds { minimum: 1, maximum: 4 },
        });
    }

    async fn producer(&self, partitions: i32) -> SampleProducer {
        SampleProducer::connect(&self.servers, "orders", partitions).await.expect("connects")
    }

    /// Waits for a fact, as long as it takes within a minute.
    async fn until(&self, what: &str, fact: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while !fact(self) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(
            waited.await.is_ok(),
            "{what}: {:?}",
            self.dataplane.board(self.id).map(|board| board.last_result())
        );
    }

    fn committed(&self) -> i64 {
        let board = self.dataplane.board(self.id);
        let shown = board.map(|board| board.partitions()).unwrap_or_default();
        shown.values().filter_map(|shown| shown.gauge.committed()).map(|Offset(offset)| offset).sum()
    }

    /// ORD-1, ALO-1: every partition from its beginning, without a gap and without a repeat.
    fn assert_each_once_in_order(&self, records: usize) {
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

#[test]
fn ord_1_alo_1_cut_and_garbled_connections_lose_and_repeat_nothing() {
    scene(|scene| async move {
        let mut producer = scene.producer(3).await;
        producer.write(1_500).await.expect("written");
        let faults = scene.broker.faults();
        for api in [FIND_COORDINATOR, JOIN_GROUP, SYNC_GROUP, OFFSET_FETCH, OFFSET_COMMIT] {
            faults.add(api, 1, Fault::CutAfter);
            faults.add(api, 1, Fault::CutBefore);
        }
        faults.add(FETCH, 2, Fault::Garbage);
        faults.add(FETCH, 2, Fault::CutAfter);
        faults.add(HEARTBEAT, 1, Fault::Delay(Duration::from_millis(300)));
        scene.run(At::Earliest);
        scene.until("1,500 committed", |scene| scene.committed() == 1_500).await;
        scene.assert_each_once_in_order(1_500);
        scene.dataplane.drain().await;
    });
}

#[test]
fn h18_a_partition_added_later_begins_at_its_beginning_even_with_latest() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        producer.write(10).await.expect("written");
        scene.run(At::Latest);
        scene.until("one partition owned", |scene| scene.committed() == 10).await;
        scene.dataplane.drain().await;
        scene.broker.add_partitions("orders", 2).await;
        // Round-robin over both: five records land in the new partition before anybody reads it.
        scene.producer(2).await.write(10).await.expect("written");
        scene.run(At::Latest);
        scene.until("both committed to their ends", |scene| scene.committed() == 15 + 5).await;
        let seen = scene.memory.seen.lock().clone();
        assert_eq!(seen.get(&1).map(Vec::as_slice), Some(&[0, 1, 2, 3, 4][..]), "from its beginning");
        assert_eq!(seen.get(&0).map(Vec::as_slice), Some(&[10, 11, 12, 13, 14][..]), "from the commit");
        scene.dataplane.drain().await;
    });
}

#[test]
fn h14_what_retention_took_is_passed_over_and_the_rest_arrives() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        for _ in 0..4 {
            producer.write(10).await.expect("written");
        }
        scene.run(At::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        scene.dataplane.drain().await;
        for _ in 0..4 {
            producer.write(10).await.expect("written");
        }
        scene.broker.delete_before("orders", 0, Offset(60)).await;
        scene.run(At::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 80).await;
        let seen = scene.memory.seen.lock().clone();
        assert!(seen[&0].iter().copied().eq((0..40).chain(60..80)), "{seen:?}");
        scene.dataplane.drain().await;
    });
}
