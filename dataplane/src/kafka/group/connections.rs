//! Connections of one membership to its coordinator. A caller waits for a connection no longer than for its request:
//! the deadline includes name resolution, dials and coordinator look-ups.

use std::future::Future;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Request, VersionRange};
use tokio::sync::{MappedMutexGuard, MutexGuard, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::kafka::cluster::{GroupCoordinator, KafkaCluster, REQUEST_DEADLINE};
use crate::kafka::connection::BrokerConnection;
use crate::kafka::error::KafkaError;
use crate::kafka::transport::BrokerAddress;

/// Interval of coordinator look-ups while the response to a join is pending. A broker that has vanished remains the
/// coordinator until the controller fences it (`broker.session.timeout.ms`, 9 s). A member without a generation sends
/// nothing else that would find the next coordinator.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Connections by purpose, each dialled on demand by the thread that needs it.
pub(super) struct CoordinatorConnections {
    cluster: KafkaCluster,
    coordinator: watch::Sender<Option<BrokerAddress>>,
    heartbeat: tokio::sync::Mutex<Option<BrokerConnection>>,
    join: tokio::sync::Mutex<Option<BrokerConnection>>,
    commit: tokio::sync::Mutex<Option<BrokerConnection>>,
}

#[derive(Clone, Copy)]
pub(super) enum ConnectionKind {
    Heartbeat,
    Join,
    Commit,
}

pub(super) type HeldConnection<'c> = MappedMutexGuard<'c, BrokerConnection>;

impl CoordinatorConnections {
    pub(super) fn new(cluster: KafkaCluster) -> Self {
        Self {
            cluster,
            coordinator: watch::Sender::new(None),
            heartbeat: tokio::sync::Mutex::new(None),
            join: tokio::sync::Mutex::new(None),
            commit: tokio::sync::Mutex::new(None),
        }
    }

    pub(super) fn cluster(&self) -> &KafkaCluster {
        &self.cluster
    }

    /// Returns the connection, open to the current coordinator, for exclusive use.
    pub(super) async fn take(
        &self,
        kind: ConnectionKind,
        group: &str,
    ) -> Result<HeldConnection<'_>, KafkaError> {
        within(REQUEST_DEADLINE, group, self.open(kind, group)).await
    }

    /// Dials the current coordinator for a single request.
    pub(super) async fn dial(&self, group: &str) -> Result<BrokerConnection, KafkaError> {
        let dialled = async {
            let address = self.coordinator(group).await?;
            self.cluster.connect(&address).await
        };
        within(REQUEST_DEADLINE, group, dialled).await
    }

    pub(super) async fn find(&self, group: &str) -> Result<GroupCoordinator, KafkaError> {
        let found = self.cluster.find_coordinator(group).await?;
        self.coordinator.send_replace(Some(found.address.clone()));
        Ok(found)
    }

    pub(super) fn forget_coordinator(&self) {
        self.coordinator.send_replace(None);
    }

    /// Performs one exchange over the connection `kind` within `deadline`, whichever step is slow.
    pub(super) async fn call<R: Request>(
        &self,
        kind: ConnectionKind,
        group: &str,
        versions: VersionRange,
        deadline: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, KafkaError> {
        let ends = Instant::now() + deadline;
        let called = async {
            let open = self.open(kind, group);
            let mut connection = within(deadline.min(REQUEST_DEADLINE), group, open).await?;
            let left = ends.saturating_duration_since(Instant::now());
            let exchange = self.exchange(&mut connection, versions, left, build);
            match kind {
                ConnectionKind::Join => self.beside_looks(group, exchange).await,
                ConnectionKind::Heartbeat | ConnectionKind::Commit => exchange.await,
            }
        };
        let answer = called.await;
        if answer.is_err() {
            // A broker that does not answer may have ceased to be the coordinator.
            self.forget_coordinator();
        }
        answer
    }

    /// Awaits `exchange`, and meanwhile looks up the coordinator at intervals.
    async fn beside_looks<T>(&self, group: &str, exchange: impl Future<Output = T>) -> T {
        let looks = async {
            let mut asked = None;
            loop {
                sleep(LOOK_EVERY).await;
                // A failed look-up is ignored: the next one may succeed.
                asked = self.look(group, asked).await.ok();
            }
        };
        tokio::select! {
            biased;
            ended = exchange => ended,
            never = looks => never,
        }
    }

    /// Looks up the coordinator once, over the connection of the last look-up if it is still open.
    async fn look(
        &self,
        group: &str,
        asked: Option<BrokerConnection>,
    ) -> Result<BrokerConnection, KafkaError> {
        let mut connection = match asked {
            Some(connection) => connection,
            None => self.cluster.connect_any().await?,
        };
        let found = self.cluster.ask_coordinator(&mut connection, group).await?;
        self.coordinator.send_replace(Some(found.address));
        Ok(connection)
    }

    /// Sends one request and awaits its response, or fails as soon as the coordinator has moved. The response to a
    /// join may take as long as a function runs, and a former coordinator never sends it.
    async fn exchange<R: Request>(
        &self,
        connection: &mut BrokerConnection,
        versions: VersionRange,
        deadline: Duration,
        build: impl FnOnce(i16) -> R,
    ) -> Result<R::Response, KafkaError> {
        let (address, api) = (connection.address().clone(), api_of::<R>());
        let mut coordinator = self.coordinator.subscribe();
        let moved = coordinator.wait_for(|now| now.as_ref().is_some_and(|now| *now != address));
        let called = timeout(deadline, connection.call(versions, deadline, build));
        tokio::select! {
            biased;
            answer = called => match answer {
                Ok(answer) => answer.map(|(reply, _)| reply),
                Err(_) => Err(KafkaError::Timeout { address: address.clone(), api, after: deadline }),
            },
            Ok(_) = moved => Err(KafkaError::CoordinatorMoved { address: address.clone(), api }),
        }
    }

    async fn open(&self, kind: ConnectionKind, group: &str) -> Result<HeldConnection<'_>, KafkaError> {
        let slot = match kind {
            ConnectionKind::Heartbeat => &self.heartbeat,
            ConnectionKind::Join => &self.join,
            ConnectionKind::Commit => &self.commit,
        };
        let mut held = slot.lock().await;
        // A spoiled connection is reset before the coordinator is looked up (H6).
        held.take_if(|open| open.is_spoiled());
        let address = self.coordinator(group).await?;
        let fits = |open: &BrokerConnection| *open.address() == address && open.is_on_dialing_thread();
        let usable = held.as_ref().is_some_and(fits);
        if !usable {
            *held = Some(self.cluster.connect(&address).await?);
        }
        MutexGuard::try_map(held, Option::as_mut)
            .map_err(|_| KafkaError::NoLeader { partition: format!("group {group}") })
    }

    async fn coordinator(&self, group: &str) -> Result<BrokerAddress, KafkaError> {
        let known = self.coordinator.borrow().clone();
        match known {
            Some(address) => Ok(address),
            None => Ok(self.find(group).await?.address),
        }
    }
}

