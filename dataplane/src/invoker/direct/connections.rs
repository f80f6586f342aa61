//! Pool of keep-alive connections to one endpoint. It holds as many as there were concurrent invocations in the
//! last [`IDLE_MAX`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::endpoint::EndpointUrl;
use super::gate::{GatedBody, GatedStream, SendGate};
use super::idle::{IdleConnection, IdleConnections};
use crate::keepalive;

/// Timeout of name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Age at which an idle connection is no longer reused: a request sent while the server is closing it would be
/// lost.
const IDLE_MAX: Duration = Duration::from_secs(15);
const READY_WITHIN: Duration = Duration::from_secs(1);
/// Deducted from the keep-alive time that a server announces: its close may already be on its way.
const CLOSE_MARGIN: Duration = Duration::from_secs(1);
/// Size of hyper's buffer for a request's head and first bytes. Payloads are written from their own memory.
const READ_BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Connection that one request holds until it is given back.
pub(super) struct PooledConnection {
    pub(super) sender: SendRequest<GatedBody>,
    /// Gate that every byte of the connection passes.
    pub(super) gate: Arc<SendGate>,
    /// True if it has carried a request before: the server may have closed it in the meantime.
    pub(super) used: bool,
}

/// Pool of connections to one endpoint.
pub(in crate::invoker) struct ConnectionPool {
    endpoint: EndpointUrl,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    idle: Arc<IdleConnections>,
}

impl ConnectionPool {
    pub(in crate::invoker) fn new(endpoint: EndpointUrl) -> io::Result<Self> {
        let tls = if endpoint.tls { Some(tls(&endpoint.host)?) } else { None };
        Ok(Self { endpoint, tls, idle: Arc::default() })
    }

    /// Returns an idle connection, or opens one.
    pub(super) async fn take(&self) -> io::Result<PooledConnection> {
        while let Some(mut idle) = self.idle.take() {
            // The last request may still be being written although it has been answered. Do not wait for that.
            if tokio::time::timeout(READY_WITHIN, idle.sender.ready()).await.is_ok_and(|ready| ready.is_ok())
            {
                return Ok(PooledConnection { sender: idle.sender, gate: idle.gate, used: true });
            }
        }
        self.open().await
    }

    /// Opens a connection.
    pub(super) async fn open(&self) -> io::Result<PooledConnection> {
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, self.dial()).await;
        let (sender, gate) = opened.unwrap_or_else(|_| {
            let what = format!("no connection to {} within 5 s", self.endpoint.authority);
            Err(io::Error::new(io::ErrorKind::TimedOut, what))
        })?;
        Ok(PooledConnection { sender, gate, used: false })
    }

    /// Returns a connection to the pool once its response has been read to the end. `kept_open` is the keep-alive
    /// time that the server announced.
    pub(super) fn give_back(&self, connection: PooledConnection, kept_open: Option<Duration>) {
        let PooledConnection { sender, gate, .. } = connection;
        if !gate.rest() || sender.is_closed() {
            return;
        }
        let idle_for = kept_open.map_or(IDLE_MAX, |open| open.saturating_sub(CLOSE_MARGIN).min(IDLE_MAX));
        if !idle_for.is_zero() {
            self.idle.keep(IdleConnection { sender, gate, until: Instant::now() + idle_for });
        }
    }

    /// Number of idle connections that are still open.
    #[cfg(test)]
    pub(super) fn idle_open(&self) -> usize {
        self.idle.open()
    }

    pub(super) async fn socket(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((&*self.endpoint.host, self.endpoint.port)).await?;
        stream.set_nodelay(true)?;
        keepalive::keep_alive(&stream)?;
        Ok(stream)
    }

    async fn dial(&self) -> io::Result<(SendRequest<GatedBody>, Arc<SendGate>)> {
        let stream = GatedStream::new(self.socket().await?);
        let gate = stream.gate();
        let sender = match &self.tls {
            None => handshake(stream).await?,
            Some((connector, name)) => handshake(connector.connect(name.clone(), stream).await?).await?,
        };
        Ok((sender, gate))
    }
}

async fn handshake<S>(stream: S) -> io::Result<SendRequest<GatedBody>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(READ_BUFFER_BYTES_MAX);
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends when the sender is dropped or the server closes. Its error is also the error of the request.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Prefers AES-128-GCM, which takes a tenth less CPU than AES-256-GCM, to servers that follow their client's order.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|offered| offered.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn tls(host: &str) -> io::Result<(TlsConnector, ServerName<'static>)> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(io::Error::other("this machine has no root certificates: install ca-certificates"));
    }
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheapest_cipher_is_offered_first() {
        let suites = provider().cipher_suites;
        assert_eq!(suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        let usual = rustls::crypto::aws_lc_rs::default_provider().cipher_suites;
        assert_eq!(suites.len(), usual.len(), "none is left out");
    }
}
