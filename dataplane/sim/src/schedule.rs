//! Fault schedules, drawn from a seed: sizes, configuration, faults with their times. A schedule can be reduced
//! without another draw, so that a failing one shrinks.

use std::time::Duration;

use lighterman::kafka::group::GroupProtocol;
use lighterman::partition::attempts::attempt::FailureHandling;
use lighterman::partition::progress::commit_window::CommitWindowLimits;
use lighterman_proto::topic_id::TopicId;

use super::random::SeededRandom;

/// Kind of a fault; each schedule omits a random half of them, or most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A connection breaks before a request arrives.
    Loss,
    /// A connection breaks after a request was served, before its response arrives.
    ReplyLoss,
    /// Messages are delayed.
    Delay,
    /// A request arrives twice.
    Duplicate,
    /// A commit is served long after its sender has timed out.
    LateService,
    /// A process is killed with SIGKILL and restarted.
    Crash,
    /// A process is frozen.
    Freeze,
    /// A node reaches neither coordinator nor brokers.
    Cut,
    /// Messages between a node and the brokers are held up for a while, and then arrive.
    Stall,
    /// Brokers respond slowly.
    SlowReplies,
    /// A node's wall clock jumps.
    ClockJump,
    /// The coordinator moves.
    Failover,
    /// Nodes leave gracefully and rejoin.
    Storm,
    /// Another program joins the group, and once does not notice its expulsion.
    Stranger,
    /// Leaders move.
    LeaderMove,
    /// Leaders move and the log is truncated.
    Truncation,
    /// Brokers respond with error codes.
    ErrorCodes,
    /// The function is slow.
    SlowFunction,
    /// The function fails.
    FailingFunction,
    /// The function hangs until its timeout.
    HangingFunction,
    /// Invocations are throttled.
    Throttling,
    /// The service fails, or rejects events as too large.
    ServiceErrors,
    /// The function runs, but its response is lost.
    LostInvocationReply,
    /// The invocation is lost before it reaches the function.
    LostInvocation,
    /// Invocations arrive late, but within the margin of a lease.
    SlowInvocation,
    /// The destination fails.
    DestinationTrouble,
    /// The registry's store crashes and loses what was not synced.
    StoreCrash,
    /// The topic gets more partitions.
    PartitionsAdded,
    /// Retention deletes unread records.
    Retention,
    /// An operator skips failing records.
    Skips,
}

impl FaultKind {
    /// Every kind.
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

    /// Returns true for faults of one node or of the coordinator, which may wait for a trigger.
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

/// Trigger of a fault: a window of microseconds that a scheduled time would miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTrigger {
    /// A node sent a heartbeat.
    HeartbeatSent,
    /// A heartbeat was acknowledged; the response is in transit.
    HeartbeatServed,
    /// A join was accepted; the response is in transit.
    JoinServed,
    /// A sync was served; the member's assignment is in transit.
    SyncServed,
    /// A commit was sent.
    CommitSent,
    /// A commit was stored; the response is in transit.
    CommitServed,
    /// Fetched records are in transit.
    FetchServed,
    /// An invocation was sent.
    InvocationSent,
    /// The function started.
    InvocationBegun,
    /// A node asked for the log start, to start there.
    BeginningAsked,
    /// A node released the partitions it owned.
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

/// Fault at a given time, or at its trigger's first occurrence after it. A trigger selects the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledFault {
    /// Time since the start of the schedule.
    pub at: Duration,
    /// Trigger to wait for after that time.
    pub cue: Option<FaultTrigger>,
    /// Kind of the fault.
    pub kind: FaultKind,
    /// Random bits that select the node, partition or offset.
    pub target: u64,
    /// Duration of the fault.
    pub lasts: Duration,
    /// Duration of a network cut that follows a freeze or stall.
    pub then_cut: Option<Duration>,
}

/// Probability, in thousandths, that a kind of fault is frequent in a schedule that has it.
const HEAVY_PER_MILLE: u64 = 80;

/// Returns the topic's id. A quarter of the clusters predate topic ids.
fn topic_id(seed: u64) -> Option<TopicId> {
    if seed % 4 == 3 { None } else { TopicId::of(uuid::Uuid::from_u64_pair(seed | 1, 0)) }
}

