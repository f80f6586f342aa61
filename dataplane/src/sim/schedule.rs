//! One schedule, drawn from its seed: how large, how configured, what goes wrong and when. A plan can be made smaller without
//! drawing again, so that a failing one shrinks.

use std::time::Duration;

use lighterman_proto::topic_id::TopicId;

use super::random::SeededRandom;
use crate::kafka::group::GroupProtocol;
use crate::partition::attempt::FailureHandling;

/// A kind of fault; each schedule leaves out a random half of them, or most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A connection breaks before a request arrives.
    Loss,
    /// A connection breaks after a request was served, before its reply arrives.
    ReplyLoss,
    /// Messages take long.
    Delay,
    /// A request arrives twice.
    Duplicate,
    /// A commit whose sender has given it up is served long after.
    LateService,
    /// kill −9 and a restart.
    Crash,
    /// A process stands still.
    Freeze,
    /// A node reaches neither coordinator nor brokers.
    Cut,
    /// What a node and the brokers say to each other stands still for a while, and arrives then.
    Stall,
    /// Brokers take long to answer.
    SlowReplies,
    /// A node's wall clock jumps.
    ClockJump,
    /// The coordinator moves.
    Failover,
    /// Nodes leave in good order and come back.
    Storm,
    /// Another program joins the group, and once does not notice that it was expelled.
    Stranger,
    /// Leaders move.
    LeaderMove,
    /// Leaders move and the log is cut off.
    Truncation,
    /// Brokers answer with error codes.
    ErrorCodes,
    /// The function takes long.
    SlowFunction,
    /// The function fails.
    FailingFunction,
    /// The function hangs until its timeout.
    HangingFunction,
    /// Invocations are throttled.
    Throttling,
    /// The service fails, or refuses as too large.
    ServiceErrors,
    /// The function runs, and its reply is lost.
    LostInvocationReply,
    /// The invocation is lost on its way.
    LostInvocation,
    /// Invocations are long on their way, shorter than the margin of a lease.
    SlowInvocation,
    /// The destination fails.
    DestinationTrouble,
    /// The registry's store loses what it was not told to keep.
    StoreCrash,
    /// The topic grows.
    PartitionsAdded,
    /// Retention deletes what was not read yet.
    Retention,
    /// A person skips what fails.
    Skips,
}

impl FaultKind {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::Loss,
        Self::ReplyLoss,
        Self::Delay,
        Self::Duplicate,
        Self::LateService,
        Self::Crash,
        Self::Freeze,
        Self::Cut,
        Self::Stall,
        Self::SlowReplies,
        Self::ClockJump,
        Self::Failover,
        Self::Storm,
        Self::Stranger,
        Self::LeaderMove,
        Self::Truncation,
        Self::ErrorCodes,
        Self::SlowFunction,
        Self::FailingFunction,
        Self::HangingFunction,
        Self::Throttling,
        Self::ServiceErrors,
        Self::LostInvocationReply,
        Self::LostInvocation,
        Self::SlowInvocation,
        Self::DestinationTrouble,
        Self::StoreCrash,
        Self::PartitionsAdded,
        Self::Retention,
        Self::Skips,
    ];

    /// It befalls one node, or the coordinator in the middle of what it does.
    fn is_of_a_node(self) -> bool {
        matches!(self, Self::Crash | Self::Freeze | Self::Cut | Self::Stall | Self::Storm | Self::Failover)
    }

    fn is_happening(self) -> bool {
        matches!(
            self,
            Self::Crash
                | Self::Freeze
                | Self::Cut
                | Self::Stall
                | Self::ClockJump
                | Self::Failover
                | Self::Storm
                | Self::Stranger
                | Self::LeaderMove
                | Self::Truncation
                | Self::StoreCrash
                | Self::PartitionsAdded
                | Self::Retention
        )
    }
}

