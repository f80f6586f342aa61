//! A panicking actor costs one rebuild from the committed offset, but never the process, a record or the order. The
//! panics are triggered inside the actors' own log lines, so that production code does not know of them.

mod scene;

use std::sync::Once;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::ApiKey;
use lighterman::app::Dataplane;
use lighterman::app::readiness::NodePhase;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::kafka::offsets::OffsetSpec;
use lighterman::local::broker::RequestFault;
use lighterman_proto::api::FilterCriteria;
use lighterman_proto::ids::{MappingId, Offset};
use parking_lot::{Mutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use self::scene::{DataplaneScene, scene};

/// Log line that panics, once.
static BOMB: Mutex<Option<&'static str>> = Mutex::new(None);

struct PanicBomb;

struct PanicMessage(String);

impl Visit for PanicMessage {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for PanicBomb {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = PanicMessage(String::new());
        event.record(&mut message);
        let hit = BOMB.lock().take_if(|text| *text == message.0);
        assert!(hit.is_none(), "an expected panic in `{}`", message.0);
    }
}

fn failure() -> InvokeResponse {
    InvokeResponse::Answer {
        status: 200,
        function_error: Some("Unhandled".into()),
        error_type: None,
        retry_after: None,
        executed_version: None,
        request_id: None,
        body: Bytes::from_static(b"{}"),
    }
}

async fn writes(scene: &DataplaneScene, times: usize) {
    let mut producer = scene.producer(1).await;
    for _ in 0..times {
        producer.write(10).await.expect("written");
    }
}

/// Asserts that each offset of `expected` was seen, and first in order (repeats after a rebuild are allowed).
fn assert_seen_in_order(scene: &DataplaneScene, expected: impl Iterator<Item = i64>) {
    let seen = scene.memory.seen.lock().clone();
    let mut first: Vec<i64> = Vec::new();
    for offset in &seen[&0] {
        if !first.contains(offset) {
            first.push(*offset);
        }
    }
    assert!(first.iter().copied().eq(expected), "{seen:?}");
}

/// Locks the bomb, which affects every node, so that tests run one at a time.
fn bombs() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    static INIT: Once = Once::new();
    INIT.call_once(|| tracing_subscriber::registry().with(PanicBomb).init());
    ONE_AT_A_TIME.lock()
}

#[test]
fn alo_1_ord_1_a_panicking_actor_costs_one_rebuild() {
    let _bombs = bombs();
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
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        scene.dataplane.stop(scene.id).await.expect("stopped");
        writes(&scene, 4).await;
        scene.broker.delete_before("orders", 0, Offset(60)).await;
        *BOMB.lock() = Some("records deleted by retention before they were read");
        scene.run(OffsetSpec::Earliest);
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
        scene.run(OffsetSpec::Earliest);
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
            assert!(turn != 1, "an expected panic of the port in the invoker");
            None
        });
        scene.run(OffsetSpec::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 120).await;
        assert_seen_in_order(&scene, 0..120);
        scene.dataplane.drain().await;
    });
}

fn consumer() {
    scene(|scene| async move {
        writes(&scene, 4).await;
        *BOMB.lock() = Some("partition starts");
        scene.run(OffsetSpec::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 40).await;
        assert!(BOMB.lock().is_none(), "the consumer panicked");
        assert_seen_in_order(&scene, 0..40);
        scene.dataplane.drain().await;
    });
}

/// Makes the membership panic, or the member that holds it: its partitions must be dropped at once, and the group
/// rejoined.
fn in_the_group(line: &'static str) {
    scene(|scene| async move {
        writes(&scene, 4).await;
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        let data = tempfile::tempdir().expect("scratch");
        let other = scene::node(&scene.memory, data.path(), "6s");
        *BOMB.lock() = Some(line);
        other.run(scene.mapping(&scene.servers, OffsetSpec::Earliest, FilterCriteria::default()));
        scene.until("one of the two panicked", |_| BOMB.lock().is_none()).await;
        writes(&scene, 4).await;
        scene.until("the end delivered", |scene| scene.memory.seen.lock()[&0].contains(&79)).await;
        assert_seen_in_order(&scene, 0..80);
        futures::join!(scene.dataplane.drain(), other.drain());
    });
}

