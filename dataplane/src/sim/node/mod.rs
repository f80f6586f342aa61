//! A node: the production cores, wired as their actors wire them. Messages between actors take a little while and keep their
//! order into one mailbox; a frozen process does nothing, a dead one forgets everything.

mod batches;
mod commits;
mod consumer;
mod fetching;
mod invocations;
mod lines;
mod member;
mod membership;
mod neighbour;
mod ownership;
mod partitions;
mod shelf;
mod starts;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::ids::{ConsumerId, Epoch, Offset};
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use self::batches::Consumer;
use self::commits::Committer;
use self::fetching::{Poller, Want};
use self::invocations::Invoker;
use self::lines::{LineState, Purpose};
use self::member::Member;
use self::membership::GroupThread;
use self::neighbour::Neighbour;
use self::partitions::Running;
use self::starts::Resolve;
use super::cluster::{BROKERS, Part, Reply};
use super::outside::{Event, Outside};
use crate::batcher::BatchId;
use crate::batcher::core::Pending;
use crate::consumer::messages::{PartitionReport, Position};
use crate::credit::bytes::ByteBudget;
use crate::credit::slots::Slot;
use crate::invoker::verdict::{AnswerFacts, Reply as FunctionReply, Verdict};
use crate::kafka::group::GroupEvent;
use crate::offsets::committer::Frontier;
use crate::partition::cut::Hold;
use crate::partition::effects::{Buried, Resolution};
use crate::runtime::in_flight::InFlight;

/// A partition under one ownership.
pub(super) type Key = (i32, Epoch);

/// Where a message goes; each mailbox keeps its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mailbox {
    Member,
    Group,
    Consumer(u32),
    Batcher(u32),
    Partition(i32, u64),
    Committer,
    Invoker,
    Router,
}

/// What happens inside a process.
#[derive(Debug)]
pub(super) enum Inside {
    GroupWake,
    MemberTick,
    Replied {
        ask: u64,
        reply: Option<Box<Reply>>,
    },
    Group(GroupEvent),
    Released(Vec<i32>),
    Quiesced,
    Leave,
    /// What was under way inside when it left without a word has come to rest.
    HasLeft,
    ResolveAgain {
        resolve: u64,
    },
    StartAgain {
        wanted: Vec<i32>,
        generation: i32,
    },
    StartPartition {
        consumer: u32,
        partition: i32,
        epoch: Epoch,
        position: Box<Position>,
    },
    DrainPartition {
        partition: i32,
        epoch: Epoch,
    },
    FencePartitions {
        consumer: u32,
        which: Option<Vec<i32>>,
    },
    Report(Box<PartitionReport>),
    // to a partition
    Wake(Key),
    Fetched {
        key: Key,
        position: Offset,
        part: Box<Part>,
        hold: Hold,
    },
    OutOfRange {
        key: Key,
        log_start: Offset,
        log_end: Offset,
    },
    Sealed {
        key: Key,
        seq: u64,
        end: Offset,
        batch: BatchId,
    },
    Withdrawn {
        key: Key,
        seq: u64,
    },
    Resolved {
        key: Key,
        epoch: Epoch,
        batch: BatchId,
        resolution: Box<Resolution>,
    },
    Committed {
        key: Key,
        offset: Offset,
        seq: u64,
    },
    Drain(Key),
    GiveBack(Key),
    Buried {
        key: Key,
        ticket: u64,
        buried: Buried,
    },
    TellDrained(Key),
    TellParted(Key),
    // to a mapping beside this one
    NeighbourGrabs,
    // to a batcher
    Offer {
        consumer: u32,
        pending: Box<Pending>,
    },
    Withdraw {
        consumer: u32,
        key: Key,
        seq: u64,
    },
    Unregister {
        consumer: u32,
        key: Key,
    },
    SlotGranted {
        consumer: u32,
        slot: Slot,
    },
    BatcherWake {
        consumer: u32,
    },
    Answered {
        consumer: u32,
        batch: BatchId,
        verdict: Box<Verdict>,
        facts: Option<AnswerFacts>,
        sent_at: Moment,
    },
    // to the invoker
    Invoke {
        consumer: u32,
        batch: BatchId,
    },
    Invoked {
        consumer: u32,
        batch: BatchId,
        reply: Box<FunctionReply>,
    },
    // to the committer
    Frontier(Box<Frontier>),
    Unfollow(Key),
    CommitterRested,
    ReadBackTick,
    // to the fetch router
    Want(Want),
    Forget {
        partition: i32,
    },
    Poll {
        broker: usize,
    },
    BackedOff {
        broker: usize,
    },
    LookUp,
    AskBounds {
        broker: usize,
        partition: i32,
        position: Offset,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Running,
    Frozen {
        until: Moment,
    },
    Dead,
    /// Has left the group in good order.
    Left,
}

/// One process.
pub(super) struct Node {
    pub id: usize,
    pub life: u32,
    pub state: State,
    pub wall_jump_ms: i64,
    /// Since when it has run without standing still.
    pub awake_since: Moment,
    /// The mapping's share of the node's bytes.
    pub budget: ByteBudget,
    /// What another mapping of the node holds.
    neighbour: Neighbour,
    in_flight: InFlight,
    mail: BTreeMap<Mailbox, Moment>,
    group: GroupThread,
    lines: [LineState; 3],
    purposes: BTreeMap<u64, Purpose>,
    /// Leader and its epoch by partition, as metadata has told last.
    leaders: Option<Vec<(usize, i32)>>,
    pub member: Member,
    resolves: BTreeMap<u64, Resolve>,
    /// Who finds out where partitions begin, and who waits for it.
    turn: Option<u64>,
    turns: VecDeque<u64>,
    consumers: BTreeMap<ConsumerId, Consumer>,
    /// Those that the member counts.
    floor: BTreeSet<ConsumerId>,
    pub partitions: BTreeMap<Key, Running>,
    committer: Committer,
    invoker: Invoker,
    desks: [Poller; BROKERS],
    placed: BTreeMap<i32, usize>,
    homeless: BTreeMap<i32, Want>,
    looking: bool,
    router_backoff: crate::kafka::backoff::Backoff,
    granted: Arc<Mutex<Vec<(u32, Slot)>>>,
}

impl Node {
    pub(super) fn new(id: usize, life: u32, outside: &mut Outside) -> Self {
        let now = outside.now;
        let (budget, neighbour) = Neighbour::beside(outside);
        let mut node = Self {
            id,
            life,
            state: State::Running,
            wall_jump_ms: 0,
            awake_since: now,
            budget,
            neighbour,
            in_flight: InFlight::default(),
            mail: BTreeMap::new(),
            group: GroupThread::new((id, life), outside),
            lines: [LineState::default(), LineState::default(), LineState::default()],
            purposes: BTreeMap::new(),
            leaders: None,
            member: Member::new(outside),
            resolves: BTreeMap::new(),
            turn: None,
            turns: VecDeque::new(),
            consumers: BTreeMap::new(),
            floor: BTreeSet::new(),
            partitions: BTreeMap::new(),
            committer: Committer::default(),
            invoker: Invoker::new(now),
            desks: Default::default(),
            placed: BTreeMap::new(),
            homeless: BTreeMap::new(),
            looking: false,
            router_backoff: fetching::backoff(),
            granted: Arc::default(),
        };
        node.group_step(outside, |_, _, _| Vec::new());
        node.later(outside, Duration::from_secs(1), Inside::MemberTick);
        node.later(outside, commits::READ_BACK_TICK, Inside::ReadBackTick);
        if node.neighbour.is_there() {
            node.later(outside, Duration::ZERO, Inside::NeighbourGrabs);
        }
        node
    }

