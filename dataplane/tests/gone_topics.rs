//! A mapping whose topic is deleted or unreadable can still be stopped: its invocations end and the commit is
//! rejected. A stop without hand-over does not wait for the commit forever.

mod scene;

use std::sync::atomic::Ordering;
use std::time::Duration;

use lighterman::kafka::offsets::OffsetSpec;
use lighterman_proto::ids::{Offset, OffsetRange};

use self::scene::scene;

#[test]
fn drn_1_mapping_stops_after_topic_deletion_during_invocation() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        producer.write(5).await.expect("written");
        scene.run(OffsetSpec::Earliest);
        scene.until("5 committed", |scene| scene.committed() == 5).await;
        scene.memory.held.store(true, Ordering::Relaxed);
        let before = scene.memory.invocations();
        producer.write(2).await.expect("written");
        scene.until("an invocation is in flight", |scene| scene.memory.invocations() > before).await;
        scene.broker.delete_topic("orders").await;
        let stopping = scene.dataplane.stop(scene.id);
        let (ends, ()) = tokio::join!(tokio::time::timeout(Duration::from_secs(120), stopping), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            scene.memory.held.store(false, Ordering::Relaxed);
        });
        ends.expect("it stops").expect("its end is reported");
        let page = scene.dataplane.audit().read(scene.id).await[&0].clone();
        let left = page.uncommitted.expect("the audit shows the uncommitted range").range;
        assert_eq!(left, OffsetRange { first: Offset(5), end: Offset(7) });
        assert_eq!(page.end, Some(Offset(7)), "their outcomes are recorded");
        scene.assert_each_once_in_order(7);
    });
}
