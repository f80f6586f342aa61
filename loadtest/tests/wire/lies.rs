//! Well-formed responses that do not match the request: of another topic, with a partition twice, with more than
//! requested. None is accepted, and records flow after each of them.

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::ApiKey;
use loadtest::fault_proxy::{ExchangeFault, WrongAnswer};

use super::stage::{DRAINS_WITHIN, WireStage};
use super::{SEED, TABLES, all_well};

const LIES: [(&str, WrongAnswer); 3] =
    [("other", WrongAnswer::Other), ("twice", WrongAnswer::Twice), ("more", WrongAnswer::More)];
const LIARS: [ApiKey; 6] = [
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::Metadata,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
];

async fn every_reply_lies(stage: &WireStage, name: &str, lie: WrongAnswer) -> Result<()> {
    let name = format!("lie-{name}");
    let scene = stage.scene(&name, SEED, |_| {}).await?;
    scene.flows().await?;
    for table in TABLES.iter().filter(|table| LIARS.contains(&table.api)) {
        scene.faults().next_of(table.api, 2 * table.times, ExchangeFault::Lie(lie));
        table.provoke.add_to(scene.faults());
        scene.met(&format!("{:?}", table.api), table.provoke).await?;
        scene.flows().await.with_context(|| format!("{name}: after {:?}", table.api))?;
    }
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_replies_to_another_request() -> Result<()> {
    let stage = WireStage::new().await?;
    all_well(LIES.iter().map(|(name, lie)| every_reply_lies(&stage, name, *lie))).await?;
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}
