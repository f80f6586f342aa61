//! Behaviour of a node under faults of the connection: every error code of every API it uses, broken and slow
//! connections, and invalid bytes. A proxy before the embedded broker, and before real Apache Kafka, injects the
//! faults while records flow. When it stops, everything must have been delivered in order, with no commit ahead.
//! `TEST_LIGHTERMAN_SEED` repeats the random mix. Linux only: memory is read from /proc. Without Java or the jars
//! Kafka is skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA` is set.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::{FutureExt, LocalBoxFuture};
use kafka_protocol::messages::ApiKey;
use loadtest::fault_proxy::{ExchangeFault, FaultCondition, FaultRandom, HostileFrame};
use loadtest::kafka::{self, RealKafka};
use loadtest::process::watch_resident_kib;
use stage::{DRAINS_WITHIN, RequestTrigger, WireCluster, WireStage};

mod consumer_group;
mod late;
mod lies;
#[path = "../../../dataplane/tests/codes/listed.rs"]
#[allow(dead_code, reason = "the other test reads the sources of the codes")]
mod listed;
mod stage;

const SEED: u64 = 7;
const KAFKA: &str = "4.2.1";

/// Codes to inject into one API, and the trigger that makes the node send its request.
struct ApiTable {
    name: &'static str,
    api: ApiKey,
    provoke: RequestTrigger,
    /// Codes that brokers have sent although Kafka does not list them.
    more: &'static [i16],
    /// Codes that remove the member or need an operator, each group in a separate concurrent scene.
    alone: &'static [&'static [i16]],
    times: u32,
}

const REJOIN: RequestTrigger = RequestTrigger::With(ApiKey::OffsetCommit, 27);
const START_ANEW: RequestTrigger = RequestTrigger::With(ApiKey::OffsetCommit, 22);
const OTHER_COORDINATOR: RequestTrigger = RequestTrigger::With(ApiKey::OffsetCommit, 16);

const TABLES: &[ApiTable] = &[
    ApiTable {
        name: "fetch",
        api: ApiKey::Fetch,
        provoke: RequestTrigger::Nothing,
        more: &[5, 8, 13, 31, 42, 72, 87, 109],
        alone: &[],
        times: 1,
    },
    ApiTable {
        name: "list-offsets",
        api: ApiKey::ListOffsets,
        provoke: RequestTrigger::With(ApiKey::Fetch, 1),
        more: &[7, 31, 35, 42, 100],
        alone: &[],
        times: 1,
    },
    ApiTable {
        name: "leader-epoch",
        api: ApiKey::OffsetForLeaderEpoch,
        provoke: START_ANEW,
        more: &[31, 78],
        alone: &[],
        times: 1,
    },
    ApiTable {
        name: "metadata",
        api: ApiKey::Metadata,
        provoke: RequestTrigger::With(ApiKey::Fetch, 6),
        more: &[7, 31, 72, 100, 129],
        alone: &[],
        times: 2,
    },
    ApiTable {
        name: "find-coordinator",
        api: ApiKey::FindCoordinator,
        provoke: OTHER_COORDINATOR,
        more: &[7, 16, 24, 29, 31],
        alone: &[],
        times: 2,
    },
    ApiTable {
        name: "offset-commit",
        api: ApiKey::OffsetCommit,
        provoke: RequestTrigger::Nothing,
        more: &[24, 42, 110],
        alone: &[&[25, 82]],
        times: 2,
    },
    ApiTable {
        name: "offset-fetch",
        api: ApiKey::OffsetFetch,
        provoke: START_ANEW,
        more: &[7, 22, 24, 42, 69, 110],
        alone: &[],
        times: 1,
    },
    ApiTable {
        name: "join-group",
        api: ApiKey::JoinGroup,
        provoke: REJOIN,
        more: &[7, 22, 42, 111],
        alone: &[&[23], &[24], &[25], &[26], &[30], &[81], &[82]],
        times: 1,
    },
    ApiTable {
        name: "sync-group",
        api: ApiKey::SyncGroup,
        provoke: REJOIN,
        more: &[7, 14, 42],
        alone: &[&[23], &[25], &[30], &[82]],
        times: 1,
    },
    ApiTable {
        name: "heartbeat",
        api: ApiKey::Heartbeat,
        provoke: RequestTrigger::Nothing,
        more: &[7, 14, 42],
        alone: &[&[25, 82], &[30, 24]],
        times: 1,
    },
    ApiTable {
        name: "api-versions",
        api: ApiKey::ApiVersions,
        provoke: RequestTrigger::Cut(ApiKey::Fetch),
        more: &[],
        alone: &[],
        times: 2,
    },
];

/// Kinds of injection: in place of the broker's response, after it handled the request, or before.
const KINDS: [(&str, fn(i16) -> ExchangeFault); 2] =
    [("after", ExchangeFault::Code), ("before", ExchangeFault::Refuse)];

impl ApiTable {
    /// Returns the codes that Kafka lists, without those injected alone.
    fn listed(&self) -> Vec<i16> {
        let is_alone = |code: &i16| self.alone.iter().any(|codes| codes.contains(code));
        listed::codes_of(self.api).into_iter().filter(|code| !is_alone(code)).collect()
    }

