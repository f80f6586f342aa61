//! `/readyz` says what is true: not before all that should run here runs, not while the node drains, and not because of what
//! lies outside.

mod scene;

use lighterman::app::readiness::NodePhase;
use lighterman::kafka::offsets::OffsetSpec;
use lighterman_proto::api::FilterCriteria;

use self::scene::scene;

#[test]
fn a_node_is_ready_when_it_runs_its_share_and_not_while_it_drains() {
    scene(|scene| async move {
        let phase = NodePhase::default();
        let readiness = phase.readiness(&scene.dataplane);
        assert!(readiness().is_err_and(|why| why.starts_with("starting")));
        phase.serving();
        assert_eq!(readiness(), Ok(()), "nothing is to run");
        scene.producer(3).await.write(30).await.expect("written");
        scene.run(OffsetSpec::Earliest);
        scene.until("the mapping is taken up", |scene| scene.dataplane.not_ready_reason().is_some()).await;
        assert!(readiness().is_err_and(|why| why.starts_with("mapping ")), "{:?}", readiness());
        scene.until("it runs its share", |_| readiness().is_ok()).await;
        phase.draining();
        assert!(readiness().is_err_and(|why| why.starts_with("draining")));
    });
}

#[test]
fn a_cluster_out_of_reach_is_not_the_nodes_fault() {
    scene(|scene| async move {
        let phase = NodePhase::default();
        phase.serving();
        let readiness = phase.readiness(&scene.dataplane);
        scene.run_on("127.0.0.1:1", OffsetSpec::Earliest, FilterCriteria::default());
        scene.until("the trouble is the cluster's", |scene| scene.problem().is_some()).await;
        assert_eq!(readiness(), Ok(()));
    });
}
