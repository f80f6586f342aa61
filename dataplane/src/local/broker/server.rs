//! Connection handling: frames are read and answered in order, one request at a time per connection.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, ProduceRequest, RequestHeader, RequestKind, ResponseHeader, ResponseKind,
};
use kafka_protocol::protocol::{Decodable, Encodable};
use lighterman_proto::units::FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

use super::sessions::ServerSession;
use super::state::{BrokerState, SharedBroker};
use super::{AdminCommand, BrokerSettings, RequestFault, RequestFaults, TopicIds, fetch, groups, topics};
use crate::runtime::clock;

const CONNECTIONS_MAX: usize = 4096;
const GROUP_TICK: Duration = Duration::from_millis(100);
const UNSUPPORTED_VERSION: i16 = 35;

/// Supported API versions. For topic ids, [`TopicIds`] narrows them.
const SPOKEN: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 3, 9),
    (ApiKey::Fetch, 4, 13),
    (ApiKey::ListOffsets, 1, 7),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::OffsetCommit, 2, 8),
    (ApiKey::OffsetFetch, 1, 8),
    (ApiKey::FindCoordinator, 0, 4),
    (ApiKey::JoinGroup, 0, 7),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 5),
    (ApiKey::ListGroups, 0, 4),
    (ApiKey::ApiVersions, 0, 3),
    (ApiKey::CreateTopics, 2, 5),
    (ApiKey::DeleteTopics, 1, 5),
    (ApiKey::InitProducerId, 0, 4),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::DescribeConfigs, 1, 4),
];

type AdminCommands = tokio::sync::mpsc::UnboundedReceiver<(AdminCommand, oneshot::Sender<()>)>;

/// Runs the broker on the current thread until it is stopped.
pub(super) fn run(
    settings: &BrokerSettings,
    faults: RequestFaults,
    orders: AdminCommands,
    started: &mpsc::Sender<io::Result<SocketAddr>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    runtime.block_on(LocalSet::new().run_until(async {
        let listener = match TcpListener::bind(settings.listen).await {
            Ok(listener) => listener,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        let address = listener.local_addr().unwrap_or(settings.listen);
        let _ = started.send(Ok(address));
        let shared = SharedBroker {
            state: Rc::new(RefCell::new(BrokerState::new(settings.clone(), address))),
            appended: Rc::new(Notify::new()),
            faults,
        };
        tokio::select! {
            () = accept(listener, shared.clone()) => {}
            () = tick_groups(shared.clone()) => {}
            () = apply_command(shared, orders) => {}
            _ = stopped => {}
        }
    }));
}

async fn accept(listener: TcpListener, shared: SharedBroker) {
    let open = Rc::new(RefCell::new(0usize));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(GROUP_TICK).await;
            continue;
        };
        if *open.borrow() >= CONNECTIONS_MAX {
            continue;
        }
        *open.borrow_mut() += 1;
        let (shared, open) = (shared.clone(), Rc::clone(&open));
        tokio::task::spawn_local(async move {
            if let Err(error) = serve(stream, &shared).await {
                tracing::debug!(%error, "client connection ended");
            }
            *open.borrow_mut() -= 1;
        });
    }
}

async fn tick_groups(shared: SharedBroker) {
    let mut beat = tokio::time::interval(GROUP_TICK);
    loop {
        beat.tick().await;
        let mut state = shared.state.borrow_mut();
        let now = clock::now();
        let given: Vec<_> = state.groups.values_mut().flat_map(|group| group.tick(now)).collect();
        state.hand_out(given);
    }
}

async fn apply_command(shared: SharedBroker, mut orders: AdminCommands) {
    while let Some((deed, done)) = orders.recv().await {
        carry_out(&mut shared.state.borrow_mut(), deed);
        shared.appended.notify_waiters();
        let _ = done.send(());
    }
    // The handle is dropped; the broker itself is stopped by its own signal.
    std::future::pending::<()>().await;
}

