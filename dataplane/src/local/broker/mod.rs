//! An in-memory Kafka broker for laptops and tests, with fault hooks. One broker, classic groups, no transactions; every
//! codec passes through. Judged by foreign clients.

pub(crate) mod coordinator;
mod fetch;
mod groups;
mod log;
mod server;
mod sessions;
mod state;
mod topics;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use lighterman_proto::ids::Offset;
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How a broker starts.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// Where it listens, and what it advertises; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Partitions of a topic that a client creates by naming it; 0 refuses that.
    pub auto_create_partitions: i32,
    /// Bytes kept of each partition; older batches are dropped.
    pub partition_bytes_max: usize,
    /// Which ids its topics have, and who may ask by them.
    pub topic_ids: TopicIds,
}

/// How far a broker knows topics by ids (KIP-516).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicIds {
    /// As Kafka from 3.1 on: metadata tells them, and records are fetched by them.
    #[default]
    Fetched,
    /// As Kafka 2.8 to 3.0: metadata tells them, records are fetched by names.
    Told,
    /// As Kafka before 2.8.
    Absent,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            auto_create_partitions: 0,
            partition_bytes_max: 256 * 1024 * 1024,
            topic_ids: TopicIds::default(),
        }
    }
}

/// What goes wrong with requests of one API.
#[derive(Clone, Debug)]
pub enum RequestFault {
    /// The connection is cut before the request is handled.
    CutBefore,
    /// The request is handled, its reply never leaves.
    CutAfter,
    /// The reply comes this much later.
    Delay(Duration),
    /// The reply's bytes are not Kafka.
    Garbage,
}

#[derive(Clone, Debug)]
struct FaultRule {
    api: i16,
    left: u32,
    fault: RequestFault,
}

/// Faults in force; clones share them.
#[derive(Clone, Debug, Default)]
pub struct RequestFaults {
    rules: Arc<Mutex<Vec<FaultRule>>>,
}

impl RequestFaults {
    /// The next `times` requests of `api` (Kafka's key) meet `fault`.
    pub fn add(&self, api: i16, times: u32, fault: RequestFault) {
        self.rules.lock().push(FaultRule { api, left: times, fault });
    }

    fn next(&self, api: i16) -> Option<RequestFault> {
        let mut rules = self.rules.lock();
        let rule = rules.iter_mut().find(|rule| rule.api == api && rule.left > 0)?;
        rule.left -= 1;
        let fault = rule.fault.clone();
        rules.retain(|rule| rule.left > 0);
        Some(fault)
    }
}

enum AdminCommand {
    Truncate(String, i32, Offset),
    DeleteBefore(String, i32, Offset),
    AddPartitions(String, i32),
    Lead(String, i32, bool),
    ForgetCommit(String, String, i32),
    DeleteTopic(String),
    Replace(String, i32, Offset, Bytes),
}

/// A running broker; dropping it stops it.
pub struct EmbeddedBroker {
    address: SocketAddr,
    faults: RequestFaults,
    deeds: tokio::sync::mpsc::UnboundedSender<(AdminCommand, oneshot::Sender<()>)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker on a thread of its own; returns once it listens.
    pub fn start(settings: BrokerSettings) -> io::Result<Self> {
        let faults = RequestFaults::default();
        let (stop, stopped) = oneshot::channel();
        let (deeds, orders) = tokio::sync::mpsc::unbounded_channel();
        let (started, start) = mpsc::channel();
        let for_thread = faults.clone();
        let thread = std::thread::Builder::new()
            .name("lighterman-broker".to_owned())
            .spawn(move || server::run(&settings, for_thread, orders, &started, stopped))?;
        let address =
            start.recv().map_err(|_| io::Error::other("the broker's thread ended while starting"))??;
        Ok(Self { address, faults, deeds, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Faults for tests.
    pub fn faults(&self) -> &RequestFaults {
        &self.faults
    }

    /// Cuts a partition's log off at `offset`, as an unclean election does.
    pub async fn truncate(&self, topic: &str, partition: i32, offset: Offset) {
        self.order(AdminCommand::Truncate(topic.to_owned(), partition, offset)).await;
    }

    /// Drops a partition's records before `offset`, as retention does.
    pub async fn delete_before(&self, topic: &str, partition: i32, offset: Offset) {
        self.order(AdminCommand::DeleteBefore(topic.to_owned(), partition, offset)).await;
    }

    /// Puts `bytes` in the place of the batch that holds `offset`, as a bad disk does.
    pub async fn replace(&self, topic: &str, partition: i32, offset: Offset, bytes: Bytes) {
        self.order(AdminCommand::Replace(topic.to_owned(), partition, offset, bytes)).await;
    }

    /// Grows a topic to `partitions`.
    pub async fn add_partitions(&self, topic: &str, partitions: i32) {
        self.order(AdminCommand::AddPartitions(topic.to_owned(), partitions)).await;
    }

    /// Takes the leader from a partition, or gives it back.
    pub async fn lead(&self, topic: &str, partition: i32, led: bool) {
        self.order(AdminCommand::Lead(topic.to_owned(), partition, led)).await;
    }

    /// Drops what a group has committed for a partition, as expiry does.
    pub async fn forget_commit(&self, group: &str, topic: &str, partition: i32) {
        self.order(AdminCommand::ForgetCommit(group.to_owned(), topic.to_owned(), partition)).await;
    }

    /// Deletes a topic, and what the groups have committed of it.
    pub async fn delete_topic(&self, topic: &str) {
        self.order(AdminCommand::DeleteTopic(topic.to_owned())).await;
    }

    async fn order(&self, deed: AdminCommand) {
        let (done, ordered) = oneshot::channel();
        if self.deeds.send((deed, done)).is_ok() {
            let _ = ordered.await;
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
