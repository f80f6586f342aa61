//! An actor that panics costs one rebuild from the committed offset, never the process, a record or the order. The panics
//! are set off inside the actors' own log lines: nothing in the product knows of them.

mod scene;

use bytes::Bytes;
use lighterman::invoker::verdict::Reply;
use lighterman::kafka::offsets::At;
use lighterman_proto::api::FilterCriteria;
use lighterman_proto::ids::Offset;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::scene::{Scene, scene};

/// The log line that panics, once.
static BOMB: Mutex<Option<&'static str>> = Mutex::new(None);

struct Bomb;

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Bomb {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        let hit = BOMB.lock().take_if(|text| *text == message.0);
        assert!(hit.is_none(), "the bomb in `{}` went off, as it should", message.0);
    }
}

fn failure() -> Reply {
    Reply::Answer {
        status: 200,
        function_error: Some("Unhandled".into()),
        error_type: None,
        retry_after: None,
        executed_version: None,
        request_id: None,
        body: Bytes::from_static(b"{}"),
    }
}

async fn writes(scene: &Scene, times: usize) {
    let mut producer = scene.producer(1).await;
    for _ in 0..times {
        producer.write(10).await.expect("written");
    }
}

/// Each offset from `expected` was seen, and its first sight came in order (a repeat after a rebuild is allowed).
fn assert_seen_in_order(scene: &Scene, expected: impl Iterator<Item = i64>) {
    let seen = scene.memory.seen.lock().clone();
    let mut first: Vec<i64> = Vec::new();
    for offset in &seen[&0] {
        if !first.contains(offset) {
            first.push(*offset);
        }
    }
    assert!(first.iter().copied().eq(expected), "{seen:?}");
}

#[test]
fn alo_1_ord_1_a_panicking_actor_costs_one_rebuild() {
    tracing_subscriber::registry().with(Bomb).init();
    partition();
    batcher();
    invoker();
    consumer();
    in_the_group("the group has given a share");
    in_the_group("partitions assigned");
}

fn partition() {
    scene(|scene| async move {
        writes(&scene, 4).await;
        scene.run(At::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        scene.dataplane.stop(scene.id).await.expect("stopped");
        writes(&scene, 4).await;
        scene.broker.delete_before("orders", 0, Offset(60)).await;
        *BOMB.lock() = Some("records deleted by retention before they were read");
        scene.run(At::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 80).await;
        assert!(BOMB.lock().is_none(), "the partition panicked");
        assert_seen_in_order(&scene, (0..40).chain(60..80));
        scene.dataplane.drain().await;
    });
}

fn batcher() {
    scene(|scene| async move {
        writes(&scene, 12).await;
        *scene.memory.script.lock() = Some(|turn| (turn == 1).then(failure));
        *BOMB.lock() = Some("invocation failed");
        scene.run(At::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 120).await;
        assert!(BOMB.lock().is_none(), "the batcher panicked");
        assert_seen_in_order(&scene, 0..120);
        scene.dataplane.drain().await;
    });
}

fn invoker() {
    scene(|scene| async move {
        writes(&scene, 12).await;
        *scene.memory.script.lock() = Some(|turn| {
            assert!(turn != 1, "the port panics inside the invoker, as it should");
            None
        });
        scene.run(At::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 120).await;
        assert_seen_in_order(&scene, 0..120);
        scene.dataplane.drain().await;
    });
}

fn consumer() {
    scene(|scene| async move {
        writes(&scene, 4).await;
        *BOMB.lock() = Some("partition begins");
        scene.run(At::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 40).await;
        assert!(BOMB.lock().is_none(), "the consumer panicked");
        assert_seen_in_order(&scene, 0..40);
        scene.dataplane.drain().await;
    });
}

/// The membership panics, or the member that holds it: what it held must be given up at once, and joined for anew.
fn in_the_group(line: &'static str) {
    scene(|scene| async move {
        writes(&scene, 4).await;
        scene.run(At::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        let data = tempfile::tempdir().expect("scratch");
        let other = scene::node(&scene.memory, data.path(), "6s");
        *BOMB.lock() = Some(line);
        other.run(scene.mapping(&scene.servers, At::Earliest, FilterCriteria::default()));
        scene.until("one of the two panicked", |_| BOMB.lock().is_none()).await;
        writes(&scene, 4).await;
        scene.until("the end delivered", |scene| scene.memory.seen.lock()[&0].contains(&79)).await;
        assert_seen_in_order(&scene, 0..80);
        futures::join!(scene.dataplane.drain(), other.drain());
    });
}