/// Time in which a group reassigns the remaining partitions to another member, and that member starts.
const HANDED_OVER: Duration = Duration::from_secs(4);
/// Longer than the group needs to revoke a partition.
const ASKS_FOR: Duration = Duration::from_secs(4);

/// Makes the actor of the last of `partitions` panic while one of its invocations runs.
async fn dies_over_its_invocation(scene: &DataplaneScene, partitions: i32, during: impl FnOnce()) {
    let mut producer = scene.producer(partitions).await;
    for _ in 0..2 * partitions {
        producer.write(10).await.expect("written");
    }
    scene.memory.held.store(true, Ordering::Relaxed);
    scene.run(OffsetSpec::Earliest);
    let all = partitions as usize;
    scene.until("invoked", |scene| scene.memory.seen.lock().len() == all).await;
    during();
    *BOMB.lock() = Some("the log was truncated below the fetch position");
    scene.broker.truncate("orders", partitions - 1, Offset(10)).await;
    for _ in 0..partitions {
        producer.write(10).await.expect("written");
    }
    scene.until("the partition panicked", |_| BOMB.lock().is_none()).await;
}

#[test]
fn own_1_drn_1_stop_waits_for_invocation_of_panicked_partition() {
    let _bombs = bombs();
    scene(|scene| async move {
        dies_over_its_invocation(&scene, 1, || {}).await;
        let data = tempfile::tempdir().expect("scratch");
        let other = scene::node(&scene.memory, data.path(), "6s");
        let mut stops = scene.dataplane.stop(scene.id);
        other.run(scene.mapping(&scene.servers, OffsetSpec::Earliest, FilterCriteria::default()));
        assert!(tokio::time::timeout(HANDED_OVER, &mut stops).await.is_err(), "the invocation still runs");
        assert_eq!(scene.memory.invocations(), 1, "OWN-1: no second invocation starts");
        scene.memory.held.store(false, Ordering::Relaxed);
        stops.await.expect("stopped");
        scene.until("another node takes over", |scene| scene.memory.invocations() > 1).await;
        other.drain().await;
    });
}

#[test]
fn own_1_panicked_partition_is_held_until_invocation_ends() {
    let _bombs = bombs();
    scene(|scene| async move {
        // It is revoked before it is restarted here.
        let slow = || scene.broker.faults().add(ApiKey::OffsetFetch as i16, 1, RequestFault::Delay(ASKS_FOR));
        dies_over_its_invocation(&scene, 2, slow).await;
        let invocations = scene.memory.invocations();
        let data = tempfile::tempdir().expect("scratch");
        let other = scene::node(&scene.memory, data.path(), "6s");
        other.run(scene.mapping(&scene.servers, OffsetSpec::Earliest, FilterCriteria::default()));
        tokio::time::sleep(ASKS_FOR + HANDED_OVER).await;
        assert_eq!(scene.memory.invocations(), invocations, "OWN-1: no second invocation starts");
        scene.memory.held.store(false, Ordering::Relaxed);
        scene.until("another node takes over", |scene| scene.memory.invocations() > invocations).await;
        futures::join!(scene.dataplane.drain(), other.drain());
    });
}

#[test]
fn own_1_drn_1_member_panic_during_stop_waits_for_invocations() {
    let _bombs = bombs();
    scene(|scene| async move {
        scene.producer(2).await.write(20).await.expect("written");
        scene.producer(2).await.write(20).await.expect("written");
        scene.memory.held.store(true, Ordering::Relaxed);
        scene.run(OffsetSpec::Earliest);
        scene.until("invoked", |scene| scene.memory.invocations() > 0).await;
        scene.until("all partitions run", |scene| scene.owned() == 2).await;
        let mut stops = scene.dataplane.stop(scene.id);
        *BOMB.lock() = Some("partitions revoked; draining them");
        let data = tempfile::tempdir().expect("scratch");
        let other = scene::node(&scene.memory, data.path(), "6s");
        other.run(scene.mapping(&scene.servers, OffsetSpec::Earliest, FilterCriteria::default()));
        scene.until("the member panicked", |_| BOMB.lock().is_none()).await;
        let invocations = scene.memory.invocations();
        assert!(tokio::time::timeout(HANDED_OVER, &mut stops).await.is_err(), "its invocations still run");
        assert_eq!(scene.memory.invocations(), invocations, "OWN-1: no further invocation starts");
        scene.memory.held.store(false, Ordering::Relaxed);
        stops.await.expect("stopped");
        assert!(scene.dataplane.mapping_status(scene.id).is_none(), "the mapping is not restarted");
        scene.until("another has all then", |_| owned_by(&other, scene.id) == 2).await;
        other.drain().await;
    });
}

