//! A proxy that parses Kafka's frames and injects faults. It rewrites the addresses that brokers advertise and
//! listens for each of them, so that clients stay behind it. All other frames pass unchanged unless a rule of
//! [`ActiveFaults`] matches.

mod connection;
mod fault;
mod frame;
mod refusal;
mod reply;
mod wrong_answer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use anyhow::{Context, Result};
use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, ResponseKind};
use kafka_protocol::protocol::StrBytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

pub use fault::{ActiveFaults, ExchangeFault, FaultCondition, FaultRandom, HostileFrame, WrongAnswer};

/// A running proxy. Dropping the last clone stops it and closes all connections.
#[derive(Clone)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<ProxyState>,
}

struct ProxyState {
    faults: ActiveFaults,
    /// Local listener address of each broker.
    routes: Mutex<ProxyRoutes>,
    /// Incremented each time held frames are released.
    calm: watch::Sender<u64>,
}

#[derive(Default)]
struct ProxyRoutes {
    known: BTreeMap<(String, u16), SocketAddr>,
    tasks: JoinSet<()>,
}

impl FaultProxy {
    /// Starts a proxy on loopback for the cluster of `broker` (`host:port`). The same `seed` makes the same
    /// choices.
    pub async fn start(broker: &str, seed: u64) -> Result<Self> {
        let (host, port) = broker.rsplit_once(':').context("host:port")?;
        let shared = Arc::new(ProxyState {
            faults: ActiveFaults::seeded(seed),
            routes: Mutex::default(),
            calm: watch::Sender::new(0),
        });
        let address = shared.route(host, port.parse()?).await?;
        Ok(Self { address, shared })
    }

    /// Returns the address that clients use as bootstrap server.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns the active faults.
    pub fn faults(&self) -> &ActiveFaults {
        &self.shared.faults
    }

    /// Removes all faults and releases held frames.
    pub fn calm(&self) {
        self.shared.faults.clear();
        self.shared.calm.send_modify(|times| *times += 1);
    }
}

impl ProxyState {
    /// Returns the local address for the broker that advertises this address.
    async fn route(self: &Arc<Self>, host: &str, port: u16) -> Result<SocketAddr> {
        let mut routes = self.routes.lock().await;
        let broker = (host.to_owned(), port);
        if let Some(known) = routes.known.get(&broker) {
            return Ok(*known);
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        routes.known.insert(broker.clone(), address);
        // Weak, since a strong reference would form a cycle with its owner.
        routes.tasks.spawn(listen(listener, broker, Arc::downgrade(self)));
        Ok(address)
    }

    /// Returns the response with the proxy's addresses; `None` if it contains no addresses.
    async fn rewritten(
        self: &Arc<Self>,
        asked: frame::RequestIdentity,
        frame: &Bytes,
    ) -> Result<Option<ResponseKind>> {
        if !matches!(asked.api, ApiKey::Metadata | ApiKey::FindCoordinator) {
            return Ok(None);
        }
        let mut reply = frame::open(asked, frame)?;
        match &mut reply {
            ResponseKind::Metadata(reply) => {
                for broker in &mut reply.brokers {
                    self.rewrite(&mut broker.host, &mut broker.port).await?;
                }
            }
            ResponseKind::FindCoordinator(reply) => {
                self.rewrite(&mut reply.host, &mut reply.port).await?;
                for coordinator in &mut reply.coordinators {
                    self.rewrite(&mut coordinator.host, &mut coordinator.port).await?;
                }
            }
            _ => {}
        }
        Ok(Some(reply))
    }

    async fn rewrite(self: &Arc<Self>, host: &mut StrBytes, port: &mut i32) -> Result<()> {
        let Some(real) = u16::try_from(*port).ok().filter(|port| *port > 0) else { return Ok(()) };
        let ours = self.route(host, real).await?;
        (*host, *port) = (StrBytes::from_string(ours.ip().to_string()), i32::from(ours.port()));
        Ok(())
    }
}

/// Accepts clients of one broker. Boxed, since a connection may open further listeners.
fn listen(
    listener: TcpListener,
    broker: (String, u16),
    shared: Weak<ProxyState>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let mut lines = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let (broker, shared) = (broker.clone(), shared.clone());
            lines.spawn(async move {
                let Ok(upstream) = TcpStream::connect((broker.0.as_str(), broker.1)).await else { return };
                // A connection ends with the client, with the broker, or by a fault; its result does not matter.
                let _ = connection::carry(client, upstream, shared).await;
            });
            while lines.try_join_next().is_some() {}
        }
    })
}