fn carry_out(state: &mut BrokerState, deed: AdminCommand) {
    match deed {
        AdminCommand::Truncate(topic, partition, offset) => {
            if let Some(log) = state.log_mut(&topic, partition) {
                log.truncate(offset);
            }
        }
        AdminCommand::DeleteBefore(topic, partition, offset) => {
            if let Some(log) = state.log_mut(&topic, partition) {
                log.delete_before(offset);
            }
        }
        AdminCommand::Replace(topic, partition, offset, bytes) => {
            if let Some(log) = state.log_mut(&topic, partition) {
                log.replace(offset, bytes);
            }
        }
        AdminCommand::AddPartitions(topic, partitions) => {
            state.grow_topic(&topic, partitions);
        }
        AdminCommand::Lead(topic, partition, led) => {
            let leaderless = state.leaderless.entry(topic).or_default();
            let _ = if led { leaderless.remove(&partition) } else { leaderless.insert(partition) };
        }
        AdminCommand::ForgetCommit(group, topic, partition) => {
            if let Some(group) = state.groups.get_mut(&group) {
                group.offsets.remove(&(topic, partition));
            }
        }
        AdminCommand::DeleteTopic(topic) => {
            state.delete_topic(&topic);
        }
    }
}

async fn serve(mut stream: TcpStream, shared: &SharedBroker) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut session = ServerSession::default();
    let mut inbound = BytesMut::new();
    loop {
        let length = match stream.read_i32().await {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = usize::try_from(length).ok().filter(|length| (8..=FRAME_BYTES_MAX).contains(length));
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a Kafka frame"))?;
        inbound.reserve(length);
        while inbound.len() < length {
            let missing = length - inbound.len();
            if stream.read_buf(&mut (&mut inbound).limit(missing)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let frame = inbound.split_to(length).freeze();
        let api = i16::from_be_bytes([frame[0], frame[1]]);
        let fault = shared.faults.next(api);
        if matches!(fault, Some(RequestFault::CutBefore)) {
            return Ok(());
        }
        let reply = answer(frame, shared, &mut session).await?;
        match fault {
            Some(RequestFault::CutAfter) => return Ok(()),
            Some(RequestFault::Delay(wait)) => tokio::time::sleep(wait).await,
            Some(RequestFault::Garbage) => {
                stream.write_all(&[0, 0, 0, 5, 0xde, 0xad, 0xbe, 0xef, 0xff]).await?;
                continue;
            }
            Some(RequestFault::CutBefore) | None => {}
        }
        if let Some(reply) = reply {
            stream.write_all(&reply).await?;
        }
    }
}

async fn answer(
    mut frame: Bytes,
    shared: &SharedBroker,
    session: &mut ServerSession,
) -> io::Result<Option<BytesMut>> {
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    let (key, version) = (i16::from_be_bytes([frame[0], frame[1]]), i16::from_be_bytes([frame[2], frame[3]]));
    let correlation = i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]]);
    let api = ApiKey::try_from(key).map_err(|()| invalid(format!("unknown API {key}")))?;
    let ids = shared.state.borrow().settings.topic_ids;
    let spoken = spoken(ids).any(|(known, min, max)| known == api && (min..=max).contains(&version));
    if !spoken {
        if api == ApiKey::ApiVersions {
            // A client with a newer ApiVersions gets version 0 of the response, which every client can decode
            // (KIP-511).
            let body = ResponseKind::ApiVersions(api_versions(ids).with_error_code(UNSUPPORTED_VERSION));
            return write(correlation, &body, 0, 0).map(Some);
        }
        return Err(invalid(format!("{api:?} version {version} is not spoken here")));
    }
    let header = RequestHeader::decode(&mut frame, api.request_header_version(version))
        .map_err(|error| invalid(format!("{error:#}")))?;
    let client = header.client_id.map(|id| id.to_string()).unwrap_or_default();
    let request =
        RequestKind::decode(api, &mut frame, version).map_err(|error| invalid(format!("{error:#}")))?;
    let silent = matches!(&request, RequestKind::Produce(ProduceRequest { acks: 0, .. }));
    let response = dispatch(request, &client, version, shared, session).await;
    let response = response.ok_or_else(|| invalid(format!("{api:?} is not spoken here")))?;
    if silent {
        return Ok(None);
    }
    write(correlation, &response, version, api.response_header_version(version)).map(Some)
}

