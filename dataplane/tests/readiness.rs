//! `/readyz` reports the true state: not ready before everything assigned runs or while the node drains, and
//! unaffected by external problems.

mod scene;

use lighterman::app::readiness::NodePhase;
use lighterman::kafka::offsets::OffsetSpec;
use lighterman_proto::api::FilterCriteria;

use self::scene::scene;

#[test]
fn node_is_ready_until_draining() {
    scene(|scene| async move {
        let phase = NodePhase::default();
        let readiness = phase.readiness(&scene.dataplane);
        assert!(readiness().is_err_and(|why| why.starts_with("starting")));
        phase.serving();
        assert_eq!(readiness(), Ok(()), "nothing is to run");
        scene.producer(3).await.write(30).await.expect("written");
        scene.run(OffsetSpec::Earliest);
        scene.until("the mapping has started", |scene| scene.dataplane.not_ready_reason().is_some()).await;
        assert!(readiness().is_err_and(|why| why.starts_with("mapping ")), "{:?}", readiness());
        scene.until("it runs its share", |_| readiness().is_ok()).await;
        phase.draining();
        assert!(readiness().is_err_and(|why| why.starts_with("draining")));
    });
}

#[test]
fn unreachable_cluster_leaves_node_ready() {
    scene(|scene| async move {
        let phase = NodePhase::default();
        phase.serving();
        let readiness = phase.readiness(&scene.dataplane);
        scene.run_on("127.0.0.1:1", OffsetSpec::Earliest, FilterCriteria::default());
        scene.until("the trouble is the cluster's", |scene| scene.problem().is_some()).await;
        assert_eq!(readiness(), Ok(()));
    });
}