fn owned_by(node: &Dataplane, id: MappingId) -> usize {
    node.mapping_status(id).map_or(0, |mapping_status| mapping_status.partitions().len())
}

#[test]
fn liv_1_member_panic_is_shown_until_next_runs() {
    let _bombs = bombs();
    scene(|scene| async move {
        let phase = NodePhase::default();
        let readiness = phase.readiness(&scene.dataplane);
        phase.serving();
        let mut producer = scene.producer(1).await;
        producer.write(10).await.expect("written");
        producer.write(10).await.expect("written");
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 20).await;
        scene.until("ready", |_| readiness().is_ok()).await;
        *BOMB.lock() = Some("going on where the log was truncated");
        scene.broker.truncate("orders", 0, Offset(10)).await;
        producer.write(5).await.expect("written");
        scene.until("the member panicked", |_| BOMB.lock().is_none()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mapping_status =
            scene.dataplane.mapping_status(scene.id).expect("the mapping is expected to run");
        let shown = (readiness(), mapping_status.last_result(), mapping_status.partitions().len());
        assert!(
            shown.0.as_ref().is_err_and(|why| why.contains("ended by a fault of this node")),
            "{shown:?}"
        );
        assert!(shown.1.starts_with("PROBLEM: the mapping ended by a fault of this node"), "{shown:?}");
        assert_eq!(shown.2, 0, "no partition runs");
        scene.until("the replacement runs", |scene| readiness().is_ok() && scene.committed() == 15).await;
        assert!(scene.problem().is_none());
        scene.dataplane.drain().await;
    });
}

/// The task that determines starting positions is not an actor: no death watch reports its panic.
#[test]
fn liv_1_start_lookup_panic_is_shown_and_retried() {
    let _bombs = bombs();
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        producer.write(10).await.expect("written");
        producer.write(10).await.expect("written");
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 20).await;
        scene.dataplane.stop(scene.id).await.expect("stopped");
        scene.broker.truncate("orders", 0, Offset(10)).await;
        producer.write(5).await.expect("written");
        let phase = NodePhase::default();
        let readiness = phase.readiness(&scene.dataplane);
        phase.serving();
        *BOMB.lock() =
            Some("the log was truncated below the committed offset; reading the records that replaced it");
        scene.run(OffsetSpec::Earliest);
        scene.until("the task panicked", |_| BOMB.lock().is_none()).await;
        let is_shown =
            |scene: &DataplaneScene| scene.problem().is_some_and(|why| why.contains("a fault of this node"));
        scene.until("it is shown", is_shown).await;
        assert!(readiness().is_err(), "the fault is internal");
        scene.until("the end committed", |scene| scene.committed() == 15).await;
        scene.until("ready", |_| readiness().is_ok()).await;
        scene.dataplane.drain().await;
    });
}

#[test]
fn own_1_replacement_consumers_have_new_identities() {
    let _bombs = bombs();
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        producer.write(10).await.expect("written");
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 10).await;
        let consumer = |scene: &DataplaneScene| {
            scene.dataplane.mapping_status(scene.id)?.partitions().get(&0).map(|of| of.consumer)
        };
        let before = consumer(&scene).expect("it runs");
        *BOMB.lock() = Some("commit failed; trying again");
        scene.broker.faults().add(ApiKey::OffsetCommit as i16, 1, RequestFault::CutBefore);
        producer.write(10).await.expect("written");
        scene.until("the committer panicked", |_| BOMB.lock().is_none()).await;
        scene.until("the end committed", |scene| scene.committed() == 20).await;
        assert_ne!(consumer(&scene), Some(before), "its reports may still arrive");
        scene.dataplane.drain().await;
    });
}
