//! Brokers, leaders and epochs: the metadata cache, and the way to a connection.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{
    ApiKey, FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use super::connection::{BrokerConnection, versions};
use super::dialing::{DialBook, dial_first};
use super::error::{KafkaError, ResponseMismatch};
use super::transport::{BrokerAddress, BrokerConnector};
use crate::runtime::clock;

/// Every exchange that is not a long poll ends within this.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// A broker answers who coordinates a group out of its memory.
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long whoever answers has to itself before another is asked beside it.
const DIAL_PATIENCE: Duration = Duration::from_millis(500);
/// Refreshes closer together than this are one.
const REFRESH_SPACING: Duration = Duration::from_millis(100);
/// How long after a topic was made anew a broker may still tell of the one before. An older id that comes back later is another
/// cluster's behind the same name.
const OUTDATED_FOR: Duration = Duration::from_secs(60);
/// Former ids kept of a topic.
const FORMER_IDS_MAX: usize = 8;

/// Id of a broker in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerId(pub i32);

/// A partition as metadata shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Partition index.
    pub partition: i32,
    /// Who leads it.
    pub leader: Option<BrokerId>,
    /// Under which leader epoch, −1 when unknown.
    pub leader_epoch: i32,
}

/// A topic as metadata shows it; clones share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicView {
    /// Tells it from another topic of its name. `None`: its brokers have no ids (before 2.8).
    pub id: Option<TopicId>,
    /// Its partitions, from 0 on: each stands at its index.
    pub partitions: Arc<[PartitionView]>,
}

impl TopicView {
    /// The partition of this index.
    pub fn partition(&self, index: i32) -> Option<&PartitionView> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// Where a group's coordinator is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCoordinator {
    /// Which broker.
    pub broker: BrokerId,
    /// Its address.
    pub address: BrokerAddress,
}

/// Where a partition's leader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLeader {
    /// Which broker.
    pub broker: BrokerId,
    /// Its address.
    pub address: BrokerAddress,
    /// Leader epoch, −1 when unknown.
    pub epoch: i32,
    /// Of which topic of its name.
    pub topic: Option<TopicId>,
}

/// One Kafka cluster; clones share the cache.
#[derive(Clone)]
pub struct KafkaCluster {
    shared: Arc<ClusterState>,
}

struct ClusterState {
    bootstrap: Vec<BrokerAddress>,
    connector: Arc<dyn BrokerConnector>,
    client_id: String,
    cache: Mutex<MetadataCache>,
    refreshing: tokio::sync::Mutex<()>,
    dials: Mutex<DialBook>,
}

#[derive(Default)]
struct MetadataCache {
    brokers: HashMap<BrokerId, BrokerAddress>,
    topics: HashMap<Arc<str>, KnownTopic>,
}

struct KnownTopic {
    at: Moment,
    view: TopicView,
    /// Ids that it had before, and when another was first told.
    former: VecDeque<(TopicId, Moment)>,
}

impl KafkaCluster {
    /// A cluster behind `bootstrap`; nothing is dialled yet.
    pub fn new(
        bootstrap: Vec<BrokerAddress>,
        connector: Arc<dyn BrokerConnector>,
        client_id: impl Into<String>,
    ) -> Self {
        Self {
            shared: Arc::new(ClusterState {
                bootstrap,
                connector,
                client_id: client_id.into(),
                cache: Mutex::new(MetadataCache::default()),
                refreshing: tokio::sync::Mutex::new(()),
                dials: Mutex::default(),
            }),
        }
    }

