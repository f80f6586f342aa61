//! Failed records at their destinations, read back by the destinations' own clients: SQS, SNS and S3 of moto's
//! server with boto3, a Kafka topic of the embedded broker with kcat and confluent-kafka. The messages are compared
//! field by field with the examples that AWS publishes. Without the Python client the test is skipped, unless
//! `TEST_LIGHTERMAN_REQUIRE_CLIENTS` is set.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use bytes::Bytes;
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use lighterman::runtime::clock;
use lighterman_proto::failure::iso_8601;
use lighterman_proto::units::TimestampMs;
use loadtest::aws::{ACCOUNT, AwsStandIn, REGION, python};
use loadtest::function::{FakeLambda, InvocationEvent, PoisonRecords, request_id};
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, TestProducer, stamped_batch};
use serde::Deserialize;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders";
/// Records of each partition, all in one batch, which the function rejects.
const RECORDS: [usize; 2] = [12, 3];
/// Together the values exceed the size of an SQS message, or of a request to Kafka.
const VALUE_BYTES: usize = 100_000;
/// `2019-11-14T00:38:04.835Z`, as in AWS's example.
const FIRST_TIMESTAMP: i64 = 1_573_691_884_835;

const QUEUE: &str = include_str!("../../proto/fixtures/aws-on-failure-queue.json");
const OBJECT: &str = include_str!("../../proto/fixtures/aws-on-failure-object.json");
const MESSAGE: &str = include_str!("../../proto/fixtures/aws-on-failure-topic.json");

struct DestinationScene {
    broker: EmbeddedBroker,
    producer: TestProducer,
    lambda: FakeLambda,
    aws: AwsStandIn,
    node: NodeProcess,
    _data: tempfile::TempDir,
}

