//! Everything around the nodes: time, chance, the queue of what will happen, the cluster, the function, the recorder.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::event::{Envelope, EventSource};
use lighterman_proto::ids::MappingId;
use lighterman_proto::units::Moment;

use super::cluster::{Ask, Cluster, Reply, Request};
use super::destination::Destination;
use super::function::{Act, Call, Function};
use super::node::Inside;
use super::plan::{Kind, Plan};
use super::queue::Queue;
use super::random::Random;
use crate::history::{Entry, Event as Happened, Owner};

/// The wall clock when a schedule begins.
pub(super) const WALL_MS: i64 = 1_700_000_000_000;
/// The node's clock when a schedule begins; not zero, which means "never" in places.
const BEGIN: Moment = Moment::from_micros(1_000_000);

/// What will happen.
#[derive(Debug)]
pub(super) enum Event {
    /// Something inside a process; lost when it has died since.
    Inside { node: usize, life: u32, what: Inside },
    /// A request arrives at a broker.
    Arrives(Box<Ask>),
    /// A fetch has waited long enough for records.
    FetchWaited { ask: u64 },
    /// An invocation arrives at the function.
    Called(Box<Call>),
    /// The function is through with one.
    CallEnds { invocation: u64, act: Act },
    /// Records are written to a partition.
    Append { partition: i32 },
    /// A fault of the plan.
    Fault(usize),
    /// A dead node starts again.
    Restart { node: usize },
    /// A node that has left in good order comes back.
    ComeBack { node: usize },
    /// A frozen process goes on.
    Thaw { node: usize, life: u32 },
    /// The coordinator looks at its clock.
    CoordinatorTick,
    /// A person looks at what fails.
    PersonLooks,
    /// Somebody writes to the registry.
    RegistryWrite,
    /// Faults are over.
    Quiet,
}

/// The world without its nodes.
pub(super) struct Outside {
    pub now: Moment,
    pub random: Random,
    pub queue: Queue<Event>,
    pub plan: Plan,
    pub history: Vec<Entry>,
    pub cluster: Cluster,
    pub function: Function,
    pub destination: Destination,
    pub envelope: Arc<Envelope>,
    pub topic: Arc<str>,
    pub mapping: MappingId,
    pub quiet: bool,
    /// Until when each node reaches no broker.
    pub cut_until: Vec<Moment>,
    /// What a core itself called a violation.
    pub direct: Vec<crate::history::Violation>,
    next_id: u64,
}

impl Outside {
    pub(super) fn new(plan: Plan) -> Self {
        let envelope = Envelope::new(&EventSource::SelfManaged, "k:1", "t");
        let cluster = Cluster::new(plan.partitions);
        Self {
            now: BEGIN,
            random: Random::new(plan.seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            queue: Queue::default(),
            history: Vec::new(),
            cluster,
            function: Function::default(),
            destination: Destination::default(),
            envelope: Arc::new(envelope),
            topic: Arc::from("t"),
            mapping: MappingId(uuid::Uuid::from_u128(7)),
            quiet: false,
            cut_until: vec![Moment::default(); plan.nodes],
            direct: Vec::new(),
            next_id: 0,
            plan,
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn record(&mut self, event: Happened) {
        self.history.push(Entry { at: self.now, event });
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        let when = self.now + wait;
        self.queue.push(when, event);
    }

    /// True in `per_mille` of a thousand cases while faults of `kind` happen.
    pub(super) fn strikes(&mut self, kind: Kind, per_mille: u64) -> bool {
        !self.quiet && self.plan.has(kind) && self.random.chance(per_mille)
    }

    /// How long a message is on its way.
    pub(super) fn way(&mut self) -> Duration {
        if self.strikes(Kind::Delay, 20) {
            self.random.millis(20, 1_000)
        } else {
            self.random.micros(150, 1_500)
        }
    }

    fn is_cut(&self, node: usize) -> bool {
        self.now < self.cut_until[node]
    }

    /// Sends a request; answered by exactly one `Replied`, with its reply or with none.
    pub(super) fn ask(
        &mut self,
        node: usize,
        life: u32,
        broker: usize,
        request: Request,
        deadline: Duration,
    ) -> u64 {
        let id = self.next_id();
        let lost = self.is_cut(node) || self.strikes(Kind::Loss, 12);
        if lost {
            let wait = if self.random.chance(300) {
                deadline
            } else {
                self.random.micros(200, 400_000).min(deadline)
            };
            self.after(wait, Event::Inside { node, life, what: Inside::Replied { ask: id, reply: None } });
            return id;
        }
        let blocks = matches!(request, Request::Join { .. } | Request::Sync { .. });
        let way = self.way();
        if blocks {
            self.after(
                deadline,
                Event::Inside { node, life, what: Inside::Replied { ask: id, reply: None } },
            );
        }
        if self.strikes(Kind::Duplicate, 10) && !blocks && !matches!(request, Request::Fetch { .. }) {
            let twin = Ask { id: u64::MAX, node, life, broker, request: request.clone() };
            self.after(way, Event::Arrives(Box::new(twin)));
        }
        self.after(way, Event::Arrives(Box::new(Ask { id, node, life, broker, request })));
        id
    }

    /// Sends a reply on its way.
    pub(super) fn reply(&mut self, ask: u64, node: usize, life: u32, reply: Reply) {
        if ask == u64::MAX {
            return;
        }
        let lost = self.is_cut(node) || self.strikes(Kind::ReplyLoss, 12);
        let (wait, reply) =
            if lost { (self.random.micros(500, 1_500_000), None) } else { (self.way(), Some(reply)) };
        let what = Inside::Replied { ask, reply: reply.map(Box::new) };
        self.after(wait, Event::Inside { node, life, what });
    }
}

/// A node in a life, as the history names it.
pub(super) fn owner(node: usize, life: u32) -> Owner {
    Owner { node: node as u32, life }
}
