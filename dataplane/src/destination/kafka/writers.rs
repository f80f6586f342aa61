//! rskafka client and its connections, for the time between two egress checks of the cluster.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::client::error::Error;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder};
use rskafka::record::Record;

use super::super::bounded_map::BoundedMap;
use super::super::error::{CALL_DEADLINE, DeliveryError};
use super::super::message::TopicMessage;
use super::refusal;
use crate::egress::Egress;
use crate::kafka::transport::BrokerAddress;

/// Maximum number of cached partition connections; rskafka opens one per partition.
const PARTITIONS_MAX: usize = 64;
/// Maximum response size, in bytes. The largest response is the metadata of the whole cluster.
const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

pub(super) struct ProducerSession {
    client: Client,
    partitions: BoundedMap<(Arc<str>, i32), Arc<PartitionClient>>,
}

impl ProducerSession {
    pub(super) async fn open(to: &Arc<str>, bootstrap: &[BrokerAddress]) -> Result<Self, DeliveryError> {
        // Disable rskafka's retries: the delivery retries and counts the attempts.
        let once = BackoffConfig { deadline: Some(Duration::ZERO), ..BackoffConfig::default() };
        let build = ClientBuilder::new(bootstrap.iter().map(ToString::to_string).collect())
            .client_id("lighterman")
            .max_message_size(REPLY_BYTES_MAX)
            .backoff_config(once)
            .build();
        let client = call(to, 0, build).await?;
        Ok(Self { client, partitions: BoundedMap::new(PARTITIONS_MAX) })
    }

    /// Writes `messages` in one request, acknowledged by all in-sync replicas.
    pub(super) async fn produce(
        &self,
        to: &Arc<str>,
        topic: &Arc<str>,
        partition: i32,
        messages: &[TopicMessage],
    ) -> Result<(), DeliveryError> {
        let client = self.partition(to, topic, partition).await?;
        let now = chrono::Utc::now();
        let records = messages.iter().map(|message| Record {
            key: message.key.as_ref().map(|key| key.to_vec()),
            value: Some(message.value.to_vec()),
            headers: BTreeMap::new(),
            timestamp: now,
        });
        let largest = messages.iter().map(TopicMessage::bytes).max().unwrap_or_default();
        call(to, largest, client.produce(records.collect(), Compression::NoCompression)).await.map(|_| ())
    }

    async fn partition(
        &self,
        to: &Arc<str>,
        topic: &Arc<str>,
        partition: i32,
    ) -> Result<Arc<PartitionClient>, DeliveryError> {
        let key = (Arc::clone(topic), partition);
        if let Some(client) = self.partitions.get(&key) {
            return Ok(client);
        }
        let connect = self.client.partition_client(&**topic, partition, UnknownTopicHandling::Error);
        let client = Arc::new(call(to, 0, connect).await?);
        self.partitions.insert(key, Arc::clone(&client));
        Ok(client)
    }
}

async fn call<T>(
    to: &Arc<str>,
    bytes: usize,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, DeliveryError> {
    match tokio::time::timeout(CALL_DEADLINE, asked).await {
        Ok(answer) => answer.map_err(|error| refusal::of_rskafka(to, bytes, &error)),
        Err(_) => Err(DeliveryError::Silent { to: Arc::clone(to) }),
    }
}

/// Checks every address of every broker that rskafka may dial. A name that does not resolve cannot be dialled.
pub(super) async fn check(
    to: &Arc<str>,
    brokers: impl Iterator<Item = BrokerAddress>,
    egress: &Egress,
) -> Result<(), DeliveryError> {
    for broker in brokers {
        let resolved = tokio::net::lookup_host((&*broker.host, broker.port)).await;
        for address in resolved.into_iter().flatten() {
            egress.check(address).map_err(|source| DeliveryError::Egress { to: Arc::clone(to), source })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_broker_is_checked() {
        let to: Arc<str> = "kafka://dlq".into();
        let brokers =
            ["10.0.0.1", "169.254.169.254", "no-such-name.invalid"].map(|h| BrokerAddress::new(h, 9092));
        let denied = check(&to, brokers.clone().into_iter(), &Egress::laptop()).await;
        assert!(matches!(denied, Err(DeliveryError::Egress { .. })), "{denied:?}");
        let [fine, _, nameless] = brokers;
        assert_eq!(check(&to, [fine, nameless].into_iter(), &Egress::laptop()).await, Ok(()));
    }
}
