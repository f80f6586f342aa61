//! A dataplane against the embedded broker with faults: closed connections, garbage, retention, added partitions.

mod scene;

use std::sync::atomic::Ordering;
use std::time::Duration;

use lighterman::kafka::offsets::OffsetSpec;
use lighterman::local::broker::RequestFault;
use lighterman_proto::ids::Offset;

use self::scene::{DataplaneScene, scene};

const FETCH: i16 = 1;
const LIST_OFFSETS: i16 = 2;
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 9;
const FIND_COORDINATOR: i16 = 10;
const JOIN_GROUP: i16 = 11;
const HEARTBEAT: i16 = 12;
const SYNC_GROUP: i16 = 14;

#[test]
fn ord_1_alo_1_broken_connections_lose_and_repeat_nothing() {
    scene(|scene| async move {
        let mut producer = scene.producer(3).await;
        producer.write(1_500).await.expect("written");
        let faults = scene.broker.faults();
        for api in [FIND_COORDINATOR, JOIN_GROUP, SYNC_GROUP, OFFSET_FETCH, OFFSET_COMMIT] {
            faults.add(api, 1, RequestFault::CutAfter);
            faults.add(api, 1, RequestFault::CutBefore);
        }
        faults.add(FETCH, 2, RequestFault::Garbage);
        faults.add(FETCH, 2, RequestFault::CutAfter);
        faults.add(HEARTBEAT, 1, RequestFault::Delay(Duration::from_millis(300)));
        scene.run(OffsetSpec::Earliest);
        scene.until("1,500 committed", |scene| scene.committed() == 1_500).await;
        scene.assert_each_once_in_order(1_500);
        scene.dataplane.drain().await;
    });
}

#[test]
fn h18_added_partition_with_latest_starts_at_beginning() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        producer.write(10).await.expect("written");
        scene.run(OffsetSpec::Latest);
        scene.until("one partition owned", |scene| scene.committed() == 10).await;
        scene.dataplane.stop(scene.id).await.expect("its end is reported");
        scene.broker.add_partitions("orders", 2).await;
        // Round-robin over both: five records are in the new partition before anyone reads it.
        scene.producer(2).await.write(10).await.expect("written");
        scene.run(OffsetSpec::Latest);
        scene.until("both committed to their ends", |scene| scene.committed() == 15 + 5).await;
        let seen = scene.memory.seen.lock().clone();
        assert_eq!(seen.get(&1).map(Vec::as_slice), Some(&[0, 1, 2, 3, 4][..]), "read from its beginning");
        assert_eq!(seen.get(&0).map(Vec::as_slice), Some(&[10, 11, 12, 13, 14][..]), "from the commit");
        scene.dataplane.drain().await;
    });
}

#[test]
fn h14_records_after_retention_gap_are_delivered() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        for _ in 0..4 {
            producer.write(10).await.expect("written");
        }
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        scene.dataplane.stop(scene.id).await.expect("its end is reported");
        for _ in 0..4 {
            producer.write(10).await.expect("written");
        }
        scene.broker.delete_before("orders", 0, Offset(60)).await;
        scene.run(OffsetSpec::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 80).await;
        let seen = scene.memory.seen.lock().clone();
        assert!(seen[&0].iter().copied().eq((0..40).chain(60..80)), "{seen:?}");
        scene.dataplane.drain().await;
    });
}

#[test]
fn h13_log_truncated_while_stopped_is_read_from_truncation() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        for _ in 0..4 {
            producer.write(10).await.expect("written");
        }
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        scene.dataplane.stop(scene.id).await.expect("its end is reported");
        scene.broker.truncate("orders", 0, Offset(20)).await;
        // The new history is longer than the old one, so only the epochs distinguish them.
        for _ in 0..3 {
            producer.write(10).await.expect("written");
        }
        scene.run(OffsetSpec::Earliest);
        scene.until("the end committed", |scene| scene.committed() == 50).await;
        let seen = scene.memory.seen.lock().clone();
        assert!(seen[&0].iter().copied().eq((0..40).chain(20..50)), "{seen:?}");
        scene.dataplane.drain().await;
    });
}

#[test]
fn h13_log_truncated_while_running_is_read_from_truncation() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        for _ in 0..4 {
            producer.write(10).await.expect("written");
        }
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == 40).await;
        scene.broker.truncate("orders", 0, Offset(20)).await;
        for _ in 0..3 {
            producer.write(10).await.expect("written");
        }
        scene.until("the end committed", |scene| scene.committed() == 50).await;
        let seen = scene.memory.seen.lock().clone();
        assert!(seen[&0].iter().copied().eq((0..40).chain(20..50)), "{seen:?}");
        scene.dataplane.drain().await;
    });
}

#[test]
fn h14_liv_1_retention_of_many_partitions_is_resolved_concurrently() {
    // Resolved one after the other, with a connection for each request, they would exceed the time limit.
    const PARTITIONS: i32 = 400;
    scene(|scene| async move {
        let mut producer = scene.producer(PARTITIONS).await;
        let (all, one_each) = (i64::from(PARTITIONS), PARTITIONS as u64);
        for _ in 0..2 {
            producer.write(one_each).await.expect("written");
        }
        scene.run(OffsetSpec::Earliest);
        scene.until("all committed", |scene| scene.committed() == all * 2).await;
        scene.dataplane.stop(scene.id).await.expect("its end is reported");
        for _ in 0..2 {
            producer.write(one_each).await.expect("written");
        }
        for partition in 0..PARTITIONS {
            scene.broker.delete_before("orders", partition, Offset(3)).await;
        }
        scene.run(OffsetSpec::Earliest);
        scene.until("the ends committed", |scene| scene.committed() == all * 4).await;
        let seen = scene.memory.seen.lock().clone();
        assert_eq!(seen.values().filter(|offsets| **offsets == [0, 1, 3]).count(), PARTITIONS as usize);
        scene.dataplane.drain().await;
    });
}

#[test]
fn lag_of_full_partition_is_unknown_during_outage() {
    scene(|scene| async move {
        // Far more than a partition buffers, and the function does not respond.
        const RECORDS: u32 = 20_000;
        scene.memory.held.store(true, Ordering::Relaxed);
        scene.producer(1).await.write(RECORDS.into()).await.expect("written");
        scene.run(OffsetSpec::Earliest);
        let lag = |scene: &DataplaneScene| {
            let mapping_status = scene.dataplane.mapping_status(scene.id)?;
            mapping_status.partitions().get(&0).and_then(|shown| shown.stats.lag())
        };
        scene.until("the lag is known", |scene| lag(scene) == Some(RECORDS.into())).await;
        scene.broker.faults().add(LIST_OFFSETS, 2, RequestFault::CutBefore);
        scene.until("the log end is unknown", |scene| lag(scene).is_none()).await;
        scene.until("the broker is back", |scene| lag(scene) == Some(RECORDS.into())).await;
        scene.memory.held.store(false, Ordering::Relaxed);
        scene.dataplane.drain().await;
    });
}
