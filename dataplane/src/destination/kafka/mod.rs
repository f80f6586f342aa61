//! Destination topic in the mapping's own cluster, written through rskafka: plain TCP, acks=all, no compression.
//!
//! # Egress
//! rskafka dials by itself. Before it gets a cluster, Lighterman's own client fetches that cluster's brokers,
//! dialling only what [`Egress`] allows. Every address that a bootstrap or advertised name resolves to is checked; a
//! single denied one fails the delivery. rskafka's connections live for [`SESSION_AGE_MAX`] at most and end with the
//! first failure. The check is repeated before new ones are opened. Not covered: a name that resolves to another
//! address, or a broker that advertises another name, between the check and rskafka's dial.
//!
//! # Duplicates
//! If a response is lost or comes after the deadline, the messages may have been written; they are sent again.
//! rskafka 0.6 also repeats, as often as the deadline allows, a write under a producer quota: it takes the broker's
//! throttle time for a rejection. Do not set a producer quota that this node can reach.

mod partitioner;
mod refusal;
mod writers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use self::partitioner::partition_of;
use self::writers::ProducerSession;
use super::error::{CALL_DEADLINE, DeliveryError};
use super::message::{FailureMessage, TopicMessage, UndeliveredMessage};
use crate::egress::Egress;
use crate::kafka::cluster::KafkaCluster;
use crate::kafka::transport::{BrokerAddress, PlainTcp};
use crate::runtime::clock;

/// Maximum age of connections and of the egress check behind them.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(60);
/// Limit of a message's key and value, in bytes. Brokers accept a mebibyte unless configured for more.
pub const TOPIC_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Limit of one request, unless a single message is larger. It is below the default `max.message.bytes` of a batch.
const REQUEST_BYTES_MAX: usize = 900 * 1024;
/// Upper bound of a record's lengths, deltas and attributes, in bytes.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Maximum number of partitions written concurrently for one failure message.
const AT_ONCE: usize = 8;

/// Destination topics of one cluster. Clones share connections. The connections belong to the runtime of the first
/// delivery; when it ends, new ones are opened.
#[derive(Clone)]
pub struct TopicDestinations {
    shared: Arc<ProducerState>,
}

struct ProducerState {
    cluster: KafkaCluster,
    bootstrap: Vec<BrokerAddress>,
    egress: Arc<Egress>,
    session: Mutex<Option<(Moment, Arc<ProducerSession>)>>,
    opening: tokio::sync::Mutex<()>,
    turn: AtomicUsize,
}

/// Messages left after a request, with its error.
struct UnsentMessages {
    messages: Vec<TopicMessage>,
    error: DeliveryError,
}

