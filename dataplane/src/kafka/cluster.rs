//! Metadata cache of brokers, leaders and epochs, and the connections to brokers.

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

/// Deadline of every exchange that is not a long poll.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Deadline of `FindCoordinator`. A broker answers it from memory.
const LOOK_UP_DEADLINE: Duration = Duration::from_secs(5);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// Head start of one broker before the next is dialled in parallel.
const DIAL_PATIENCE: Duration = Duration::from_millis(500);
/// Minimum interval between metadata refreshes; requests closer together share one.
const REFRESH_SPACING: Duration = Duration::from_millis(100);
/// Time after a topic's recreation in which a broker may still report the previous topic id. An older id that
/// returns later belongs to another cluster behind the same name.
const OUTDATED_FOR: Duration = Duration::from_secs(60);
/// Number of former ids kept per topic.
const FORMER_IDS_MAX: usize = 8;

/// Id of a broker in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerId(pub i32);

/// Partition as metadata shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Partition index.
    pub partition: i32,
    /// Current leader, if there is one.
    pub leader: Option<BrokerId>,
    /// Leader epoch, −1 when unknown.
    pub leader_epoch: i32,
}

/// Topic as metadata shows it; clones share the partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicView {
    /// Topic id, which distinguishes topics of the same name. `None` if the brokers have no topic ids (before 2.8).
    pub id: Option<TopicId>,
    /// Partitions from 0 on, each at its index.
    pub partitions: Arc<[PartitionView]>,
}

impl TopicView {
    /// Returns the partition with this index.
    pub fn partition(&self, index: i32) -> Option<&PartitionView> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// Broker that coordinates a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCoordinator {
    /// Broker id.
    pub broker: BrokerId,
    /// Broker address.
    pub address: BrokerAddress,
}

/// Broker that leads a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLeader {
    /// Broker id.
    pub broker: BrokerId,
    /// Broker address.
    pub address: BrokerAddress,
    /// Leader epoch, −1 when unknown.
    pub epoch: i32,
    /// Id of the topic that the partition belongs to, if known.
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
    /// Former topic ids, each with the moment at which its successor was first reported.
    former: VecDeque<(TopicId, Moment)>,
}

impl KafkaCluster {
    /// Creates a client of the cluster behind `bootstrap`, without dialling.
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

    /// Returns the bootstrap servers as a comma-separated list.
    pub fn servers(&self) -> String {
        self.shared.bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// Returns the brokers of the latest metadata.
    pub fn brokers(&self) -> Vec<BrokerAddress> {
        self.shared.cache.lock().brokers.values().cloned().collect()
    }

    /// Opens a connection to `address`, at least the dial spacing after the previous one.
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

    /// Connects to any broker: the known brokers first, then the bootstrap list, with names resolved again (H19).
    /// Brokers that did not answer their last dial are tried last. A silent broker does not delay the others.
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

    /// Returns the partitions of `topic`, at most `age_max` old. Concurrent callers share one refresh.
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

    /// Refreshes and returns the partitions of `topic`.
    pub async fn refresh(&self, topic: &str) -> Result<TopicView, KafkaError> {
        self.topic(topic, Duration::ZERO).await
    }

    /// Returns the leader of a partition from the cache.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<PartitionLeader> {
        let cache = self.shared.cache.lock();
        let topic = &cache.topics.get(topic)?.view;
        let view = topic.partition(partition)?;
        let broker = view.leader?;
        let address = cache.brokers.get(&broker)?.clone();
        Some(PartitionLeader { broker, address, epoch: view.leader_epoch, topic: topic.id })
    }

    /// Returns the topic id of the latest metadata.
    pub fn topic_id(&self, topic: &str) -> Option<TopicId> {
        self.shared.cache.lock().topics.get(topic)?.view.id
    }

    /// Finds the coordinator of a group through any broker.
    pub async fn find_coordinator(&self, group: &str) -> Result<GroupCoordinator, KafkaError> {
        self.ask_coordinator(&mut self.connect_any().await?, group).await
    }

    /// Finds the coordinator of a group through the broker at the other end of `connection`.
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
        // The partition count is the input of the assignment.
        if !view.iter().map(|partition| partition.partition).eq(0..view.len() as i32) {
            return Err(unanswered(format!("topic `{topic}`"), ResponseMismatch::Gap));
        }
        Ok(TopicView { id: TopicId::of(answer.topic_id), partitions: view.into() })
    }
}

impl KnownTopic {
    /// Returns the topic ids that precede `next`, including the current one if `next` differs from it.
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

/// Returns the brokers that a response names. A broker with two addresses is an error.
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

/// Returns the part of a response that describes `topic`. Two such parts are an error.
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
    // A look-up must not create the topic.
    MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(false)
}

fn address_of(host: &StrBytes, port: i32) -> Result<BrokerAddress, KafkaError> {
    let address = BrokerAddress::new(host.as_str(), 0);
    let port = u16::try_from(port)
        .map_err(|_| KafkaError::Frame { address, what: format!("it advertises port {port}") })?;
    Ok(BrokerAddress::new(host.as_str(), port))
}
