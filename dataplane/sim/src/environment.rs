//! Environment of the nodes: time, randomness, event queue, cluster, function and history.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::event::{EventEnvelope, EventSource};
use lighterman_proto::ids::MappingId;
use lighterman_proto::units::Moment;

use super::cluster::{BrokerReply, BrokerRequest, ReplyReceiver, RequestKind, SimulatedCluster};
use super::destination::SimulatedDestination;
use super::function::{FunctionAct, SimulatedCall, SimulatedFunction};
use super::queue::EventQueue;
use super::random::SeededRandom;
use super::schedule::{FaultKind, FaultSchedule, FaultTrigger, ScheduledFault};
use crate::history::{HistoryEntry, HistoryEvent as Happened, OwnerProcess};
use crate::node::messages::NodeMessage;

/// Wall clock at the start of a schedule.
pub(super) const WALL_MS: i64 = 1_700_000_000_000;
/// Monotonic clock at the start of a schedule. Zero means "never" in places.
const BEGIN: Moment = Moment::from_micros(1_000_000);

/// Scheduled event.
#[derive(Debug)]
pub(super) enum EnvironmentEvent {
    /// A message reaches an actor of a process; lost if the process has died since.
    Inside { node: usize, life: u32, what: NodeMessage },
    /// A request arrives at a broker.
    Arrives(Box<BrokerRequest>),
    /// A commit arrives after its sender has timed out.
    ArrivesLate(Box<BrokerRequest>),
    /// A parked fetch has waited its maximum time.
    FetchWaited { ask: u64 },
    /// An invocation arrives at the function.
    Called(Box<SimulatedCall>),
    /// The function finishes an invocation.
    CallEnds { invocation: u64, act: FunctionAct },
    /// Records are appended to a partition.
    Append { partition: i32 },
    /// The time of a scheduled fault has come.
    Fault(usize),
    /// A node triggered a fault.
    Cued { index: usize, node: usize },
    /// The network of a stalled or frozen node is cut.
    CutOff { node: usize, until: Moment },
    /// The foreign member's heartbeat timer expires.
    StrangerBeats,
    /// The foreign member pauses.
    StrangerSleeps { until: Moment },
    /// The session of a process that released its partitions expires.
    SessionOver { node: usize, life: u32 },
    /// A dead node restarts.
    Restart { node: usize },
    /// A node that left the group rejoins.
    ComeBack { node: usize },
    /// A frozen process resumes.
    Thaw { node: usize, life: u32 },
    /// The coordinator's timer expires.
    CoordinatorTick,
    /// An operator looks for failing records to skip.
    PersonLooks,
    /// A client writes to the registry.
    RegistryWrite,
    /// Fault injection ends.
    Quiet,
}

/// Simulated world without its nodes.
pub(super) struct SimulatedEnvironment {
    pub now: Moment,
    pub random: SeededRandom,
    pub queue: EventQueue<EnvironmentEvent>,
    pub plan: FaultSchedule,
    pub history: Vec<HistoryEntry>,
    pub cluster: SimulatedCluster,
    pub function: SimulatedFunction,
    pub destination: SimulatedDestination,
    pub envelope: Arc<EventEnvelope>,
    pub topic: Arc<str>,
    pub mapping: MappingId,
    pub quiet: bool,
    /// End of each node's network cut.
    pub cut_until: Vec<Moment>,
    /// End of the stall between each node and the brokers.
    pub stalled_until: Vec<Moment>,
    /// Faults that are due and wait for their trigger.
    pub armed: Vec<(FaultTrigger, usize)>,
    /// Violations that a core reported itself.
    pub direct: Vec<crate::history::Violation>,
    /// Commits in transit that will be served late.
    pub late: u32,
    next_id: u64,
}

