//! A missing topic is reported, and its first records are delivered from the time at which a mapping waited for
//! them.

mod scene;

use lighterman::kafka::offsets::OffsetSpec;
use lighterman::local::broker::RequestFault;

use self::scene::{DataplaneScene, scene};

const METADATA: i16 = 3;
const FIND_COORDINATOR: i16 = 10;

fn result(scene: &DataplaneScene) -> String {
    scene.dataplane.mapping_status(scene.id).expect("it runs").last_result()
}

#[test]
fn alo_1_liv_1_missing_topic_is_reported_until_created() {
    for start in [OffsetSpec::Latest, OffsetSpec::Earliest] {
        scene(|scene| async move {
            scene.run(start);
            let says_so = |text: &str| text.contains("topic `orders` does not exist");
            scene
                .until("the problem is reported", |scene| scene.problem().is_some_and(|text| says_so(&text)))
                .await;
            // Written as soon as the topic exists, before the node can know.
            scene.producer(2).await.write(20).await.expect("written");
            scene.until("all committed", |scene| scene.committed() == 20).await;
            scene.assert_each_once_in_order(20);
            scene.until("the problem is cleared", |scene| result(scene) == "OK").await;
            scene.dataplane.drain().await;
        });
    }
}

#[test]
fn created_empty_topic_clears_the_problem() {
    scene(|scene| async move {
        scene.run(OffsetSpec::Latest);
        scene.until("the problem is reported", |scene| scene.problem().is_some()).await;
        let _made = scene.producer(2).await;
        scene.until("the problem is cleared", |scene| scene.problem().is_none()).await;
        scene.until("the topic is read", |scene| scene.dataplane.not_ready_reason().is_none()).await;
        scene.dataplane.drain().await;
    });
}

#[test]
fn failure_before_first_assignment_is_shown() {
    for api in [METADATA, FIND_COORDINATOR] {
        scene(|scene| async move {
            let mut producer = scene.producer(2).await;
            producer.write(20).await.expect("written");
            scene.broker.faults().add(api, 6, RequestFault::CutBefore);
            scene.run(OffsetSpec::Earliest);
            scene.until("the problem is shown", |scene| scene.problem().is_some()).await;
            scene.until("all committed", |scene| scene.committed() == 20).await;
            scene.until("the problem is cleared", |scene| scene.problem().is_none()).await;
            scene.dataplane.drain().await;
        });
    }
}
