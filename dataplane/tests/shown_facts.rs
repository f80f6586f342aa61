//! What is shown of a partition is true now.

mod scene;

use std::sync::atomic::Ordering;

use lighterman::kafka::offsets::OffsetSpec;

use self::scene::{DataplaneScene, scene};

/// What has its outcome is not old: its age would grow for ever, and a person would look for what holds it up.
#[test]
fn the_age_of_the_oldest_record_is_shown_while_there_is_one() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        scene.run(OffsetSpec::Earliest);
        let oldest = |scene: &DataplaneScene| {
            let shown = scene.dataplane.board(scene.id).expect("runs").partitions();
            shown.get(&0).and_then(|shown| shown.gauge.oldest())
        };
        scene.memory.held.store(true, Ordering::Relaxed);
        producer.write(3).await.expect("written");
        scene.until("in flight", |scene| scene.memory.invocations() == 1).await;
        assert!(oldest(&scene).is_some());
        scene.memory.held.store(false, Ordering::Relaxed);
        scene.until("committed", |scene| scene.committed() == 3).await;
        scene.until("nothing is old", |scene| oldest(scene).is_none()).await;
        scene.dataplane.drain().await;
    });
}