    /// Returns all injected codes, without those injected alone.
    fn codes(&self) -> Vec<i16> {
        self.listed().into_iter().chain(self.more.iter().copied()).collect()
    }

    /// Returns the name and codes of each scene.
    fn scenes(&self) -> Vec<(String, Vec<i16>)> {
        let alone = self.alone.iter().map(|codes| (format!("{}-{}", self.name, codes[0]), codes.to_vec()));
        std::iter::once((self.name.to_owned(), self.codes())).chain(alone).collect()
    }
}

/// Injects every code while records flow, and waits for records to flow again after each. A code that stopped a
/// partition permanently would not reach the next one.
async fn every_code_of(
    stage: &WireStage,
    table: &ApiTable,
    name: String,
    codes: Vec<i16>,
    kind: fn(i16) -> ExchangeFault,
) -> Result<()> {
    let scene = stage.scene(&name, SEED, |_| {}).await?;
    scene.flows().await?;
    for code in codes {
        scene.faults().next_of(table.api, table.times, kind(code));
        table.provoke.add_to(scene.faults());
        scene.met(&format!("code {code}"), table.provoke).await?;
        scene.flows().await.with_context(|| format!("{name}: after {:?} code {code}", table.api))?;
    }
    scene.ends_well().await?;
    Ok(())
}

/// Codes that end a leave: the member is unknown, or an operator must permit it. After all others the leave is
/// retried.
const ENDS_A_LEAVE: &[i16] = &[25, 30, 82];

/// A member whose leave is rejected has left all the same: the next member waits for the session timeout at most.
async fn every_code_of_a_leave(
    stage: &WireStage,
    name: String,
    kind: fn(i16) -> ExchangeFault,
) -> Result<()> {
    let scene = stage.scene(&name, SEED, |_| {}).await?;
    for code in listed::codes_of(ApiKey::LeaveGroup) {
        scene.flows().await.with_context(|| format!("before LeaveGroup code {code}"))?;
        let times = if ENDS_A_LEAVE.contains(&code) { 1 } else { 2 };
        scene.faults().next_of(ApiKey::LeaveGroup, times, kind(code));
        scene.set_enabled(false).await?;
        scene.met(&format!("LeaveGroup code {code}"), RequestTrigger::Nothing).await?;
        scene.set_enabled(true).await?;
    }
    scene.flows().await?;
    scene.ends_well().await?;
    Ok(())
}

