//! Wires the node together: the only place that knows everybody.

pub mod host;
pub mod node;
pub mod readiness;
pub mod shown;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use actix::{Actor, Addr};
use actix_rt::{ArbiterHandle, System};
use lighterman_proto::ids::MappingId;
use metrics::Label;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::audit::AuditLog;
use crate::batcher::payload::PayloadPool;
use crate::config::{self, Settings};
use crate::consumer::member::floor::{MappingRun, Node};
use crate::consumer::member::{MemberActor, Stop};
use crate::consumer::status::StatusBoard;
use crate::control::controller::SkipWish;
use crate::credit::bytes::ByteBudget;
use crate::destination::aws::AwsDestinations;
use crate::invoker::port::FunctionPort;
use crate::invoker::retry::RetryPolicy;
use crate::kafka::fetch::FetchSettings;
use crate::kafka::group::GroupThread;
use crate::kafka::offsets::Isolation;
use crate::kafka::transport::PlainTcp;
use crate::partition::effects::SkipAnswer;
use crate::partition::messages::Skip;
use crate::runtime::in_flight::InFlight;
use crate::runtime::placement::Placement;

/// The running mappings of one node. Calls for one mapping take effect in the order they are made.
pub struct Dataplane {
    node: Node,
    home: ArbiterHandle,
    lanes: Mutex<HashMap<MappingId, Arc<tokio::sync::Mutex<Option<Running>>>>>,
    boards: Mutex<HashMap<MappingId, StatusBoard>>,
}

struct Running {
    run: MappingRun,
    address: Addr<MemberActor>,
}

impl Dataplane {
    /// Threads and credits of a node; call inside an actix system. Functions are invoked through `port`.
    pub fn start(settings: &Settings, port: Arc<dyn FunctionPort>) -> io::Result<Arc<Self>> {
        let egress = Arc::new(settings.egress.clone());
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let node = Node {
            budget: ByteBudget::new(settings.memory_budget),
            payloads: PayloadPool::new(settings.memory_budget),
            in_flight: InFlight::default(),
            audit: AuditLog::start(&settings.data_dir)?,
            placement: Arc::new(Placement::new(cores)),
            groups: GroupThread::start()?,
            connector: Arc::new(PlainTcp::new(Arc::clone(&egress))),
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
            home: System::current().arbiter().clone(),
            lanes: Mutex::new(HashMap::new()),
            boards: Mutex::new(HashMap::new()),
        }))
    }

    /// What became of every offset.
    pub fn audit(&self) -> &AuditLog {
        &self.node.audit
    }

    /// Asks a partition to resolve a record that fails, or what cannot be read, as skipped; `None` when nobody here owns it.
    pub async fn skip(&self, id: MappingId, wish: SkipWish) -> Option<SkipAnswer> {
        let lane = self.lane(id);
        let (reply, answer) = oneshot::channel();
        let SkipWish { partition, offset, end, reason } = wish;
        lane.lock().await.as_ref()?.address.do_send(Skip { partition, offset, end, reason, reply });
        answer.await.ok()
    }

    /// How functions are invoked.
    pub fn port(&self) -> &Arc<dyn FunctionPort> {
        &self.node.port
    }

    /// Runs a mapping, or drains it and runs it anew under a changed configuration, whether or not anybody waits for it:
    /// answered once it runs so.
    pub fn run(self: &Arc<Self>, run: MappingRun) -> oneshot::Receiver<()> {
        let (me, lane) = (Arc::clone(self), self.lane(run.id));
        let (begun, answer) = oneshot::channel();
        self.home.spawn(async move {
            let mut running = lane.lock().await;
            if running.as_ref().is_none_or(|running| running.run != run) {
                if let Some(old) = running.take() {
                    stop(old).await;
                }
                *running = Some(me.begin(run));
            }
            let _ = begun.send(());
        });
        answer
    }

    /// Drains a mapping, commits, leaves its group.
    pub async fn stop(&self, id: MappingId) {
        let lane = self.lane(id);
        let old = lane.lock().await.take();
        if let Some(old) = old {
            stop(old).await;
        }
        self.boards.lock().remove(&id);
    }

    /// Drains everything: what SIGTERM asks for.
    pub async fn drain(&self) {
        let ids: Vec<MappingId> = self.lanes.lock().keys().copied().collect();
        futures::future::join_all(ids.into_iter().map(|id| self.stop(id))).await;
    }

    /// What a mapping shows; `None` while it does not run.
    pub fn board(&self, id: MappingId) -> Option<StatusBoard> {
        self.boards.lock().get(&id).cloned()
    }

    /// A mapping that does not run all of its share on this node, and why.
    pub fn missing(&self) -> Option<(MappingId, String)> {
        let boards = self.boards.lock();
        boards.iter().find_map(|(id, board)| Some((*id, board.missing()?)))
    }

    fn lane(&self, id: MappingId) -> Arc<tokio::sync::Mutex<Option<Running>>> {
        Arc::clone(self.lanes.lock().entry(id).or_default())
    }

    fn begin(&self, run: MappingRun) -> Running {
        let labels = vec![
            Label::new("mapping", run.id.to_string()),
            Label::new("function", run.function.to_string()),
            Label::new("topic", run.topic.to_string()),
        ];
        let board = StatusBoard::new(labels);
        self.boards.lock().insert(run.id, board.clone());
        let address = MemberActor::new(self.node.clone(), run.clone(), board).start();
        Running { run, address }
    }
}

fn isolation(settings: &Settings) -> Isolation {
    match settings.kafka.isolation {
        config::Isolation::ReadCommitted => Isolation::Committed,
        config::Isolation::ReadUncommitted => Isolation::Uncommitted,
    }
}

async fn stop(running: Running) {
    let (done, stopped) = oneshot::channel();
    running.address.do_send(Stop(done));
    // An actor that has ended already drops the sender: stopped, too.
    let _ = stopped.await;
}