impl SimulatedEnvironment {
    pub(super) fn new(plan: FaultSchedule) -> Self {
        let envelope = EventEnvelope::new(&EventSource::SelfManaged, "k:1", "t");
        let cluster = SimulatedCluster::new(&plan);
        Self {
            now: BEGIN,
            random: SeededRandom::new(plan.seed.wrapping_mul(0x2545_f491_4f6c_dd1d)),
            queue: EventQueue::default(),
            history: Vec::new(),
            cluster,
            function: SimulatedFunction::default(),
            destination: SimulatedDestination::default(),
            envelope: Arc::new(envelope),
            topic: Arc::from("t"),
            mapping: MappingId(uuid::Uuid::from_u128(7)),
            quiet: false,
            cut_until: vec![Moment::default(); plan.nodes],
            stalled_until: vec![Moment::default(); plan.nodes],
            armed: Vec::new(),
            direct: Vec::new(),
            late: 0,
            next_id: 0,
            plan,
        }
    }

    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn record(&mut self, event: Happened) {
        self.history.push(HistoryEntry { at: self.now, event });
    }

    pub(super) fn after(&mut self, wait: Duration, event: EnvironmentEvent) {
        let when = self.now + wait;
        self.queue.push(when, event);
    }

    /// Draws a fault of `kind` with probability `per_mille`/1000. Never true if the kind is off or after the faults.
    pub(super) fn draws_fault(&mut self, kind: FaultKind, per_mille: u64) -> bool {
        if self.quiet || !self.plan.has(kind) {
            return false;
        }
        let often = self.plan.heavy.contains(&kind);
        self.random.chance(if often { (per_mille * 6).min(700) } else { per_mille })
    }

    /// Triggers the first fault that waits for `cue`, at `node`.
    pub(super) fn cue(&mut self, node: usize, cue: FaultTrigger) {
        if let Some(at) = self.armed.iter().position(|(armed, _)| *armed == cue) {
            let (_, index) = self.armed.remove(at);
            let happening = self.plan.happenings[index];
            if happening.kind == FaultKind::Stall {
                // The stall also holds up the message that triggered it.
                self.stall(node, happening);
            } else {
                self.after(Duration::ZERO, EnvironmentEvent::Cued { index, node });
            }
        }
    }

    pub(super) fn stall(&mut self, node: usize, happening: ScheduledFault) {
        let until = self.now + happening.lasts;
        self.stalled_until[node] = until;
        self.cut_after(node, happening);
    }

    /// Cuts the network of a node after its pause, if the plan says so.
    pub(super) fn cut_after(&mut self, node: usize, happening: ScheduledFault) {
        if let Some(then_cut) = happening.then_cut {
            let from = self.now + happening.lasts;
            self.queue.push(from, EnvironmentEvent::CutOff { node, until: from + then_cut });
        }
    }

    /// Draws the latency of a message.
    pub(super) fn way(&mut self) -> Duration {
        if self.draws_fault(FaultKind::Delay, 20) {
            self.random.millis(20, 1_000)
        } else {
            self.random.micros(150, 1_500)
        }
    }

    fn is_cut(&self, node: usize) -> bool {
        self.now < self.cut_until[node]
    }

    /// Draws the latency of a message between `node` and a broker.
    fn way_of(&mut self, node: usize) -> Duration {
        let way = self.way();
        way.max(self.stalled_until[node].since(self.now) + way / 8)
    }

