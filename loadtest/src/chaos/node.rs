//! A node of a chaos run across its restarts, with its own proxy to Kafka and its faults.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::data::{NodeData, WritesMeanwhile};
use super::judge::FaultWindow;
use super::plan::{ChaosFault, ChaosFaultKind};
use super::wall_clock::WallClock;
use crate::fault_proxy::{self, FaultCondition, FaultProxy};
use crate::function::FakeLambda;
use crate::node::NodeProcess;

/// Time limit of a drain; the function's timeout is one second.
const DRAINS_WITHIN: Duration = Duration::from_secs(30);
const API_ANSWERS_WITHIN: Duration = Duration::from_secs(5);
const REPLIES_COME_AFTER: Duration = Duration::from_millis(300);
/// Time within which an idle node sends a heartbeat.
const SPEAKS_WITHIN: Duration = Duration::from_secs(5);
const HOURS_MAX: i64 = 48;
/// Number of mappings after which a store needs a block that it has not allocated.
const FIT_INTO_BLOCKS_MAX: u32 = 60;

/// Settings shared by all nodes of a chaos run.
pub(super) struct ChaosNodeSettings {
    pub(super) lambda: FakeLambda,
    pub(super) topic: String,
    pub(super) mapping: Value,
    pub(super) settings: Vec<(String, String)>,
    /// True if the broker is stopped during the run, so that nodes may have no peer.
    pub(super) broker_ends: bool,
    /// Folder of the nodes' logs.
    pub(super) logs: PathBuf,
    pub(super) callers: AtomicU32,
}

/// A node of a chaos run.
pub(super) struct ChaosNode {
    orders: Arc<ChaosNodeSettings>,
    index: usize,
    data: NodeData,
    proxy: FaultProxy,
    clock: Option<WallClock>,
    node: Option<NodeProcess>,
    /// Start of the current process.
    came: Instant,
    caller: u32,
    is_mapped: bool,
    /// Mappings that the API acknowledged.
    acknowledged: Vec<String>,
    pub(super) disturbances: Vec<FaultWindow>,
    pub(super) problems: Vec<String>,
}

