//! Byte streams to brokers. TLS and SASL are other implementations of [`BrokerConnector`]; the layers above do not
//! change.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustix::net::sockopt::set_tcp_user_timeout;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::dialing::dial_first;
use super::error::KafkaError;
use crate::egress::Egress;

/// Head start of one address of a name before the next is dialled in parallel.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// Idle time before the first keepalive probe. A peer that disappears silently is detected within a minute; a join
/// may otherwise be awaited for as long as a function runs.
const QUIET_BEFORE_PROBE: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Limit on the time that sent bytes stay unacknowledged (`TCP_USER_TIMEOUT`). Keepalive sends no probes during that
/// time.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(55);

/// `host:port` of a broker, as in bootstrap lists and metadata.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerAddress {
    /// Name or IP address, resolved again for each connection (KIP-899).
    pub host: Arc<str>,
    /// TCP port.
    pub port: u16,
}

impl BrokerAddress {
    /// Creates an address from its two parts.
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Parses `host:port`, with IPv6 hosts in brackets. The error names the expected format.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) =
            text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port: write host:port"))?;
        let port = port.parse().map_err(|_| format!("`{text}` has no valid port: write host:port"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(format!("`{text}` has no host: write host:port"));
        }
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Byte stream to a broker.
pub trait ByteTransport: AsyncRead + AsyncWrite + Unpin + Send {
    /// Makes the next close a reset (`SO_LINGER` 0), so that unsent bytes are discarded.
    fn reset_on_close(&self);
}

impl ByteTransport for TcpStream {
    fn reset_on_close(&self) {
        // This fails on a closed socket, which sends nothing either.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// Opener of byte streams to brokers.
pub trait BrokerConnector: Send + Sync {
    /// Dials `address`. The caller sets the deadline.
    fn connect<'a>(
        &'a self,
        address: &'a BrokerAddress,
    ) -> BoxFuture<'a, Result<Box<dyn ByteTransport>, KafkaError>>;
}

/// Connector for TCP without TLS.
pub struct PlainTcp {
    egress: Arc<Egress>,
}

impl PlainTcp {
    /// Creates a connector that dials only addresses that `egress` allows.
    pub fn new(egress: Arc<Egress>) -> Self {
        Self { egress }
    }

    /// Dials the allowed addresses of the name. A silent address does not delay the others (RFC 8305).
    async fn dial(&self, address: &BrokerAddress) -> Result<TcpStream, KafkaError> {
        let unreachable = |source| KafkaError::Connect { address: address.clone(), source };
        let resolved = tokio::net::lookup_host((&*address.host, address.port)).await.map_err(unreachable)?;
        let allowed = self.allowed(address, resolved)?;
        let dialled = dial_first(allowed, NEXT_ADDRESS_AFTER, TcpStream::connect).await;
        let nameless = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        dialled.map_err(|last| unreachable(last.unwrap_or_else(nameless)))
    }

    /// Returns the addresses of a name that may be dialled, or an error if all of them are denied.
    fn allowed(
        &self,
        address: &BrokerAddress,
        resolved: impl Iterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, KafkaError> {
        let mut denied = None;
        let mut allowed = Vec::new();
        for candidate in resolved {
            match self.egress.check(candidate) {
                Ok(()) => allowed.push(candidate),
                Err(source) => denied = Some(source),
            }
        }
        match denied.filter(|_| allowed.is_empty()) {
            Some(source) => Err(KafkaError::Egress { address: address.clone(), source }),
            None => Ok(allowed),
        }
    }
}

impl BrokerConnector for PlainTcp {
    fn connect<'a>(
        &'a self,
        address: &'a BrokerAddress,
    ) -> BoxFuture<'a, Result<Box<dyn ByteTransport>, KafkaError>> {
        Box::pin(async move {
            let stream = self.dial(address).await?;
            let unusable = |source| KafkaError::Connect { address: address.clone(), source };
            stream.set_nodelay(true).map_err(unusable)?;
            watch_peer(&stream).map_err(unusable)?;
            Ok(Box::new(stream) as Box<dyn ByteTransport>)
        })
    }
}

/// Configures the kernel to detect the loss of the peer.
fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(QUIET_BEFORE_PROBE).with_interval(PROBE_EVERY);
    socket.set_tcp_keepalive(&keepalive)?;
    Ok(set_tcp_user_timeout(stream, UNACKNOWLEDGED_MAX.as_millis() as u32)?)
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    #[tokio::test]
    async fn liv_1_silent_peer_loss_is_detected_within_minute() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connects");
        watch_peer(&stream).expect("Linux can");
        assert!(SockRef::from(&stream).keepalive().expect("an option"));
        assert_eq!(sockopt::tcp_user_timeout(&stream).expect("an option"), 55_000);
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("an option"), QUIET_BEFORE_PROBE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).expect("an option"), PROBE_EVERY);
    }

    #[test]
    fn denied_address_of_name_leaves_others() {
        let connector = PlainTcp::new(Arc::new(Egress::laptop()));
        let broker = BrokerAddress::new("broker", 9092);
        let at = |text: &str| text.parse::<SocketAddr>().expect("address");
        let [denied, fine] = [at("169.254.169.254:9092"), at("10.1.2.3:9092")];
        let allowed = |addresses: &[SocketAddr]| connector.allowed(&broker, addresses.iter().copied());
        assert_eq!(allowed(&[denied, fine, denied]).expect("one is left"), [fine]);
        assert!(matches!(allowed(&[denied]), Err(KafkaError::Egress { .. })), "none is left");
        assert_eq!(allowed(&[]).expect("no address, and none denied"), []);
    }
}
