//! A partition that cannot start blocks no other, is reported for as long, and starts by itself once it can.

mod scene;

use std::collections::BTreeMap;

use lighterman::app::readiness::NodePhase;
use lighterman::kafka::offsets::OffsetSpec;
use lighterman::metrics::ReadinessCheck;

use self::scene::{DataplaneScene, scene};

fn serving(scene: &DataplaneScene) -> ReadinessCheck {
    let phase = NodePhase::default();
    phase.serving();
    phase.readiness(&scene.dataplane)
}

fn seen(scene: &DataplaneScene) -> BTreeMap<i64, usize> {
    scene.memory.seen.lock().iter().map(|(partition, offsets)| (*partition, offsets.len())).collect()
}

/// Commits forty records of four partitions, stops, and writes forty more.
async fn stopped_midway(scene: &DataplaneScene) {
    let mut producer = scene.producer(4).await;
    producer.write(40).await.expect("written");
    scene.run(OffsetSpec::Earliest);
    scene.until("40 committed", |scene| scene.committed() == 40).await;
    scene.dataplane.stop(scene.id).await.expect("its end is reported");
    producer.write(40).await.expect("written");
}

/// Asserts that everything arrives except the records of `waiting`, whose leader is missing and which is reported,
/// and that these follow once it has a leader.
async fn the_others_run_and_it_follows(scene: &DataplaneScene, waiting: i32, others: usize, all: usize) {
    scene.broker.lead("orders", waiting, false).await;
    scene.run(OffsetSpec::Earliest);
    let ready = serving(scene);
    let delivered = |scene: &DataplaneScene| seen(scene).values().sum::<usize>();
    scene.until("the others' records", |scene| delivered(scene) == others).await;
    let is_named = |text: &str| text.contains(&format!("partition {waiting} "));
    scene.until("the partition is named", |scene| scene.problem().is_some_and(|text| is_named(&text))).await;
    scene.until("the node is not ready", |_| ready().is_err_and(|why| is_named(&why))).await;
    assert_eq!(delivered(scene), others, "the partition waits");
    scene.broker.lead("orders", waiting, true).await;
    scene.until("all of it", |scene| delivered(scene) == all).await;
    scene.until("nothing is wrong any more", |scene| scene.problem().is_none() && ready().is_ok()).await;
    scene.assert_each_once_in_order(all);
    scene.dataplane.drain().await;
}

#[test]
fn liv_1_leaderless_partition_blocks_no_others_restart() {
    scene(|scene| async move {
        stopped_midway(&scene).await;
        the_others_run_and_it_follows(&scene, 3, 70, 80).await;
    });
}

#[test]
fn liv_1_leaderless_partition_blocks_no_first_start() {
    scene(|scene| async move {
        scene.producer(4).await.write(40).await.expect("written");
        the_others_run_and_it_follows(&scene, 0, 30, 40).await;
    });
}

#[test]
fn liv_1_new_leaderless_partition_blocks_no_others() {
    scene(|scene| async move {
        scene.producer(1).await.write(10).await.expect("written");
        scene.run(OffsetSpec::Latest);
        scene.until("the first is owned", |scene| scene.committed() == 10).await;
        scene.dataplane.stop(scene.id).await.expect("its end is reported");
        scene.broker.add_partitions("orders", 3).await;
        scene.producer(3).await.write(30).await.expect("written");
        scene.broker.lead("orders", 2, false).await;
        scene.run(OffsetSpec::Latest);
        scene.until("the others", |scene| seen(scene) == BTreeMap::from([(0, 10), (1, 10)])).await;
        scene.broker.lead("orders", 2, true).await;
        let all = BTreeMap::from([(0, 10), (1, 10), (2, 10)]);
        scene.until("all of it", |scene| seen(scene) == all).await;
        assert!(
            scene.memory.seen.lock()[&2].iter().copied().eq(0..10),
            "a new partition starts at its beginning"
        );
        scene.dataplane.drain().await;
    });
}

#[test]
fn alo_1_delayed_latest_start_delivers_only_newer_records() {
    scene(|scene| async move {
        let mut producer = scene.producer(4).await;
        producer.write(40).await.expect("written");
        scene.broker.lead("orders", 3, false).await;
        scene.run(OffsetSpec::Latest);
        scene
            .until("the other partitions are committed to their ends", |scene| scene.committed() == 30)
            .await;
        // Nobody reads it meanwhile, and the node that activated it is gone.
        scene.dataplane.stop(scene.id).await.expect("its end is reported");
        producer.write(40).await.expect("written");
        scene.broker.lead("orders", 3, true).await;
        scene.run(OffsetSpec::Latest);
        scene.until("all of it", |scene| seen(scene).values().sum::<usize>() == 40).await;
        for (partition, offsets) in scene.memory.seen.lock().iter() {
            assert!(offsets.iter().copied().eq(10..20), "partition {partition}: {offsets:?}");
        }
        scene.dataplane.drain().await;
    });
}

#[test]
fn h11_lost_commit_stops_only_its_partition() {
    scene(|scene| async move {
        stopped_midway(&scene).await;
        scene.broker.forget_commit(&scene.id.to_string(), "orders", 2).await;
        scene.run(OffsetSpec::Earliest);
        let others = BTreeMap::from([(0, 20), (1, 20), (2, 10), (3, 20)]);
        scene.until("the other partitions continue", |scene| seen(scene) == others).await;
        let names_it =
            |text: String| text.contains("partition 2 ") && text.contains("committed offset is gone");
        scene.until("the partition is named", |scene| scene.problem().is_some_and(names_it)).await;
        assert_eq!(seen(&scene), others, "no reset");
        scene.dataplane.drain().await;
    });
}
