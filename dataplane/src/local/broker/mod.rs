//! In-memory Kafka broker for laptops and tests, with fault injection. It is a single broker with classic groups,
//! without transactions; compressed batches of every codec pass through. Tests run other Kafka clients against it.

pub mod coordinator;
mod fetch;
pub mod group_messages;
mod groups;
pub mod kip848_coordinator;
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

/// Configuration of a broker.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// Address to listen on and to advertise; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Partitions of a topic that a client creates by naming it; 0 disables that.
    pub auto_create_partitions: i32,
    /// Maximum bytes of each partition; older batches are dropped.
    pub partition_bytes_max: usize,
    /// Support of topic ids.
    pub topic_ids: TopicIds,
}

/// Extent to which a broker supports topic ids (KIP-516).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicIds {
    /// As in Kafka 3.1 and later: Metadata returns ids, Fetch uses them.
    #[default]
    Fetched,
    /// As in Kafka 2.8 to 3.0: Metadata returns ids, Fetch uses names.
    Told,
    /// As in Kafka before 2.8: no ids.
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

/// Fault applied to requests of one API.
#[derive(Clone, Debug)]
pub enum RequestFault {
    /// The connection is closed before the request is handled.
    CutBefore,
    /// The request is handled, but the connection is closed without a response.
    CutAfter,
    /// The response is delayed by this duration.
    Delay(Duration),
    /// The response bytes are not valid Kafka protocol.
    Garbage,
}

#[derive(Clone, Debug)]
struct FaultRule {
    api: i16,
    left: u32,
    fault: RequestFault,
}

/// Pending faults, shared by all clones.
#[derive(Clone, Debug, Default)]
pub struct RequestFaults {
    rules: Arc<Mutex<Vec<FaultRule>>>,
}

impl RequestFaults {
    /// Applies `fault` to the next `times` requests of `api` (Kafka's API key).
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

/// Running broker; dropping it stops it.
pub struct EmbeddedBroker {
    address: SocketAddr,
    faults: RequestFaults,
    deeds: tokio::sync::mpsc::UnboundedSender<(AdminCommand, oneshot::Sender<()>)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl EmbeddedBroker {
    /// Starts a broker on its own thread. Returns once it listens.
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

    /// Returns the address that the broker listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the faults, for tests to add to.
    pub fn faults(&self) -> &RequestFaults {
        &self.faults
    }

    /// Truncates a partition's log to `offset`, as an unclean leader election does.
    pub async fn truncate(&self, topic: &str, partition: i32, offset: Offset) {
        self.order(AdminCommand::Truncate(topic.to_owned(), partition, offset)).await;
    }

    /// Drops a partition's records before `offset`, as retention does.
    pub async fn delete_before(&self, topic: &str, partition: i32, offset: Offset) {
        self.order(AdminCommand::DeleteBefore(topic.to_owned(), partition, offset)).await;
    }

    /// Replaces the bytes of the batch that contains `offset`, as a corrupt disk does.
    pub async fn replace(&self, topic: &str, partition: i32, offset: Offset, bytes: Bytes) {
        self.order(AdminCommand::Replace(topic.to_owned(), partition, offset, bytes)).await;
    }

    /// Increases a topic's partition count to `partitions`.
    pub async fn add_partitions(&self, topic: &str, partitions: i32) {
        self.order(AdminCommand::AddPartitions(topic.to_owned(), partitions)).await;
    }

    /// Removes the leader of a partition, or restores it.
    pub async fn lead(&self, topic: &str, partition: i32, led: bool) {
        self.order(AdminCommand::Lead(topic.to_owned(), partition, led)).await;
    }

    /// Drops a group's committed offset of a partition, as expiry does.
    pub async fn forget_commit(&self, group: &str, topic: &str, partition: i32) {
        self.order(AdminCommand::ForgetCommit(group.to_owned(), topic.to_owned(), partition)).await;
    }

    /// Deletes a topic and the offsets that groups have committed for it.
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