async fn dispatch(
    request: RequestKind,
    client: &str,
    version: i16,
    shared: &SharedBroker,
    session: &mut ServerSession,
) -> Option<ResponseKind> {
    Some(match request {
        RequestKind::ApiVersions(_) => {
            ResponseKind::ApiVersions(api_versions(shared.state.borrow().settings.topic_ids))
        }
        RequestKind::Metadata(request) => ResponseKind::Metadata(topics::metadata(shared, request, version)),
        RequestKind::Produce(request) => ResponseKind::Produce(topics::produce(shared, request)),
        RequestKind::Fetch(request) => {
            ResponseKind::Fetch(fetch::fetch(shared, session, request, version).await)
        }
        RequestKind::ListOffsets(request) => {
            ResponseKind::ListOffsets(fetch::list_offsets(shared, request, version))
        }
        RequestKind::OffsetForLeaderEpoch(request) => {
            ResponseKind::OffsetForLeaderEpoch(fetch::leader_epochs(shared, request))
        }
        RequestKind::CreateTopics(request) => {
            ResponseKind::CreateTopics(topics::create(shared, request, version))
        }
        RequestKind::DeleteTopics(request) => ResponseKind::DeleteTopics(topics::delete(shared, request)),
        RequestKind::DescribeConfigs(request) => ResponseKind::DescribeConfigs(topics::configs(request)),
        RequestKind::InitProducerId(_) => ResponseKind::InitProducerId(topics::producer_id(shared)),
        RequestKind::FindCoordinator(request) => {
            ResponseKind::FindCoordinator(groups::find_coordinator(shared, request, version))
        }
        RequestKind::JoinGroup(request) => {
            ResponseKind::JoinGroup(groups::join(shared, client, request, version).await)
        }
        RequestKind::SyncGroup(request) => {
            ResponseKind::SyncGroup(groups::sync(shared, request, version).await)
        }
        RequestKind::Heartbeat(request) => ResponseKind::Heartbeat(groups::heartbeat(shared, request)),
        RequestKind::LeaveGroup(request) => ResponseKind::LeaveGroup(groups::leave(shared, request, version)),
        RequestKind::OffsetCommit(request) => ResponseKind::OffsetCommit(groups::commit(shared, request)),
        RequestKind::OffsetFetch(request) => {
            ResponseKind::OffsetFetch(groups::committed(shared, request, version))
        }
        RequestKind::ListGroups(_) => ResponseKind::ListGroups(groups::list(shared, version)),
        RequestKind::DescribeGroups(request) => {
            ResponseKind::DescribeGroups(groups::describe(shared, request))
        }
        _ => return None,
    })
}

/// Returns the supported versions, without those that use topic ids the broker does not have.
fn spoken(ids: TopicIds) -> impl Iterator<Item = (ApiKey, i16, i16)> {
    SPOKEN.iter().map(move |(api, min, max)| match (api, ids) {
        (ApiKey::Fetch, TopicIds::Told | TopicIds::Absent) => (*api, *min, 12),
        (ApiKey::Metadata, TopicIds::Absent) => (*api, *min, 9),
        _ => (*api, *min, *max),
    })
}

fn api_versions(ids: TopicIds) -> ApiVersionsResponse {
    let keys = spoken(ids).map(|(api, min, max)| {
        ApiVersion::default().with_api_key(api as i16).with_min_version(min).with_max_version(max)
    });
    ApiVersionsResponse::default().with_api_keys(keys.collect())
}

fn write(
    correlation: i32,
    response: &ResponseKind,
    version: i16,
    header_version: i16,
) -> io::Result<BytesMut> {
    let failed = |error: anyhow::Error| io::Error::other(error);
    let mut into = BytesMut::new();
    into.put_i32(0);
    ResponseHeader::default()
        .with_correlation_id(correlation)
        .encode(&mut into, header_version)
        .map_err(failed)?;
    response.encode(&mut into, version).map_err(failed)?;
    let length = into.len() as i32 - 4;
    into[..4].copy_from_slice(&length.to_be_bytes());
    Ok(into)
}