/// Runs all scenes concurrently and reports every failure.
async fn all_well(scenes: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    let results = futures::future::join_all(scenes).await;
    let wrong: Vec<_> =
        results.into_iter().filter_map(|result| Some(format!("{:#}", result.err()?))).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_every_error_code_of_every_api() -> Result<()> {
    let stage = WireStage::new().await?;
    let mut scenes: Vec<LocalBoxFuture<'_, Result<()>>> = Vec::new();
    for (when, kind) in KINDS {
        for table in TABLES {
            for (name, codes) in table.scenes() {
                let name = format!("{name}-{when}");
                scenes.push(every_code_of(&stage, table, name, codes, kind).boxed_local());
            }
        }
        scenes.push(every_code_of_a_leave(&stage, format!("leave-group-{when}"), kind).boxed_local());
    }
    all_well(scenes.into_iter()).await?;
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Broken, slow and repeated replies, each with its rate per mille; corrupt records only where a checksum can
/// detect them.
fn wire_faults() -> Vec<(&'static str, u32, ExchangeFault)> {
    vec![
        ("cut-request", 100, ExchangeFault::CutRequest),
        ("cut", 100, ExchangeFault::Cut),
        ("half-close", 100, ExchangeFault::HalfClose),
        ("truncate", 100, ExchangeFault::Truncate),
        ("stall", 20, ExchangeFault::Stall),
        ("hold", 20, ExchangeFault::Hold),
        ("delay", 300, ExchangeFault::Delay(MS(150))),
        ("jitter", 800, ExchangeFault::Jitter(MS(100))),
        ("duplicate", 100, ExchangeFault::Duplicate),
        ("reorder", 200, ExchangeFault::Reorder(MS(100))),
        ("corrupt-records", 100, ExchangeFault::CorruptRecords),
        ("wrong-correlation", 100, ExchangeFault::WrongCorrelation),
        ("drip", 200, ExchangeFault::Drip { bytes: 20, pause: MS(4) }),
        ("throttle", 300, ExchangeFault::Throttle(MS(150))),
    ]
}

/// Applies one fault for a while; records must get through before or after.
async fn one_wire_fault(
    stage: &WireStage,
    name: &str,
    (per_mille, fault): (u32, ExchangeFault),
    lasting: Duration,
) -> Result<()> {
    let scene = stage.scene(name, SEED, |_| {}).await?;
    scene.flows().await?;
    scene.faults().add(FaultCondition { apis: Vec::new(), times: None, per_mille, fault });
    tokio::time::sleep(lasting).await;
    let met: u64 = scene.faults().met().values().sum();
    ensure!(met > 0, "{name}: the fault never occurred");
    println!("{name}: {met} times");
    scene.ends_well().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_every_connection_fault() -> Result<()> {
    let stage = WireStage::new().await?;
    let faults = wire_faults();
    all_well(faults.iter().map(|(name, per_mille, fault)| {
        one_wire_fault(&stage, name, (*per_mille, *fault), Duration::from_secs(8))
    }))
    .await?;
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}

/// Combines all faults in rounds; the seed selects the active faults, their rates and durations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_a_random_mix_of_faults() -> Result<()> {
    let given = std::env::var("TEST_LIGHTERMAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(lighterman::runtime::backoff::random);
    println!("faults by TEST_LIGHTERMAN_SEED={seed}");
    let mixed = async {
        let stage = WireStage::new().await?;
        let scene = stage.scene("mix", seed, |_| {}).await?;
        let mut random = FaultRandom(seed);
        for _ in 0..4 {
            let mut choices = wire_faults();
            for (_, kind) in KINDS {
                choices.extend(TABLES.iter().map(|table| (table.name, 15, kind(table.codes()[1]))));
            }
            for (_, per_mille, fault) in choices {
                // Half of the kinds, a different half in each run.
                if random.below(2) == 0 {
                    let per_mille = random.below(u64::from(per_mille) / 4 + 2) as u32;
                    scene.faults().add(FaultCondition { apis: Vec::new(), times: None, per_mille, fault });
                }
            }
            tokio::time::sleep(MS(2_000 + random.below(2_000))).await;
            scene.proxy.calm();
            tokio::time::sleep(MS(random.below(1_500))).await;
        }
        scene.ends_well().await?;
        anyhow::Ok(())
    };
    mixed.await.with_context(|| format!("TEST_LIGHTERMAN_SEED={seed}"))
}

/// Checks what the embedded broker cannot show: that Kafka's own frames are read, rewritten and rejected correctly.
/// Covers each API's codes before the broker handles the request, and all faults of a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_codes_and_connection_faults_on_kafka() -> Result<()> {
    let Some(_turn) = kafka::turn(KAFKA).await? else { return Ok(()) };
    let stage = WireStage::before(WireCluster::Real(RealKafka::start(KAFKA)?), "classic").await?;
    let mut scenes: Vec<LocalBoxFuture<'_, Result<()>>> = Vec::new();
    for table in TABLES {
        let name = format!("{}-real", table.name);
        scenes.push(every_code_of(&stage, table, name, table.listed(), ExchangeFault::Refuse).boxed_local());
    }
    scenes.push(every_wire_fault_at_once(&stage).boxed_local());
    scenes.push(late::a_commit_served_late(&stage).boxed_local());
    all_well(scenes.into_iter()).await?;
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}

async fn every_wire_fault_at_once(stage: &WireStage) -> Result<()> {
    let scene = stage.scene("wire-real", SEED, |_| {}).await?;
    scene.flows().await?;
    for (_, per_mille, fault) in wire_faults() {
        scene.faults().add(FaultCondition { apis: Vec::new(), times: Some(2), per_mille, fault });
    }
    scene.met("every way, twice", RequestTrigger::Nothing).await?;
    scene.ends_well().await?;
    Ok(())
}

const HOSTILITIES: &[(&str, HostileFrame)] = &[
    ("huge-length", HostileFrame::HugeLength),
    ("negative-length", HostileFrame::NegativeLength),
    ("empty-promise", HostileFrame::EmptyPromise),
    ("garbage", HostileFrame::Garbage),
    ("million-entries", HostileFrame::Entries(1_000_000)),
    ("most-entries", HostileFrame::Entries(i32::MAX as u32 - 1)),
    ("stuffed", HostileFrame::Stuffed(4 * 1024 * 1024)),
    ("overstuffed", HostileFrame::Stuffed(64 * 1024 * 1024)),
];
/// Memory limit of a node with a memory budget of 64 MiB in a debug build, whatever a broker sends.
const HOSTILE_RESIDENT_MIB_MAX: u64 = 256;

/// A malicious broker affects neither the process nor its memory; when it stops, everything is delivered. Two
/// scenes run at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mem_1_alo_1_hostile_frames_are_survived() -> Result<()> {
    let stage = WireStage::new().await?;
    let peak = watch_resident_kib(stage.node.pid().context("runs")?);
    for pair in HOSTILITIES.chunks(2) {
        let lies = pair.iter().map(|(name, how)| {
            one_wire_fault(&stage, name, (250, ExchangeFault::Hostile(*how)), Duration::from_secs(3))
        });
        all_well(lies).await?;
        let peak_mib = peak.load(Ordering::Relaxed) / 1024;
        println!("peak resident memory {peak_mib} MiB");
        ensure!(peak_mib < HOSTILE_RESIDENT_MIB_MAX, "after {}: {peak_mib} MiB", pair[0].0);
    }
    ensure!(stage.node.terminate(DRAINS_WITHIN).await? == Some(0), "drains and exits 0");
    Ok(())
}
