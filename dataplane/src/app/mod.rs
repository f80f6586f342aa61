//! Composition of the node. This is the only module that depends on all others.

pub mod host;
mod mapping_locks;
pub mod node;
pub mod readiness;
mod revival;
pub mod views;

use std::io;
use std::sync::Arc;

use actix::{Actor, Addr};
use actix_rt::{ArbiterHandle, System};
use lighterman_proto::ids::MappingId;
use metrics::Label;
use tokio::sync::oneshot;

use self::mapping_locks::{LaneTurn, LaneVisit, MappingLocks};
use crate::audit::AuditLog;
use crate::batcher::payload::PayloadPool;
use crate::config::{self, Settings};
use crate::control::controller::SkipWish;
use crate::credit::memory_budget::MemoryBudget;
use crate::destination::aws::AwsDestinations;
use crate::invoker::facts::FactsActor;
use crate::invoker::port::FunctionPort;
use crate::invoker::retry::RetryPolicy;
use crate::kafka::fetch::FetchSettings;
use crate::kafka::group::GroupThread;
use crate::kafka::offsets::IsolationLevel;
use crate::kafka::transport::PlainTcp;
use crate::mapping::succession::HeldMembership;
use crate::mapping::wiring::{MappingSpec, NodeResources};
use crate::mapping::{MappingActor, StopMapping};
use crate::messages::skip::{SkipAnswer, SkipRecord};
use crate::partition::progress::commit_window::CommitWindowLimits;
use crate::runtime::in_flight::InFlight;
use crate::runtime::placement::Placement;
use crate::status::MappingStatus;

/// Running mappings of one node. Calls for one mapping take effect in the order in which they are made.
pub struct Dataplane {
    node: NodeResources,
    system_arbiter: ArbiterHandle,
    mapping_locks: Arc<MappingLocks<RunningMapping>>,
}

#[derive(Clone)]
struct RunningMapping {
    run: MappingSpec,
    mapping_status: MappingStatus,
    address: Addr<MappingActor>,
    /// Membership of the mapping's member. Removing the mapping also ends the membership, if the member has not.
    left: HeldMembership,
}