/// What a fault waits for: moments of microseconds that no clock would meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTrigger {
    /// A node has sent a heartbeat.
    HeartbeatSent,
    /// A heartbeat was acknowledged, and the reply is on its way.
    HeartbeatServed,
    /// A member was let in, and the reply is on its way.
    JoinServed,
    /// A member's share is on its way.
    SyncServed,
    /// A commit was sent.
    CommitSent,
    /// A commit stands, and the reply is on its way.
    CommitServed,
    /// Records are on their way.
    FetchServed,
    /// An invocation was sent.
    InvocationSent,
    /// The function has begun.
    InvocationBegun,
    /// A node asks where the log begins, to begin there.
    BeginningAsked,
    /// A node has given up what it owned.
    OwnershipLost,
}

impl FaultTrigger {
    const ALL: [Self; 11] = [
        Self::HeartbeatSent,
        Self::HeartbeatServed,
        Self::JoinServed,
        Self::SyncServed,
        Self::CommitSent,
        Self::CommitServed,
        Self::FetchServed,
        Self::InvocationSent,
        Self::InvocationBegun,
        Self::BeginningAsked,
        Self::OwnershipLost,
    ];
}

/// Something that goes wrong at a given time, or at the first cue after it: then to the node that gives the cue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledFault {
    /// When, from the beginning.
    pub at: Duration,
    /// At which cue after that.
    pub cue: Option<FaultTrigger>,
    /// What.
    pub kind: FaultKind,
    /// Decides where.
    pub target: u64,
    /// How long.
    pub lasts: Duration,
    /// What stood still reaches no broker afterwards, for so long.
    pub then_cut: Option<Duration>,
}

/// How many of a thousand kinds strike often in a schedule that has them.
const HEAVY_PER_MILLE: u64 = 80;

/// A quarter of the clusters are older than topic ids.
fn topic_id(seed: u64) -> Option<TopicId> {
    if seed % 4 == 3 { None } else { TopicId::of(uuid::Uuid::from_u64_pair(seed | 1, 0)) }
}

/// A schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultSchedule {
    /// The seed that it was drawn from.
    pub seed: u64,
    /// Nodes.
    pub nodes: usize,
    /// Partitions at the beginning.
    pub partitions: i32,
    /// Record batches for each partition.
    pub batches: u64,
    /// Kinds of faults that are on.
    pub kinds: Vec<FaultKind>,
    /// Those that strike much more often than they do elsewhere.
    pub heavy: Vec<FaultKind>,
    /// What goes wrong when.
    pub happenings: Vec<ScheduledFault>,
    /// Until when there are faults.
    pub faults_until: Duration,
    /// Protocol of the group.
    pub protocol: GroupProtocol,
    /// The topic's id, where brokers give topics ids, and fetch by them.
    pub topic_id: Option<TopicId>,
    /// Session timeout.
    pub session: Duration,
    /// How long the function may run.
    pub function_timeout: Duration,
    /// `BatchSize`.
    pub records_max: u32,
    /// Payload limit in bytes.
    pub payload_bytes_max: usize,
    /// Batching window.
    pub window: Duration,
    /// Byte budget of a node.
    pub budget: usize,
    /// Another mapping of each node takes all the bytes that it can have.
    pub has_neighbour: bool,
    /// What happens to records that fail.
    pub policy: FailureHandling,
    /// `ReportBatchItemFailures`.
    pub partial_responses: bool,
    /// The mapping drops what the destination refuses.
    pub drops: bool,
    /// Consumers on a node at most.
    pub consumers_max: u32,
    /// Records that always fail (of 1000).
    pub poison_per_mille: u64,
}

