//! Commits that the broker handles after their sender has continued without them.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::FutureExt;
use kafka_protocol::messages::ApiKey;
use loadtest::fault_proxy::{ActiveFaults, ExchangeFault};

use super::stage::{DRAINS_WITHIN, RequestTrigger, WireStage};
use super::{SEED, all_well};

/// Delay of the commit: later records are delivered and committed meanwhile, and the node has not read the offsets
/// again.
const LATE: Duration = Duration::from_secs(4);
/// Time within which the node reads back the group's offsets: its ticks are 5 s, and one read in between may come
/// too early.
const READ_BACK_WITHIN: Duration = Duration::from_secs(45);

/// Delays a commit until newer ones are acknowledged. When the broker handles it, the group goes back while nothing
/// more is written. Nothing is delivered again, and the node restores the group's offsets.
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

/// Delays the initial commit itself: the start is decided again, and no commit goes back.
pub(crate) async fn a_beginning_served_late(stage: &WireStage) -> Result<()> {
    let late =
        |faults: &ActiveFaults| faults.next_of(ApiKey::OffsetCommit, 1, ExchangeFault::ServeLate(LATE));
    let scene = stage.scene("late-beginning", SEED, late).await?;
    scene.met("a beginning that is late", RequestTrigger::Nothing).await?;
    scene.flows().await?;
    // It arrives and is rejected, which only the broker sees.
    tokio::time::sleep(LATE).await;
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn com_1_commit_served_late_is_corrected() -> Result<()> {
    let stage = WireStage::new().await?;
    all_well(
        [a_commit_served_late(&stage).boxed_local(), a_beginning_served_late(&stage).boxed_local()]
            .into_iter(),
    )
    .await?;
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}
