//! The seven traps in which comparable products commit past a record that was not delivered, as scenarios: on the
//! embedded broker, and on real Apache Kafka with a node that is killed at a random time (`TEST_LIGHTERMAN_SEED`
//! repeats it). A watch compares every committed offset with what the function has taken by then; afterwards the
//! checker and the audit judge. Without Java or the jars Kafka is skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA`
//! is set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker, RequestFault};
use loadtest::checker::{HistoryVerdict, check, repeated_batches_max};
use loadtest::function::{FakeLambda, InvocationAction, InvocationEvent, PoisonRecords};
use loadtest::kafka::{self, RealKafka};
use loadtest::log_reader::await_values;
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer, ends};
use loadtest::watch::{CommitWatch, WatchedTopic, taken};
use parking_lot::Mutex;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 2;
const OK: InvocationAction = InvocationAction::Succeed(Duration::from_millis(2));
/// API key of Fetch, which returns records and, with them, the end of the log.
const FETCH: i16 = 1;

/// Cluster on which a trap runs.
enum TrapCluster {
    Embedded(EmbeddedBroker),
    /// With the state of the random numbers that determine when a node is killed.
    Real(RealKafka, u64),
}

impl TrapCluster {
    fn embedded() -> Result<Self> {
        Ok(Self::Embedded(EmbeddedBroker::start(BrokerSettings::default())?))
    }

    fn servers(&self) -> String {
        match self {
            Self::Embedded(broker) => broker.address().to_string(),
            Self::Real(kafka, _) => kafka.servers(),
        }
    }

    /// Returns the time of this scenario's kill, random within `most` (splitmix64); `None` on the embedded broker.
    fn moment(&mut self, most: Duration) -> Option<Duration> {
        let Self::Real(_, state) = self else { return None };
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(Duration::from_millis((mixed ^ (mixed >> 31)) % most.as_millis() as u64))
    }
}

/// A topic, its function, and the parameters of a watch over its commits.
struct TrapScene {
    servers: String,
    topic: String,
    producer: TestProducer,
    lambda: FakeLambda,
    data: tempfile::TempDir,
    produced: ProducedOffsets,
    /// Records that may be committed although the function never took them.
    ended_otherwise: Arc<Mutex<BTreeSet<(i32, i64)>>>,
}

impl TrapScene {
    async fn new(cluster: &TrapCluster, topic: &str, records: usize) -> Result<Self> {
        println!("scenario: {topic}");
        let servers = cluster.servers();
        let mut producer = TestProducer::connect(&servers).await?;
        producer.create_topic(topic, PARTITIONS).await?;
        let produced = producer.write(topic, PARTITIONS, records, 100, Compression::None).await?;
        let (lambda, data) = (FakeLambda::start().await?, tempfile::tempdir()?);
        lambda.set_script(|_| OK);
        let (topic, ended_otherwise) = (topic.to_owned(), Arc::default());
        Ok(Self { servers, topic, producer, lambda, data, produced, ended_otherwise })
    }

    async fn node(&self) -> Result<NodeProcess> {
        self.node_in(self.data.path()).await
    }

    async fn node_in(&self, data: &std::path::Path) -> Result<NodeProcess> {
        let settings =
            [("LIGHTERMAN_INVOKE_BACKOFF_MAX", "200ms"), ("LIGHTERMAN_KAFKA_SESSION_TIMEOUT", "6s")];
        NodeProcess::start(data, &self.lambda.endpoint_url(), &settings).await
    }

    fn poison(&self, records: &[(i32, i64)], names: bool) {
        self.lambda.set_poison(PoisonRecords { records: records.iter().copied().collect(), names });
    }

    /// Creates a mapping on a node. On real Kafka the node is killed once within `most`, and restarted.
    async fn run(
        &self,
        cluster: &mut TrapCluster,
        more: Value,
        most: Duration,
    ) -> Result<(NodeProcess, String, CommitWatch)> {
        let node = self.node().await?;
        let group = node.create_mapping(&self.servers, &self.topic, more).await?;
        let watch = self.watch(&group).await?;
        let Some(moment) = cluster.moment(most) else { return Ok((node, group, watch)) };
        tokio::time::sleep(moment).await;
        node.kill().await?;
        Ok((self.node().await?, group, watch))
    }

