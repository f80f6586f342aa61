//! Commits that a broker serves when their sender has gone on without them.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::FutureExt;
use kafka_protocol::messages::ApiKey;
use loadtest::fault_proxy::{ActiveFaults, ExchangeFault};

use super::stage::{DRAINS_WITHIN, RequestTrigger, WireStage};
use super::{SEED, all_well};

/// How late: what is written meanwhile is delivered and committed, and the node has not looked again.
const LATE: Duration = Duration::from_secs(4);
/// Within this the node has read back what the group holds: its ticks are 5 s, and one read in between may have come too early.
const READ_BACK_WITHIN: Duration = Duration::from_secs(45);

/// A commit is given up, newer ones are acknowledged, and then the broker serves it: the group has gone back, and nothing more is
/// written. Nothing is delivered again, and the group holds what it held.
pub(crate) async fn a_commit_served_late(stage: &WireStage) -> Result<()> {
    let scene = stage.scene("late-commit", SEED, |_| {}).await?;
    scene.flows().await?;
    scene.faults().next_of(ApiKey::OffsetCommit, 1, ExchangeFault::ServeLate(LATE));
    scene.met("a commit that is late", RequestTrigger::Nothing).await?;
    scene.flows().await?;
    let mut idle = scene.falls_idle().await?;
    let delivered = stage.lambda.events_of("late-commit").len();
    idle.is_taken_back(LATE * 2).await?;
    idle.is_committed(READ_BACK_WITHIN).await?;
    ensure!(stage.lambda.events_of("late-commit").len() == delivered, "nothing is delivered again");
    Ok(())
}

/// The beginning itself is given up and served late: it is decided anew, and no commit goes back.
pub(crate) async fn a_beginning_served_late(stage: &WireStage) -> Result<()> {
    let late =
        |faults: &ActiveFaults| faults.next_of(ApiKey::OffsetCommit, 1, ExchangeFault::ServeLate(LATE));
    let scene = stage.scene("late-beginning", SEED, late).await?;
    scene.met("a beginning that is late", RequestTrigger::Nothing).await?;
    scene.flows().await?;
    // It arrives, and is refused: nobody but the broker sees that.
    tokio::time::sleep(LATE).await;
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn com_1_a_commit_served_late_does_not_stand() -> Result<()> {
    let stage = WireStage::new().await?;
    all_well(
        [a_commit_served_late(&stage).boxed_local(), a_beginning_served_late(&stage).boxed_local()]
            .into_iter(),
    )
    .await?;
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}
