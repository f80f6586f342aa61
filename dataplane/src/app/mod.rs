//! Wires the node together: the only place that knows everybody.

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
use crate::consumer::status::MappingStatus;
use crate::control::controller::SkipWish;
use crate::credit::memory::MemoryBudget;
use crate::destination::aws::AwsDestinations;
use crate::invoker::facts::FactsDesk;
use crate::invoker::port::FunctionPort;
use crate::invoker::retry::RetryPolicy;
use crate::kafka::fetch::FetchSettings;
use crate::kafka::group::GroupThread;
use crate::kafka::offsets::IsolationLevel;
use crate::kafka::transport::PlainTcp;
use crate::mapping::succession::HeldMembership;
use crate::mapping::wiring::{MappingSpec, NodeResources};
use crate::mapping::{MappingActor, StopMapping};
use crate::partition::effects::SkipAnswer;
use crate::partition::messages::SkipRecord;
use crate::runtime::in_flight::InFlight;
use crate::runtime::placement::Placement;

/// The running mappings of one node. Calls for one mapping take effect in the order they are made.
pub struct Dataplane {
    node: NodeResources,
    system_arbiter: ArbiterHandle,
    mapping_locks: Arc<MappingLocks<RunningMapping>>,
}

#[derive(Clone)]
struct RunningMapping {
    run: MappingSpec,
    board: MappingStatus,
    address: Addr<MappingActor>,
    /// The membership that its member is in: whoever takes it away ends that too, if the member has not.
    left: HeldMembership,
}

impl Dataplane {
    /// Threads and credits of a node; call inside an actix system. Functions are invoked through `port`.
    pub fn start(settings: &Settings, port: Arc<dyn FunctionPort>) -> io::Result<Arc<Self>> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self::start_on(cores, settings, port)
    }

    /// [`Dataplane::start`] with threads for `cores` cores.
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
            functions: FactsDesk::new(Arc::clone(&port)),
            port,
            aws: AwsDestinations::from_environment(&settings.region),
            egress,
            fetch: FetchSettings { isolation: isolation(settings) },
            group_protocol: settings.kafka.group_protocol,
            session_timeout: settings.kafka.session_timeout,
            retry: RetryPolicy { base: settings.invoke.backoff_base, cap: settings.invoke.backoff_max },
        };
        Ok(Arc::new(Self {
            node,
            system_arbiter: System::current().arbiter().clone(),
            mapping_locks: Arc::default(),
        }))
    }

    /// What became of every offset.
    pub fn audit(&self) -> &AuditLog {
        &self.node.audit
    }

    /// Asks a partition to resolve a record that fails, or what cannot be read, as skipped; `None` when nobody here owns it.
    pub async fn skip(&self, id: MappingId, wish: SkipWish) -> Option<SkipAnswer> {
        let (reply, answer) = oneshot::channel();
        let SkipWish { partition, offset, end, reason } = wish;
        self.mapping_locks.running(id)?.address.do_send(SkipRecord { partition, offset, end, reason, reply });
        answer.await.ok()
    }

    /// Bytes held under `memory_budget` now.
    pub fn leased(&self) -> usize {
        self.node.budget.leased()
    }

    /// How functions are invoked.
    pub fn port(&self) -> &Arc<dyn FunctionPort> {
        &self.node.port
    }

    /// Runs a mapping, or drains it and runs it anew under a changed configuration, whether or not anybody waits for it:
    /// answered once it runs so, and never when the node drains before.
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

    /// Drains a mapping, commits, leaves its group, whether or not anybody waits for it: answered once it has.
    pub fn stop(&self, id: MappingId) -> oneshot::Receiver<()> {
        let (ended, answer) = oneshot::channel();
        let (visit, node) = (self.mapping_locks.visit(id), self.node.clone());
        self.system_arbiter.spawn(async move {
            let turn = end(&visit, &node.in_flight).await;
            // In the turn: whoever begins in the next one opens it anew.
            node.audit.close(id);
            drop(turn);
            let _ = ended.send(());
        });
        answer
    }

    /// Nothing begins any more; drains everything, also what is being stopped already, or was about to begin: what SIGTERM
    /// asks for.
    pub async fn drain(&self) {
        let visits = self.mapping_locks.close();
        futures::future::join_all(
            visits.iter().map(|visit| async { drop(end(visit, &self.node.in_flight).await) }),
        )
        .await;
    }

    /// What a mapping shows; `None` while it does not run.
    pub fn board(&self, id: MappingId) -> Option<MappingStatus> {
        self.mapping_locks.running(id).map(|running| running.board)
    }

    /// A mapping that does not run all of its share on this node, and why.
    pub fn not_ready_reason(&self) -> Option<(MappingId, String)> {
        self.mapping_locks.find(|id, running| Some((id, running.board.not_ready_reason()?)))
    }

    /// Mappings that run or are being changed.
    pub fn mappings(&self) -> usize {
        self.mapping_locks.count()
    }

    /// Runs a mapping whose member has panicked `panics` times in a row.
    fn begin(self: &Arc<Self>, run: MappingSpec, panics: u32) -> RunningMapping {
        let labels = vec![
            Label::new("mapping", run.id.to_string()),
            Label::new("function", run.function.to_string()),
            Label::new("topic", run.topic.to_string()),
        ];
        let board = MappingStatus::new(labels);
        let left = HeldMembership::default();
        let watch = self.watch(run.id, &left, &board, panics);
        let address = MappingActor::new(self.node.clone(), run.clone(), board.clone(), watch).start();
        RunningMapping { run, board, address, left }
    }
}

/// Stops what runs in a lane, in its turn, which is returned when it has stopped.
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

/// Nothing of it runs then, and nobody beats for it, whatever its member came to.
async fn stop(running: &RunningMapping, in_flight: &InFlight) {
    let (done, stopped) = oneshot::channel();
    running.address.do_send(StopMapping(done));
    // A member that has panicked, or does so over this, drops the sender and leaves its membership behind: beside the next one
    // it would keep its partitions from everybody, and its end wait for what that one runs.
    let _ = stopped.await;
    running.left.end(running.run.id, in_flight).await;
}
