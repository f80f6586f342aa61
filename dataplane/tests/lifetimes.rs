//! Resources are released: mappings that are created, changed, broken and deleted leave nothing behind, and metrics
//! show the current state.

mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lighterman::invoker::outcome::InvokeResponse;
use lighterman::kafka::offsets::OffsetSpec;
use lighterman::mapping::wiring::MappingSpec;
use lighterman::metrics::open_files::open_files;
use lighterman::metrics::{self, MetricsHandle};
use lighterman_proto::api::FilterCriteria;
use lighterman_proto::ids::MappingId;
use lighterman_scaler::policy::PollerBounds;

use self::scene::{DataplaneScene, scene};

const MAPPINGS: u128 = 10;
const ROUNDS: u32 = 10;
const LIMIT: Duration = Duration::from_secs(120);
const CORES: usize = 8;

/// Resources of the process.
#[derive(Clone, Debug, PartialEq)]
struct ProcessHoldings {
    files: usize,
    threads: usize,
    lanes: usize,
    /// Actors and tasks by kind.
    alive: BTreeMap<String, String>,
    series: usize,
}

impl ProcessHoldings {
    fn now(scene: &DataplaneScene, metrics: &MetricsHandle) -> Self {
        let text = metrics.render();
        let alive = text
            .lines()
            .filter(|line| line.starts_with("lighterman_actors{") || line.starts_with("lighterman_tasks{"));
        let alive = alive.filter_map(|line| line.rsplit_once(' ')).filter(|(_, count)| *count != "0");
        Self {
            files: open_files().expect("procfs is readable"),
            threads: fs::read_dir("/proc/self/task").expect("procfs is readable").count(),
            lanes: scene.dataplane.mappings(),
            alive: alive.map(|(what, count)| (what.to_owned(), count.to_owned())).collect(),
            series: text.lines().filter(|line| line.contains("mapping=\"")).count(),
        }
    }

    /// Returns true if nothing exceeds `before`. Files and threads may be fewer, since idle helper threads of a
    /// runtime end by themselves.
    fn is_no_more_than(&self, before: &Self) -> bool {
        let counted = self.files <= before.files && self.threads <= before.threads;
        let Self { files: _, threads: _, lanes, alive, series } = self;
        counted && (lanes, alive, series) == (&before.lanes, &before.alive, &before.series)
    }

