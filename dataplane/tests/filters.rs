//! Filters end to end: only matching records reach the function, and the committed offset reaches the end.

mod scene;

use lighterman::kafka::offsets::OffsetSpec;
use lighterman::metrics::RECORDS_FILTERED;
use lighterman_proto::api::FilterCriteria;

use self::scene::{DataplaneScene, scene};

fn filters(patterns: &[&str]) -> FilterCriteria {
    FilterCriteria::new(patterns.iter().map(|pattern| (*pattern).to_owned()).collect()).expect("patterns")
}

fn orders(scene: &DataplaneScene) -> Vec<u64> {
    let values = scene.memory.values.lock();
    let order = |value: &String| {
        serde_json::from_str::<serde_json::Value>(value).expect("JSON")["order"].as_u64().expect("a number")
    };
    let mut orders: Vec<u64> = values.iter().map(order).collect();
    orders.sort_unstable();
    orders
}

#[test]
fn alo_1_only_matching_records_arrive_and_all_commit() {
    let recorder = lighterman::metrics::SeriesRecorder::default();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).expect("the only recorder of this process");
    scene(|scene| async move {
        scene.producer(3).await.write(3_000).await.expect("written");
        let few = [
            r#"{"value":{"order":[{"numeric":[">=",1000,"<",1010]}],"item":[{"prefix":"crate"}]}}"#,
            r#"{"key":["order-7"],"headers":{"source":[{"suffix":" dev"}]},"topic":["orders"]}"#,
        ];
        scene.run_filtered(OffsetSpec::Earliest, filters(&few));
        scene.until("all committed", |scene| scene.committed() == 3_000).await;
        let mut expected: Vec<u64> = (1_000..1_010).chain([7, 2_007]).collect();
        expected.sort_unstable();
        assert_eq!(orders(&scene), expected);
        for (partition, offsets) in scene.memory.seen.lock().iter() {
            assert!(offsets.is_sorted(), "ORD-1: partition {partition}: {offsets:?}");
        }
        let text = handle.render();
        let mapping = format!("mapping=\"{}\"", scene.id);
        let mut lines = text.lines().filter(|line| line.starts_with(RECORDS_FILTERED));
        let counted = lines.find(|line| line.contains(&mapping)).and_then(|line| line.rsplit(' ').next());
        assert_eq!(counted, Some("2988"), "{text}");
        scene.dataplane.drain().await;
    });
}

#[test]
fn liv_1_filtered_records_commit_without_invocation() {
    scene(|scene| async move {
        let mut producer = scene.producer(2).await;
        producer.write(1_000).await.expect("written");
        let nothing = filters(&[r#"{"value":{"order":[{"exists":false}]}}"#]);
        scene.run_filtered(OffsetSpec::Earliest, nothing.clone());
        scene.until("all committed", |scene| scene.committed() == 1_000).await;
        // The commits are in Kafka, not only in this node: the next owner continues after them.
        scene.dataplane.stop(scene.id).await.expect("its end is reported");
        producer.write(10).await.expect("written");
        scene.run_filtered(OffsetSpec::Earliest, nothing);
        scene.until("the remaining records committed", |scene| scene.committed() == 1_010).await;
        assert_eq!(scene.memory.invocations(), 0);
        scene.dataplane.drain().await;
    });
}

#[test]
fn updated_filters_apply_from_committed_offset() {
    scene(|scene| async move {
        let mut producer = scene.producer(1).await;
        producer.write(100).await.expect("written");
        scene.run_filtered(OffsetSpec::Earliest, filters(&[r#"{"value":{"order":[{"numeric":["<",10]}]}}"#]));
        scene.until("all committed", |scene| scene.committed() == 100).await;
        scene.run_filtered(OffsetSpec::Earliest, FilterCriteria::default());
        // A new board without resolved records means that the new configuration runs.
        let runs_anew = |scene: &DataplaneScene| {
            let mapping_status = scene.dataplane.mapping_status(scene.id);
            mapping_status.is_some_and(|mapping_status| mapping_status.resolved_total() == 0)
                && scene.committed() == 100
        };
        scene.until("the mapping runs again", runs_anew).await;
        producer.write(50).await.expect("written");
        scene.until("the new records committed", |scene| scene.committed() == 150).await;
        let expected: Vec<u64> = (0..10).chain(100..150).collect();
        assert_eq!(orders(&scene), expected, "filtered records stay filtered, nothing is delivered twice");
        scene.dataplane.drain().await;
    });
}
