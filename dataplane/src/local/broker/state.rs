//! State of the broker, owned by one thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::BrokerId;
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::coordinator::BrokerGroup;
use super::group_messages::{DeferredResponse, ResponseId};
use super::log::BrokerLog;
use super::{BrokerSettings, RequestFaults, TopicIds};

/// Id of the only broker.
pub(super) const NODE: BrokerId = BrokerId(1);
/// Maximum partitions of all topics together.
pub(super) const PARTITIONS_MAX: usize = 20_000;

pub(super) struct BrokerTopic {
    /// Zero if the broker has no topic ids.
    pub id: Uuid,
    pub partitions: Vec<BrokerLog>,
}

pub(super) struct BrokerState {
    pub settings: BrokerSettings,
    pub address: SocketAddr,
    pub topics: BTreeMap<String, BrokerTopic>,
    /// Topic names by id.
    pub names: HashMap<Uuid, String>,
    /// Partitions without a leader.
    pub leaderless: BTreeMap<String, BTreeSet<i32>>,
    pub groups: BTreeMap<String, BrokerGroup>,
    pub waiting: HashMap<ResponseId, oneshot::Sender<DeferredResponse>>,
    pub next_ticket: ResponseId,
    pub next_producer: i64,
    pub next_session: i32,
}

/// Broker state with the notification of appended records.
#[derive(Clone)]
pub(super) struct SharedBroker {
    pub state: Rc<RefCell<BrokerState>>,
    pub appended: Rc<Notify>,
    pub faults: RequestFaults,
}

impl BrokerState {
    pub(super) fn new(settings: BrokerSettings, address: SocketAddr) -> Self {
        Self {
            settings,
            address,
            topics: BTreeMap::new(),
            names: HashMap::new(),
            leaderless: BTreeMap::new(),
            groups: BTreeMap::new(),
            waiting: HashMap::new(),
            next_ticket: 0,
            next_producer: 1000,
            next_session: 1,
        }
    }

    pub(super) fn log(&self, topic: &str, partition: i32) -> Option<&BrokerLog> {
        self.topics.get(topic)?.partitions.get(usize::try_from(partition).ok()?)
    }

    pub(super) fn log_mut(&mut self, topic: &str, partition: i32) -> Option<&mut BrokerLog> {
        self.topics.get_mut(topic)?.partitions.get_mut(usize::try_from(partition).ok()?)
    }

    /// Returns true unless the partition's leader was removed.
    pub(super) fn leads(&self, topic: &str, partition: i32) -> bool {
        self.leaderless.get(topic).is_none_or(|partitions| !partitions.contains(&partition))
    }

    /// Returns the log of a partition that has a leader.
    pub(super) fn led(&self, topic: &str, partition: i32) -> Result<&BrokerLog, Code> {
        if !self.leads(topic, partition) {
            return Err(Code::NotLeaderOrFollower);
        }
        self.log(topic, partition).ok_or(Code::UnknownTopicOrPartition)
    }

    /// Creates a topic or adds partitions to it. Returns false if the partitions would exceed [`PARTITIONS_MAX`].
    pub(super) fn grow_topic(&mut self, topic: &str, partitions: i32) -> bool {
        let wanted = usize::try_from(partitions).unwrap_or_default();
        let all: usize = self.topics.values().map(|topic| topic.partitions.len()).sum();
        let bytes_max = self.settings.partition_bytes_max;
        let missing = wanted.saturating_sub(self.topics.get(topic).map_or(0, |topic| topic.partitions.len()));
        if all + missing > PARTITIONS_MAX {
            return false;
        }
        if !self.topics.contains_key(topic) {
            let id = if self.settings.topic_ids == TopicIds::Absent { Uuid::nil() } else { Uuid::new_v4() };
            if !id.is_nil() {
                self.names.insert(id, topic.to_owned());
            }
            self.topics.insert(topic.to_owned(), BrokerTopic { id, partitions: Vec::new() });
        }
        let Some(topic) = self.topics.get_mut(topic) else { return false };
        topic.partitions.extend((0..missing).map(|_| BrokerLog::new(bytes_max)));
        true
    }

    /// Deletes a topic and the offsets that groups have committed for it. Returns false if it does not exist.
    pub(super) fn delete_topic(&mut self, name: &str) -> bool {
        let Some(topic) = self.topics.remove(name) else { return false };
        self.names.remove(&topic.id);
        for group in self.groups.values_mut() {
            group.offsets.retain(|(topic, _), _| topic != name);
        }
        true
    }

    /// Registers a deferred response.
    pub(super) fn ticket(&mut self) -> (ResponseId, oneshot::Receiver<DeferredResponse>) {
        self.next_ticket += 1;
        let (give, given) = oneshot::channel();
        self.waiting.insert(self.next_ticket, give);
        (self.next_ticket, given)
    }

    pub(super) fn hand_out(&mut self, given: Vec<(ResponseId, DeferredResponse)>) {
        for (ticket, answer) in given {
            if let Some(waiter) = self.waiting.remove(&ticket) {
                let _ = waiter.send(answer);
            }
        }
    }

    pub(super) fn host(&self) -> StrBytes {
        StrBytes::from_string(self.address.ip().to_string())
    }

    pub(super) fn port(&self) -> i32 {
        i32::from(self.address.port())
    }
}
