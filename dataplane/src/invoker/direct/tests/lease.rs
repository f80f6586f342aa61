//! Leases that end during a wait: nothing leaves, or not the whole request.

use super::*;
use crate::invoker::facts::FunctionTimeout;
use crate::invoker::invocation::{InvokedFunction, reply_within};
use crate::invoker::patience::ReplyWait;

/// Provider of credentials that arrive after the lease has ended.
#[derive(Debug)]
struct SlowProvider {
    takes: Duration,
    lease: OwnershipLease,
}

impl aws_credential_types::provider::ProvideCredentials for SlowProvider {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let (takes, lease) = (self.takes, self.lease.clone());
        aws_credential_types::provider::future::ProvideCredentials::new(async move {
            tokio::time::sleep(takes).await;
            lease.end();
            Ok(Credentials::new("AKID", "secret", None, None, "slow"))
        })
    }
}

fn slow(url: &str, takes: Duration, lease: &OwnershipLease) -> SdkConfig {
    let provider = SlowProvider { takes, lease: lease.clone() };
    shared(url).to_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build()
}

#[tokio::test]
async fn own_1_lease_end_awaiting_credentials_withholds_request() {
    let server = ScriptedServer::start(&[ServerAction::Answer(FINE)]).await;
    for of_sdk in [false, true] {
        let ours = lease(MINUTE);
        let config = slow(&server.url, Duration::from_millis(50), &ours);
        let direct = DirectPort::from_sdk(&config).await.expect("a port");
        let port: &dyn FunctionPort = if of_sdk { &direct.sdk } else { &direct };
        let asked = invocation_under(ours, Bytes::from_static(b"{}"));
        let permit = asked.permit.clone();
        assert_eq!(port.invoke(asked).await, InvokeResponse::Withheld, "of the SDK: {of_sdk}");
        assert!(permit.sent_at().is_none() && server.heard().is_empty());
    }
}

/// Waits for the reply as the invoker does.
async fn waited(port: &dyn FunctionPort, asked: Invocation) -> InvokeResponse {
    let permit = asked.permit.clone();
    let function = InvokedFunction {
        name: Arc::from(FUNCTION),
        timeout: FunctionTimeout::new(MINUTE, clock::now()),
        doubt: Arc::new(|| ()),
    };
    let mut wait = ReplyWait::new(clock::now());
    reply_within(port.invoke(asked), &mut wait, &permit, &function).await
}

#[tokio::test]
async fn own_1_wait_before_sending_ends_with_lease() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = silent.local_addr().expect("address");
    let never = Duration::from_secs(3600);
    let configs = [
        slow(&format!("http://{address}"), never, &OwnershipLease::default()),
        shared(&format!("https://{address}")),
    ];
    for config in configs {
        let direct = DirectPort::from_sdk(&config).await.expect("a port");
        for port in [&direct as &dyn FunctionPort, &direct.sdk] {
            let asked = invocation_under(lease(Duration::from_millis(150)), Bytes::from_static(b"{}"));
            assert_eq!(waited(port, asked).await, InvokeResponse::Withheld);
        }
    }
}

const LONG: usize = 8 * 1024 * 1024;

/// Server with a small receive window that accepts one request. It ends the lease once it has read the head. It
/// reads the rest on demand, until the client closes the connection.
struct SlowServer {
    url: String,
    read_on: tokio::sync::oneshot::Sender<()>,
    body_bytes: tokio::task::JoinHandle<io::Result<usize>>,
}

impl SlowServer {
    fn start(ends: OwnershipLease) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("an option");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("binds");
        let listener = socket.listen(1).expect("listens");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let (read_on, told) = tokio::sync::oneshot::channel();
        let body_bytes = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("dialled");
            read_head(&mut stream).await;
            ends.end();
            told.await.expect("told");
            let (mut buffer, mut bytes) = (vec![0; 65536], 0);
            while bytes < LONG {
                match stream.read(&mut buffer).await? {
                    0 => break,
                    more => bytes += more,
                }
            }
            stream.write_all(FINE.as_bytes()).await?;
            Ok(bytes)
        });
        Self { url, read_on, body_bytes }
    }

    /// Returns the number of body bytes received, or the error that ended the connection.
    async fn ended(body_bytes: tokio::task::JoinHandle<io::Result<usize>>) -> io::Result<usize> {
        tokio::time::timeout(MINUTE, body_bytes)
            .await
            .expect("the client closes the connection")
            .expect("no panic")
    }
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
}

fn port_of(direct: &DirectPort, of_sdk: bool) -> &dyn FunctionPort {
    if of_sdk { &direct.sdk } else { direct }
}

#[tokio::test]
async fn own_1_lease_end_mid_request_withholds_rest() {
    for of_sdk in [false, true] {
        let ours = lease(MINUTE);
        let SlowServer { url, read_on, body_bytes } = SlowServer::start(ours.clone());
        read_on.send(()).expect("the server continues to read");
        let direct = DirectPort::from_sdk(&shared(&url)).await.expect("a port");
        let asked = invocation_under(ours, Bytes::from(vec![b' '; LONG]));
        let permit = asked.permit.clone();
        assert_eq!(
            waited(port_of(&direct, of_sdk), asked).await,
            InvokeResponse::Withheld,
            "of the SDK: {of_sdk}"
        );
        assert!(permit.sent_at().is_none(), "nothing runs");
        let ended = SlowServer::ended(body_bytes).await;
        assert_eq!(ended.expect_err("cut off").kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn own_1_lease_ended_while_peer_stalls_ends_wait() {
    for of_sdk in [false, true] {
        let ours = lease(MINUTE);
        let SlowServer { url, read_on, body_bytes } = SlowServer::start(ours.clone());
        let direct = DirectPort::from_sdk(&shared(&url)).await.expect("a port");
        let asked = invocation_under(ours, Bytes::from(vec![b' '; LONG]));
        let reply = tokio::time::timeout(MINUTE, waited(port_of(&direct, of_sdk), asked)).await;
        assert_eq!(
            reply.expect("the invocation ends with the lease"),
            InvokeResponse::Withheld,
            "of the SDK: {of_sdk}"
        );
        read_on.send(()).expect("the server continues to read");
        let ended = SlowServer::ended(body_bytes).await;
        assert_eq!(ended.expect_err("cut off").kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn own_1_sent_request_outlives_lease_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("address"));
    let ours = lease(MINUTE);
    let ends = ours.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("dialled once");
        while read_request(&mut stream).await.is_some() {
            ends.end();
            tokio::time::sleep(Duration::from_millis(300)).await;
            stream.write_all(FINE.as_bytes()).await.expect("writes");
        }
    });
    let direct = DirectPort::from_sdk(&shared(&url)).await.expect("a port");
    for payload in [Bytes::from(vec![b' '; 1024 * 1024]), Bytes::new(), Bytes::from_static(b"{}")] {
        ours.extend(clock::now() + MINUTE);
        let reply = waited(&direct, invocation_under(ours.clone(), payload)).await;
        assert!(matches!(reply, InvokeResponse::Answer { status: 200, .. }), "{reply:?}");
        assert_eq!(direct.wire.connections.idle_open(), 1);
    }
}
