//! Placement of mappings: evenly over all threads of the node, including their large payloads.

mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::app::Dataplane;
use lighterman::config::Settings;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::invoker::port::{FunctionFacts, FunctionPort, Invocation};
use lighterman_proto::ids::MappingId;
use parking_lot::Mutex;

use self::scene::{DataplaneScene, RecordingFunction, scene};

const CORES: usize = 8;
const ARBITERS: usize = CORES / 2;
const MAPPINGS: usize = 2 * ARBITERS;
/// Size above which a payload is signed on an invoker arbiter.
const SMALL_BYTES_MAX: usize = 32 * 1024;

/// Port that records the threads that invoke each function with small and with large payloads.
#[derive(Default)]
struct ThreadRecorder {
    inner: RecordingFunction,
    seen: Mutex<BTreeMap<(bool, Arc<str>), BTreeSet<String>>>,
}

fn name(id: ThreadId) -> String {
    format!("{id:?}")
}

impl FunctionPort for ThreadRecorder {
    fn invoke(&self, invocation: Invocation) -> BoxFuture<'static, InvokeResponse> {
        let is_large = invocation.payload.len() > SMALL_BYTES_MAX;
        let key = (is_large, Arc::clone(&invocation.function));
        self.seen.lock().entry(key).or_default().insert(name(thread::current().id()));
        self.inner.invoke(invocation)
    }

    fn facts(&self, _: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
        async { FunctionFacts::Known { timeout: Duration::from_secs(1) } }.boxed()
    }
}

impl ThreadRecorder {
    /// Returns the number of functions that each thread invoked with large or small payloads.
    fn functions_by_thread(&self, is_large: bool) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for ((_, function), threads) in self.seen.lock().iter().filter(|((large, _), _)| *large == is_large) {
            assert_eq!(threads.len(), 1, "one consumer, one thread: {function}");
            *counts.entry(threads.first().expect("one").clone()).or_default() += 1;
        }
        counts
    }
}

fn evenly() -> Vec<usize> {
    vec![MAPPINGS / ARBITERS; ARBITERS]
}

async fn run_all(scene: &DataplaneScene, dataplane: &Arc<Dataplane>, name: &str, batch_records_max: u32) {
    let ids: Vec<MappingId> = (0..MAPPINGS).map(|_| MappingId(uuid::Uuid::new_v4())).collect();
    for (number, id) in ids.iter().enumerate() {
        let function = format!("{name}-{number}");
        dataplane.run(scene.mapping_run(*id, &function, batch_records_max));
    }
    let committed = |id: &MappingId| {
        let shown = dataplane
            .mapping_status(*id)
            .map(|mapping_status| mapping_status.partitions())
            .unwrap_or_default();
        shown.values().filter_map(|shown| shown.stats.committed()).map(|offset| offset.0).sum::<i64>()
    };
    scene.until("all of it is committed", |_| ids.iter().all(|id| committed(id) == 1_000)).await;
    for stopped in ids.iter().map(|id| dataplane.stop(*id)) {
        stopped.await.expect("stops");
    }
}

#[test]
fn consumers_and_payloads_use_threads_evenly() {
    scene(|scene| async move {
        scene.producer(1).await.write(1_000).await.expect("written");
        let data = tempfile::tempdir().expect("scratch");
        let flags = [("data_dir", data.path().display().to_string())];
        let settings = Settings::load(None, &flags).expect("settings");
        let threads = Arc::new(ThreadRecorder::default());
        let port: Arc<dyn FunctionPort> = Arc::<ThreadRecorder>::clone(&threads);
        let dataplane = Dataplane::start_on(CORES, &settings, port).expect("threads");
        // Twice, since stopped mappings must free their place.
        for round in 0..2 {
            run_all(&scene, &dataplane, &format!("small-{round}"), 10).await;
            assert_eq!(threads.functions_by_thread(false).into_values().collect::<Vec<_>>(), evenly());
            threads.seen.lock().clear();
            run_all(&scene, &dataplane, &format!("large-{round}"), 1_000).await;
            assert_eq!(threads.functions_by_thread(true).into_values().collect::<Vec<_>>(), evenly());
            threads.seen.lock().clear();
        }
        dataplane.drain().await;
        scene.dataplane.drain().await;
    });
}