impl FaultSchedule {
    /// The plan of `seed`.
    pub fn draw(seed: u64) -> Self {
        let mut random = SeededRandom::new(seed);
        // Where little goes wrong, little is excused.
        let share = random.pick(&[500, 500, 200]);
        let kinds: Vec<FaultKind> = FaultKind::ALL.into_iter().filter(|_| random.chance(share)).collect();
        let has = |kind| kinds.contains(&kind);
        let faults_until = random.millis(4_000, 25_000);
        let function_timeout = random.millis(1_500, 4_000);
        let retries_max = random.chance(400).then(|| random.below(4) as u32);
        let policy = FailureHandling {
            retries_max,
            record_age_max: random.chance(120).then(|| Duration::from_secs(20)),
            bisect: random.chance(300),
            named_only: random.chance(300),
            has_destination: random.chance(400),
        };
        let poison_per_mille = if has(FaultKind::FailingFunction) { random.pick(&[0, 10, 40]) } else { 0 };
        let mut plan = Self {
            seed,
            nodes: random.between(1, 3) as usize,
            partitions: random.between(1, 4) as i32,
            batches: random.between(1, 8),
            happenings: Vec::new(),
            faults_until,
            protocol: if SeededRandom::new(!seed).chance(400) {
                GroupProtocol::Consumer
            } else {
                GroupProtocol::Classic
            },
            topic_id: topic_id(seed),
            session: random.pick(&[Duration::from_secs(6), Duration::from_secs(10)]),
            function_timeout,
            records_max: random.between(2, 9) as u32,
            payload_bytes_max: random.pick(&[1_500, 4_000, 100_000]),
            window: random.pick(&[Duration::ZERO, Duration::from_millis(50), Duration::from_millis(400)]),
            budget: random.pick(&[66_000, 140_000, 1 << 20]),
            has_neighbour: SeededRandom::new(seed.rotate_left(20)).chance(250),
            policy,
            partial_responses: random.chance(400),
            drops: random.chance(500),
            consumers_max: random.between(1, 3) as u32,
            poison_per_mille,
            heavy: kinds.iter().copied().filter(|_| random.chance(HEAVY_PER_MILLE)).collect(),
            kinds,
        };
        if plan.protocol == GroupProtocol::Consumer {
            // It speaks the classic protocol.
            plan.kinds.retain(|kind| *kind != FaultKind::Stranger);
        }
        plan.draw_happenings(&mut random);
        plan
    }

    fn draw_happenings(&mut self, random: &mut SeededRandom) {
        let kinds: Vec<FaultKind> = self.kinds.iter().copied().filter(|kind| kind.is_happening()).collect();
        if kinds.is_empty() {
            return;
        }
        let until = self.faults_until.as_micros() as u64;
        for _ in 0..random.between(0, 8) {
            let kind = random.pick(&kinds);
            // Much is decided once, when the group is new.
            let early = random.chance(200);
            let at = if early { random.millis(0, 3_000) } else { random.micros(0, until) };
            let session = self.session.as_millis() as u64;
            let lasts = match kind {
                FaultKind::Freeze | FaultKind::Cut => {
                    let about_a_session = (session * 3 / 4, session * 21 / 20);
                    let (first, last) =
                        random.pick(&[(10, 500), (1_000, 5_000), (5_000, 15_000), about_a_session]);
                    random.millis(first, last)
                }
                FaultKind::Stall => {
                    // A heartbeat is given up after a third of the session.
                    let (first, last) = random.pick(&[(100, 4_000), (session / 5, session / 3)]);
                    random.millis(first, last)
                }
                FaultKind::Failover => random.millis(100, 4_000),
                _ => random.millis(50, 3_000),
            };
            let waits = kind.is_of_a_node() && random.chance(500);
            let cue = waits.then(|| match random.below(8) {
                0 | 1 => FaultTrigger::HeartbeatServed,
                // To go while what was lost still runs.
                2..6 if kind == FaultKind::Storm => FaultTrigger::OwnershipLost,
                _ => random.pick(&FaultTrigger::ALL),
            });
            let stands_still = matches!(kind, FaultKind::Freeze | FaultKind::Stall);
            let then_cut = (stands_still && random.chance(300)).then(|| random.millis(500, 9_000));
            self.happenings.push(ScheduledFault { at, cue, kind, target: random.draw(), lasts, then_cut });
        }
        self.happenings.sort_by_key(|happening| happening.at);
    }

    /// Whether the function stops at its first failure of each partition, and names that one alone.
    pub fn stops_at_failure(&self) -> bool {
        let may = self.partial_responses && !self.policy.named_only;
        may && SeededRandom::new(self.seed.rotate_left(40)).chance(500)
    }

    /// Whether faults of `kind` happen in this schedule.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.kinds.contains(&kind)
    }
}
