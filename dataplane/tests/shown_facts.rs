//! The facts shown of a partition are current.

mod scene;

use std::sync::atomic::Ordering;

use lighterman::kafka::offsets::OffsetSpec;

use self::scene::{DataplaneScene, scene};

/// Resolved records have no age: it would grow forever, and an operator would look for the cause of a delay.
#[test]
fn oldest_age_is_shown_only_while_pending() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        scene.run(OffsetSpec::Earliest);
        let oldest = |scene: &DataplaneScene| {
            let shown = scene.dataplane.mapping_status(scene.id).expect("runs").partitions();
            shown.get(&0).and_then(|shown| shown.stats.oldest())
        };
        scene.memory.held.store(true, Ordering::Relaxed);
        producer.write(3).await.expect("written");
        scene.until("in flight", |scene| scene.memory.invocations() == 1).await;
        assert!(oldest(&scene).is_some());
        scene.memory.held.store(false, Ordering::Relaxed);
        scene.until("committed", |scene| scene.committed() == 3).await;
        scene.until("no age is shown", |scene| oldest(scene).is_none()).await;
        scene.dataplane.drain().await;
    });
}
