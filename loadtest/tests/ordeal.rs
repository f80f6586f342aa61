//! Ordeals on real Apache Kafka: fixed seeds in which together every fault happens. `TEST_LIGHTERMAN_SEED` goes through one
//! other seed instead. Without Java or the jars a version is skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA` is set; jumps of
//! the clock need libfaketime, and are skipped without it unless `TEST_LIGHTERMAN_REQUIRE_FAKETIME` is set.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use loadtest::kafka::jars;
use loadtest::ordeal::plan::{Kind, Plan};
use loadtest::ordeal::series::Series;

const NEWEST: (&str, &[u64]) = ("4.2.1", &[41, 25, 98, 121, 66, 28]);
const OLDER: (&str, &[u64]) = ("3.9.1", &[351, 138, 23, 132]);
/// A small machine gives each of them enough of itself.
const AT_ONCE: usize = 3;

async fn go_through((version, seeds): (&str, &[u64])) -> Result<()> {
    if jars(version).is_none() {
        let required = std::env::var_os("TEST_LIGHTERMAN_REQUIRE_KAFKA").is_some();
        ensure!(!required, "Kafka {version} is required: run .ci/install-kafka");
        println!("skipped: Kafka {version} needs Java and .ci/install-kafka");
        return Ok(());
    }
    // Two brokers and their nodes at once would starve each other's heartbeats on a small machine.
    static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    let given = std::env::var("TEST_LIGHTERMAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let series = Series {
        version: version.to_owned(),
        seeds: given.map_or_else(|| seeds.to_vec(), |seed| vec![seed]),
        at_once: AT_ONCE,
        group_protocol: None,
        folder: Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned(),
        repeat: format!("cargo run -p loadtest -- ordeal --kafka {version} --from "),
    };
    let totals = series.run().await?;
    println!("{totals}");
    ensure!(totals.failed.is_empty(), "promises were broken: seeds {:?} on {version}", totals.failed);
    Ok(())
}

#[test]
fn together_the_seeds_have_every_fault() {
    let seeds = NEWEST.1.iter().chain(OLDER.1);
    let met: BTreeSet<Kind> = seeds.flat_map(|seed| Plan::draw(*seed).kinds().into_keys()).collect();
    let missing: Vec<&str> =
        Kind::ALL.iter().filter(|kind| !met.contains(kind)).map(|kind| kind.label()).collect();
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
