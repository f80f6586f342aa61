//! Lifecycle of one node, from settings to drained: store, dataplane, API, metrics.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;

use super::Dataplane;
use super::host::DataplaneHost;
use super::readiness::NodePhase;
use crate::config::Settings;
use crate::control::controller::Controller;
use crate::control::http::{ApiContext, ApiServer};
use crate::control::new_key;
use crate::control::sigv4::SigV4;
use crate::control::store::Store;
use crate::invoker::port::FunctionPort;
use crate::metrics::open_files::raise_open_file_limit;
use crate::metrics::{self, MetricsServer};

/// Maximum duration of a drain: Lambda's longest invocation and a minute. A longer drain is stuck.
const DRAIN_DEADLINE: Duration = Duration::from_secs(900 + 60);

/// Node that is running.
pub struct RunningNode {
    dataplane: Arc<Dataplane>,
    controller: Controller,
    api: ApiServer,
    _metrics: MetricsServer,
    phase: NodePhase,
    drain_deadline: Duration,
    /// First key pair, if this start created it. It is shown only once.
    pub first_key: Option<(String, String)>,
}

/// Listening sockets of a node.
#[derive(Debug)]
pub struct NodeListeners {
    /// Socket of the control API.
    pub api: TcpListener,
    /// Socket of `/metrics`, `/healthz` and `/readyz`.
    pub metrics: TcpListener,
}

impl NodeListeners {
    /// Binds the addresses of `settings`.
    pub fn bind(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            api: listen_at(settings.listen, "listen", "the control API")?,
            metrics: listen_at(settings.metrics_listen, "metrics_listen", "metrics")?,
        })
    }
}

/// Binds `address` for `user`. The error names the configuration key `key`.
pub fn listen_at(address: SocketAddr, key: &str, user: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .with_context(|| format!("{user} cannot listen on {address}: set `{key}` to a free address"))
}

impl RunningNode {
    /// Opens the store, serves on `listeners`, whose addresses `settings` hold, and resumes the mappings. Call it
    /// inside an actix system.
    pub fn start_on(
        settings: &Settings,
        listeners: NodeListeners,
        port: Arc<dyn FunctionPort>,
    ) -> anyhow::Result<Self> {
        let recorder = metrics::install()?;
        raise_open_file_limit();
        let (store, registry) = Store::open(&settings.data_dir)?;
        let dataplane = Dataplane::start(settings, port).context("the node's threads cannot start")?;
        let host = Arc::new(DataplaneHost(Arc::clone(&dataplane)));
        let controller =
            Controller::new(store, registry, host, settings.region.clone(), settings.account_id.clone());
        let first_key = ensure_key(&controller, settings)?;
        let api = ApiContext {
            controller: controller.clone(),
            authenticator: Arc::new(SigV4 { region: settings.region.clone() }),
            node: settings.node.id.clone(),
        };
        let api = ApiServer::start(api, listeners.api).context("the control API cannot be served")?;
        let phase = NodePhase::default();
        let readiness = phase.readiness(&dataplane);
        let metrics = MetricsServer::start(listeners.metrics, recorder, readiness)?;
        controller.resume();
        phase.serving();
        Ok(Self {
            dataplane,
            controller,
            api,
            _metrics: metrics,
            phase,
            drain_deadline: settings.drain_deadline.unwrap_or(DRAIN_DEADLINE),
            first_key,
        })
    }

    /// Returns the dataplane.
    pub fn dataplane(&self) -> &Arc<Dataplane> {
        &self.dataplane
    }

    /// Returns the controller, to use the API without HTTP.
    pub fn controller(&self) -> &Controller {
        &self.controller
    }

    /// Returns the control API's URL, `http://…`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.api.address())
    }

    /// Drains the node: completes what is in flight, commits and leaves the groups. Returns false if the deadline
    /// expired first.
    pub async fn drain(self) -> bool {
        self.phase.draining();
        self.controller.refuse_changes();
        let drained = tokio::time::timeout(self.drain_deadline, self.dataplane.drain()).await.is_ok();
        self.api.stop().await;
        drained
    }
}

/// Stores the configured root key, or creates one if the store has no keys. Returns the created key.
fn ensure_key(controller: &Controller, settings: &Settings) -> anyhow::Result<Option<(String, String)>> {
    if let (Some(id), Some(secret)) = (&settings.root_access_key_id, &settings.root_secret_access_key) {
        controller.put_key(id, secret.expose_secret())?;
        return Ok(None);
    }
    if !controller.key_ids().is_empty() {
        return Ok(None);
    }
    let (id, secret) = new_key();
    controller.put_key(&id, &secret)?;
    Ok(Some((id, secret)))
}
