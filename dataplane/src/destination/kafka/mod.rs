//! A topic of the mapping's own cluster, written through rskafka: plain TCP, acks=all, no compression.
//!
//! # Egress
//! rskafka dials by itself. Before it gets a cluster, we ask that cluster for its brokers through our own client, which
//! dials only what [`Egress`] allows, and check every address that a bootstrap or advertised name resolves to; a single
//! denied one refuses the delivery. rskafka's connections live for [`SESSION_AGE_MAX`] at most and end with the first
//! failure, and after each the check is made anew. Not covered: a name that resolves to another address, or a broker that
//! advertises another name, in the moment between our check and rskafka's dial.
//!
//! # Duplicates
//! A reply that is lost, or comes after the deadline, leaves open whether the messages were written; they are sent again.
//! rskafka 0.6 also sends again, as often as the deadline allows, what was written under a producer quota: it takes the
//! broker's throttle time for a refusal. Give this node no producer quota that it can reach.

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

/// How long connections and the egress check behind them are good.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(60);
/// Key and value of one message. Brokers take a mebibyte unless they are told to take more.
pub const TOPIC_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// One request, unless a single message is larger: below the default limit of a batch, `max.message.bytes`.
const REQUEST_BYTES_MAX: usize = 900 * 1024;
/// Lengths, deltas and attributes of a record: more than they take.
const RECORD_OVERHEAD_BYTES: usize = 64;
/// Partitions of one letter that are written at once.
const AT_ONCE: usize = 8;

/// The topics of one cluster; clones share connections. Connections belong to the runtime that delivered first: when it
/// ends they are made anew.
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

/// What is left after a request.
struct UnsentMessages {
    messages: Vec<TopicMessage>,
    error: DeliveryError,
}

impl TopicDestinations {
    /// The cluster behind `bootstrap`. Nothing is dialled before the first letter.
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

    /// A session whose cluster was checked, and how many partitions `topic` has.
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

    /// Writes to all partitions that have messages; those of one partition in order.
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

/// Request after request. A batch that the broker finds too large is halved, down to the single message; after any other
/// failure the later ones are not sent: they must not overtake.
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

/// Cuts messages into requests; one that is larger than a request goes alone.
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

/// Those that may be sent, and those that may not.
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

/// One error for all that is left. What may yet succeed goes first: it is tried again, what is too large with it.
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
    /// Bytes of key and value.
    pub fn bytes(&self) -> usize {
        self.value.len() + self.key.as_ref().map_or(0, bytes::Bytes::len)
    }
}

#[cfg(test)]
mod tests;
