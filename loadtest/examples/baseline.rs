//! Baseline of the load test: the loop a good engineer would write by hand from a Kafka topic to a Lambda function.
//! It uses rdkafka (librdkafka), `serde_json`, base64 and the AWS SDK's Lambda client, each as its documentation
//! advises.
//!
//! It joins a consumer group and reads each partition through its own queue, with librdkafka's default buffering.
//! It takes the available records, up to the batch size, without waiting for more. It writes the event that AWS
//! documents, with the same bytes as a node's. Partitions are processed concurrently, with one invocation in flight
//! for each. The SDK's client is created once and shared, without retries and stalled-stream protection. A failed
//! batch is retried with backoff until it succeeds. Offsets are stored after success and committed ten times a
//! second, which costs less than a commit per batch and repeats more after a crash. With `--commit-each-batch` each
//! batch is committed, and the response awaited, before the partition's next batch, which is a node's guarantee.
//! The runtime is tokio's default, the allocator the system's.
//!
//! It does not wait for records to fill a batch, limit a payload to 6 MiB, or bound its memory beyond librdkafka's
//! defaults. Nor does it hold a revoked partition until its invocation has ended, or report its state. The
//! comparison charges it for none of that.
//!
//! `loadtest --baseline` starts it. It prints `ready`, starts at the first line on its standard input, and stops
//! when the input ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_lambda::config::retry::RetryConfig;
use aws_sdk_lambda::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_sdk_lambda::primitives::Blob;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use futures::StreamExt;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{CommitMode, Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Timestamp};
use serde::{Serialize, Serializer};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

const COMMIT_EVERY: Duration = Duration::from_millis(100);
const METADATA_DEADLINE: Duration = Duration::from_secs(10);
const BACKOFF_BASE: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Hand-written consumer loop for comparison; the AWS SDK's environment variables set the Lambda endpoint.
#[derive(Debug, Parser)]
struct BaselineArguments {
    /// Bootstrap server
    #[arg(long)]
    servers: String,
    /// Topic to read from its beginning
    #[arg(long)]
    topic: String,
    /// Consumer group
    #[arg(long)]
    group: String,
    /// Maximum records of a batch
    #[arg(long)]
    batch: usize,
    /// Commit each batch and wait for the response, instead of committing ten times a second
    #[arg(long)]
    commit_each_batch: bool,
    /// Function to invoke
    #[arg(long, default_value = "f")]
    function: String,
}

type PartitionQueue = StreamPartitionQueue<DefaultConsumerContext>;

/// State shared by all partitions' loops.
struct SharedLoop {
    consumer: Arc<StreamConsumer>,
    lambda: aws_sdk_lambda::Client,
    arguments: BaselineArguments,
    /// Set once no further batch may start.
    ending: watch::Receiver<bool>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = BaselineArguments::parse();
    let consumer: Arc<StreamConsumer> = Arc::new(
        ClientConfig::new()
            .set("bootstrap.servers", &arguments.servers)
            .set("group.id", &arguments.group)
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .create()
            .context("rdkafka refuses its configuration")?,
    );
    let lambda = lambda().await;
    println!("ready");
    ensure!(std::io::stdin().read_line(&mut String::new())? > 0, "told to end before it began");
    let queues = split(&consumer, &arguments.topic)?;
    consumer.subscribe(&[&arguments.topic])?;
    let (end, ending) = watch::channel(false);
    let shared = Arc::new(SharedLoop { consumer, lambda, arguments, ending });
    let mut loops = JoinSet::new();
    for queue in queues {
        let shared = Arc::clone(&shared);
        loops.spawn(async move { shared.run(queue).await });
    }
    tokio::select! {
        served = serve(&shared.consumer) => served?,
        never = commit(&shared.consumer) => match never {},
        Some(ended) = loops.join_next() => ended??,
        _ = end_of_input() => {}
    }
    // A batch that the function has taken must be stored before the last commit, which would otherwise omit it.
    end.send_replace(true);
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    shared.consumer.commit_consumer_state(CommitMode::Sync).or_else(nothing_stored)?;
    Ok(())
}

/// Waits for the end of standard input on its own thread, since a read of standard input cannot be cancelled.
fn end_of_input() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        while std::io::stdin().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0) {}
        let _ = ended.send(());
    });
    end
}

async fn lambda() -> aws_sdk_lambda::Client {
    let shared =
        aws_config::defaults(BehaviorVersion::latest()).region(Region::new("us-east-1")).load().await;
    let config = aws_sdk_lambda::config::Builder::from(&shared)
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build();
    aws_sdk_lambda::Client::from_conf(config)
}

/// Creates a queue for each partition of the topic. It runs before subscribing, so that no message bypasses its
/// queue.
fn split(consumer: &Arc<StreamConsumer>, topic: &str) -> Result<Vec<PartitionQueue>> {
    let metadata = consumer.fetch_metadata(Some(topic), METADATA_DEADLINE)?;
    let found = metadata.topics().first().context("the broker does not know the topic")?;
    ensure!(!found.partitions().is_empty(), "topic {topic} has no partitions");
    let queue = |partition: i32| {
        consumer.split_partition_queue(topic, partition).with_context(|| format!("no partition {partition}"))
    };
    found.partitions().iter().map(|partition| queue(partition.id())).collect()
}