    /// Waits until the process holds no more than this.
    async fn is_back(&self, scene: &DataplaneScene, metrics: &MetricsHandle, when: &str) {
        let waited = tokio::time::timeout(LIMIT, async {
            while !Self::now(scene, metrics).is_no_more_than(self) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(waited.await.is_ok(), "{when}\nbefore {self:#?}\nafter {:#?}", Self::now(scene, metrics));
    }
}

fn run_of(scene: &DataplaneScene, mapping: u128, batch_records_max: u32) -> MappingSpec {
    // One consumer: with two, the placement decides whether they share a thread, and so how many resources they
    // share.
    let bounds = PollerBounds { minimum: 1, maximum: 1 };
    MappingSpec {
        bounds,
        ..scene.mapping_run(MappingId(uuid::Uuid::from_u128(mapping)), "f", batch_records_max)
    }
}

/// Waits until each of `mappings` has committed `records`.
async fn all_committed(scene: &DataplaneScene, mappings: impl Iterator<Item = u128> + Clone, records: i64) {
    let committed = |scene: &DataplaneScene, mapping: u128| {
        let mapping_status = scene.dataplane.mapping_status(MappingId(uuid::Uuid::from_u128(mapping)));
        let shown = mapping_status.map(|mapping_status| mapping_status.partitions()).unwrap_or_default();
        shown.values().filter_map(|shown| shown.stats.committed()).map(|offset| offset.0).sum::<i64>()
    };
    let all = |scene: &DataplaneScene| mappings.clone().all(|mapping| committed(scene, mapping) == records);
    scene.until("all of it is committed", all).await;
}

async fn change_all(scene: &DataplaneScene, batch: u32) {
    let changed: Vec<_> =
        (0..MAPPINGS).map(|mapping| scene.dataplane.run(run_of(scene, mapping, batch))).collect();
    for begun in changed {
        begun.await.expect("runs");
    }
}

async fn delete_all(scene: &DataplaneScene, mappings: std::ops::Range<u128>) {
    let gone: Vec<_> =
        mappings.map(|mapping| scene.dataplane.stop(MappingId(uuid::Uuid::from_u128(mapping)))).collect();
    for stopped in gone {
        stopped.await.expect("stops");
    }
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs is readable");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

async fn updates_and_deletes(scene: DataplaneScene, metrics: MetricsHandle) {
    let mut producer = scene.producer(4).await;
    producer.write(40).await.expect("written");
    let nothing = ProcessHoldings::now(&scene, &metrics);
    change_all(&scene, 50).await;
    all_committed(&scene, 0..MAPPINGS, 40).await;
    change_all(&scene, 51).await;
    // Each mapping must have committed since its start: the connection for commits is opened on demand.
    producer.write(4).await.expect("written");
    all_committed(&scene, 0..MAPPINGS, 44).await;
    let before = settled(&scene, &metrics).await;
    let resident = resident_kib();
    for round in 0..ROUNDS {
        change_all(&scene, 100 + round).await;
        all_committed(&scene, 0..MAPPINGS, 44).await;
    }
    producer.write(4).await.expect("written");
    all_committed(&scene, 0..MAPPINGS, 48).await;
    before.is_back(&scene, &metrics, "after 100 updates").await;
    for round in 1..=u128::from(ROUNDS) {
        delete_all(&scene, 0..MAPPINGS).await;
        let others = round * 1_000..round * 1_000 + MAPPINGS;
        for mapping in others.clone() {
            scene.dataplane.run(run_of(&scene, mapping, 50));
        }
        all_committed(&scene, others.clone(), 48).await;
        delete_all(&scene, others).await;
        change_all(&scene, 50).await;
        all_committed(&scene, 0..MAPPINGS, 48).await;
    }
    producer.write(4).await.expect("written");
    all_committed(&scene, 0..MAPPINGS, 52).await;
    before.is_back(&scene, &metrics, "after 200 deletes").await;
    println!("resident: {resident} KiB before, {} KiB after 300 changes", resident_kib());
    breakdowns(&scene, &metrics, &before).await;
    delete_all(&scene, 0..MAPPINGS).await;
    nothing.is_back(&scene, &metrics, "all mappings are deleted").await;
}

/// Returns the resources once they are unchanged for a second.
async fn settled(scene: &DataplaneScene, metrics: &MetricsHandle) -> ProcessHoldings {
    let mut last = ProcessHoldings::now(scene, metrics);
    let mut same = 0;
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = ProcessHoldings::now(scene, metrics);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// Runs a port that panics: it ends the batcher that calls it, and with a large payload the invoker that all
/// consumers share.
async fn breakdowns(scene: &DataplaneScene, metrics: &MetricsHandle, before: &ProcessHoldings) {
    let mut producer = scene.producer(4).await;
    let mut records = 52;
    for written in [4, 4_000] {
        change_all(scene, 10_000).await;
        all_committed(scene, 0..MAPPINGS, records).await;
        let first = scene.memory.invocations();
        BROKEN_FROM.store(first, Ordering::Relaxed);
        *scene.memory.script.lock() = Some(breaks);
        producer.write(written).await.expect("written");
        records += i64::try_from(written).expect("few");
        all_committed(scene, 0..MAPPINGS, records).await;
        assert!(scene.memory.invocations() > first + 3);
        *scene.memory.script.lock() = None;
    }
    drop(producer);
    before.is_back(scene, metrics, "after actors have panicked").await;
}

static BROKEN_FROM: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

fn breaks(turn: u32) -> Option<InvokeResponse> {
    assert!(turn >= BROKEN_FROM.load(Ordering::Relaxed) + 3, "an expected panic of the port");
    None
}

fn value(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(&format!("{name}{{mapping=")))?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn gauges(scene: DataplaneScene, metrics: MetricsHandle) {
    scene.run_on("127.0.0.1:1", OffsetSpec::Earliest, FilterCriteria::default());
    scene.until("the mapping has started", |scene| scene.problem().is_some()).await;
    let text = metrics.render();
    for name in [metrics::OFFSET_LAG, metrics::OFFSET_LAG_SECONDS] {
        assert_eq!(value(&text, name), None, "unknown values are absent: {text}");
    }
    scene.memory.held.store(true, Ordering::Relaxed);
    scene.producer(1).await.write(100).await.expect("written");
    scene.run(OffsetSpec::Earliest);
    let is = |name: &'static str, expected: f64| {
        let metrics = metrics.clone();
        move |_: &DataplaneScene| value(&metrics.render(), name) == Some(expected)
    };
    scene.until("the lag is known", is(metrics::OFFSET_LAG, 100.0)).await;
    scene.until("nothing is drained", is(metrics::OFFSET_LAG_SECONDS, f64::INFINITY)).await;
    scene.until("one invocation", is(metrics::SLOTS_IN_USE, 1.0)).await;
    scene.memory.held.store(false, Ordering::Relaxed);
    scene.until("the lag is zero", is(metrics::OFFSET_LAG, 0.0)).await;
    scene.until("nothing is to be drained", is(metrics::OFFSET_LAG_SECONDS, 0.0)).await;
    scene.until("no invocation", is(metrics::SLOTS_IN_USE, 0.0)).await;
    scene.dataplane.drain().await;
    // Stopped actors drop their handles on their own threads, after the drain has ended.
    scene.until("no series of a mapping", |_| metrics.render().matches("mapping=\"").count() == 0).await;
}

#[test]
fn changes_and_panics_leave_no_resources_behind() {
    let metrics = metrics::install().expect("the only recorder of this process");
    let (one, other) = (metrics.clone(), metrics);
    scene::scene_on(CORES, |scene| updates_and_deletes(scene, one));
    scene(|scene| gauges(scene, other));
}
