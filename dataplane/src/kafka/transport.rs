//! How bytes reach a broker. TLS and SASL are other implementations of [`BrokerConnector`]; nothing above changes.

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

/// How long one address of a name has to itself before the next is dialled beside it.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// A peer that is gone without a word is found out within a minute: a join may otherwise be awaited for as long as a function runs.
const QUIET_BEFORE_PROBE: Duration = Duration::from_secs(10);
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Nobody probes while bytes wait for their acknowledgement: they have a limit of their own.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(55);

/// `host:port` of a broker, as bootstrap lists and Metadata name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerAddress {
    /// Name or address; resolved anew for each connection (KIP-899).
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

impl BrokerAddress {
    /// An address from its two parts.
    pub fn new(host: impl Into<Arc<str>>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Parses `host:port`; IPv6 hosts stand in brackets. The error says what a right one looks like.
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

/// A byte stream to a broker.
pub trait ByteTransport: AsyncRead + AsyncWrite + Unpin + Send {
    /// What was written and has not left yet shall not leave any more once this is dropped.
    fn reset_on_close(&self);
}

impl ByteTransport for TcpStream {
    fn reset_on_close(&self) {
        // Refused of a socket that is closed already, which sends nothing either.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// Opens byte streams to brokers.
pub trait BrokerConnector: Send + Sync {
    /// Dials `address`; the caller sets the deadline.
    fn connect<'a>(
        &'a self,
        address: &'a BrokerAddress,
    ) -> BoxFuture<'a, Result<Box<dyn ByteTransport>, KafkaError>>;
}

/// TCP without TLS.
pub struct PlainTcp {
    egress: Arc<Egress>,
}

impl PlainTcp {
    /// Dials what `egress` allows.
    pub fn new(egress: Arc<Egress>) -> Self {
        Self { egress }
    }

    /// Dials the addresses of the name that may be dialled; one that says nothing does not stand before the others (RFC 8305).
    async fn dial(&self, address: &BrokerAddress) -> Result<TcpStream, KafkaError> {
        let unreachable = |source| KafkaError::Connect { address: address.clone(), source };
        let resolved = tokio::net::lookup_host((&*address.host, address.port)).await.map_err(unreachable)?;
        let allowed = self.allowed(address, resolved)?;
        let dialled = dial_first(allowed, NEXT_ADDRESS_AFTER, TcpStream::connect).await;
        let nameless = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        dialled.map_err(|last| unreachable(last.unwrap_or_else(nameless)))
    }

    /// Which of the addresses of a name may be dialled; the error when that is none of them.
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

/// Lets the kernel find out that the peer is gone.
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
    async fn liv_1_a_peer_that_is_gone_without_a_word_is_found_out_within_a_minute() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connects");
        watch_peer(&stream).expect("Linux can");
        assert!(SockRef::from(&stream).keepalive().expect("an option"));
        assert_eq!(sockopt::tcp_user_timeout(&stream).expect("an option"), 55_000);
        assert_eq!(sockopt::tcp_keepidle(&stream).expect("an option"), QUIET_BEFORE_PROBE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).expect("an option"), PROBE_EVERY);
    }

    #[test]
    fn a_denied_address_of_a_name_leaves_its_others() {
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
