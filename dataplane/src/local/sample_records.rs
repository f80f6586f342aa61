//! Sample records that `lighterman dev` writes to an empty topic.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::Utc;
use rskafka::BackoffConfig;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;
use thiserror::Error;

const BATCH_RECORDS_MAX: u64 = 500;
const BEATS_PER_SECOND: u32 = 10;
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);

/// Reason that sample records cannot be written.
#[derive(Debug, Error)]
pub enum SampleError {
    /// The broker returned an error.
    #[error("sample records cannot be written to {servers}: {source}")]
    Kafka {
        /// Bootstrap servers.
        servers: String,
        /// Error of the Kafka client.
        source: rskafka::client::error::Error,
    },
    /// The broker did not respond.
    #[error("{0} did not answer within 15 s. Check that a Kafka broker runs there")]
    Silent(String),
}

/// Producer of numbered JSON records, round-robin over the partitions of one topic.
pub struct SampleProducer {
    servers: String,
    partitions: Vec<PartitionClient>,
    next: u64,
}

impl SampleProducer {
    /// Connects, and creates `topic` with `partitions` partitions if it does not exist.
    pub async fn connect(servers: &str, topic: &str, partitions: i32) -> Result<Self, SampleError> {
        let silent = |_| SampleError::Silent(servers.to_owned());
        let failed = |source| SampleError::Kafka { servers: servers.to_owned(), source };
        let connect = async {
            let addresses = servers.split(',').map(ToOwned::to_owned).collect();
            let backoff = BackoffConfig { deadline: Some(GIVE_UP_AFTER), ..BackoffConfig::default() };
            let client = ClientBuilder::new(addresses).backoff_config(backoff).build().await?;
            let count = ensure_topic(&client, topic, partitions).await?;
            let mut clients = Vec::new();
            for partition in 0..count {
                clients.push(client.partition_client(topic, partition, UnknownTopicHandling::Retry).await?);
            }
            Ok(clients)
        };
        let partitions =
            tokio::time::timeout(GIVE_UP_AFTER * 2, connect).await.map_err(silent)?.map_err(failed)?;
        Ok(Self { servers: servers.to_owned(), partitions, next: 0 })
    }

    /// Writes `count` records as fast as the broker accepts them.
    pub async fn write(&mut self, count: u64) -> Result<(), SampleError> {
        let mut left = count;
        while left > 0 {
            let some = left.min(BATCH_RECORDS_MAX);
            self.write_batch(some).await?;
            left -= some;
        }
        Ok(())
    }

    /// Writes `per_second` records a second, for as long as it is polled.
    pub async fn write_steadily(&mut self, per_second: u32) -> Result<(), SampleError> {
        let mut beat = tokio::time::interval(Duration::from_secs(1) / BEATS_PER_SECOND);
        let mut owed = 0;
        loop {
            beat.tick().await;
            owed += per_second;
            let due = owed / BEATS_PER_SECOND;
            owed %= BEATS_PER_SECOND;
            self.write(u64::from(due)).await?;
        }
    }

    async fn write_batch(&mut self, count: u64) -> Result<(), SampleError> {
        let mut by_partition: Vec<Vec<Record>> = self.partitions.iter().map(|_| Vec::new()).collect();
        for _ in 0..count {
            let index = self.next as usize % self.partitions.len();
            by_partition[index].push(sample(self.next));
            self.next += 1;
        }
        let written = self.partitions.iter().zip(by_partition).map(|(client, records)| async move {
            client.produce(records, Compression::NoCompression).await.map(|_| ())
        });
        let failed = |source| SampleError::Kafka { servers: self.servers.clone(), source };
        futures::future::try_join_all(written).await.map(|_| ()).map_err(failed)
    }
}

async fn ensure_topic(
    client: &Client,
    topic: &str,
    partitions: i32,
) -> Result<i32, rskafka::client::error::Error> {
    let existing = client.list_topics().await?;
    if let Some(known) = existing.iter().find(|known| known.name == topic) {
        return Ok(known.partitions.len() as i32);
    }
    client.controller_client()?.create_topic(topic, partitions, 1, 10_000).await?;
    Ok(partitions)
}

fn sample(number: u64) -> Record {
    Record {
        key: Some(format!("order-{}", number % 1000).into_bytes()),
        value: Some(format!(r#"{{"order":{number},"item":"crate of oranges"}}"#).into_bytes()),
        headers: BTreeMap::from([("source".to_owned(), b"lighterman dev".to_vec())]),
        timestamp: Utc::now(),
    }
}