impl ChaosNode {
    /// Creates a seat without a running node. `clock` is given if the node's wall clock will jump.
    pub(super) async fn new(
        orders: &Arc<ChaosNodeSettings>,
        index: usize,
        servers: &str,
        seed: u64,
        (data, clock): (NodeData, Option<WallClock>),
    ) -> Result<Self> {
        Ok(Self {
            orders: Arc::clone(orders),
            index,
            data,
            proxy: FaultProxy::start(servers, seed).await?,
            clock,
            node: None,
            came: Instant::now(),
            caller: 0,
            is_mapped: false,
            acknowledged: Vec::new(),
            disturbances: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// Starts the node over its data, the first time with the mapping.
    pub(super) async fn start_node(&mut self) -> Result<()> {
        self.came = Instant::now();
        self.caller = self.orders.callers.fetch_add(1, Ordering::Relaxed);
        let endpoint = self.orders.lambda.listen_for(self.caller).await?;
        let mut settings: Vec<(&str, &str)> =
            self.orders.settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        if let Some(clock) = &self.clock {
            clock.set(0)?;
            settings.extend(clock.environment());
        }
        let log = self.orders.logs.join(format!("node-{}.log", self.index + 1));
        let node = NodeProcess::start_logged(self.data.path(), &endpoint, &settings, &log).await?;
        if !self.is_mapped {
            let mapping = self.orders.mapping.clone();
            node.create_mapping(&self.proxy.address(), &self.orders.topic, mapping).await?;
            self.is_mapped = true;
        }
        self.node = Some(node);
        Ok(())
    }

    /// Injects the faults, each at its time.
    pub(super) async fn go_through(mut self, faults: Vec<ChaosFault>, start: Instant) -> Self {
        for fault in faults {
            tokio::time::sleep_until((start + fault.at).into()).await;
            if let Err(error) = self.inject(fault).await {
                self.problems.push(format!("node {}: {fault}: {error:#}", self.index + 1));
            }
        }
        self
    }

    async fn inject(&mut self, fault: ChaosFault) -> Result<()> {
        if fault.kind != ChaosFaultKind::Joined {
            self.is_there().await?;
        }
        let lasting = fault.lasting;
        match fault.kind {
            ChaosFaultKind::Joined => self.start_node().await,
            ChaosFaultKind::Killed => {
                let killed = Instant::now();
                self.disturbed(killed, killed, true);
                self.leave()?.kill().await?;
                tokio::time::sleep(lasting).await;
                self.start_node().await
            }
            ChaosFaultKind::Drained => {
                let code = self.leave()?.terminate(DRAINS_WITHIN).await?;
                ensure!(code == Some(0), "DRN-1: it ended with {code:?}, not with 0");
                tokio::time::sleep(lasting).await;
                self.start_node().await
            }
            ChaosFaultKind::FrozenBriefly | ChaosFaultKind::FrozenForLong => self.freeze(fault).await,
            ChaosFaultKind::CutOff => self.spoil(fault_proxy::ExchangeFault::CutRequest, lasting).await,
            ChaosFaultKind::RepliesHeld => self.spoil(fault_proxy::ExchangeFault::Hold, lasting).await,
            ChaosFaultKind::RequestsHeld => {
                self.spoil(fault_proxy::ExchangeFault::HoldRequest, lasting).await
            }
            ChaosFaultKind::HalfClosed => self.spoil(fault_proxy::ExchangeFault::HalfClose, lasting).await,
            ChaosFaultKind::Delayed => {
                self.spoil(fault_proxy::ExchangeFault::Jitter(REPLIES_COME_AFTER), lasting).await?;
                // Replies were late, but all of them arrived.
                self.disturbances.pop();
                Ok(())
            }
            ChaosFaultKind::DiskFull => self.fill_disk(lasting).await,
            ChaosFaultKind::ClockJumped => self.move_clock(fault).await,
            ChaosFaultKind::BrokerKilled | ChaosFaultKind::BrokerStopped => {
                bail!("that is not done to a node")
            }
        }
    }

    /// Drains the node, then verifies after a restart that every acknowledged mapping is still there.
    pub(super) async fn end(mut self) -> Self {
        if let Err(error) = self.try_end().await {
            self.problems.push(format!("node {}: {error:#}", self.index + 1));
        }
        self
    }

    async fn try_end(&mut self) -> Result<()> {
        if !self.is_mapped {
            return Ok(());
        }
        self.is_there().await?;
        let code = self.leave()?.terminate(DRAINS_WITHIN).await?;
        ensure!(code == Some(0), "DRN-1: it ended with {code:?}, not with 0");
        if self.acknowledged.is_empty() {
            return Ok(());
        }
        self.start_node().await?;
        let node = self.leave()?;
        for id in &self.acknowledged {
            let shown =
                node.api().call("GET", &format!("/2015-03-31/event-source-mappings/{id}"), None).await;
            shown.with_context(|| format!("the mapping {id}, which it had acknowledged, is lost"))?;
        }
        node.kill().await
    }

    /// Checks that the node runs. An exited node is reported and started again.
    async fn is_there(&mut self) -> Result<()> {
        let node = self.node.as_mut().context("it is not there")?;
        let Some(status) = node.ended()? else { return Ok(()) };
        // The time of the exit is unknown.
        let since = self.disturbances.last().map_or(self.came, |last| last.until);
        self.disturbed(since, Instant::now(), false);
        self.node = None;
        self.start_node().await?;
        bail!("it ended by itself, with {status}")
    }

    fn leave(&mut self) -> Result<NodeProcess> {
        self.node.take().context("it is not there")
    }

    fn disturbed(&mut self, from: Instant, until: Instant, deadly: bool) {
        self.disturbances.push(FaultWindow { caller: Some(self.caller), from, until, deadly });
    }

    async fn freeze(&mut self, fault: ChaosFault) -> Result<()> {
        let node = self.node.as_ref().context("it is not there")?;
        let from = Instant::now();
        node.signal("-STOP")?;
        tokio::time::sleep(fault.lasting).await;
        let until = Instant::now();
        node.signal("-CONT")?;
        if fault.kind == ChaosFaultKind::FrozenForLong {
            self.disturbed(from, until, false);
        }
        Ok(())
    }

    async fn spoil(&mut self, what: fault_proxy::ExchangeFault, lasting: Duration) -> Result<()> {
        let from = Instant::now();
        let rule = FaultCondition { apis: Vec::new(), times: None, per_mille: 1_000, fault: what };
        self.proxy.faults().add(rule);
        tokio::time::sleep(lasting).await;
        let until = Instant::now();
        self.proxy.calm();
        self.disturbed(from, until, false);
        let met = self.proxy.faults().met();
        let must_meet = lasting >= SPEAKS_WITHIN && !self.orders.broker_ends;
        ensure!(!must_meet || !met.is_empty(), "no exchange met it");
        Ok(())
    }

    /// Fills the disk. Mappings that the API acknowledges meanwhile and afterwards must exist after a restart.
    async fn fill_disk(&mut self, lasting: Duration) -> Result<()> {
        let pid = self.node.as_ref().and_then(NodeProcess::pid).context("it is not there")?;
        self.data.fill(pid)?;
        let refused = self.mappings_until_refused().await;
        tokio::time::sleep(lasting).await;
        let ended = self.node.as_mut().context("it is not there")?.ended()?;
        // The limit ended with the process.
        if ended.is_none() || self.data.writes_meanwhile() == WritesMeanwhile::WithoutNewBlocks {
            self.data.free(pid)?;
        }
        refused?;
        self.is_there().await?;
        let id = self.one_more_mapping().await.context("no mapping after the disk had room again")?;
        self.acknowledged.push(id);
        Ok(())
    }

    /// Creates mappings until one is refused: as many as fit into the store's blocks, none if no write succeeds.
    async fn mappings_until_refused(&mut self) -> Result<()> {
        let most = match self.data.writes_meanwhile() {
            WritesMeanwhile::None => 0,
            WritesMeanwhile::WithoutNewBlocks => FIT_INTO_BLOCKS_MAX,
        };
        for taken in 0..=most {
            match self.one_more_mapping().await {
                Ok(id) => self.acknowledged.push(id),
                Err(refused) => {
                    let said = format!("{refused:#}");
                    ensure!(
                        said.contains("Free disk space"),
                        "refused on a full disk for something else: {said}"
                    );
                    return Ok(());
                }
            }
            ensure!(taken < most, "{taken} mappings and one more were acknowledged on a full disk");
        }
        Ok(())
    }

    async fn one_more_mapping(&self) -> Result<String> {
        let node = self.node.as_ref().context("it is not there")?;
        let other = format!("{}-other-{}-{}", self.orders.topic, self.caller, self.acknowledged.len());
        let more = json!({"Enabled": false, "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": other}});
        let servers = self.proxy.address();
        let made = node.create_mapping(&servers, &other, more);
        tokio::time::timeout(API_ANSWERS_WITHIN, made).await.context("the API does not answer")?
    }

    async fn move_clock(&mut self, fault: ChaosFault) -> Result<()> {
        let Some(clock) = &self.clock else { return Ok(()) };
        let node = self.node.as_ref().context("it is not there")?;
        // More than a day in both directions, derived from the time of the fault.
        let at = fault.at.as_millis() as i64;
        let hours = (1 + at % HOURS_MAX) * if at / HOURS_MAX % 2 == 0 { 1 } else { -1 };
        clock.set(hours)?;
        let asked = node.api().call("GET", "/lighterman/v1/nodes", None).await;
        tokio::time::sleep(fault.lasting).await;
        clock.set(0)?;
        // Signatures are dated: a node with a different clock rejects requests signed with the true time.
        ensure!(asked.is_err(), "the clock went by {hours} h, and the node did not see it");
        Ok(())
    }
}
