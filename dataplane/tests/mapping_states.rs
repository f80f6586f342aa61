//! State of a mapping in the API while a change is in progress: the old run drains, and the state is not settled
//! until then.

mod scene;
#[path = "api/served.rs"]
mod served;

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use self::scene::scene;
use self::served::ServedApi;

async fn state(served: &ServedApi, path: &str) -> String {
    served.get(path).await["State"].as_str().expect("text").to_owned()
}

/// Applies a change and returns the state in its response.
async fn put(served: &ServedApi, path: &str, change: Value) -> String {
    let shown = served.client.call("PUT", path, Some(&change)).await.expect("accepted");
    shown["State"].as_str().expect("text").to_owned()
}

#[test]
fn mapping_stays_updating_until_drained() {
    scene(|scene| async move {
        let served = ServedApi::on(&scene);
        let begins = json!({"Enabled": true, "StartingPosition": "TRIM_HORIZON", "BatchSize": 5});
        let path = served.create(&begins).await;
        let changes = [
            (json!({"BatchSize": 7}), "Updating", "Enabled"),
            (json!({"Enabled": false}), "Disabling", "Disabled"),
        ];
        for (change, under_way, settled) in changes {
            let before = scene.memory.invocations();
            scene.memory.held.store(true, Ordering::Relaxed);
            scene.producer(1).await.write(1).await.expect("written");
            scene.until("an invocation is in flight", |scene| scene.memory.invocations() > before).await;
            assert_eq!(put(&served, &path, change).await, under_way);
            for _ in 0..10 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                assert_eq!(state(&served, &path).await, under_way, "the old run has not ended");
            }
            let refused = served.refused("PUT", &path, &json!({"BatchSize": 9})).await;
            assert!(refused.contains("ResourceInUseException"), "{refused}");
            scene.memory.held.store(false, Ordering::Relaxed);
            assert_eq!(served.settled(&path).await["State"], settled);
        }
        assert_eq!(put(&served, &path, json!({"Enabled": true})).await, "Enabling");
        assert_eq!(served.settled(&path).await["State"], "Enabled");
        scene.producer(1).await.write(1).await.expect("written");
        scene
            .until("all of it", |scene| scene.memory.seen.lock().get(&0).is_some_and(|seen| seen.len() == 3))
            .await;
        scene.assert_each_once_in_order(3);
        served.stop(&scene).await;
    });
}
