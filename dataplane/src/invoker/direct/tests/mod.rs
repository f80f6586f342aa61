//! Tests of the direct port against a scripted server.

mod answers;
mod lease;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use lighterman_proto::ids::MappingId;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::credit::memory_budget::MemoryBudget;
use crate::invoker::ClientContext;
use crate::invoker::answer_room::AnswerRoom;
use crate::invoker::outcome::InvocationOutcome;
use crate::invoker::permit::SendPermit;
use crate::invoker::port::ANSWER_BYTES_MAX;
use crate::kafka::group::OwnershipLease;
use crate::runtime::clock;

const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:boats:live";

/// Reaction of the scripted server to a request that it has read.
#[derive(Clone, Copy)]
enum ServerAction {
    Answer(&'static str),
    /// Responds, and closes the connection without announcing it.
    AnswerAndClose(&'static str),
    Close,
    Hang,
    /// Responds as soon as it has read the head, and resets the connection without reading the body.
    RefuseUnread(&'static str),
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull";

/// Request as it arrived on the wire.
#[derive(Clone, Debug)]
struct ReceivedRequest {
    line: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

struct ScriptedServer {
    url: String,
    heard: Arc<Mutex<Vec<ReceivedRequest>>>,
    connections: Arc<AtomicU32>,
}

impl ScriptedServer {
    /// Starts a server that applies the n-th action to the n-th request, and the last action to all that follow.
    async fn start(script: &'static [ServerAction]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let (heard, connections) =
            (Arc::<Mutex<Vec<ReceivedRequest>>>::default(), Arc::new(AtomicU32::new(0)));
        let server = Self { url, heard: Arc::clone(&heard), connections: Arc::clone(&connections) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, script, Arc::clone(&heard)));
            }
        });
        server
    }

    fn heard(&self) -> Vec<ReceivedRequest> {
        self.heard.lock().clone()
    }

    async fn port(&self) -> DirectPort {
        DirectPort::from_sdk(&shared(&self.url)).await.expect("a port")
    }
}

async fn serve(
    mut stream: TcpStream,
    script: &'static [ServerAction],
    heard: Arc<Mutex<Vec<ReceivedRequest>>>,
) {
    if let [ServerAction::RefuseUnread(text)] = script {
        return refuse_unread(stream, text).await;
    }
    while let Some(request) = read_request(&mut stream).await {
        let turn = {
            let mut heard = heard.lock();
            heard.push(request);
            heard.len() - 1
        };
        match script[turn.min(script.len() - 1)] {
            ServerAction::Answer(text) => stream.write_all(text.as_bytes()).await.expect("writes"),
            ServerAction::AnswerAndClose(text) => {
                return stream.write_all(text.as_bytes()).await.expect("writes");
            }
            ServerAction::Close => return,
            ServerAction::Hang | ServerAction::RefuseUnread(_) => std::future::pending().await,
        }
    }
}

async fn refuse_unread(mut stream: TcpStream, text: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    stream.write_all(text.as_bytes()).await.expect("writes");
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a reset on drop");
}

async fn read_request(stream: &mut TcpStream) -> Option<ReceivedRequest> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("ASCII");
    let (line, rest) = head.split_once("\r\n").expect("a line");
    let headers: BTreeMap<_, _> = rest
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(ReceivedRequest { line: line.to_owned(), headers, body })
}