    /// The bootstrap servers, as people write them.
    pub fn servers(&self) -> String {
        self.shared.bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// The brokers that the last metadata named.
    pub fn brokers(&self) -> Vec<BrokerAddress> {
        self.shared.cache.lock().brokers.values().cloned().collect()
    }

    /// A new connection to `address`, spaced from the last one to it.
    pub async fn connect(&self, address: &BrokerAddress) -> Result<BrokerConnection, KafkaError> {
        let shared = &self.shared;
        let wait = shared.dials.lock().begin(address, clock::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let opened =
            BrokerConnection::open(&*shared.connector, address, &shared.client_id, CONNECT_DEADLINE).await?;
        shared.dials.lock().answered(address);
        Ok(opened)
    }

    /// A connection to whoever answers: brokers we know, then the bootstrap list, names resolved anew (H19). Those that did not
    /// answer the last time come last, and one that says nothing is not waited for.
    pub async fn connect_any(&self) -> Result<BrokerConnection, KafkaError> {
        let mut candidates: Vec<BrokerAddress> = self.shared.cache.lock().brokers.values().cloned().collect();
        for address in &self.shared.bootstrap {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        self.shared.dials.lock().sort(&mut candidates);
        let dial = |address| async move { self.connect(&address).await };
        let last = match dial_first(candidates, DIAL_PATIENCE, dial).await {
            Ok(connection) => return Ok(connection),
            Err(last) => last,
        };
        let last = last.unwrap_or_else(|| KafkaError::Frame {
            address: BrokerAddress::new("", 0),
            what: "the bootstrap list is empty".to_owned(),
        });
        Err(KafkaError::NoBootstrap { servers: self.servers(), last: Box::new(last) })
    }

    /// The partitions of `topic`, not older than `age_max`. Callers that come together share one refresh.
    pub async fn topic(&self, topic: &str, age_max: Duration) -> Result<TopicView, KafkaError> {
        if let Some(view) = self.cached(topic, age_max) {
            return Ok(view);
        }
        let _one_at_a_time = self.shared.refreshing.lock().await;
        if let Some(view) = self.cached(topic, age_max.max(REFRESH_SPACING)) {
            return Ok(view);
        }
        let mut connection = self.connect_any().await?;
        let (reply, _) =
            connection.call(versions(4, 12), REQUEST_DEADLINE, |_| metadata_request(topic)).await?;
        self.learn(topic, reply)
    }

    /// The partitions of `topic` as they are now.
    pub async fn refresh(&self, topic: &str) -> Result<TopicView, KafkaError> {
        self.topic(topic, Duration::ZERO).await
    }

    /// The leader of a partition, from the cache.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<PartitionLeader> {
        let cache = self.shared.cache.lock();
        let topic = &cache.topics.get(topic)?.view;
        let view = topic.partition(partition)?;
        let broker = view.leader?;
        let address = cache.brokers.get(&broker)?.clone();
        Some(PartitionLeader { broker, address, epoch: view.leader_epoch, topic: topic.id })
    }

    /// The id of the topic of which the last metadata spoke.
    pub fn topic_id(&self, topic: &str) -> Option<TopicId> {
        self.shared.cache.lock().topics.get(topic)?.view.id
    }

    /// The coordinator of a group.
    pub async fn find_coordinator(&self, group: &str) -> Result<GroupCoordinator, KafkaError> {
        self.ask_coordinator(&mut self.connect_any().await?, group).await
    }

    /// The coordinator of a group, by the broker at the other end of `connection`.
    pub async fn ask_coordinator(
        &self,
        connection: &mut BrokerConnection,
        group: &str,
    ) -> Result<GroupCoordinator, KafkaError> {
        let build = |_| FindCoordinatorRequest::default().with_key(StrBytes::from_string(group.to_owned()));
        let (reply, _) = connection.call(versions(0, 3), LOOK_UP_DEADLINE, build).await?;
        if let Some(code) = ResponseError::try_from_code(reply.error_code) {
            return Err(KafkaError::broker(ApiKey::FindCoordinator, format!("group `{group}`"), code));
        }
        let address = address_of(&reply.host, reply.port)?;
        Ok(GroupCoordinator { broker: BrokerId(*reply.node_id), address })
    }

    fn cached(&self, topic: &str, age_max: Duration) -> Option<TopicView> {
        let cache = self.shared.cache.lock();
        let known = cache.topics.get(topic)?;
        (clock::now().since(known.at) < age_max).then(|| known.view.clone())
    }

    fn learn(&self, topic: &str, reply: MetadataResponse) -> Result<TopicView, KafkaError> {
        let brokers = brokers_of(&reply)?;
        let answer = answer_of(topic, reply.topics)?;
        let mut cache = self.shared.cache.lock();
        cache.brokers = brokers;
        let view = self.view_of(topic, answer)?;
        let at = clock::now();
        let former =
            cache.topics.get(topic).map_or_else(VecDeque::new, |known| known.replaced_by(view.id, at));
        if former.iter().any(|(id, since)| view.id == Some(*id) && at.since(*since) < OUTDATED_FOR) {
            return Err(unanswered(format!("topic `{topic}`"), ResponseMismatch::Outdated));
        }
        cache.topics.insert(Arc::from(topic), KnownTopic { at, view: view.clone(), former });
        Ok(view)
    }

    fn view_of(&self, topic: &str, answer: Option<MetadataResponseTopic>) -> Result<TopicView, KafkaError> {
        let gone = || KafkaError::NoTopic { topic: topic.to_owned(), servers: self.servers() };
        let answer = answer.ok_or_else(gone)?;
        match ResponseError::try_from_code(answer.error_code) {
            None => {}
            Some(ResponseError::UnknownTopicOrPartition) => return Err(gone()),
            Some(code) => return Err(KafkaError::broker(ApiKey::Metadata, format!("topic `{topic}`"), code)),
        }
        let mut view: Vec<PartitionView> = answer
            .partitions
            .iter()
            .map(|partition| PartitionView {
                partition: partition.partition_index,
                leader: (*partition.leader_id >= 0).then_some(BrokerId(*partition.leader_id)),
                leader_epoch: partition.leader_epoch,
            })
            .collect();
        view.sort_by_key(|partition| partition.partition);
        // Their number is what partitions are shared out by.
        if !view.iter().map(|partition| partition.partition).eq(0..view.len() as i32) {
            return Err(unanswered(format!("topic `{topic}`"), ResponseMismatch::Gap));
        }
        Ok(TopicView { id: TopicId::of(answer.topic_id), partitions: view.into() })
    }
}

impl KnownTopic {
    /// The ids that the topic had before it had `next`, the one of now among them if it is another.
    fn replaced_by(&self, next: Option<TopicId>, at: Moment) -> VecDeque<(TopicId, Moment)> {
        let mut former = self.former.clone();
        if let Some(now) = self.view.id.filter(|_| is_another(self.view.id, next)) {
            former.push_back((now, at));
        }
        while former.len() > FORMER_IDS_MAX {
            former.pop_front();
        }
        former
    }
}

fn unanswered(subject: String, what: ResponseMismatch) -> KafkaError {
    KafkaError::Unanswered { api: ApiKey::Metadata, subject, what }
}

/// The brokers that a reply names, each at one address.
fn brokers_of(reply: &MetadataResponse) -> Result<HashMap<BrokerId, BrokerAddress>, KafkaError> {
    let mut brokers = HashMap::with_capacity(reply.brokers.len());
    for broker in &reply.brokers {
        let address = address_of(&broker.host, broker.port)?;
        let before = brokers.insert(BrokerId(*broker.node_id), address.clone());
        if before.is_some_and(|before| before != address) {
            return Err(unanswered(format!("broker {}", *broker.node_id), ResponseMismatch::Duplicate));
        }
    }
    Ok(brokers)
}

/// What a reply says of `topic`.
fn answer_of(
    topic: &str,
    answers: Vec<MetadataResponseTopic>,
) -> Result<Option<MetadataResponseTopic>, KafkaError> {
    let is_ours = |answer: &MetadataResponseTopic| answer.name.as_ref().is_some_and(|name| &**name == topic);
    let mut ours = answers.into_iter().filter(is_ours);
    let answer = ours.next();
    match ours.next() {
        None => Ok(answer),
        Some(_) => Err(unanswered(format!("topic `{topic}`"), ResponseMismatch::Duplicate)),
    }
}

fn metadata_request(topic: &str) -> MetadataRequest {
    let name = TopicName(StrBytes::from_string(topic.to_owned()));
    let topic = MetadataRequestTopic::default().with_name(Some(name));
    // Looking must not create.
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false)
}

fn address_of(host: &StrBytes, port: i32) -> Result<BrokerAddress, KafkaError> {
    let address = BrokerAddress::new(host.as_str(), 0);
    let port = u16::try_from(port)
        .map_err(|_| KafkaError::Frame { address, what: format!("it advertises port {port}") })?;
    Ok(BrokerAddress::new(host.as_str(), port))
}
