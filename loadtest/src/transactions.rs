//! Minimal transactional producer that creates committed and aborted transactions on a real broker.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, EndTxnRequest, FindCoordinatorRequest, InitProducerIdRequest, ProducerId,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use lighterman::kafka::connection::versions;

use crate::produce::{Compression, TestProducer, batch};

const DEADLINE: Duration = Duration::from_secs(30);
const NOT_YET: [i16; 5] = [14, 15, 16, 51, 5];

/// A producer with a transactional id.
pub struct TransactionalProducer<'p> {
    producer: &'p mut TestProducer,
    id: String,
    producer_id: i64,
    epoch: i16,
    /// Next sequence number of each partition.
    sequences: BTreeMap<(String, i32), i32>,
}

impl<'p> TransactionalProducer<'p> {
    /// Registers `id` with the (only) broker.
    pub async fn begin(producer: &'p mut TestProducer, id: &str) -> Result<Self> {
        for _ in 0..300 {
            let key = StrBytes::from_string(id.to_owned());
            let find = |_| FindCoordinatorRequest::default().with_key(key).with_key_type(1);
            producer.connection().call(versions(1, 3), DEADLINE, find).await?;
            let text = StrBytes::from_string(id.to_owned());
            let init = |_| {
                InitProducerIdRequest::default()
                    .with_transactional_id(Some(text.into()))
                    .with_transaction_timeout_ms(60_000)
            };
            let (reply, _) = producer.connection().call(versions(0, 1), DEADLINE, init).await?;
            if reply.error_code == 0 {
                let (producer_id, epoch) = (*reply.producer_id, reply.producer_epoch);
                return Ok(Self {
                    producer,
                    id: id.to_owned(),
                    producer_id,
                    epoch,
                    sequences: BTreeMap::new(),
                });
            }
            ensure!(NOT_YET.contains(&reply.error_code), "InitProducerId: {}", reply.error_code);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("the transaction coordinator does not load")
    }

    /// Writes one transaction of `count` records to one partition, committed or aborted. Returns its first offset.
    pub async fn write(&mut self, topic: &str, partition: i32, count: usize, commit: bool) -> Result<i64> {
        let base = self.append(topic, partition, count).await?;
        self.end(commit).await?;
        Ok(base)
    }

    /// Appends `count` records to one partition in an open transaction, invisible to readers of committed records.
    /// Returns the first offset.
    pub async fn append(&mut self, topic: &str, partition: i32, count: usize) -> Result<i64> {
        self.add_partition(topic, partition).await?;
        let sequence = self.sequences.entry((topic.to_owned(), partition)).or_default();
        let records = batch(count, 20, Compression::None, self.producer_id, *sequence)?;
        *sequence += count as i32;
        self.producer.send(topic, partition, records, Some(&self.id)).await
    }

    async fn add_partition(&mut self, topic: &str, partition: i32) -> Result<()> {
        for _ in 0..300 {
            let topic = AddPartitionsToTxnTopic::default()
                .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
                .with_partitions(vec![partition]);
            let (id, producer_id, epoch) =
                (StrBytes::from_string(self.id.clone()), self.producer_id, self.epoch);
            let build = |_| {
                AddPartitionsToTxnRequest::default()
                    .with_v3_and_below_transactional_id(id.into())
                    .with_v3_and_below_producer_id(ProducerId(producer_id))
                    .with_v3_and_below_producer_epoch(epoch)
                    .with_v3_and_below_topics(vec![topic])
            };
            let (reply, _) = self.producer.connection().call(versions(0, 2), DEADLINE, build).await?;
            let topics = reply.results_by_topic_v3_and_below;
            let code = topics
                .first()
                .and_then(|topic| topic.results_by_partition.first())
                .map(|one| one.partition_error_code);
            match code {
                Some(0) => return Ok(()),
                Some(code) if NOT_YET.contains(&code) => tokio::time::sleep(Duration::from_millis(50)).await,
                code => anyhow::bail!("AddPartitionsToTxn: {code:?}"),
            }
        }
        anyhow::bail!("the last transaction does not end")
    }

    /// Commits or aborts the appended records; the transaction's marker follows them.
    pub async fn end(&mut self, commit: bool) -> Result<()> {
        let (id, producer_id, epoch) = (StrBytes::from_string(self.id.clone()), self.producer_id, self.epoch);
        let build = |_| {
            EndTxnRequest::default()
                .with_transactional_id(id.into())
                .with_producer_id(ProducerId(producer_id))
                .with_producer_epoch(epoch)
                .with_committed(commit)
        };
        let (reply, _) = self.producer.connection().call(versions(0, 2), DEADLINE, build).await?;
        ensure!(reply.error_code == 0, "EndTxn: {}", reply.error_code);
        Ok(())
    }
}