/// Polls librdkafka's events, which is required although every message arrives through a partition's queue.
async fn serve(consumer: &StreamConsumer) -> Result<()> {
    match consumer.recv().await {
        Ok(message) => bail!("a message of partition {} went past its queue", message.partition()),
        Err(error) => Err(error).context("the consumer has failed"),
    }
}

async fn commit(consumer: &StreamConsumer) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(COMMIT_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = consumer.commit_consumer_state(CommitMode::Async).or_else(nothing_stored) {
            println!("commit: {error}");
        }
    }
}

fn nothing_stored(error: rdkafka::error::KafkaError) -> rdkafka::error::KafkaResult<()> {
    match error.rdkafka_error_code() {
        Some(rdkafka::error::RDKafkaErrorCode::NoOffset) => Ok(()),
        _ => Err(error),
    }
}

impl SharedLoop {
    async fn run(&self, queue: PartitionQueue) -> Result<()> {
        let mut batches = queue.stream().ready_chunks(self.arguments.batch);
        let mut bytes_before = 0;
        let mut ending = self.ending.clone();
        loop {
            let batch = tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending) => return Ok(()),
                batch = batches.next() => batch,
            };
            let Some(batch) = batch else { return Ok(()) };
            let batch = batch.into_iter().collect::<Result<Vec<_>, _>>()?;
            let event = self.event(&batch, bytes_before)?;
            bytes_before = event.len();
            self.deliver(event).await;
            match batch.last() {
                Some(last) if self.arguments.commit_each_batch => {
                    tokio::task::block_in_place(|| self.consumer.commit_message(last, CommitMode::Sync))?;
                }
                Some(last) => self.consumer.store_offset_from_message(last)?,
                None => {}
            }
        }
    }

    /// Writes the event into a buffer of the previous event's size.
    fn event(&self, batch: &[BorrowedMessage<'_>], bytes_before: usize) -> serde_json::Result<Vec<u8>> {
        let partition = batch.first().map_or(0, Message::partition);
        let topic = &self.arguments.topic;
        let event = BaselineEvent {
            event_source: "SelfManagedKafka",
            bootstrap_servers: &self.arguments.servers,
            records: BaselinePartition {
                name: format!("{topic}-{partition}"),
                records: batch.iter().map(BaselineRecord::of).collect(),
            },
        };
        let mut bytes = Vec::with_capacity(bytes_before);
        serde_json::to_writer(&mut bytes, &event)?;
        Ok(bytes)
    }

    async fn deliver(&self, event: Vec<u8>) {
        let payload = Blob::new(event);
        let mut backoff = BACKOFF_BASE;
        loop {
            let sent = self.lambda.invoke().function_name(&self.arguments.function).payload(payload.clone());
            match sent.send().await {
                Ok(answer) if answer.function_error().is_none() => return,
                Ok(answer) => println!("the function failed: {:?}", answer.function_error()),
                Err(error) => println!("not invoked: {error:?}"),
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }
}

/// Event of self-managed Kafka, as AWS documents it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BaselineEvent<'e> {
    event_source: &'static str,
    bootstrap_servers: &'e str,
    records: BaselinePartition<'e>,
}

/// Records of one partition: `{"topic-0": [...]}`.
struct BaselinePartition<'e> {
    name: String,
    records: Vec<BaselineRecord<'e>>,
}

impl Serialize for BaselinePartition<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map([(&self.name, &self.records)])
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BaselineRecord<'m> {
    topic: &'m str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    timestamp_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    headers: Vec<BaselineHeader<'m>>,
}

/// Header as `{"name": [1, -2]}`: Lambda functions receive header values as signed bytes.
struct BaselineHeader<'m> {
    name: &'m str,
    value: &'m [u8],
}

impl Serialize for BaselineHeader<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let signed: Vec<i8> = self.value.iter().map(|byte| byte.cast_signed()).collect();
        serializer.collect_map([(self.name, signed)])
    }
}

impl<'m> BaselineRecord<'m> {
    fn of(message: &'m BorrowedMessage<'_>) -> Self {
        let (timestamp, timestamp_type) = match message.timestamp() {
            Timestamp::CreateTime(at) => (at, "CREATE_TIME"),
            Timestamp::LogAppendTime(at) => (at, "LOG_APPEND_TIME"),
            Timestamp::NotAvailable => (-1, "NO_TIMESTAMP_TYPE"),
        };
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            topic: message.topic(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp,
            timestamp_type,
            key: message.key().map(|key| STANDARD.encode(key)),
            value: message.payload().map(|value| STANDARD.encode(value)),
            headers: headers
                .map(|header| BaselineHeader { name: header.key, value: header.value.unwrap_or_default() })
                .collect(),
        }
    }
}