fn shared(url: &str) -> SdkConfig {
    let credentials = Credentials::new("AKID", "se/cret+", Some("token==".to_owned()), None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(aws_config::Region::new("eu-west-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(url)
        .build()
}

fn lease(holds: Duration) -> OwnershipLease {
    let lease = OwnershipLease::default();
    lease.extend(clock::now() + holds);
    lease
}

fn invocation_under(ownership: OwnershipLease, payload: Bytes) -> Invocation {
    let mapping = MappingId(uuid::Uuid::nil());
    Invocation {
        function: Arc::from(FUNCTION),
        payload,
        context: ClientContext { mapping, batch: "k".into(), attempt: 1, fence: 7 },
        answer_room: AnswerRoom::new(ANSWER_BYTES_MAX, MemoryBudget::new(2 * ANSWER_BYTES_MAX)),
        permit: SendPermit::new(ownership),
    }
}

fn invocation() -> Invocation {
    invocation_under(lease(MINUTE), Bytes::from_static(br#"{"records":{}}"#))
}

const MINUTE: Duration = Duration::from_mins(1);

/// Signs a received request again, over the headers that it lists as signed.
fn signed_again(heard: &ReceivedRequest) -> String {
    let authorization = &heard.headers["authorization"];
    let names = authorization.split("SignedHeaders=").nth(1).and_then(|rest| rest.split(',').next());
    let headers: Vec<_> =
        names.expect("signed headers").split(';').map(|name| (name, heard.headers[name].as_str())).collect();
    let path = heard.line.split(' ').nth(1).expect("a path");
    let request = UnsignedRequest {
        method: "POST",
        path,
        headers: &headers,
        body: &heard.body,
        stamp: &heard.headers["x-amz-date"],
    };
    RequestSigner::new("eu-west-1")
        .authorization(&SigningIdentity { access_key_id: "AKID", secret_access_key: "se/cret+" }, &request)
}

#[tokio::test]
async fn sdk_and_direct_port_send_equal_requests() {
    let server = ScriptedServer::start(&[ServerAction::Answer(FINE)]).await;
    let sdk = SdkPort::from_sdk(&shared(&server.url));
    let (by_sdk, by_us) = (sdk.invoke(invocation()).await, server.port().await.invoke(invocation()).await);
    assert_eq!(by_sdk, by_us);
    let heard = server.heard();
    let [sdk, ours] = heard.as_slice() else { panic!("{heard:?}") };
    assert_eq!((&sdk.line, &sdk.body), (&ours.line, &ours.body));
    for name in ["host", "content-type", "content-length", "x-amz-client-context", "x-amz-security-token"] {
        assert_eq!(sdk.headers.get(name), ours.headers.get(name), "{name}");
    }
    assert_eq!(signed_again(sdk), sdk.headers["authorization"], "the own signature of the SDK's request");
    assert_eq!(signed_again(ours), ours.headers["authorization"]);
}

#[tokio::test]
async fn answers_are_parsed_from_headers() {
    let server = ScriptedServer::start(&[
        ServerAction::Answer(
            "HTTP/1.1 200 OK\r\nX-Amz-Function-Error: Unhandled\r\ncontent-length: 2\r\n\r\n{}",
        ),
        ServerAction::Answer(
            "HTTP/1.1 429 Slow\r\nx-amzn-ErrorType: TooManyRequestsException\r\nRetry-After: 3\r\ncontent-length: 0\r\n\r\n",
        ),
    ])
    .await;
    let port = server.port().await;
    let failed = port.invoke(invocation()).await;
    assert!(
        matches!(failed, InvokeResponse::Answer { status: 200, function_error: Some(kind), .. } if kind == "Unhandled")
    );
    let throttled = port.invoke(invocation()).await;
    let InvokeResponse::Answer { status: 429, error_type: Some(kind), retry_after: Some(3), .. } = throttled
    else {
        panic!("{throttled:?}")
    };
    assert_eq!(kind, "TooManyRequestsException");
    assert_eq!(server.connections.load(Ordering::Relaxed), 1, "one connection carries both");
}

#[tokio::test]
async fn alo_1_sent_request_is_never_resent() {
    let server = ScriptedServer::start(&[ServerAction::Answer(FINE), ServerAction::Close]).await;
    let port = server.port().await;
    assert!(matches!(port.invoke(invocation()).await, InvokeResponse::Answer { status: 200, .. }));
    let lost = port.invoke(invocation()).await;
    assert!(matches!(lost, InvokeResponse::Lost(_)), "{lost:?}");
    assert_eq!(server.heard().len(), 2);
}

#[tokio::test]
async fn connection_closed_while_idle_is_replaced() {
    let server = ScriptedServer::start(&[ServerAction::AnswerAndClose(FINE)]).await;
    let port = server.port().await;
    for turn in 1..=5 {
        let reply = port.invoke(invocation()).await;
        assert!(matches!(reply, InvokeResponse::Answer { status: 200, .. }), "{reply:?}");
        assert_eq!(server.heard().len(), turn);
        // Wait until the close is seen: only then is the connection closed while idle.
        while port.wire.connections.idle_open() > 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn unconnected_is_not_sent_and_unanswered_is_lost() {
    let refused = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", refused.local_addr().expect("address"));
    drop(refused);
    let port = DirectPort::from_sdk(&shared(&url)).await.expect("a port");
    assert!(matches!(port.invoke(invocation()).await, InvokeResponse::NotSent(_)));

    let hanging = ScriptedServer::start(&[ServerAction::Hang]).await;
    let port = hanging.port().await;
    let asked = invocation();
    let permit = asked.permit.clone();
    let reply = tokio::time::timeout(Duration::from_millis(50), port.invoke(asked)).await;
    assert!(reply.is_err(), "the invocation waits up to its limit: {reply:?}");
    while hanging.heard().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(permit.sent_at().is_some() && !permit.revoke(), "the request was sent");

    let broken = ScriptedServer::start(&[ServerAction::AnswerAndClose(
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnull",
    )])
    .await;
    let reply = broken.port().await.invoke(invocation()).await;
    assert!(matches!(reply, InvokeResponse::Lost(_)), "{reply:?}");
}

#[tokio::test]
async fn truncated_error_is_classified_by_head() {
    const FAILED: &str =
        "HTTP/1.1 200 OK\r\nX-Amz-Function-Error: Unhandled\r\ncontent-length: 90\r\n\r\n{\"errorT";
    const THROTTLED: &str = "HTTP/1.1 429 Slow\r\nRetry-After: 3\r\ncontent-length: 90\r\n\r\n{\"Reason\":";
    const DENIED: &str = "HTTP/1.1 403 No\r\ncontent-length: 90\r\n\r\n{";
    const OF_AWS: &str =
        "HTTP/1.1 503 No\r\nx-amzn-ErrorType: ServiceUnavailableException\r\ncontent-length: 9\r\n\r\n{";
    const OF_A_PROXY: &str = "HTTP/1.1 503 No\r\ncontent-length: 90\r\n\r\nupstream connect error or";
    let scripts: [(&'static [ServerAction], &str); 5] = [
        (&[ServerAction::AnswerAndClose(FAILED)], "function_error"),
        (&[ServerAction::AnswerAndClose(THROTTLED)], "throttled"),
        (&[ServerAction::AnswerAndClose(DENIED)], "config_error"),
        (&[ServerAction::AnswerAndClose(OF_AWS)], "service_error"),
        (&[ServerAction::AnswerAndClose(OF_A_PROXY)], "unknown"),
    ];
    for (script, expected) in scripts {
        let server = ScriptedServer::start(script).await;
        let direct = server.port().await;
        for port in [&direct as &dyn FunctionPort, &direct.sdk] {
            let verdict = InvocationOutcome::of(port.invoke(invocation()).await);
            assert_eq!(verdict.label(), expected, "{verdict:?}");
        }
        assert_eq!(direct.wire.connections.idle_open(), 0, "a broken connection is not reused");
    }
}

#[tokio::test]
async fn mem_1_endless_answer_is_truncated_and_delivered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("dialled");
        read_request(&mut stream).await.expect("a request");
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n").await;
        while stream.write_all(&vec![b'x'; 65536]).await.is_ok() {}
    });
    let port = DirectPort::from_sdk(&shared(&url)).await.expect("a port");
    let reply = port.invoke(invocation()).await;
    let InvokeResponse::Answer { status: 200, body, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(body.len(), ANSWER_BYTES_MAX);
    assert_eq!(port.wire.connections.idle_open(), 0, "the connection is not reused");
}

#[tokio::test]
async fn mem_1_unneeded_answer_is_truncated_and_connection_reused() {
    const LONG: usize = 300_000;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("dialled once");
        while read_request(&mut stream).await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.expect("writes");
            stream.write_all(&vec![b'x'; LONG]).await.expect("writes");
        }
    });
    let port = DirectPort::from_sdk(&shared(&url)).await.expect("a port");
    for _ in 0..2 {
        let answer_room = AnswerRoom::new(1000, MemoryBudget::new(0));
        let reply = port.invoke(Invocation { answer_room, ..invocation() }).await;
        assert!(
            matches!(&reply, InvokeResponse::Answer { status: 200, body, .. } if body.len() == 1000),
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn payload_rejected_unread_is_too_large() {
    const REFUSAL: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let payload = Bytes::from(vec![b' '; 5 * 1024 * 1024]);
    for _ in 0..20 {
        let server = ScriptedServer::start(&[ServerAction::RefuseUnread(REFUSAL)]).await;
        for reply in [
            server.port().await.invoke(invocation_under(lease(MINUTE), payload.clone())).await,
            SdkPort::from_sdk(&shared(&server.url))
                .invoke(invocation_under(lease(MINUTE), payload.clone()))
                .await,
        ] {
            assert!(matches!(reply, InvokeResponse::Answer { status: 413, .. }), "{reply:?}");
        }
    }
}

#[tokio::test]
async fn alo_1_unread_request_moves_to_another_connection() {
    let server = ScriptedServer::start(&[ServerAction::AnswerAndClose(FINE)]).await;
    let port = server.port().await;
    for turn in 1..=50 {
        // The kernel may already have the close or get it shortly. The reactor has not been polled for it.
        std::thread::sleep(Duration::from_millis(2));
        let reply = port.invoke(invocation()).await;
        assert!(matches!(reply, InvokeResponse::Answer { status: 200, .. }), "{turn}: {reply:?}");
        assert_eq!(server.heard().len(), turn);
    }
}

#[tokio::test]
async fn announced_keep_alive_bounds_reuse() {
    const SHORT: &str = "HTTP/1.1 200 OK\r\nkeep-alive: max=9, timeout=1\r\ncontent-length: 4\r\n\r\nnull";
    let server = ScriptedServer::start(&[ServerAction::Answer(SHORT)]).await;
    let port = server.port().await;
    for _ in 0..3 {
        assert!(matches!(port.invoke(invocation()).await, InvokeResponse::Answer { status: 200, .. }));
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn idle_connection_is_closed_on_expiry() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let closed = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("dialled");
        read_request(&mut stream).await.expect("a request");
        let answer = b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=2\r\ncontent-length: 4\r\n\r\nnull";
        stream.write_all(answer).await.expect("writes");
        stream.read_u8().await.expect_err("nothing more").kind()
    });
    let port = DirectPort::from_sdk(&shared(&url)).await.expect("a port");
    assert!(matches!(port.invoke(invocation()).await, InvokeResponse::Answer { status: 200, .. }));
    assert_eq!(port.wire.connections.idle_open(), 1);
    let closed = tokio::time::timeout(MINUTE, closed).await.expect("closed while the port lives on");
    assert_eq!(closed.expect("no panic"), io::ErrorKind::UnexpectedEof);
    assert_eq!(port.wire.connections.idle_open(), 0);
}

#[tokio::test]
async fn invocation_socket_has_keepalive_and_user_timeout() {
    use rustix::net::sockopt;

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let connections = ConnectionPool::new(EndpointUrl::parse(&url).expect("parses")).expect("no TLS");
    let socket = connections.socket().await.expect("dialled");
    assert!(socket2::SockRef::from(&socket).keepalive().expect("an option"));
    let idle = sockopt::tcp_keepidle(&socket).expect("an option");
    let interval = sockopt::tcp_keepintvl(&socket).expect("an option");
    let probes = sockopt::tcp_keepcnt(&socket).expect("an option");
    let user = Duration::from_millis(u64::from(sockopt::tcp_user_timeout(&socket).expect("an option")));
    assert_eq!((idle, interval, probes), (Duration::from_secs(45), Duration::from_secs(15), 3));
    assert!(user > idle && user <= idle + interval * probes, "{user:?}");
}

proptest! {
    #[test]
    fn stamp_equals_that_of_chrono(seconds in 0_i64..253_402_300_800) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.unsigned_abs());
        let reference = chrono::DateTime::from_timestamp(seconds, 0).expect("a time");
        prop_assert_eq!(stamp(now), reference.format("%Y%m%dT%H%M%SZ").to_string());
    }
}
