//! Chaos runs on real Apache Kafka, with fixed seeds that together cover every fault. `TEST_LIGHTERMAN_SEED` runs
//! another seed instead. Without Java or the jars a version is skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA` is
//! set. Clock jumps need libfaketime, and are skipped without it unless `TEST_LIGHTERMAN_REQUIRE_FAKETIME` is set.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use loadtest::chaos::plan::{ChaosFaultKind, ChaosPlan};
use loadtest::chaos::series::ChaosSeries;
use loadtest::kafka;

/// Version, group protocol, and the seeds run with both.
type TriedSeeds = (&'static str, &'static str, &'static [u64]);
const NEWEST: [TriedSeeds; 2] = [("4.2.1", "classic", &[41, 25, 98]), ("4.2.1", "consumer", &[121, 66, 28])];
const OLDER: [TriedSeeds; 2] = [("3.9.1", "classic", &[351, 138]), ("3.9.1", "consumer", &[23, 132])];
/// Low enough for a small machine to serve all runs.
const AT_ONCE: usize = 3;

async fn go_through(tried: [TriedSeeds; 2]) -> Result<()> {
    let [first, second] = tried;
    undergo(first).await?;
    undergo(second).await
}

async fn undergo((version, protocol, seeds): TriedSeeds) -> Result<()> {
    let Some(_turn) = kafka::turn(version).await? else { return Ok(()) };
    let given = std::env::var("TEST_LIGHTERMAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let series = ChaosSeries {
        version: version.to_owned(),
        seeds: given.map_or_else(|| seeds.to_vec(), |seed| vec![seed]),
        at_once: AT_ONCE,
        group_protocol: Some(protocol.to_owned()),
        folder: Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned(),
        repeat: format!(
            "cargo run -p loadtest -- chaos --kafka {version} --group-protocol {protocol} --from "
        ),
    };
    let totals = series.run().await?;
    println!("{totals}");
    ensure!(
        totals.failed.is_empty(),
        "promises were broken: seeds {:?} on {version}, {protocol}",
        totals.failed
    );
    Ok(())
}

#[test]
fn seeds_together_cover_every_fault() {
    let seeds = NEWEST.iter().chain(&OLDER).flat_map(|(_, _, seeds)| *seeds);
    let met: BTreeSet<ChaosFaultKind> =
        seeds.flat_map(|seed| ChaosPlan::draw(*seed).kinds().into_keys()).collect();
    let missing: Vec<&str> =
        ChaosFaultKind::ALL.iter().filter(|kind| !met.contains(kind)).map(|kind| kind.label()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_1_ord_1_alo_1_com_1_drn_1_liv_1_under_faults_on_kafka_4_2_1() -> Result<()> {
    go_through(NEWEST).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_1_ord_1_alo_1_com_1_drn_1_liv_1_under_faults_on_kafka_3_9_1() -> Result<()> {
    go_through(OLDER).await
}