    /// A message between two actors of the process.
    fn post(&mut self, outside: &mut Outside, to: Mailbox, what: Inside) {
        let soon = outside.now + outside.random.micros(2, 60);
        let last = self.mail.entry(to).or_default();
        *last = soon.max(*last);
        let when = *last;
        outside.queue.push(when, Event::Inside { node: self.id, life: self.life, what });
    }

    fn later(&self, outside: &mut Outside, wait: Duration, what: Inside) {
        outside.after(wait, Event::Inside { node: self.id, life: self.life, what });
    }

    /// Something happens inside.
    pub(super) fn handle(&mut self, outside: &mut Outside, what: Inside) {
        match what {
            Inside::GroupWake | Inside::Released(_) | Inside::Quiesced | Inside::Leave | Inside::HasLeft => {
                self.group_gets(outside, what);
            }
            Inside::Replied { ask, reply } => self.replied(outside, ask, reply.map(|reply| *reply)),
            Inside::MemberTick | Inside::Group(_) | Inside::StartAgain { .. } | Inside::Report(_) => {
                self.member_gets(outside, what);
            }
            Inside::ResolveAgain { resolve } => self.resolve_step(outside, resolve),
            Inside::StartPartition { .. }
            | Inside::DrainPartition { .. }
            | Inside::FencePartitions { .. } => {
                self.consumer_gets(outside, what);
            }
            Inside::Frontier(_) | Inside::Unfollow(_) | Inside::CommitterRested | Inside::ReadBackTick => {
                self.committer_gets(outside, what);
            }
            Inside::NeighbourGrabs => {
                let wait = self.neighbour.grab();
                self.later(outside, wait, Inside::NeighbourGrabs);
            }
            Inside::Invoke { consumer, batch } => self.invoke(outside, consumer, batch),
            Inside::Invoked { consumer, batch, reply } => self.invoked(outside, consumer, batch, *reply),
            Inside::Want(_)
            | Inside::Forget { .. }
            | Inside::Poll { .. }
            | Inside::BackedOff { .. }
            | Inside::LookUp
            | Inside::AskBounds { .. } => self.router_gets(outside, what),
            Inside::Offer { .. }
            | Inside::Withdraw { .. }
            | Inside::Unregister { .. }
            | Inside::SlotGranted { .. }
            | Inside::BatcherWake { .. }
            | Inside::Answered { .. } => self.batcher_gets(outside, what),
            _ => self.partition_gets(outside, what),
        }
        self.deliver_grants(outside);
    }

    fn deliver_grants(&mut self, outside: &mut Outside) {
        let granted = std::mem::take(&mut *self.granted.lock());
        for (consumer, slot) in granted {
            self.post(outside, Mailbox::Batcher(consumer), Inside::SlotGranted { consumer, slot });
        }
    }

    fn replied(&mut self, outside: &mut Outside, ask: u64, reply: Option<Reply>) {
        let Some(purpose) = self.purposes.remove(&ask) else { return };
        self.answer(outside, purpose, reply);
    }

    /// Everything is let go of; the bytes that are leased all the same.
    pub(super) fn empty(&mut self) -> usize {
        self.desks = Default::default();
        self.partitions.clear();
        self.consumers.clear();
        self.invoker = Invoker::new(Moment::default());
        self.neighbour.let_go();
        self.budget.leased()
    }

    /// The wall clock of the machine.
    fn wall(&self, outside: &Outside) -> lighterman_proto::units::TimestampMs {
        let elapsed = outside.elapsed().as_millis() as i64;
        lighterman_proto::units::TimestampMs(super::outside::WALL_MS + elapsed + self.wall_jump_ms)
    }
}