    /// Sends a request. Exactly one `Replied` answers it, with the response or without one.
    pub(super) fn ask(
        &mut self,
        node: usize,
        life: u32,
        broker: usize,
        request: RequestKind,
        deadline: Duration,
    ) -> u64 {
        let id = self.next_id();
        let mut from = ReplyReceiver { ask: Some(id), node, life, gives_up: self.now + deadline };
        let lost = self.is_cut(node) || self.draws_fault(FaultKind::Loss, 12);
        if lost {
            let wait = if self.random.chance(300) {
                deadline
            } else {
                self.random.micros(200, 400_000).min(deadline)
            };
            self.no_reply(from, wait);
            return id;
        }
        if matches!(request, RequestKind::Commit { .. }) && self.draws_fault(FaultKind::LateService, 20) {
            let wait = self.random.micros(200, 400_000).min(deadline);
            self.no_reply(from, wait);
            // The response has no receiver, so the id can be reused.
            self.serve_late(BrokerRequest { id, from: ReplyReceiver { ask: None, ..from }, broker, request });
            return id;
        }
        match &request {
            RequestKind::Heartbeat { .. } => self.cue(node, FaultTrigger::HeartbeatSent),
            RequestKind::Commit { .. } => self.cue(node, FaultTrigger::CommitSent),
            RequestKind::ListOffsets { .. } => self.cue(node, FaultTrigger::BeginningAsked),
            _ => {}
        }
        let way = self.way_of(node);
        // A blocking request times out at its deadline, whatever its broker does.
        let blocks = matches!(request, RequestKind::Join { .. } | RequestKind::Sync { .. });
        if blocks {
            self.no_reply(from, deadline);
        } else if way > deadline {
            self.no_reply(from, deadline);
            from.ask = None;
        }
        // A broker sends some state once, in the next response. A duplicate without a receiver would lose it.
        let tells_once = matches!(request, RequestKind::Fetch { .. } | RequestKind::Beat(_));
        if self.draws_fault(FaultKind::Duplicate, 10) && !blocks && !tells_once {
            let from = ReplyReceiver { ask: None, ..from };
            let twin = BrokerRequest { id: self.next_id(), from, broker, request: request.clone() };
            self.after(way, EnvironmentEvent::Arrives(Box::new(twin)));
        }
        self.after(way, EnvironmentEvent::Arrives(Box::new(BrokerRequest { id, from, broker, request })));
        id
    }

    fn serve_late(&mut self, ask: BrokerRequest) {
        let (soon, late) = self.random.pick(&[(100, 2_000), (2_000, 20_000)]);
        let wait = self.random.millis(soon, late);
        self.late += 1;
        self.after(wait, EnvironmentEvent::ArrivesLate(Box::new(ask)));
    }

    /// Reports after `wait` that there is no response.
    pub(super) fn no_reply(&mut self, from: ReplyReceiver, wait: Duration) {
        if let Some(ask) = from.ask {
            let what = NodeMessage::Replied { ask, reply: None };
            self.after(wait, EnvironmentEvent::Inside { node: from.node, life: from.life, what });
        }
    }

    /// Sends a response.
    pub(super) fn reply(&mut self, from: ReplyReceiver, reply: BrokerReply) {
        let Some(ask) = from.ask else { return };
        if self.is_cut(from.node) || self.draws_fault(FaultKind::ReplyLoss, 12) {
            let wait = self.random.micros(500, 1_500_000);
            return self.no_reply(from, wait);
        }
        self.cue_of(from.node, &reply);
        // An offset lookup reads the log itself, which takes longest.
        let (per_mille, longest) =
            if matches!(reply, BrokerReply::Offsets(_)) { (120, 9_000) } else { (15, 4_000) };
        let slow = self.draws_fault(FaultKind::SlowReplies, per_mille);
        let wait = if slow { self.random.millis(300, longest) } else { self.way_of(from.node) };
        if self.now + wait > from.gives_up {
            return self.no_reply(from, from.gives_up.since(self.now));
        }
        let what = NodeMessage::Replied { ask, reply: Some(Box::new(reply)) };
        self.after(wait, EnvironmentEvent::Inside { node: from.node, life: from.life, what });
    }

    fn cue_of(&mut self, node: usize, reply: &BrokerReply) {
        let cue = match reply {
            BrokerReply::Heartbeat(None | Some(Code::RebalanceInProgress)) | BrokerReply::Told(Ok(_)) => {
                FaultTrigger::HeartbeatServed
            }
            BrokerReply::Joined(answer) if answer.code.is_none() => FaultTrigger::JoinServed,
            BrokerReply::Synced(Ok(_)) => FaultTrigger::SyncServed,
            BrokerReply::Commit(codes) if codes.values().all(Option::is_none) => FaultTrigger::CommitServed,
            BrokerReply::Fetched { parts, .. } if !parts.is_empty() => FaultTrigger::FetchServed,
            _ => return,
        };
        self.cue(node, cue);
    }
}

/// Returns the process of a node and incarnation, as the history names it.
pub(super) fn owner(node: usize, life: u32) -> OwnerProcess {
    OwnerProcess { node: node as u32, incarnation: life }
}