    async fn watch(&self, group: &str) -> Result<CommitWatch> {
        Ok(CommitWatch::over(WatchedTopic {
            producer: TestProducer::connect(&self.servers).await?,
            lambda: self.lambda.clone(),
            function: "f".to_owned(),
            group: group.to_owned(),
            topic: self.topic.clone(),
            partitions: PARTITIONS,
            ended_otherwise: Arc::clone(&self.ended_otherwise),
            every: Duration::from_millis(25),
        }))
    }

    async fn drained(&mut self, group: &str) -> Result<()> {
        self.producer.await_committed(group, &self.topic, &ends(&self.produced), LIMIT).await
    }

    async fn committed(&mut self, group: &str, partition: i32) -> Result<i64> {
        let committed = self.producer.committed(group, &self.topic, PARTITIONS).await?;
        Ok(committed.get(&partition).copied().unwrap_or(0))
    }

    async fn until(&self, what: &str, fact: impl Fn(&[InvocationEvent]) -> bool) -> Result<()> {
        let reached = async {
            while !fact(&self.lambda.events()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.with_context(|| what.to_owned())
    }

    /// Asserts ALO-1, ORD-1 and OWN-1 for all records except these.
    fn judge_without(&self, otherwise: &[(i32, i64)]) -> HistoryVerdict {
        let mut expected = self.produced.clone();
        for (partition, offset) in otherwise {
            expected.entry(*partition).or_default().remove(offset);
        }
        let verdict = check(&expected, &self.lambda.events());
        verdict.assert_clean();
        verdict
    }

    /// Asserts that each offset has exactly one outcome in the audit, which is one of these.
    async fn audited(
        &self,
        node: &NodeProcess,
        group: &str,
        outcomes: &[&str],
    ) -> Result<BTreeMap<String, u64>> {
        let shown = node.api().call("GET", &format!("/lighterman/v1/mappings/{group}/audit"), None).await?;
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        for partition in shown["partitions"].as_array().context("partitions")? {
            ensure!(partition["verdict"] == "accounted", "{partition}");
            for (outcome, sum) in partition["totals"].as_object().context("totals")? {
                *totals.entry(outcome.clone()).or_default() += sum.as_u64().context("a sum")?;
            }
        }
        let all: usize = self.produced.values().map(BTreeSet::len).sum();
        ensure!(totals.values().sum::<u64>() == all as u64, "not exactly one outcome each: {totals:?}");
        ensure!(totals.keys().all(|outcome| outcomes.contains(&outcome.as_str())), "{totals:?}");
        Ok(totals)
    }
}

fn tries(events: &[InvocationEvent], record: (i32, i64)) -> usize {
    let holds = |event: &&InvocationEvent| match event {
        InvocationEvent::Start { offsets, .. } => {
            offsets.get(&record.0).is_some_and(|list| list.contains(&record.1))
        }
        InvocationEvent::End { .. } => false,
    };
    events.iter().filter(holds).count()
}

/// Status 200 with `X-Amz-Function-Error` is not a success.
async fn trap_1_function_error_with_200_is_failure(cluster: &mut TrapCluster) -> Result<()> {
    let mut scene = TrapScene::new(cluster, "trap-1", 300).await?;
    scene
        .lambda
        .set_script(|invocation| if invocation % 3 == 2 { OK } else { InvocationAction::FunctionError });
    let most = Duration::from_millis(1_500);
    let (node, group, watch) = scene.run(cluster, json!({"BatchSize": 20}), most).await?;
    scene.drained(&group).await?;
    watch.was_clean().await?;
    scene.judge_without(&[]);
    scene.audited(&node, &group, &["delivered"]).await?;
    Ok(())
}

/// Throttling and an unavailable service are waited out for any time, and consume no attempt.
async fn trap_2_delivery_recovers_after_throttles_and_503s(cluster: &mut TrapCluster) -> Result<()> {
    let mut scene = TrapScene::new(cluster, "trap-2", 300).await?;
    let out = Arc::new(AtomicBool::new(true));
    let refuses = Arc::clone(&out);
    scene.lambda.set_script(move |invocation| match invocation % 2 {
        _ if !refuses.load(Ordering::Relaxed) => OK,
        0 => InvocationAction::Throttle,
        _ => InvocationAction::Status(503),
    });
    let more = json!({"BatchSize": 20, "MaximumRetryAttempts": 0});
    let (node, group, watch) = scene.run(cluster, more, Duration::from_secs(2)).await?;
    let (enough, lasts) = (scene.lambda.invocations() + 10, Instant::now() + Duration::from_secs(2));
    let lasted = async {
        while scene.lambda.invocations() < enough || Instant::now() < lasts {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, lasted).await.context("the invocation is not retried")?;
    ensure!(scene.committed(&group, 0).await? == 0, "nothing is delivered");
    out.store(false, Ordering::Relaxed);
    scene.drained(&group).await?;
    watch.was_clean().await?;
    scene.judge_without(&[]);
    scene.audited(&node, &group, &["delivered"]).await?;
    Ok(())
}

/// The success of later records does not commit a failed one, whether the function reports it or not.
async fn trap_3_later_success_never_commits_failed_record(cluster: &mut TrapCluster) -> Result<()> {
    for (topic, names) in [("trap-3-batch", false), ("trap-3-named", true)] {
        let mut scene = TrapScene::new(cluster, topic, 200).await?;
        let bad = (0, 37);
        scene.poison(&[bad], names);
        let mut more = json!({"BatchSize": 10});
        if names {
            more["FunctionResponseTypes"] = json!(["ReportBatchItemFailures"]);
        }
        let (node, group, watch) = scene.run(cluster, more, Duration::from_secs(2)).await?;
        scene.until("record 37 is retried", |events| tries(events, bad) >= 4).await?;
        let last = ends(&scene.produced)[&1];
        scene.producer.await_committed(&group, topic, &BTreeMap::from([(1, last)]), LIMIT).await?;
        for _ in 0..10 {
            let committed = scene.committed(&group, 0).await?;
            ensure!(committed <= 37 && (!names || committed == 37), "{committed}");
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        scene.poison(&[], names);
        scene.drained(&group).await?;
        watch.was_clean().await?;
        scene.judge_without(&[]);
        scene.audited(&node, &group, &["delivered"]).await?;
    }
    Ok(())
}

/// A record whose destination is down has not ended, and nothing after it is committed.
async fn trap_4_destination_down_blocks_commits(cluster: &mut TrapCluster) -> Result<()> {
    let mut scene = TrapScene::new(cluster, "trap-4", 200).await?;
    let bad = [(0, 0), (0, 63), (1, 12)];
    scene.poison(&bad, false);
    let more = json!({
        "BatchSize": 20, "MaximumRetryAttempts": 0, "BisectBatchOnFunctionError": true,
        "DestinationConfig": {"OnFailure": {"Destination": "kafka://trap-4-failed"}},
    });
    let (node, group, watch) = scene.run(cluster, more, Duration::from_secs(3)).await?;
    let path = format!("/lighterman/v1/mappings/{group}/partitions");
    let held = async {
        loop {
            let shown = node.api().call("GET", &path, None).await?;
            let all = shown["partitions"].as_array().cloned().unwrap_or_default();
            let held = |one: &&Value| one["failing"]["onItsWayToDestination"].is_string();
            if all.iter().filter(held).count() == PARTITIONS as usize {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, held).await.context("the partitions are not held")??;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(
        scene.committed(&group, 0).await? == 0 && scene.committed(&group, 1).await? == 12,
        "the commit is held"
    );
    scene.ended_otherwise.lock().extend(bad);
    scene.producer.create_topic("trap-4-failed", 1).await?;
    scene.drained(&group).await?;
    watch.was_clean().await?;
    scene.judge_without(&bad);
    let mut buried = BTreeSet::new();
    for value in await_values(&mut scene.producer, "trap-4-failed", bad.len()).await? {
        let record: Value = serde_json::from_slice(&value)?;
        let places = record["payload"]["records"].as_object().context("payload")?;
        for one in places.values().flat_map(|list| list.as_array().into_iter().flatten()) {
            let number = |name: &str| one[name].as_i64().context("a number");
            buried.insert((number("partition")? as i32, number("offset")?));
        }
    }
    ensure!(buried == BTreeSet::from(bad), "{buried:?}");
    let totals = scene.audited(&node, &group, &["delivered", "dead_lettered"]).await?;
    ensure!(totals["dead_lettered"] == 3, "{totals:?}");
    Ok(())
}

/// A planned hand-over waits for the reply and repeats nothing. A reply that arrives at a fenced owner commits
/// nothing.
async fn trap_5_reply_arrives_after_revocation(cluster: &mut TrapCluster) -> Result<()> {
    const BATCH: u64 = 10;
    let mut scene = TrapScene::new(cluster, "trap-5", 600).await?;
    scene.lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(400)));
    let more = json!({
        "BatchSize": BATCH, "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": "trap-5"},
    });
    let first = scene.node().await?;
    first.create_mapping(&scene.servers, &scene.topic, more.clone()).await?;
    let watch = scene.watch("trap-5").await?;
    scene.until("the first node starts", |events| events.len() > 2).await?;
    let elsewhere = tempfile::tempdir()?;
    let second = scene.node_in(elsewhere.path()).await?;
    let id = second.create_mapping(&scene.servers, &scene.topic, more).await?;
    let shared = async {
        while second.metric("lighterman_owned_partitions", &id).await? != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, shared).await.context("the second node receives no partition")??;
    let planned = check(&scene.produced, &scene.lambda.events());
    ensure!(planned.repeated.is_empty(), "a planned hand-over repeats nothing: {:?}", planned.repeated);
    // Longer than the session: the group reassigns the partition while one of its invocations is in flight.
    let moment = cluster.moment(Duration::from_millis(400)).unwrap_or_default();
    tokio::time::sleep(moment).await;
    first.signal("-STOP")?;
    tokio::time::sleep(Duration::from_secs(9)).await;
    first.signal("-CONT")?;
    scene.lambda.set_script(|_| OK);
    scene.drained("trap-5").await?;
    watch.was_clean().await?;
    let verdict = scene.judge_without(&[]);
    // Frozen between a result and its commit, the node has the next batch in flight already.
    let most = BATCH * repeated_batches_max();
    ensure!(verdict.repeated.values().all(|repeated| *repeated <= most), "{:?}", verdict.repeated);
    Ok(())
}

/// Ended records after one that has not ended do not commit it: filtered records, one that an operator skips, and
/// others that the function takes after one that it reports.
async fn trap_6_later_outcomes_never_commit_undelivered_record(cluster: &mut TrapCluster) -> Result<()> {
    let mut scene = TrapScene::new(cluster, "trap-6", 120).await?;
    let (bad, skipped) = ((0, 5), (0, 8));
    // The producer's keys are the numbers of the records in their partition.
    let filtered = [(0, 6), (0, 7), (1, 6), (1, 7)];
    scene.ended_otherwise.lock().extend(filtered);
    scene.poison(&[bad, skipped], true);
    let more = json!({
        "BatchSize": 10, "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "Tags": {"lighterman:partial-batch-response": "named"},
        "FilterCriteria": {"Filters": [{"Pattern": r#"{"key":[{"anything-but":["key-6","key-7"]}]}"#}]},
    });
    let (node, group, watch) = scene.run(cluster, more, Duration::from_secs(2)).await?;
    scene.until("both records are retried", |events| tries(events, bad) >= 2).await?;
    scene.ended_otherwise.lock().insert(skipped);
    let path = format!("/lighterman/v1/mappings/{group}/partitions/0/skip");
    let skip = json!({"Offset": skipped.1, "Reason": "it follows a failing record"});
    let asked = async {
        while node.api().call("POST", &path, Some(&skip)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked).await.context("it cannot be skipped")?;
    let tried = tries(&scene.lambda.events(), bad);
    scene.until("record 5 is retried alone", |events| tries(events, bad) > tried + 2).await?;
    let behind = taken(&scene.lambda.events()).iter().filter(|place| place.0 == 0 && place.1 > 5).count();
    ensure!(behind >= 2, "later records have outcomes");
    ensure!(scene.committed(&group, 0).await? == 5, "the commit stays at 5");
    let node = match cluster.moment(Duration::from_millis(500)) {
        None => node,
        Some(moment) => {
            tokio::time::sleep(moment).await;
            node.kill().await?;
            scene.node().await?
        }
    };
    scene.poison(&[], true);
    scene.drained(&group).await?;
    watch.was_clean().await?;
    let otherwise: Vec<(i32, i64)> = filtered.into_iter().chain([skipped]).collect();
    let verdict = scene.judge_without(&otherwise);
    let most = 20 * repeated_batches_max();
    ensure!(verdict.repeated.values().sum::<u64>() <= most, "{:?}", verdict.repeated);
    let totals =
        scene.audited(&node, &group, &["delivered", "filtered", "skipped", "resolved_earlier"]).await?;
    ensure!(totals.get("filtered").is_some_and(|filtered| *filtered > 0), "{totals:?}");
    Ok(())
}

/// An unreadable lag is not zero: no consumer is removed, and nothing is skipped.
async fn trap_7_unknown_lag_removes_no_consumer(cluster: &mut TrapCluster) -> Result<()> {
    let mut scene = TrapScene::new(cluster, "trap-7", 1_200).await?;
    scene.lambda.set_script(|_| InvocationAction::Succeed(Duration::from_millis(400)));
    let more =
        json!({"BatchSize": 10, "ProvisionedPollerConfig": {"MinimumPollers": 1, "MaximumPollers": 4}});
    let (node, group, watch) = scene.run(cluster, more, Duration::from_secs(2)).await?;
    let consumers = || node.metric("lighterman_consumers", &group);
    let grown = async {
        while consumers().await?.is_none_or(|consumers| consumers < 2.0) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(LIMIT, grown).await.context("the lag adds no second consumer")??;
    match cluster {
        TrapCluster::Embedded(broker) => {
            for fault in [RequestFault::CutBefore, RequestFault::Garbage, RequestFault::CutAfter] {
                broker.faults().add(FETCH, 2, fault);
            }
        }
        TrapCluster::Real(kafka, _) => kafka.freeze()?,
    }
    let blind = Instant::now() + Duration::from_secs(3);
    while Instant::now() < blind {
        ensure!(consumers().await?.is_some_and(|consumers| consumers >= 2.0), "a consumer was removed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if let TrapCluster::Real(kafka, _) = cluster {
        kafka.thaw()?;
    }
    scene.lambda.set_script(|_| OK);
    scene.drained(&group).await?;
    watch.was_clean().await?;
    scene.judge_without(&[]);
    scene.audited(&node, &group, &["delivered"]).await?;
    Ok(())
}

/// Runs each trap on its own embedded broker.
macro_rules! on_the_embedded_broker {
    ($($trap:ident)*) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $trap() -> anyhow::Result<()> {
                    super::$trap(&mut super::TrapCluster::embedded()?).await
                }
            )*
        }

        async fn all_traps(cluster: &mut TrapCluster) -> Result<()> {
            $($trap(cluster).await.context(stringify!($trap))?;)*
            Ok(())
        }
    };
}

on_the_embedded_broker! {
    trap_1_function_error_with_200_is_failure
    trap_2_delivery_recovers_after_throttles_and_503s
    trap_3_later_success_never_commits_failed_record
    trap_4_destination_down_blocks_commits
    trap_5_reply_arrives_after_revocation
    trap_6_later_outcomes_never_commit_undelivered_record
    trap_7_unknown_lag_removes_no_consumer
}

async fn all_traps_with_kills(version: &str) -> Result<()> {
    let Some(_turn) = kafka::turn(version).await? else { return Ok(()) };
    let given = std::env::var("TEST_LIGHTERMAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(lighterman::runtime::backoff::random);
    println!("kills on {version} by TEST_LIGHTERMAN_SEED={seed}");
    let mut cluster = TrapCluster::Real(RealKafka::start(version)?, seed);
    all_traps(&mut cluster).await.with_context(|| format!("{version}, TEST_LIGHTERMAN_SEED={seed}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_traps_with_kills_on_kafka_4_2_1() -> Result<()> {
    all_traps_with_kills("4.2.1").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_ord_1_com_1_traps_with_kills_on_kafka_3_9_1() -> Result<()> {
    all_traps_with_kills("3.9.1").await
}
