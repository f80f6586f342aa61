//! Error codes of a group of the consumer protocol (KIP-848), which only a real Kafka supports: each code once
//! before the broker handles the request, and once in place of its response.

use anyhow::{Context, Result, ensure};
use futures::future::{FutureExt, LocalBoxFuture};
use kafka_protocol::messages::ApiKey;
use loadtest::fault_proxy::{ExchangeFault, FaultCondition};
use loadtest::kafka::{self, RealKafka};

use super::late::a_beginning_served_late;
use super::stage::{DRAINS_WITHIN, RequestTrigger, WireCluster, WireStage};
use super::{ApiTable, KAFKA, KINDS, SEED, all_well, every_code_of, listed};

/// The only code that reports an unknown member on a commit, too.
const EXPELLED: RequestTrigger = RequestTrigger::With(ApiKey::OffsetCommit, 25);

const TABLES: &[ApiTable] = &[
    ApiTable {
        name: "beat",
        api: ApiKey::ConsumerGroupHeartbeat,
        provoke: RequestTrigger::Nothing,
        more: &[7, 89],
        // Codes that fence the member: it rejoins as soon as nothing runs. Codes that need an operator: it rejoins
        // slowly.
        alone: &[&[25, 110], &[69, 113], &[22, 82], &[23], &[24], &[29], &[30], &[35], &[81], &[111], &[112]],
        times: 1,
    },
    ApiTable {
        name: "beat-commit",
        api: ApiKey::OffsetCommit,
        provoke: RequestTrigger::Nothing,
        more: &[42],
        alone: &[&[25, 110], &[69, 82]],
        times: 2,
    },
    ApiTable {
        name: "beat-committed",
        api: ApiKey::OffsetFetch,
        provoke: EXPELLED,
        more: &[7, 22, 42],
        alone: &[&[25, 110, 69]],
        times: 1,
    },
];

/// A leaving member sees no other response. The next member waits for the session timeout at most.
async fn codes_of_a_leave(
    stage: &WireStage,
    name: String,
    codes: &[i16],
    kind: fn(i16) -> ExchangeFault,
) -> Result<()> {
    let scene = stage.scene(&name, SEED, |_| {}).await?;
    for code in codes {
        scene.flows().await.with_context(|| format!("before a leave with code {code}"))?;
        let (apis, fault) = (vec![ApiKey::ConsumerGroupHeartbeat], kind(*code));
        scene.faults().add(FaultCondition { apis, times: None, per_mille: 1_000, fault });
        scene.set_enabled(false).await?;
        let met = scene.faults().met();
        let key = (ApiKey::ConsumerGroupHeartbeat as i16, format!("{fault:?}"));
        ensure!(met.get(&key).is_some_and(|times| *times > 0), "{name}: {code} never occurred: {met:?}");
        scene.proxy.calm();
        scene.set_enabled(true).await?;
    }
    scene.flows().await?;
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_every_error_code_of_consumer_group() -> Result<()> {
    let Some(_turn) = kafka::turn(KAFKA).await? else { return Ok(()) };
    let stage = WireStage::before(WireCluster::Real(RealKafka::start(KAFKA)?), "consumer").await?;
    let leaves = listed::codes_of(ApiKey::ConsumerGroupHeartbeat);
    let mut scenes: Vec<LocalBoxFuture<'_, Result<()>>> = vec![a_beginning_served_late(&stage).boxed_local()];
    for (when, kind) in KINDS {
        for table in TABLES {
            for (name, codes) in table.scenes() {
                let name = format!("{name}-{when}");
                scenes.push(every_code_of(&stage, table, name, codes, kind).boxed_local());
            }
        }
        for codes in leaves.chunks(3) {
            let name = format!("beat-leave-{}-{when}", codes[0]);
            scenes.push(codes_of_a_leave(&stage, name, codes, kind).boxed_local());
        }
    }
    all_well(scenes.into_iter()).await?;
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}