impl TopicDestinations {
    /// Creates the destinations of the cluster at `bootstrap`. Nothing is dialled before the first message.
    pub fn new(bootstrap: Vec<BrokerAddress>, egress: Arc<Egress>) -> Self {
        let connector = Arc::new(PlainTcp::new(Arc::clone(&egress)));
        let cluster = KafkaCluster::new(bootstrap.clone(), connector, "lighterman");
        let shared = ProducerState {
            cluster,
            bootstrap,
            egress,
            session: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
            turn: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) async fn deliver(
        &self,
        topic: Arc<str>,
        messages: Vec<TopicMessage>,
    ) -> Result<(), Box<UndeliveredMessage>> {
        let to: Arc<str> = format!("kafka://{topic}").into();
        let (messages, oversized) = sizes_checked(&to, messages);
        let mut left = Vec::from_iter(oversized);
        if !messages.is_empty() {
            match self.session(&to, &topic).await {
                Ok((session, partitions)) => {
                    left.extend(self.write(&to, &topic, &session, partitions, messages).await);
                }
                Err(error) => left.push(UnsentMessages { messages, error }),
            }
        }
        rest_of(topic, left)
    }

    /// Returns a session of a checked cluster and the partition count of `topic`.
    async fn session(
        &self,
        to: &Arc<str>,
        topic: &Arc<str>,
    ) -> Result<(Arc<ProducerSession>, usize), DeliveryError> {
        let open = async {
            let _one_at_a_time = self.shared.opening.lock().await;
            let kept = self.shared.session.lock().clone();
            let kept = kept.filter(|(since, _)| clock::now().since(*since) < SESSION_AGE_MAX);
            let age_max = if kept.is_some() { SESSION_AGE_MAX } else { Duration::ZERO };
            let view = self.shared.cluster.topic(topic, age_max).await;
            let partitions = view.map_err(|error| refusal::of_our_client(to, &error))?.partitions.len();
            if partitions == 0 {
                return Err(DeliveryError::Failed { to: Arc::clone(to), why: "no partitions yet".into() });
            }
            if let Some((_, session)) = kept {
                return Ok((session, partitions));
            }
            let since = clock::now();
            let dialled = self.shared.bootstrap.iter().cloned().chain(self.shared.cluster.brokers());
            writers::check(to, dialled, &self.shared.egress).await?;
            let session = Arc::new(ProducerSession::open(to, &self.shared.bootstrap).await?);
            *self.shared.session.lock() = Some((since, Arc::clone(&session)));
            Ok((session, partitions))
        };
        let silent = |_| Err(DeliveryError::Silent { to: Arc::clone(to) });
        tokio::time::timeout(CALL_DEADLINE, open).await.unwrap_or_else(silent)
    }

    /// Writes to all partitions that have messages. The messages of one partition stay in order.
    async fn write(
        &self,
        to: &Arc<str>,
        topic: &Arc<str>,
        session: &Arc<ProducerSession>,
        partitions: usize,
        messages: Vec<TopicMessage>,
    ) -> Vec<UnsentMessages> {
        let mut by_partition: BTreeMap<usize, Vec<TopicMessage>> = BTreeMap::new();
        for message in messages {
            let partition = match &message.key {
                Some(key) => partition_of(key, partitions),
                None => self.shared.turn.fetch_add(1, Ordering::Relaxed) % partitions,
            };
            by_partition.entry(partition).or_default().push(message);
        }
        let writes = by_partition
            .into_iter()
            .map(|(partition, messages)| write_partition(to, topic, session, partition as i32, messages));
        let left: Vec<UnsentMessages> = futures::stream::iter(writes)
            .buffer_unordered(AT_ONCE)
            .flat_map(futures::stream::iter)
            .collect()
            .await;
        if left.iter().any(|left| !is_too_large(&left.error)) {
            self.forget(session);
        }
        left
    }

    fn forget(&self, session: &Arc<ProducerSession>) {
        let mut kept = self.shared.session.lock();
        if kept.as_ref().is_some_and(|(_, kept)| Arc::ptr_eq(kept, session)) {
            *kept = None;
        }
    }
}

/// Writes a partition's messages request by request. A batch that the broker rejects as too large is halved, down to
/// single messages. After any other failure the later messages are not sent, to keep the order.
async fn write_partition(
    to: &Arc<str>,
    topic: &Arc<str>,
    session: &ProducerSession,
    partition: i32,
    messages: Vec<TopicMessage>,
) -> Vec<UnsentMessages> {
    let mut requests = requests_of(messages);
    requests.reverse();
    let mut left = Vec::new();
    while let Some(mut messages) = requests.pop() {
        match session.produce(to, topic, partition, &messages).await {
            Ok(()) => {}
            Err(error) if is_too_large(&error) && messages.len() > 1 => {
                let second = messages.split_off(messages.len() / 2);
                requests.push(second);
                requests.push(messages);
            }
            Err(error) if is_too_large(&error) => left.push(UnsentMessages { messages, error }),
            Err(error) => {
                messages.extend(requests.into_iter().rev().flatten());
                left.push(UnsentMessages { messages, error });
                break;
            }
        }
    }
    left
}

/// Groups messages into requests. A message larger than a request is sent alone.
fn requests_of(messages: Vec<TopicMessage>) -> Vec<Vec<TopicMessage>> {
    let mut requests: Vec<Vec<TopicMessage>> = Vec::new();
    let mut room = 0;
    for message in messages {
        let bytes = message.bytes() + RECORD_OVERHEAD_BYTES;
        match requests.last_mut() {
            Some(request) if bytes <= room => request.push(message),
            Some(_) | None => {
                room = REQUEST_BYTES_MAX;
                requests.push(vec![message]);
            }
        }
        room = room.saturating_sub(bytes);
    }
    requests
}

/// Splits messages into those within the size limit and those beyond it.
fn sizes_checked(to: &Arc<str>, messages: Vec<TopicMessage>) -> (Vec<TopicMessage>, Option<UnsentMessages>) {
    let (fit, oversized): (Vec<_>, Vec<_>) =
        messages.into_iter().partition(|message| message.bytes() <= TOPIC_MESSAGE_BYTES_MAX);
    let bytes = oversized.iter().map(TopicMessage::bytes).max();
    let left = bytes.map(|bytes| UnsentMessages {
        messages: oversized,
        error: DeliveryError::TooLarge {
            to: Arc::clone(to),
            bytes,
            why: format!("at most {TOPIC_MESSAGE_BYTES_MAX} bytes are sent"),
        },
    });
    (fit, left)
}

/// Merges the remaining messages under one error. An error that a retry may overcome takes precedence; too large
/// messages are retried with the others.
fn rest_of(topic: Arc<str>, left: Vec<UnsentMessages>) -> Result<(), Box<UndeliveredMessage>> {
    let (too_large, others): (Vec<_>, Vec<_>) = left.into_iter().partition(|left| is_too_large(&left.error));
    let mut all = others.into_iter().chain(too_large);
    let Some(UnsentMessages { mut messages, error }) = all.next() else { return Ok(()) };
    messages.extend(all.flat_map(|left| left.messages));
    Err(Box::new(UndeliveredMessage { error, rest: FailureMessage::Topic { topic, messages } }))
}

fn is_too_large(error: &DeliveryError) -> bool {
    matches!(error, DeliveryError::TooLarge { .. })
}

impl TopicMessage {
    /// Returns the bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.value.len() + self.key.as_ref().map_or(0, bytes::Bytes::len)
    }
}

#[cfg(test)]
mod tests;