/// Returns the outcome of `asked`, or an error if it takes longer than `deadline`.
async fn within<T>(
    deadline: Duration,
    group: &str,
    asked: impl Future<Output = Result<T, KafkaError>>,
) -> Result<T, KafkaError> {
    let late = |_| KafkaError::CoordinatorSilent { group: group.to_owned(), after: deadline };
    timeout(deadline, asked).await.map_err(late)?
}

fn api_of<R: Request>() -> ApiKey {
    ApiKey::try_from(R::KEY).expect("kafka-protocol knows its own keys")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::{BufMut, BytesMut};
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use kafka_protocol::messages::api_versions_response::ApiVersion;
    use kafka_protocol::messages::{
        ApiVersionsResponse, FindCoordinatorResponse, JoinGroupRequest, ResponseHeader,
    };
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::kafka::connection::versions;
    use crate::kafka::transport::{BrokerConnector, ByteTransport};

    impl ByteTransport for DuplexStream {
        fn reset_on_close(&self) {}
    }

    /// Cluster with brokers of one kind: they answer `ApiVersions` and nothing else, or nothing at all.
    #[derive(Clone, Copy)]
    enum CoordinatorDialer {
        Vanished,
        Frozen,
        /// As `Frozen`, but the brokers know the coordinator: broker `b`.
        Fenced,
    }

    impl BrokerConnector for CoordinatorDialer {
        fn connect<'a>(
            &'a self,
            _: &'a BrokerAddress,
        ) -> BoxFuture<'a, Result<Box<dyn ByteTransport>, KafkaError>> {
            match self {
                Self::Vanished => std::future::pending().boxed(),
                Self::Frozen | Self::Fenced => {
                    let (ours, theirs) = duplex(64 * 1024);
                    tokio::spawn(speaks(theirs, matches!(self, Self::Fenced)));
                    std::future::ready(Ok(Box::new(ours) as Box<dyn ByteTransport>)).boxed()
                }
            }
        }
    }

    async fn speaks(mut stream: DuplexStream, knows_coordinator: bool) {
        let mut correlation = 0;
        while let Ok(length) = stream.read_u32().await {
            let mut request = vec![0; length as usize];
            stream.read_exact(&mut request).await.expect("all of it");
            correlation += 1;
            let mut frame = BytesMut::new();
            ResponseHeader::default()
                .with_correlation_id(correlation)
                .encode(&mut frame, 0)
                .expect("encodes");
            match ApiKey::try_from(i16::from_be_bytes([request[0], request[1]])) {
                Ok(ApiKey::ApiVersions) => offered().encode(&mut frame, 3).expect("encodes"),
                Ok(ApiKey::FindCoordinator) if knows_coordinator => {
                    let found = FindCoordinatorResponse::default().with_host(StrBytes::from_static_str("b"));
                    found.with_port(9092).encode(&mut frame, 1).expect("encodes");
                }
                _ => continue,
            }
            let mut framed = BytesMut::new();
            framed.put_u32(frame.len() as u32);
            framed.extend_from_slice(&frame);
            stream.write_all(&framed).await.expect("heard");
        }
    }

    fn offered() -> ApiVersionsResponse {
        let api = |key, max| ApiVersion::default().with_api_key(key as i16).with_max_version(max);
        let keys = vec![api(ApiKey::JoinGroup, 7), api(ApiKey::FindCoordinator, 1)];
        ApiVersionsResponse::default().with_api_keys(keys)
    }

    fn connections(brokers: CoordinatorDialer, coordinator: Option<&str>) -> CoordinatorConnections {
        let bootstrap = vec![BrokerAddress::new("a", 9092), BrokerAddress::new("b", 9092)];
        let connections =
            CoordinatorConnections::new(KafkaCluster::new(bootstrap, Arc::new(brokers), "test"));
        connections.coordinator.send_replace(coordinator.map(|host| BrokerAddress::new(host, 9092)));
        connections
    }

    async fn join(
        connections: &CoordinatorConnections,
        kind: ConnectionKind,
        deadline: Duration,
    ) -> Result<(), KafkaError> {
        let request = |_| JoinGroupRequest::default();
        connections.call(kind, "g", versions(0, 7), deadline, request).await.map(|_| ())
    }

    /// Short deadline.
    const SOON: Duration = Duration::from_millis(50);
    /// Bound that only a request with another deadline exceeds.
    const MUCH_LATER: Duration = Duration::from_secs(8);

    #[tokio::test]
    async fn own_1_heartbeat_deadline_covers_lookup_and_dial() {
        for coordinator in [None, Some("a")] {
            let connections = connections(CoordinatorDialer::Vanished, coordinator);
            let answer = timeout(MUCH_LATER, join(&connections, ConnectionKind::Heartbeat, SOON))
                .await
                .expect("it ends");
            assert!(matches!(answer, Err(KafkaError::CoordinatorSilent { .. })), "{answer:?}");
            assert!(answer.is_err_and(|error| !error.may_still_apply()), "nothing was sent");
            assert_eq!(*connections.coordinator.borrow(), None, "the coordinator is looked up again");
        }
    }

    #[tokio::test]
    async fn own_1_timed_out_request_may_still_apply() {
        let connections = connections(CoordinatorDialer::Frozen, Some("a"));
        let deadline = Duration::from_secs(2);
        let answer = timeout(MUCH_LATER, join(&connections, ConnectionKind::Heartbeat, deadline))
            .await
            .expect("it ends");
        assert!(answer.is_err_and(|error| error.may_still_apply()));
    }

    #[tokio::test]
    async fn liv_1_pending_join_fails_when_coordinator_moves() {
        let connections = connections(CoordinatorDialer::Frozen, Some("a"));
        let moves = async {
            sleep(SOON).await;
            connections.forget_coordinator();
            connections.coordinator.send_replace(Some(BrokerAddress::new("a", 9092)));
            sleep(SOON).await;
            connections.coordinator.send_replace(Some(BrokerAddress::new("b", 9092)));
        };
        let joins = join(&connections, ConnectionKind::Join, Duration::from_secs(960));
        let both = async { tokio::join!(joins, moves) };
        let (answer, ()) = timeout(Duration::from_secs(60), both).await.expect("it ends");
        assert!(matches!(answer, Err(KafkaError::CoordinatorMoved { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn liv_1_unanswered_join_looks_up_next_coordinator() {
        let connections = connections(CoordinatorDialer::Fenced, Some("a"));
        let joins = join(&connections, ConnectionKind::Join, Duration::from_secs(960));
        let answer = timeout(Duration::from_secs(60), joins).await.expect("it ends");
        assert!(matches!(answer, Err(KafkaError::CoordinatorMoved { .. })), "{answer:?}");
    }
}
