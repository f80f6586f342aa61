//! Node: the production cores, connected as their actors connect them. Messages between actors take a short time and
//! keep their order in one mailbox. A frozen process does nothing; a dead one loses its state.

mod batches;
mod commits;
mod connections;
mod consumer;
mod fetching;
mod invocations;
mod member;
mod membership;
pub(super) mod messages;
mod neighbour;
mod ownership;
mod partitions;
mod results;
mod shelf;
mod starts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lighterman::credit::memory_budget::MemoryBudget;
use lighterman::credit::slots::Slot;
use lighterman::runtime::in_flight::InFlight;
use lighterman_proto::ids::{ConsumerId, Epoch};
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use self::batches::SimulatedConsumer;
use self::commits::SimulatedCommitter;
use self::connections::{LineState, RequestPurpose};
use self::fetching::{SimulatedFetch, SimulatedPoller};
use self::invocations::SimulatedInvoker;
use self::member::SimulatedMember;
use self::membership::SimulatedGroupThread;
use self::neighbour::NeighbourMapping;
use self::partitions::RunningPartition;
use self::starts::StartResolution;
use super::cluster::{BROKERS, BrokerReply};
use super::environment::{EnvironmentEvent, SimulatedEnvironment};
use crate::node::messages::{MessageMailbox, NodeMessage};

/// Partition under one ownership.
pub(super) type OwnershipKey = (i32, Epoch);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    Running,
    Frozen {
        until: Moment,
    },
    Dead,
    /// Left the group gracefully.
    Left,
}

/// Process of a node.
pub(super) struct SimulatedNode {
    pub id: usize,
    pub incarnation: u32,
    pub state: NodeState,
    pub wall_jump_ms: i64,
    /// Moment since which it has run without a freeze.
    pub awake_since: Moment,
    /// Mapping's share of the node's memory budget.
    pub budget: MemoryBudget,
    /// Other mapping of the node.
    neighbour: NeighbourMapping,
    in_flight: InFlight,
    mail: BTreeMap<MessageMailbox, Moment>,
    group: SimulatedGroupThread,
    lines: [LineState; 3],
    purposes: BTreeMap<u64, RequestPurpose>,
    /// Leader and leader epoch by partition, from the last metadata response.
    leaders: Option<Vec<(usize, i32)>>,
    pub member: SimulatedMember,
    resolves: BTreeMap<u64, StartResolution>,
    /// Start resolution that runs; `turns` has the queued ones.
    turn: Option<u64>,
    turns: VecDeque<u64>,
    consumers: BTreeMap<ConsumerId, SimulatedConsumer>,
    /// Consumers that the mapping counts.
    floor: BTreeSet<ConsumerId>,
    pub partitions: BTreeMap<OwnershipKey, RunningPartition>,
    committer: SimulatedCommitter,
    invoker: SimulatedInvoker,
    desks: [SimulatedPoller; BROKERS],
    placed: BTreeMap<i32, usize>,
    leaderless: BTreeMap<i32, SimulatedFetch>,
    looking: bool,
    router_backoff: lighterman::runtime::backoff::Backoff,
    granted: Arc<Mutex<Vec<(u32, Slot)>>>,
}

impl SimulatedNode {
    pub(super) fn new(id: usize, life: u32, env: &mut SimulatedEnvironment) -> Self {
        let now = env.now;
        let (budget, neighbour) = NeighbourMapping::beside(env);
        let mut node = Self {
            id,
            incarnation: life,
            state: NodeState::Running,
            wall_jump_ms: 0,
            awake_since: now,
            budget,
            neighbour,
            in_flight: InFlight::default(),
            mail: BTreeMap::new(),
            group: SimulatedGroupThread::new((id, life), env),
            lines: [LineState::default(), LineState::default(), LineState::default()],
            purposes: BTreeMap::new(),
            leaders: None,
            member: SimulatedMember::new(env),
            resolves: BTreeMap::new(),
            turn: None,
            turns: VecDeque::new(),
            consumers: BTreeMap::new(),
            floor: BTreeSet::new(),
            partitions: BTreeMap::new(),
            committer: SimulatedCommitter::default(),
            invoker: SimulatedInvoker::new(now),
            desks: Default::default(),
            placed: BTreeMap::new(),
            leaderless: BTreeMap::new(),
            looking: false,
            router_backoff: fetching::backoff(),
            granted: Arc::default(),
        };
        node.group_step(env, |_, _, _| Vec::new());
        node.later(env, Duration::from_secs(1), NodeMessage::MemberTick);
        node.later(env, commits::READ_BACK_TICK, NodeMessage::ReadBackTick);
        if node.neighbour.is_there() {
            node.later(env, Duration::ZERO, NodeMessage::NeighbourGrabs);
        }
        node
    }