impl Dataplane {
    /// Creates the node's threads and budgets. Call it inside an actix system. Functions are invoked through `port`.
    pub fn start(settings: &Settings, port: Arc<dyn FunctionPort>) -> io::Result<Arc<Self>> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self::start_on(cores, settings, port)
    }

    /// Starts a dataplane like [`Dataplane::start`], with threads for `cores` cores.
    pub fn start_on(cores: usize, settings: &Settings, port: Arc<dyn FunctionPort>) -> io::Result<Arc<Self>> {
        let egress = Arc::new(settings.egress.clone());
        let node = NodeResources {
            budget: MemoryBudget::new(settings.memory_budget),
            payloads: PayloadPool::new(settings.memory_budget),
            in_flight: InFlight::default(),
            audit: AuditLog::start(&settings.data_dir)?,
            placement: Arc::new(Placement::new(cores)),
            groups: GroupThread::start()?,
            connector: Arc::new(PlainTcp::new(Arc::clone(&egress))),
            functions: FactsActor::new(Arc::clone(&port)),
            port,
            aws: AwsDestinations::from_environment(&settings.region),
            egress,
            fetch: FetchSettings { isolation: isolation(settings) },
            group_protocol: settings.kafka.group_protocol,
            session_timeout: settings.kafka.session_timeout,
            commit_window: CommitWindowLimits {
                batches_max: settings.commit.unacknowledged_batches,
                age_max: settings.commit.unacknowledged_window,
            },
            retry: RetryPolicy { base: settings.invoke.backoff_base, cap: settings.invoke.backoff_max },
        };
        Ok(Arc::new(Self {
            node,
            system_arbiter: System::current().arbiter().clone(),
            mapping_locks: Arc::default(),
        }))
    }

    /// Returns the audit log.
    pub fn audit(&self) -> &AuditLog {
        &self.node.audit
    }

    /// Requests a partition to resolve a failing record, or an unreadable batch, as skipped. Returns `None` if this
    /// node does not own the partition.
    pub async fn skip(&self, id: MappingId, wish: SkipWish) -> Option<SkipAnswer> {
        let (reply, answer) = oneshot::channel();
        let SkipWish { partition, offset, end, reason } = wish;
        self.mapping_locks.running(id)?.address.do_send(SkipRecord { partition, offset, end, reason, reply });
        answer.await.ok()
    }

    /// Returns the bytes leased from `memory_budget`.
    pub fn leased(&self) -> usize {
        self.node.budget.leased()
    }

    /// Returns the port through which functions are invoked.
    pub fn port(&self) -> &Arc<dyn FunctionPort> {
        &self.node.port
    }

    /// Runs a mapping, or drains it and restarts it with a changed configuration, even if the receiver is dropped.
    /// The receiver resolves once the mapping runs with it, and is closed if the node drains before.
    pub fn run(self: &Arc<Self>, run: MappingSpec) -> oneshot::Receiver<()> {
        let (me, visit) = (Arc::clone(self), self.mapping_locks.visit(run.id));
        let (begun, answer) = oneshot::channel();
        self.system_arbiter.spawn(async move {
            let turn = visit.turn().await;
            let old = turn.running();
            if old.as_ref().is_some_and(|old| old.run == run) {
                let _ = begun.send(());
                return;
            }
            if let Some(old) = old {
                stop(&old, &me.node.in_flight).await;
            }
            if turn.begin(|| me.begin(run, 0)) {
                let _ = begun.send(());
            } else {
                turn.end();
            }
        });
        answer
    }

    /// Drains a mapping, commits and leaves its group, even if the receiver is dropped. The receiver resolves when
    /// done.
    pub fn stop(&self, id: MappingId) -> oneshot::Receiver<()> {
        let (ended, answer) = oneshot::channel();
        let (visit, node) = (self.mapping_locks.visit(id), self.node.clone());
        self.system_arbiter.spawn(async move {
            let turn = end(&visit, &node.in_flight).await;
            // Close within the turn: the next turn may open the audit again.
            node.audit.close(id);
            drop(turn);
            let _ = ended.send(());
        });
        answer
    }

    /// Drains all mappings, including those already stopping or about to start; none starts any more. SIGTERM
    /// triggers this.
    pub async fn drain(&self) {
        let visits = self.mapping_locks.close();
        futures::future::join_all(
            visits.iter().map(|visit| async { drop(end(visit, &self.node.in_flight).await) }),
        )
        .await;
    }

    /// Returns the status of a mapping, or `None` while it does not run.
    pub fn mapping_status(&self, id: MappingId) -> Option<MappingStatus> {
        self.mapping_locks.running(id).map(|running| running.mapping_status)
    }

    /// Returns a mapping that does not run all its partitions on this node, and the reason.
    pub fn not_ready_reason(&self) -> Option<(MappingId, String)> {
        self.mapping_locks.find(|id, running| Some((id, running.mapping_status.not_ready_reason()?)))
    }

    /// Returns the number of mappings that run or are being changed.
    pub fn mappings(&self) -> usize {
        self.mapping_locks.count()
    }

    /// Starts a mapping whose member has panicked `panics` times in a row.
    fn begin(self: &Arc<Self>, run: MappingSpec, panics: u32) -> RunningMapping {
        let labels = vec![
            Label::new("mapping", run.id.to_string()),
            Label::new("function", run.function.to_string()),
            Label::new("topic", run.topic.to_string()),
        ];
        let mapping_status = MappingStatus::new(labels);
        let left = HeldMembership::default();
        let watch = self.watch(run.id, &left, &mapping_status, panics);
        let address =
            MappingActor::new(self.node.clone(), run.clone(), mapping_status.clone(), watch).start();
        RunningMapping { run, mapping_status, address, left }
    }
}

/// Stops the running mapping of a lock in a turn, and returns the turn once it has stopped.
async fn end<'v>(visit: &'v LaneVisit<RunningMapping>, in_flight: &InFlight) -> LaneTurn<'v, RunningMapping> {
    let turn = visit.turn().await;
    if let Some(running) = turn.running() {
        stop(&running, in_flight).await;
        turn.end();
    }
    turn
}

fn isolation(settings: &Settings) -> IsolationLevel {
    match settings.kafka.isolation {
        config::IsolationSetting::ReadCommitted => IsolationLevel::Committed,
        config::IsolationSetting::ReadUncommitted => IsolationLevel::Uncommitted,
    }
}

/// Stops a mapping. Afterwards nothing of it runs and no heartbeats are sent for it, even if its member panicked.
async fn stop(running: &RunningMapping, in_flight: &InFlight) {
    let (done, stopped) = oneshot::channel();
    running.address.do_send(StopMapping(done));
    // A member that has panicked, or panics during the stop, drops the sender and leaves its membership behind. That
    // membership would hold its partitions while the next one runs, and its end would wait for the next one's
    // invocations.
    let _ = stopped.await;
    running.left.end(running.run.id, in_flight).await;
}
