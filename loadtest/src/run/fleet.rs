//! Nodes of a run: started, killed, stopped and restarted over their own data.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lighterman::metrics as names;
use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;

use crate::figures::PlotMark;
use crate::node::{NodeProcess, scrape, values};
use crate::scenario::{LoadScenario, NodeAction, NodeEvent};

const DRAIN_DEADLINE: Duration = Duration::from_secs(60);
const ASSEMBLES_WITHIN: Duration = Duration::from_secs(30);
const ASKS_EVERY: Duration = Duration::from_millis(200);

/// Data that a sampler needs of a running node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatchedNode {
    pub(super) metrics: u16,
    pub(super) pid: u32,
}

/// Nodes visible to samplers, by index; `None` while a node is down.
pub(super) type WatchedNodes = Arc<Mutex<Vec<Option<WatchedNode>>>>;

/// Settings shared by all nodes of a run.
pub(super) struct FleetNodeSettings {
    pub(super) servers: String,
    pub(super) topic: String,
    pub(super) group: String,
    pub(super) endpoint: String,
    pub(super) settings: Vec<(String, String)>,
    mapping: serde_json::Value,
}

impl FleetNodeSettings {
    /// Creates the settings of a scenario.
    pub(super) fn of(scenario: &LoadScenario, servers: &str, topic: &str, endpoint: String) -> Self {
        let group = format!("{topic}-group");
        let mut mapping = json!({
            "BatchSize": scenario.batch,
            "ProvisionedPollerConfig": {"MinimumPollers": scenario.nodes.consumers, "MaximumPollers": 200},
            "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": group},
        });
        if let Some(seconds) = scenario.window {
            mapping["MaximumBatchingWindowInSeconds"] = seconds.into();
        }
        let settings = [
            ("LIGHTERMAN_MEMORY_BUDGET", scenario.nodes.memory_budget.clone()),
            ("LIGHTERMAN_KAFKA_SESSION_TIMEOUT", format!("{}s", scenario.nodes.session_seconds)),
            // Rejections and failures are intended here.
            ("LIGHTERMAN_LOG_LEVEL", "error".to_owned()),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value)).into();
        let (servers, topic) = (servers.to_owned(), topic.to_owned());
        Self { servers, topic, group, endpoint, settings, mapping }
    }
}

struct NodeSlot {
    data: TempDir,
    node: Option<NodeProcess>,
}

/// Nodes of a run.
pub(super) struct NodeFleet {
    orders: FleetNodeSettings,
    seats: Vec<NodeSlot>,
    shown: WatchedNodes,
}

/// Events of nodes, and unexpected failures.
#[derive(Debug, Default)]
pub(super) struct FleetEvents {
    pub(super) marks: Vec<PlotMark>,
    pub(super) problems: Vec<String>,
}

impl NodeFleet {
    /// Starts `count` nodes, each with the mapping.
    pub(super) async fn start(orders: FleetNodeSettings, count: usize) -> Result<Self> {
        let mut fleet = Self { orders, seats: Vec::new(), shown: WatchedNodes::default() };
        for _ in 0..count {
            fleet.join().await?;
        }
        Ok(fleet)
    }

    /// Waits until the nodes together have this many consumers, since a scenario must not measure a forming group.
    /// Returns after a time limit, because a setting may keep the number lower.
    pub(super) async fn assemble(&self, consumers: u64) {
        let begin = Instant::now();
        while begin.elapsed() < ASSEMBLES_WITHIN {
            let (nodes, mut there) = (self.shown.lock().clone(), 0.0);
            for node in nodes.into_iter().flatten() {
                if let Ok(text) = scrape(node.metrics, ASSEMBLES_WITHIN).await {
                    there += values(&text, names::CONSUMERS).map(|(_, value)| value).sum::<f64>();
                }
            }
            if there as u64 >= consumers {
                return;
            }
            tokio::time::sleep(ASKS_EVERY).await;
        }
    }

    /// Returns the nodes visible to samplers.
    pub(super) fn shown(&self) -> WatchedNodes {
        Arc::clone(&self.shown)
    }

    /// Executes every event at its time, one after the other.
    pub(super) async fn follow(&mut self, events: &[NodeEvent], start: Instant) -> Result<FleetEvents> {
        let mut happened = FleetEvents::default();
        for event in events {
            tokio::time::sleep_until((start + event.at).into()).await;
            happened.mark(start, event.deed.label());
            match event.deed {
                NodeAction::Join => self.join().await?,
                NodeAction::Kill { node, away } => {
                    self.leave(node)?.kill().await?;
                    tokio::time::sleep(away).await;
                    self.come_back(node).await?;
                    happened.mark(start, format!("node {} is back", node + 1));
                }
                NodeAction::Terminate { node, away } => {
                    let ended = self.leave(node)?;
                    happened.end(node, ended).await;
                    tokio::time::sleep(away).await;
                    self.come_back(node).await?;
                    happened.mark(start, format!("node {} is back", node + 1));
                }
            }
        }
        Ok(happened)
    }

    /// Stops all nodes in order and returns the problems.
    pub(super) async fn end(mut self) -> Vec<String> {
        let mut happened = FleetEvents::default();
        for index in 0..self.seats.len() {
            if let Ok(node) = self.leave(index) {
                happened.end(index, node).await;
            }
        }
        happened.problems
    }

    async fn join(&mut self) -> Result<()> {
        let data = tempfile::tempdir()?;
        self.seats.push(NodeSlot { data, node: None });
        self.shown.lock().push(None);
        let index = self.seats.len() - 1;
        self.come_back(index).await?;
        let node = self.seats[index].node.as_ref().context("it has just started")?;
        let orders = &self.orders;
        node.create_mapping(&orders.servers, &orders.topic, orders.mapping.clone()).await?;
        Ok(())
    }

    async fn come_back(&mut self, index: usize) -> Result<()> {
        let settings: Vec<(&str, &str)> =
            self.orders.settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        let node =
            NodeProcess::start(self.seats[index].data.path(), &self.orders.endpoint, &settings).await?;
        let pid = node.pid().with_context(|| format!("node {} has ended at once", index + 1))?;
        self.shown.lock()[index] = Some(WatchedNode { metrics: node.metrics_port(), pid });
        self.seats[index].node = Some(node);
        Ok(())
    }

    fn leave(&mut self, index: usize) -> Result<NodeProcess> {
        self.shown.lock()[index] = None;
        self.seats[index].node.take().with_context(|| format!("node {} is not there", index + 1))
    }
}

impl FleetEvents {
    fn mark(&mut self, start: Instant, label: String) {
        self.marks.push(PlotMark { at: start.elapsed().as_secs_f64(), label });
    }

    async fn end(&mut self, index: usize, node: NodeProcess) {
        match node.terminate(DRAIN_DEADLINE).await {
            Ok(Some(0)) => {}
            Ok(code) => self.problems.push(format!("node {} ended with {code:?}, not with 0", index + 1)),
            Err(error) => self.problems.push(format!("node {}: {error:#}", index + 1)),
        }
    }
}