impl DestinationScene {
    /// Creates a topic whose batches all fail. Prints one line and returns `None` if the clients are not installed.
    async fn new() -> Result<Option<Self>> {
        let Some(python) = python().await? else {
            println!(
                "skipped: moto's server, boto3 and confluent-kafka are not installed (.ci/install-clients)"
            );
            return Ok(None);
        };
        let (aws, lambda) = (AwsStandIn::start(python).await?, FakeLambda::start().await?);
        let broker = EmbeddedBroker::start(BrokerSettings::default())?;
        let mut producer = TestProducer::connect(&broker.address().to_string()).await?;
        producer.create_topic(TOPIC, RECORDS.len() as i32).await?;
        for (partition, records) in (0..).zip(RECORDS) {
            let stamped: Vec<_> = (0..records).map(|index| (value(index), timestamp(index))).collect();
            producer
                .send(TOPIC, partition, stamped_batch(&stamped, Compression::None, -1, -1)?, None)
                .await?;
        }
        lambda.set_poison(PoisonRecords { records: BTreeSet::from([(0, 3), (1, 1)]), names: false });
        let data = tempfile::tempdir()?;
        let mut settings = vec![("LIGHTERMAN_INVOKE_BACKOFF_MAX", "200ms")];
        settings.extend(aws.settings());
        let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &settings).await?;
        Ok(Some(Self { broker, producer, lambda, aws, node, _data: data }))
    }

    fn servers(&self) -> String {
        self.broker.address().to_string()
    }

    /// Creates a mapping of the function `name` with two attempts, whose failures go to `destination`. Returns its
    /// UUID.
    async fn map(&self, name: &str, destination: &str, tags: Value) -> Result<String> {
        let more = json!({
            "FunctionName": name, "BatchSize": 100, "MaximumRetryAttempts": 1, "Tags": tags,
            "DestinationConfig": {"OnFailure": {"Destination": destination}},
        });
        self.node.create_mapping(&self.servers(), TOPIC, more).await
    }

    /// Waits until every offset of the mapping has ended, and returns the totals by outcome.
    async fn ended(&mut self, group: &str) -> Result<BTreeMap<String, u64>> {
        let ends = (0..).zip(RECORDS).map(|(partition, records)| (partition, records as i64)).collect();
        self.producer.await_committed(group, TOPIC, &ends, LIMIT).await?;
        let shown =
            self.node.api().call("GET", &format!("/lighterman/v1/mappings/{group}/audit"), None).await?;
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        for partition in shown["partitions"].as_array().context("partitions")? {
            ensure!(partition["verdict"] == "accounted", "{partition}");
            for (outcome, sum) in partition["totals"].as_object().context("totals")? {
                *totals.entry(outcome.clone()).or_default() += sum.as_u64().context("a sum")?;
            }
        }
        Ok(totals)
    }

    /// Waits until both partitions of the mapping wait for their destination.
    async fn held(&self, group: &str) -> Result<()> {
        let path = format!("/lighterman/v1/mappings/{group}/partitions");
        let held = async {
            loop {
                let shown = self.node.api().call("GET", &path, None).await?;
                let all = shown["partitions"].as_array().cloned().unwrap_or_default();
                let waits =
                    |one: &&Value| one["failing"]["onItsWayToDestination"] == "RetryAttemptsExhausted";
                if all.iter().filter(waits).count() == RECORDS.len() {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LIMIT, held).await.context("the partitions are not held")?
    }

    /// Waits until the destination has rejected several attempts for each partition.
    async fn tried_again_and_again(&self, group: &str) -> Result<()> {
        let tried = async {
            let tries = (2 * RECORDS.len()) as f64;
            let errors = || self.node.metric("lighterman_destination_errors_total", group);
            while errors().await?.is_none_or(|errors| errors < tries) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(LIMIT, tried).await.context("the destination is not retried")?
    }

    /// Returns true if `id` is an invocation with records of `partition`.
    fn is_invocation_of(&self, id: &Value, partition: i32) -> bool {
        let holds = |event: &InvocationEvent| match event {
            InvocationEvent::Start { id, offsets } => {
                offsets.contains_key(&partition).then(|| request_id(*id))
            }
            InvocationEvent::End { .. } => None,
        };
        self.lambda.events().iter().filter_map(holds).any(|name| *id == *name)
    }

    /// Returns the expected failure message. Fields that only this run knows are checked and copied from `found`;
    /// the others are AWS's.
    fn golden(&self, golden: &str, found: &Value, name: &str, partition: i32) -> Value {
        let mut golden: Value = serde_json::from_str(golden).expect("JSON");
        let request = &mut golden["requestContext"];
        let id = &found["requestContext"]["requestId"];
        assert!(self.is_invocation_of(id, partition), "{id} had no records of {partition}: {found}");
        request["requestId"] = id.clone();
        let qualifier = if request["condition"] == "RetriesExhausted" { ":$LATEST" } else { "" };
        request["functionArn"] =
            format!("arn:aws:lambda:us-east-1:000000000000:function:{name}{qualifier}").into();
        request["approximateInvokeCount"] = 2.into();
        let at = found["timestamp"].as_str().expect("text");
        let now = iso_8601(clock::wall_ms());
        assert!(at.len() == now.len() && at.ends_with('Z') && *at <= *now && at[..13] >= now[..13], "{at}");
        golden["timestamp"] = at.into();
        let info = golden["KafkaBatchInfo"].as_object_mut().expect("an object");
        // Self-managed Kafka has no ARN.
        info.remove("eventSourceArn");
        info.insert("bootstrapServers".to_owned(), self.servers().into());
        // An addition to AWS's fields.
        golden["lighterman"] = json!({"errorType": "Boom", "errorMessage": "on purpose"});
        golden
    }

    /// Returns AWS's example for SQS, SNS and S3 with this run's values.
    fn golden_batch(&self, golden: &str, found: &Value, name: &str, partition: i32) -> Value {
        let mut golden = self.golden(golden, found, name, partition);
        let last = RECORDS[partition as usize] - 1;
        let info = &mut golden["KafkaBatchInfo"];
        info["batchSize"] = (last + 1).into();
        info["payloadSize"] = event(&self.servers(), partition, 0..=last).to_string().len().into();
        info["recordsInfo"] = json!({format!("{TOPIC}-{partition}"): {
            "firstRecordOffset": "0",
            "lastRecordOffset": last.to_string(),
            "firstRecordTimestamp": "2019-11-14T00:38:04.835Z",
            "lastRecordTimestamp": iso_8601(TimestampMs(timestamp(last))),
        }});
        golden
    }

    /// Asserts that each partition's share is in a message of its own, equal to AWS's example.
    fn assert_messages_are_golden(&self, bodies: &[String], name: &str) {
        assert_eq!(bodies.len(), RECORDS.len(), "one for each partition: {bodies:?}");
        let mut left: BTreeSet<i32> = (0..RECORDS.len() as i32).collect();
        for body in bodies {
            let found: Value = serde_json::from_str(body).expect("JSON");
            let partition = partition_of(&found);
            assert!(left.remove(&partition), "twice: {body}");
            assert_eq!(found, self.golden_batch(QUEUE, &found, name, partition));
            assert!(body.len() < 2_000, "facts, and no payload: {} bytes", body.len());
        }
    }
}

fn value(index: usize) -> Bytes {
    Bytes::from(vec![b'a' + index as u8; VALUE_BYTES])
}

fn timestamp(index: usize) -> i64 {
    FIRST_TIMESTAMP + 67 * index as i64
}

/// Returns the partition that a failure message for SQS, SNS or S3 refers to.
fn partition_of(found: &Value) -> i32 {
    let info = found["KafkaBatchInfo"]["recordsInfo"].as_object().expect("an object");
    let name = info.keys().next().expect("a partition");
    name.strip_prefix(TOPIC).and_then(|rest| rest.strip_prefix('-')?.parse().ok()).expect("topic and index")
}

/// Returns the event of these records that the function receives.
fn event(servers: &str, partition: i32, offsets: RangeInclusive<usize>) -> Value {
    let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let record = |index: usize| {
        json!({
            "topic": TOPIC, "partition": partition, "offset": index, "timestamp": timestamp(index),
            "timestampType": "CREATE_TIME", "key": base64(format!("key-{index}").as_bytes()),
            "value": base64(&value(index)), "headers": [{"h": [120]}],
        })
    };
    json!({
        "eventSource": "SelfManagedKafka", "bootstrapServers": servers,
        "records": {format!("{TOPIC}-{partition}"): offsets.map(record).collect::<Vec<_>>()},
    })
}

fn queue_arn(name: &str) -> String {
    format!("arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")
}

fn topic_arn(name: &str) -> String {
    format!("arn:aws:sns:{REGION}:{ACCOUNT}:{name}")
}

fn exhausted_at_destination() -> BTreeMap<String, u64> {
    BTreeMap::from([("dead_lettered".to_owned(), RECORDS.iter().sum::<usize>() as u64)])
}

#[derive(Debug, Deserialize)]
struct S3Object {
    key: String,
    #[serde(rename = "type")]
    content_type: String,
    body: String,
}

/// Asserts the key `aws/lambda/<mapping>/<topic>-<partition>/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-<random>`, with the
/// time of the failure message.
fn assert_key_is_golden(key: &str, group: &str, partition: i32, at: &str) {
    let (day, time) = (at[..10].replace('-', "/"), at[..19].replace(':', "."));
    let begins = format!("aws/lambda/{group}/{TOPIC}-{partition}/{day}/{time}-");
    let random = key.strip_prefix(&begins).unwrap_or_else(|| panic!("{key} does not begin with {begins}"));
    let groups: Vec<usize> = random.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{key}");
}

async fn queues_and_notifications(scene: &mut DestinationScene) -> Result<()> {
    let _: Value = scene.aws.call(&["create_queue", "failed"]).await?;
    let _: Value = scene.aws.call(&["create_topic", "alarms"]).await?;
    let queue = scene.map("to-queue", &queue_arn("failed"), json!({})).await?;
    let topic = scene.map("to-topic", &topic_arn("alarms"), json!({})).await?;
    for group in [queue, topic] {
        ensure!(scene.ended(&group).await? == exhausted_at_destination(), "all dead-lettered");
    }
    let bodies: Vec<String> = scene.aws.call(&["received", "failed", "2"]).await?;
    scene.assert_messages_are_golden(&bodies, "to-queue");
    let bodies: Vec<String> = scene.aws.call(&["notified", "alarms", "2"]).await?;
    scene.assert_messages_are_golden(&bodies, "to-topic");
    Ok(())
}

async fn objects(scene: &mut DestinationScene) -> Result<()> {
    let _: Value = scene.aws.call(&["create_bucket", "failed-records"]).await?;
    let group = scene.map("to-bucket", "arn:aws:s3:::failed-records", json!({})).await?;
    ensure!(scene.ended(&group).await? == exhausted_at_destination(), "all dead-lettered");
    let objects: Vec<S3Object> = scene.aws.call(&["objects", "failed-records", "2"]).await?;
    ensure!(objects.len() == RECORDS.len(), "one for each partition");
    for object in objects {
        let found: Value = serde_json::from_str(&object.body)?;
        let partition = partition_of(&found);
        let payload = found["payload"].as_str().context("an escaped string")?;
        let mut golden = scene.golden_batch(OBJECT, &found, "to-bucket", partition);
        golden["payload"] = payload.into();
        assert_eq!(found, golden);
        ensure!(found["KafkaBatchInfo"]["payloadSize"] == payload.len(), "the event's size");
        let last = RECORDS[partition as usize] - 1;
        let event: Value = serde_json::from_str(payload)?;
        ensure!(event == event_of(scene, partition, 0..=last), "the whole event");
        assert_key_is_golden(&object.key, &group, partition, found["timestamp"].as_str().context("a time")?);
        ensure!(object.content_type == "application/json", "{}", object.content_type);
    }
    Ok(())
}

fn event_of(scene: &DestinationScene, partition: i32, offsets: RangeInclusive<usize>) -> Value {
    event(&scene.servers(), partition, offsets)
}

/// Reads keys and values of a topic with kcat.
async fn kcat(servers: &str, topic: &str) -> Result<Vec<(String, String)>> {
    let mut kcat = tokio::process::Command::new("kcat");
    kcat.args(["-b", servers, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k\t%s\n"]);
    let done = tokio::time::timeout(LIMIT, kcat.stdin(Stdio::null()).kill_on_drop(true).output()).await??;
    ensure!(done.status.success(), "kcat: {}", String::from_utf8_lossy(&done.stderr));
    let lines = String::from_utf8(done.stdout)?;
    let pair = |line: &str| line.split_once('\t').map(|(key, value)| (key.to_owned(), value.to_owned()));
    lines.lines().map(|line| pair(line).context("a key and a value")).collect()
}

async fn messages_of_a_topic(scene: &mut DestinationScene) -> Result<()> {
    scene.producer.create_topic("orders-failed", 1).await?;
    let group = scene.map("to-kafka", "kafka://orders-failed", json!({})).await?;
    ensure!(scene.ended(&group).await? == exhausted_at_destination(), "all dead-lettered");
    let (servers, all) = (scene.servers(), RECORDS.iter().sum::<usize>());
    let pairs: Vec<(String, String)> =
        scene.aws.call(&["consumed", &servers, "orders-failed", &all.to_string()]).await?;
    if ["/usr/bin/kcat", "/usr/local/bin/kcat"].iter().any(|path| Path::new(path).is_file()) {
        ensure!(kcat(&servers, "orders-failed").await? == pairs, "kcat and confluent-kafka read the same");
    } else {
        ensure!(std::env::var_os("TEST_LIGHTERMAN_REQUIRE_CLIENTS").is_none(), "kcat is required");
    }
    ensure!(pairs.len() == all, "one message for each record");
    let mut next = [0; RECORDS.len()];
    for (key, value) in pairs {
        let found: Value = serde_json::from_str(&value)?;
        let (partition, payload) = (i32::from(payload_is_of(&found, 1)), &found["payload"]);
        let offset: usize = next[partition as usize];
        next[partition as usize] += 1;
        ensure!(key == format!("key-{offset}"), "the record's own key, in order: {key}");
        ensure!(*payload == event_of(scene, partition, offset..=offset), "one record, as an object");
        let mut golden = scene.golden(MESSAGE, &found, "to-kafka", partition);
        golden["KafkaBatchInfo"]["payloadSize"] = payload.to_string().len().into();
        golden["KafkaBatchInfo"]["recordInfo"] =
            json!({"offset": offset.to_string(), "timestamp": iso_8601(TimestampMs(timestamp(offset)))});
        golden["payload"] = payload.clone();
        assert_eq!(found, golden);
    }
    Ok(())
}

fn payload_is_of(found: &Value, partition: i32) -> bool {
    found["payload"]["records"].get(format!("{TOPIC}-{partition}")).is_some()
}

/// While a destination is missing, nothing is lost and nothing is committed; once it exists, everything completes.
async fn missing_destinations_hold(scene: &mut DestinationScene) -> Result<()> {
    let queue = scene.map("queue-to-come", &queue_arn("late-queue"), json!({})).await?;
    let topic = scene.map("topic-to-come", &topic_arn("late-topic"), json!({})).await?;
    let bucket = scene.map("bucket-to-come", "arn:aws:s3:::late-bucket", json!({})).await?;
    let all = [queue, topic, bucket];
    for group in &all {
        scene.held(group).await?;
    }
    for group in &all {
        scene.tried_again_and_again(group).await?;
        let committed = scene.producer.committed(group, TOPIC, RECORDS.len() as i32).await?;
        ensure!(committed.values().all(|offset| *offset == 0), "COM-1: {committed:?}");
        scene.held(group).await?;
    }
    let _: Value = scene.aws.call(&["create_queue", "late-queue"]).await?;
    let _: Value = scene.aws.call(&["create_topic", "late-topic"]).await?;
    let _: Value = scene.aws.call(&["create_bucket", "late-bucket"]).await?;
    for group in &all {
        ensure!(scene.ended(group).await? == exhausted_at_destination(), "recovered");
    }
    let bodies: Vec<String> = scene.aws.call(&["received", "late-queue", "2"]).await?;
    scene.assert_messages_are_golden(&bodies, "queue-to-come");
    let objects: Vec<S3Object> = scene.aws.call(&["objects", "late-bucket", "2"]).await?;
    ensure!(objects.len() == RECORDS.len(), "each once");
    Ok(())
}

/// AWS's behaviour: dropped after a few attempts, counted, and recorded in the audit.
async fn missing_destinations_drop_where_asked(scene: &mut DestinationScene) -> Result<()> {
    let tags = json!({"lighterman:on-destination-failure": "drop"});
    let group = scene.map("dropping", &queue_arn("never"), tags).await?;
    let all = RECORDS.iter().sum::<usize>();
    ensure!(scene.ended(&group).await? == BTreeMap::from([("dropped".to_owned(), all as u64)]), "dropped");
    let dropped = scene.node.metric("lighterman_records_dropped_total", &group).await?;
    ensure!(dropped == Some(all as f64), "{dropped:?} counted as dropped");
    let errors = scene.node.metric("lighterman_destination_errors_total", &group).await?;
    ensure!(errors.is_some_and(|errors| errors >= 6.0), "{errors:?}: three tries for each partition");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alo_1_failure_messages_match_and_await_destination() -> Result<()> {
    let Some(mut scene) = DestinationScene::new().await? else { return Ok(()) };
    queues_and_notifications(&mut scene).await.context("queues and notifications")?;
    objects(&mut scene).await.context("objects")?;
    messages_of_a_topic(&mut scene).await.context("messages of a topic")?;
    missing_destinations_hold(&mut scene).await.context("missing, held")?;
    missing_destinations_drop_where_asked(&mut scene).await.context("missing, dropped")?;
    ensure!(scene.node.terminate(LIMIT).await? == Some(0), "drains and exits 0");
    Ok(())
}
