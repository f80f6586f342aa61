//! Test producer that writes records to a real broker with kafka-protocol's encoder, independent of Lighterman's
//! formats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, CreateTopicsRequest, DeleteTopicsRequest, ListOffsetsRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
pub use kafka_protocol::records::Compression;
use kafka_protocol::records::{Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use lighterman::egress::Egress;
use lighterman::kafka::cluster::KafkaCluster;
use lighterman::kafka::connection::{BrokerConnection, versions};
use lighterman::kafka::offsets::fetch_committed;
use lighterman::kafka::transport::{BrokerAddress, PlainTcp};
use lighterman::runtime::clock;

const DEADLINE: Duration = Duration::from_secs(30);
const BATCH_RECORDS: usize = 500;
/// Timestamp that requests a log's end, and the isolation level that excludes open transactions.
const LATEST: i64 = -1;
const READ_COMMITTED: i8 = 1;
const NOT_LEADER_YET: [i16; 3] = [3, 5, 6];

/// Visible offsets of each partition.
pub type ProducedOffsets = BTreeMap<i32, BTreeSet<i64>>;

/// Client of the broker under test.
pub struct TestProducer {
    cluster: KafkaCluster,
    connection: BrokerConnection,
}

impl TestProducer {
    /// Connects to `servers` (one broker).
    pub async fn connect(servers: &str) -> Result<Self> {
        let address = BrokerAddress::parse(servers).map_err(anyhow::Error::msg)?;
        let connector = Arc::new(PlainTcp::new(Arc::new(Egress::laptop())));
        let cluster = KafkaCluster::new(vec![address.clone()], connector, "loadtest");
        let connection = cluster.connect(&address).await?;
        Ok(Self { cluster, connection })
    }

    /// Returns the connection, for requests that only tests make.
    pub fn connection(&mut self) -> &mut BrokerConnection {
        &mut self.connection
    }

    /// Creates a topic and waits for its leaders.
    pub async fn create_topic(&mut self, topic: &str, partitions: i32) -> Result<()> {
        self.create_topic_with(topic, partitions, &[]).await
    }

    /// Creates a topic with its own configuration and waits for its leaders.
    pub async fn create_topic_with(
        &mut self,
        topic: &str,
        partitions: i32,
        configs: &[(&'static str, &'static str)],
    ) -> Result<()> {
        let config = |(key, value): &(&'static str, &'static str)| {
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str(key))
                .with_value(Some(StrBytes::from_static_str(value)))
        };
        let wanted = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(partitions)
            .with_configs(configs.iter().map(config).collect())
            .with_replication_factor(1);
        let build = |_| CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(10_000);
        let (reply, _) = self.connection.call(versions(2, 5), DEADLINE, build).await?;
        let code = reply.topics.first().context("no answer for the topic")?.error_code;
        ensure!(code == 0, "CreateTopics of {topic}: {code}");
        tokio::time::timeout(DEADLINE, async {
            loop {
                let view = self.cluster.refresh(topic).await;
                if view.is_ok_and(|view| {
                    view.partitions.len() as i32 == partitions
                        && view.partitions.iter().all(|one| one.leader.is_some())
                }) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .context("the topic has no leaders")
    }

    /// Deletes a topic and its records.
    pub async fn delete_topic(&mut self, topic: &str) -> Result<()> {
        let build =
            |_| DeleteTopicsRequest::default().with_topic_names(vec![name(topic)]).with_timeout_ms(10_000);
        let (reply, _) = self.connection.call(versions(1, 5), DEADLINE, build).await?;
        let code = reply.responses.first().context("no answer for the topic")?.error_code;
        ensure!(code == 0, "DeleteTopics of {topic}: {code}");
        Ok(())
    }

    /// Writes `count` records of `value_bytes`, in batches, split over `partitions`.
    pub async fn write(
        &mut self,
        topic: &str,
        partitions: i32,
        count: usize,
        value_bytes: usize,
        compression: Compression,
    ) -> Result<ProducedOffsets> {
        let mut produced = ProducedOffsets::new();
        let share = count.div_ceil(partitions as usize);
        let mut left = count;
        for partition in 0..partitions {
            let mut of_this = share.min(left);
            left -= of_this;
            while of_this > 0 {
                let some = of_this.min(BATCH_RECORDS);
                of_this -= some;
                let batch = batch(some, value_bytes, compression, -1, -1)?;
                let base = self.send(topic, partition, batch, None).await?;
                produced.entry(partition).or_default().extend(base..base + some as i64);
            }
        }
        Ok(produced)
    }

    /// Sends one batch and returns its first offset. Retries while a new leader does not yet know that it leads.
    pub async fn send(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
        transaction: Option<&str>,
    ) -> Result<i64> {
        let sent = tokio::time::timeout(DEADLINE, async {
            loop {
                match self.send_once(topic, partition, batch.clone(), transaction).await? {
                    (0, base) => return Ok(base),
                    (code, _) if NOT_LEADER_YET.contains(&code) => {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    (code, _) => anyhow::bail!("Produce to {topic}-{partition}: {code}"),
                }
            }
        });
        sent.await.context("no leader takes the records")?
    }

    async fn send_once(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
        transaction: Option<&str>,
    ) -> Result<(i16, i64)> {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
        let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
        let transaction = transaction.map(|id| StrBytes::from_string(id.to_owned()).into());
        let build = |_| {
            ProduceRequest::default()
                .with_acks(-1)
                .with_timeout_ms(10_000)
                .with_transactional_id(transaction)
                .with_topic_data(vec![data])
        };
        let (reply, _) = self.connection.call(versions(3, 8), DEADLINE, build).await?;
        let answer = reply.responses.first().and_then(|topic| topic.partition_responses.first());
        let answer = answer.context("no answer for the partition")?;
        Ok((answer.error_code, answer.base_offset))
    }

    /// Returns the committed offsets of `group`.
    pub async fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partitions: i32,
    ) -> Result<BTreeMap<i32, i64>> {
        let wanted: Vec<i32> = (0..partitions).collect();
        let coordinator = self.cluster.find_coordinator(group).await?.address;
        let mut connection = self.cluster.connect(&coordinator).await?;
        let committed = fetch_committed(&mut connection, group, topic, &wanted).await?;
        Ok(committed
            .into_iter()
            .filter_map(|(partition, offset)| Some((partition, offset?.offset.0)))
            .collect())
    }

    /// Returns the end of each partition's log, without open transactions.
    pub async fn log_ends(&mut self, topic: &str, partitions: i32) -> Result<BTreeMap<i32, i64>> {
        let latest = |partition| {
            ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(LATEST)
        };
        let topic = ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions((0..partitions).map(latest).collect());
        let build = |_| {
            ListOffsetsRequest::default()
                .with_replica_id(BrokerId(-1))
                .with_isolation_level(READ_COMMITTED)
                .with_topics(vec![topic])
        };
        let (reply, _) = self.connection.call(versions(2, 5), DEADLINE, build).await?;
        let mut ends = BTreeMap::new();
        for one in reply.topics.into_iter().flat_map(|topic| topic.partitions) {
            ensure!(
                one.error_code == 0,
                "ListOffsets of partition {}: {}",
                one.partition_index,
                one.error_code
            );
            ends.insert(one.partition_index, one.offset);
        }
        Ok(ends)
    }

    /// Waits until `group` has committed `ends` (the offset after the last record of each partition).
    pub async fn await_committed(
        &mut self,
        group: &str,
        topic: &str,
        ends: &BTreeMap<i32, i64>,
        within: Duration,
    ) -> Result<()> {
        let mut last = BTreeMap::new();
        let partitions = ends.keys().max().map_or(0, |last| last + 1);
        let waited = tokio::time::timeout(within, async {
            loop {
                // A restarting broker answers nothing for a while.
                if let Ok(committed) = self.committed(group, topic, partitions).await {
                    if ends
                        .iter()
                        .all(|(partition, end)| committed.get(partition).is_some_and(|offset| offset >= end))
                    {
                        return;
                    }
                    last = committed;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let waited = waited.await;
        waited.with_context(|| format!("committed {last:?}, expected {ends:?}"))
    }
}

/// Returns the offset after the last visible record of each partition.
pub fn ends(produced: &ProducedOffsets) -> BTreeMap<i32, i64> {
    produced.iter().filter_map(|(partition, offsets)| Some((*partition, offsets.last()? + 1))).collect()
}

/// Creates a batch of `count` records of `value_bytes`, transactional if `producer` is not −1.
pub fn batch(
    count: usize,
    value_bytes: usize,
    compression: Compression,
    producer: i64,
    sequence: i32,
) -> Result<Bytes> {
    let value = Bytes::from(vec![b'v'; value_bytes]);
    batch_of(&vec![value; count], compression, producer, sequence)
}

/// Creates a batch of records with these values, transactional if `producer` is not −1.
pub fn batch_of(values: &[Bytes], compression: Compression, producer: i64, sequence: i32) -> Result<Bytes> {
    let now = clock::wall_ms().0;
    let stamped: Vec<(Bytes, i64)> = values.iter().map(|value| (value.clone(), now)).collect();
    stamped_batch(&stamped, compression, producer, sequence)
}

/// Creates a batch of records with these values and timestamps, in milliseconds since 1970.
pub fn stamped_batch(
    stamped: &[(Bytes, i64)],
    compression: Compression,
    producer: i64,
    sequence: i32,
) -> Result<Bytes> {
    let records: Vec<Record> = stamped
        .iter()
        .zip(0_i64..)
        .map(|((value, timestamp), index)| Record {
            transactional: producer >= 0,
            control: false,
            partition_leader_epoch: -1,
            producer_id: producer,
            producer_epoch: if producer >= 0 { 0 } else { -1 },
            delete_horizon: false,
            timestamp_type: TimestampType::Creation,
            offset: index,
            sequence: if producer >= 0 { sequence } else { -1 } + index as i32,
            timestamp: *timestamp,
            key: Some(Bytes::from(format!("key-{index}"))),
            value: Some(value.clone()),
            headers: IndexMap::from([(StrBytes::from_static_str("h"), Some(Bytes::from_static(b"x")))]),
        })
        .collect();
    let mut into = BytesMut::new();
    RecordBatchEncoder::encode(&mut into, &records, &RecordEncodeOptions { version: 2, compression })?;
    Ok(into.freeze())
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}