/// Returns the limits of unacknowledged commits. They have random numbers of their own, so that the rest of a seed's
/// schedule does not depend on them.
fn commit_window(seed: u64) -> CommitWindowLimits {
    let mut random = SeededRandom::new(seed.rotate_left(30));
    let batches_max = random.pick(&[0, 0, 1, 3, 8]);
    let age_max =
        random.pick(&[Duration::from_millis(20), Duration::from_millis(100), Duration::from_secs(5)]);
    CommitWindowLimits { batches_max, age_max }
}

/// Fault schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultSchedule {
    /// Seed that it was drawn from.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: usize,
    /// Partitions at the start.
    pub partitions: i32,
    /// Record batches of each partition.
    pub batches: u64,
    /// Enabled kinds of faults.
    pub kinds: Vec<FaultKind>,
    /// Kinds that are much more frequent than usual.
    pub heavy: Vec<FaultKind>,
    /// Scheduled faults.
    pub happenings: Vec<ScheduledFault>,
    /// End of the faults.
    pub faults_until: Duration,
    /// Group protocol.
    pub protocol: GroupProtocol,
    /// Topic id, for brokers with topic ids, which fetch by them.
    pub topic_id: Option<TopicId>,
    /// Session timeout.
    pub session: Duration,
    /// Function timeout.
    pub function_timeout: Duration,
    /// `BatchSize`.
    pub records_max: u32,
    /// Payload limit, in bytes.
    pub payload_bytes_max: usize,
    /// Batching window.
    pub window: Duration,
    /// Limits of the unacknowledged commits with which a batch may start.
    pub commit_window: CommitWindowLimits,
    /// Memory budget of a node, in bytes.
    pub budget: usize,
    /// True if another mapping of each node takes all the bytes it can get.
    pub has_neighbour: bool,
    /// Handling of failed records.
    pub policy: FailureHandling,
    /// `ReportBatchItemFailures`.
    pub partial_responses: bool,
    /// True if the mapping drops records that the destination rejects.
    pub drops: bool,
    /// Maximum consumers on a node.
    pub consumers_max: u32,
    /// Records that fail, in thousandths.
    pub poison_per_mille: u64,
}

impl FaultSchedule {
    /// Draws the schedule of `seed`.
    pub fn draw(seed: u64) -> Self {
        let mut random = SeededRandom::new(seed);
        // With few faults, few repeats are excused.
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
            commit_window: commit_window(seed),
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
            // The foreign member supports only the classic protocol.
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
            // Many decisions are made once, while the group is new.
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
                    // A heartbeat times out after a third of the session.
                    let (first, last) = random.pick(&[(100, 4_000), (session / 5, session / 3)]);
                    random.millis(first, last)
                }
                FaultKind::Failover => random.millis(100, 4_000),
                _ => random.millis(50, 3_000),
            };
            let waits = kind.is_of_a_node() && random.chance(500);
            let cue = waits.then(|| match random.below(8) {
                0 | 1 => FaultTrigger::HeartbeatServed,
                // It leaves while invocations over lost partitions still run.
                2..6 if kind == FaultKind::Storm => FaultTrigger::OwnershipLost,
                _ => random.pick(&FaultTrigger::ALL),
            });
            let stands_still = matches!(kind, FaultKind::Freeze | FaultKind::Stall);
            let then_cut = (stands_still && random.chance(300)).then(|| random.millis(500, 9_000));
            self.happenings.push(ScheduledFault { at, cue, kind, target: random.draw(), lasts, then_cut });
        }
        self.happenings.sort_by_key(|happening| happening.at);
    }

    /// Returns true if the function stops at its first failure of each partition, and reports only that one.
    pub fn stops_at_failure(&self) -> bool {
        let may = self.partial_responses && !self.policy.named_only;
        may && SeededRandom::new(self.seed.rotate_left(40)).chance(500)
    }

    /// Returns true if the schedule has faults of `kind`.
    pub fn has(&self, kind: FaultKind) -> bool {
        self.kinds.contains(&kind)
    }
}