    /// Posts a message between two actors of the process.
    fn post(&mut self, env: &mut SimulatedEnvironment, to: MessageMailbox, what: NodeMessage) {
        let soon = env.now + env.random.micros(2, 60);
        let last = self.mail.entry(to).or_default();
        *last = soon.max(*last);
        let when = *last;
        env.queue.push(when, EnvironmentEvent::Inside { node: self.id, life: self.incarnation, what });
    }

    fn later(&self, env: &mut SimulatedEnvironment, wait: Duration, what: NodeMessage) {
        env.after(wait, EnvironmentEvent::Inside { node: self.id, life: self.incarnation, what });
    }

    /// Handles a message.
    pub(super) fn handle(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::GroupWake
            | NodeMessage::Released(_)
            | NodeMessage::Quiesced
            | NodeMessage::Leave
            | NodeMessage::HasLeft => {
                self.group_gets(env, what);
            }
            NodeMessage::Replied { ask, reply } => self.replied(env, ask, reply.map(|reply| *reply)),
            NodeMessage::MemberTick
            | NodeMessage::Group(_)
            | NodeMessage::StartAgain { .. }
            | NodeMessage::Report(_) => {
                self.member_gets(env, what);
            }
            NodeMessage::ResolveAgain { resolve } => self.resolve_step(env, resolve),
            NodeMessage::StartPartition { .. }
            | NodeMessage::DrainPartition { .. }
            | NodeMessage::FencePartitions { .. } => {
                self.consumer_gets(env, what);
            }
            NodeMessage::Frontier(_)
            | NodeMessage::Unfollow(_)
            | NodeMessage::CommitterRested
            | NodeMessage::ReadBackTick => {
                self.committer_gets(env, what);
            }
            NodeMessage::NeighbourGrabs => {
                let wait = self.neighbour.grab();
                self.later(env, wait, NodeMessage::NeighbourGrabs);
            }
            NodeMessage::Invoke { consumer, batch } => self.invoke(env, consumer, batch),
            NodeMessage::Invoked { consumer, batch, reply } => self.invoked(env, consumer, batch, *reply),
            NodeMessage::Want(_)
            | NodeMessage::Forget { .. }
            | NodeMessage::Poll { .. }
            | NodeMessage::BackedOff { .. }
            | NodeMessage::LookUp
            | NodeMessage::AskBounds { .. } => self.router_gets(env, what),
            NodeMessage::Offer { .. }
            | NodeMessage::Withdraw { .. }
            | NodeMessage::Unregister { .. }
            | NodeMessage::SlotGranted { .. }
            | NodeMessage::BatcherWake { .. }
            | NodeMessage::Answered { .. } => self.batcher_gets(env, what),
            _ => self.partition_gets(env, what),
        }
        self.deliver_grants(env);
    }

    fn deliver_grants(&mut self, env: &mut SimulatedEnvironment) {
        let granted = std::mem::take(&mut *self.granted.lock());
        for (consumer, slot) in granted {
            self.post(env, MessageMailbox::Batcher(consumer), NodeMessage::SlotGranted { consumer, slot });
        }
    }

    fn replied(&mut self, env: &mut SimulatedEnvironment, ask: u64, reply: Option<BrokerReply>) {
        let Some(purpose) = self.purposes.remove(&ask) else { return };
        self.answer(env, purpose, reply);
    }

    /// Drops everything. Returns the bytes that are still leased.
    pub(super) fn empty(&mut self) -> usize {
        self.desks = Default::default();
        self.partitions.clear();
        self.consumers.clear();
        self.invoker = SimulatedInvoker::new(Moment::default());
        self.neighbour.let_go();
        self.budget.leased()
    }

    /// Returns the wall clock of the machine.
    fn wall(&self, env: &SimulatedEnvironment) -> lighterman_proto::units::TimestampMs {
        let elapsed = env.elapsed().as_millis() as i64;
        lighterman_proto::units::TimestampMs(super::environment::WALL_MS + elapsed + self.wall_jump_ms)
    }
}
