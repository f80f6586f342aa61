//! How bytes reach a broker. TLS and SASL are other implementations of [`Connector`]; nothing above changes.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::error::KafkaError;
use crate::egress::Egress;

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
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send {
    /// What was written and has not left yet shall not leave any more once this is dropped.
    fn forsake(&self);
}

impl Transport for TcpStream {
    fn forsake(&self) {
        // Refused of a socket that is closed already, which sends nothing either.
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

/// Opens byte streams to brokers.
pub trait Connector: Send + Sync {
    /// Dials `address`; the caller sets the deadline.
    fn connect<'a>(
        &'a self,
        address: &'a BrokerAddress,
    ) -> BoxFuture<'a, Result<Box<dyn Transport>, KafkaError>>;
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

    async fn dial(&self, address: &BrokerAddress) -> Result<TcpStream, KafkaError> {
        let unreachable = |source| KafkaError::Connect { address: address.clone(), source };
        let resolved: Vec<_> =
            tokio::net::lookup_host((&*address.host, address.port)).await.map_err(unreachable)?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for candidate in resolved {
            self.egress
                .check(candidate)
                .map_err(|source| KafkaError::Egress { address: address.clone(), source })?;
            match TcpStream::connect(candidate).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(unreachable(last))
    }
}

impl Connector for PlainTcp {
    fn connect<'a>(
        &'a self,
        address: &'a BrokerAddress,
    ) -> BoxFuture<'a, Result<Box<dyn Transport>, KafkaError>> {
        Box::pin(async move {
            let stream = self.dial(address).await?;
            let unusable = |source| KafkaError::Connect { address: address.clone(), source };
            stream.set_nodelay(true).map_err(unusable)?;
            let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
            SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(unusable)?;
            Ok(Box::new(stream) as Box<dyn Transport>)
        })
    }
}
