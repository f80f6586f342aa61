//! Thousands of partitions on two nodes that share them. All are revoked, drained and reassigned at once. In the
//! end each has exactly one owner, and its start is recorded.

mod scene;

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use lighterman::app::Dataplane;
use lighterman::kafka::offsets::OffsetSpec;
use lighterman::metrics::{self, MetricsHandle};
use lighterman_proto::api::FilterCriteria;
use lighterman_proto::ids::MappingId;

use self::scene::{DataplaneScene, node, scene};

/// Metrics of all nodes of this process.
static METRICS: LazyLock<MetricsHandle> = LazyLock::new(|| metrics::install().expect("once"));

/// Time limit, generous for slow machines.
const WITHIN: Duration = Duration::from_secs(400);

fn owned(node: &Dataplane, id: MappingId) -> BTreeSet<i32> {
    node.mapping_status(id)
        .map(|mapping_status| mapping_status.partitions().into_keys().collect())
        .unwrap_or_default()
}

/// Returns the partitions of `first` and `second`. Partitions move from the first to the second, so the second is
/// read first.
fn shares(first: &Dataplane, second: &Dataplane, id: MappingId) -> (BTreeSet<i32>, BTreeSet<i32>) {
    let arrived = owned(second, id);
    let left = owned(first, id);
    assert!(arrived.is_disjoint(&left), "OWN-1: {:?}", arrived.intersection(&left).next());
    (left, arrived)
}

async fn until(what: &str, mut look: impl FnMut() -> (bool, String)) {
    let waits = tokio::time::timeout(WITHIN, async {
        while !look().0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let ended = waits.await.is_ok();
    assert!(ended, "{what}: {}", look().1);
}

async fn every_partition_has_one_owner(scene: DataplaneScene, partitions: i32) {
    let data = tempfile::tempdir().expect("scratch");
    scene.producer(1).await;
    scene.broker.add_partitions("orders", partitions).await;
    let all: BTreeSet<i32> = (0..partitions).collect();
    let mapping = scene.mapping(&scene.servers, OffsetSpec::Earliest, FilterCriteria::default());
    let (first_data, id) = (tempfile::tempdir().expect("scratch"), scene.id);
    let first = node(&scene.memory, first_data.path(), "30s");
    let second = node(&scene.memory, data.path(), "30s");
    first.run(mapping.clone());
    until("one node owns all", || {
        let mine = owned(&first, id);
        (mine == all, format!("{} of {partitions}", mine.len()))
    })
    .await;
    second.run(mapping);
    until("LIV-1: two nodes own half of the partitions each", || {
        let (left, arrived) = shares(&first, &second, id);
        let halves = left.len().abs_diff(arrived.len()) <= 1 && left.len() + arrived.len() == all.len();
        (halves, format!("{} and {} of {partitions}", left.len(), arrived.len()))
    })
    .await;
    second.stop(id).await.expect("stopped");
    until("LIV-1: the other node takes over", || {
        let mine = owned(&first, id);
        (mine == all, format!("{} of {partitions}", mine.len()))
    })
    .await;
    for (node, share) in [(&first, all.len()), (&second, all.len() / 2)] {
        assert_eq!(begun(node, id).await, share, "ALO-1: the start offset of each partition is recorded");
    }
    first.drain().await;
    for never in [metrics::AUDIT_ERRORS, metrics::MAILBOX_FULL] {
        assert!(!METRICS.render().lines().any(|line| line.starts_with(never)), "{never}");
    }
}

async fn begun(node: &Arc<Dataplane>, id: MappingId) -> usize {
    node.audit().read(id).await.values().filter(|page| page.began.is_some()).count()
}

fn run(partitions: i32) {
    LazyLock::force(&METRICS);
    scene(|scene| every_partition_has_one_owner(scene, partitions));
}

#[test]
fn own_1_liv_1_four_thousand_partitions_rebalance_at_once() {
    run(4_000);
}

#[test]
fn own_1_liv_1_ten_thousand_partitions_rebalance_at_once() {
    run(10_000);
}
