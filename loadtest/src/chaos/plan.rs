//! Plan of a chaos run, drawn from the seed only.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::fault_proxy::FaultRandom;
use crate::function::{FUNCTION_TIMEOUT_SECONDS, InvocationAction};
use crate::produce::Compression;

/// Session timeout: after this long without a heartbeat, a node's partitions are reassigned.
pub const SESSION: Duration = Duration::from_secs(6);
/// Earliest start of a fault in milliseconds, when records already flow.
const FIRST_AT: u64 = 500;
/// Latest start of a fault in milliseconds.
const LAST_AT: u64 = 6_000;
/// Minimum time for which records are written.
const WRITES_FOR: Duration = Duration::from_secs(9);
/// Written share of the function's capacity, in percent, so that a backlog behind a fault drains quickly.
const LOAD_PERCENT: u64 = 50;
/// Cost of a batch in milliseconds, without the function's own time.
const AROUND_A_BATCH: u64 = 25;
const RECORDS_PER_SECOND_MAX: u64 = 60;
const FAULTS_MAX: u64 = 4;
/// Duration longer than Kafka needs to remove a node from the group.
const LONG: Duration = Duration::from_secs(8);
/// Time between two faults of one node.
const REST: Duration = Duration::from_secs(1);

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChaosFaultKind {
    /// SIGKILL, then a restart over the same data.
    Killed,
    /// SIGSTOP for less than the session timeout.
    FrozenBriefly,
    /// SIGSTOP for longer than the session timeout.
    FrozenForLong,
    /// SIGTERM, then a restart over the same data.
    Drained,
    /// Another node joins.
    Joined,
    /// All existing and new connections between the node and Kafka are closed.
    CutOff,
    /// Kafka handles requests, but no reply arrives.
    RepliesHeld,
    /// Requests are held back from Kafka and delivered later.
    RequestsHeld,
    /// Every reply is delayed.
    Delayed,
    /// Connections are half-closed instead of replying.
    HalfClosed,
    /// SIGKILL of the broker, then a restart over the same data.
    BrokerKilled,
    /// Orderly stop of the broker, then a restart over the same data.
    BrokerStopped,
    /// The file system of the node's data is full.
    DiskFull,
    /// The wall clock jumps by hours, and back.
    ClockJumped,
}

impl ChaosFaultKind {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Killed,
        Self::FrozenBriefly,
        Self::FrozenForLong,
        Self::Drained,
        Self::Joined,
        Self::CutOff,
        Self::RepliesHeld,
        Self::RequestsHeld,
        Self::Delayed,
        Self::HalfClosed,
        Self::BrokerKilled,
        Self::BrokerStopped,
        Self::DiskFull,
        Self::ClockJumped,
    ];
    /// Kinds that never cause a repeated record.
    const HARMLESS: [Self; 6] =
        [Self::FrozenBriefly, Self::Drained, Self::Joined, Self::Delayed, Self::DiskFull, Self::ClockJumped];

    /// Returns the label, which follows the name of the affected node.
    pub fn label(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::FrozenBriefly => "frozen briefly",
            Self::FrozenForLong => "frozen for long",
            Self::Drained => "drained",
            Self::Joined => "joined",
            Self::CutOff => "cut off",
            Self::RepliesHeld => "replies held",
            Self::RequestsHeld => "requests held",
            Self::Delayed => "delayed",
            Self::HalfClosed => "half-closed",
            Self::BrokerKilled => "broker killed",
            Self::BrokerStopped => "broker stopped",
            Self::DiskFull => "disk full",
            Self::ClockJumped => "clock jumped",
        }
    }

    /// Returns true if it affects the broker, and so every node.
    pub fn is_of_the_broker(self) -> bool {
        matches!(self, Self::BrokerKilled | Self::BrokerStopped)
    }

    fn lasting(self, random: &mut FaultRandom) -> Duration {
        let (least, most) = match self {
            Self::Joined => (0, 1),
            Self::Killed => (0, 3_000),
            Self::Drained | Self::BrokerKilled | Self::BrokerStopped => (0, 2_000),
            Self::FrozenBriefly => (800, 2_500),
            Self::FrozenForLong => (8_000, 10_000),
            Self::CutOff | Self::RepliesHeld | Self::RequestsHeld => (500, 9_000),
            Self::Delayed | Self::HalfClosed => (1_000, 6_000),
            Self::DiskFull | Self::ClockJumped => (2_000, 5_000),
        };
        Duration::from_millis(least + random.below(most - least))
    }
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChaosFault {
    /// Index of the node; meaningless for a fault of the broker.
    pub node: usize,
    /// Kind of fault.
    pub kind: ChaosFaultKind,
    /// Start, from the first record on.
    pub at: Duration,
    /// Duration.
    pub lasting: Duration,
}

impl ChaosFault {
    fn until(&self) -> Duration {
        self.at + self.lasting
    }

    fn meets(&self, other: &Self) -> bool {
        let alike = self.kind.is_of_the_broker() == other.kind.is_of_the_broker();
        let same = alike && (self.kind.is_of_the_broker() || self.node == other.node);
        same && self.at < other.until() + REST && other.at < self.until() + REST
    }
}

/// Handling of a batch that contains a record the function cannot process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoisonHandling {
    /// The function fails, and the whole batch is retried.
    Whole,
    /// The batch is split into halves (`BisectBatchOnFunctionError`).
    Halves,
    /// The function reports the failed records; the first of them and all later ones are retried.
    FromTheFirst,
    /// Only the reported records are retried.
    Named,
}

/// Behaviour of the function: its duration, and the share per mille of other outcomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyProfile {
    /// Longest duration in milliseconds.
    pub slow_ms: u64,
    /// Per mille of invocations that fail.
    pub failing: u64,
    /// Per mille of invocations that are throttled, or refused as unavailable.
    pub refused: u64,
    /// Per mille of invocations that succeed and lose the reply.
    pub lost: u64,
    /// Number of an invocation that, like twice that number, takes longer than a session: it still runs when the
    /// lost node's successor starts. None if 0.
    pub long: u64,
}

impl LatencyProfile {
    fn draw(random: &mut FaultRandom, with_losses: bool) -> Self {
        let mut maybe = |most: u64| if random.below(2) == 0 { 1 + random.below(most) } else { 0 };
        let (slow_ms, failing, refused, lost) = (maybe(500), maybe(100), maybe(200), maybe(10));
        let long = if random.below(4) == 0 { 3 + random.below(20) } else { 0 };
        // A lost reply is awaited for as long as the function may run.
        let lost = if with_losses && long == 0 { lost } else { 0 };
        Self { slow_ms, failing, refused, lost, long }
    }

    /// Returns the function's timeout.
    pub fn timeout(&self) -> Duration {
        if self.long == 0 { Duration::from_secs(FUNCTION_TIMEOUT_SECONDS) } else { LONG + LONG / 2 }
    }

    /// Returns the action for invocation `n`.
    pub fn act(&self, seed: u64, failures: PoisonHandling, n: u64) -> InvocationAction {
        let mut random = FaultRandom(seed ^ n.wrapping_mul(0xd134_2543_de82_ef95));
        let chance = random.below(1_000);
        let takes = Duration::from_millis(random.below(self.slow_ms + 1));
        let (failing, refused) = (self.failing, self.failing + self.refused);
        match chance {
            _ if self.long > 0 && (n == self.long || n == self.long * 2) => InvocationAction::Succeed(LONG),
            _ if chance < failing => match failures {
                PoisonHandling::Whole | PoisonHandling::Halves => InvocationAction::FunctionError,
                PoisonHandling::FromTheFirst | PoisonHandling::Named => InvocationAction::ReportSome,
            },
            _ if chance < refused => {
                [InvocationAction::Status(503), InvocationAction::CutBefore, InvocationAction::Throttle]
                    [(chance % 3) as usize]
            }
            _ if chance < refused + self.lost => InvocationAction::CutAfter,
            _ => InvocationAction::Succeed(takes),
        }
    }
}

/// Plan of one chaos run.
#[derive(Clone, Debug, PartialEq)]
pub struct ChaosPlan {
    /// Seed of the plan.
    pub seed: u64,
    /// Nodes at the start.
    pub nodes: usize,
    /// Partitions of the topic.
    pub partitions: i32,
    /// `BatchSize`.
    pub batch: u32,
    /// `MaximumBatchingWindowInSeconds`.
    pub window_seconds: u32,
    /// Compression of record batches.
    pub codec: Compression,
    /// True if some records are written in transactions, some of which are aborted.
    pub transactions: bool,
    /// Behaviour of the function until the faults are over.
    pub latency_profile: LatencyProfile,
    /// Handling of failed batches.
    pub failures: PoisonHandling,
    /// Records per second in each partition.
    pub records_per_second: u64,
    /// Faults, ordered by start.
    pub faults: Vec<ChaosFault>,
}

impl ChaosPlan {
    /// Draws the plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut random = FaultRandom(seed);
        let gentle = random.below(6) == 0;
        let nodes = 1 + random.below(3) as usize;
        let partitions = 1 + random.below(6) as i32;
        let batch = [1, 7, 20, 100][random.below(4) as usize];
        let window_seconds = random.below(2) as u32;
        let codec =
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
                [random.below(5) as usize];
        let mood = LatencyProfile::draw(&mut random, !gentle);
        let faults = faults(&mut random, nodes, gentle);
        // If the broker dies, the writer cannot know whether its transaction was committed.
        let transactions = random.below(3) == 0 && !faults.iter().any(|fault| fault.kind.is_of_the_broker());
        let failures = [
            PoisonHandling::Whole,
            PoisonHandling::Halves,
            PoisonHandling::FromTheFirst,
            PoisonHandling::Named,
        ];
        let failures = failures[random.below(4) as usize];
        let batches_per_second = 1_000 / (mood.slow_ms / 2 + AROUND_A_BATCH);
        let most = batches_per_second * u64::from(batch) * LOAD_PERCENT / 100;
        let records_per_second = most.clamp(1, RECORDS_PER_SECOND_MAX);
        Self {
            seed,
            nodes,
            partitions,
            batch,
            window_seconds,
            codec,
            transactions,
            latency_profile: mood,
            failures,
            records_per_second,
            faults,
        }
    }

    /// Returns how long records are written.
    pub fn writes_for(&self) -> Duration {
        self.faults.iter().map(ChaosFault::until).max().unwrap_or_default().max(WRITES_FOR)
    }

    /// Returns the number of faults of each kind.
    pub fn kinds(&self) -> BTreeMap<ChaosFaultKind, u32> {
        let mut kinds = BTreeMap::new();
        for fault in &self.faults {
            *kinds.entry(fault.kind).or_default() += 1;
        }
        kinds
    }

    /// Returns true if the run needs a broker of its own.
    pub fn needs_the_broker(&self) -> bool {
        self.faults.iter().any(|fault| fault.kind.is_of_the_broker())
    }
}

/// Draws a few faults. A random half of the kinds is left out, since two kinds that always occur together can hide
/// each other's bugs.
fn faults(random: &mut FaultRandom, nodes: usize, gentle: bool) -> Vec<ChaosFault> {
    let kinds = if gentle { &ChaosFaultKind::HARMLESS[..] } else { &ChaosFaultKind::ALL[..] };
    let mut kinds: Vec<ChaosFaultKind> = kinds.iter().copied().filter(|_| random.below(2) == 0).collect();
    if kinds.is_empty() {
        kinds = vec![ChaosFaultKind::Killed, ChaosFaultKind::Drained];
        kinds.remove(usize::from(!gentle));
    }
    let wanted = 1 + random.below(FAULTS_MAX);
    let mut faults: Vec<ChaosFault> = Vec::new();
    // A fault that does not fit with the others is redrawn a few times.
    for _ in 0..wanted * 4 {
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let at = Duration::from_millis(FIRST_AT + random.below(LAST_AT - FIRST_AT));
        let node = random.below(nodes as u64) as usize;
        let fault = ChaosFault { node, kind, at, lasting: kind.lasting(random) };
        // A broker needs the remaining time to come back.
        let again = |other: &ChaosFault| match kind {
            ChaosFaultKind::Joined => other.kind == kind,
            kind => kind.is_of_the_broker() && other.kind.is_of_the_broker(),
        };
        let fits = !faults.iter().any(|other| fault.meets(other) || again(other));
        if fits && faults.len() < wanted as usize {
            faults.push(fault);
        }
    }
    faults.sort_by_key(|fault| fault.at);
    faults
}

impl fmt::Display for ChaosFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s ", self.at.as_secs_f64())?;
        match self.kind {
            kind if kind.is_of_the_broker() => write!(f, "{}", kind.label())?,
            ChaosFaultKind::Joined => return write!(f, "one more node joined"),
            kind => write!(f, "n{} {}", self.node + 1, kind.label())?,
        }
        write!(f, " for {:.1} s", self.lasting.as_secs_f64())
    }
}

impl fmt::Display for ChaosPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, {} partitions, batch {}, window {} s, {:?}{}, {}/s each; ",
            self.nodes,
            self.partitions,
            self.batch,
            self.window_seconds,
            self.codec,
            if self.transactions { " with transactions" } else { "" },
            self.records_per_second
        )?;
        let LatencyProfile { slow_ms, failing, refused, lost, long } = self.latency_profile;
        write!(f, "function ≤ {slow_ms} ms, ‰ {failing} fail ({:?}) ", self.failures)?;
        write!(f, "{refused} refused {lost} lost")?;
        if long > 0 {
            write!(f, ", number {long} and {} take {} s", long * 2, LONG.as_secs())?;
        }
        self.faults.iter().try_for_each(|fault| write!(f, "; {fault}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_draws_same_plan_and_all_kinds() {
        let mut kinds: BTreeMap<ChaosFaultKind, u32> = BTreeMap::new();
        let (mut gentle, mut transactions) = (0, 0);
        for seed in 0..500 {
            let plan = ChaosPlan::draw(seed);
            assert_eq!(plan, ChaosPlan::draw(seed));
            assert!(!plan.faults.is_empty() && plan.faults.is_sorted_by_key(|fault| fault.at), "{plan}");
            assert!(plan.writes_for() <= Duration::from_millis(LAST_AT + 10_000), "{plan}");
            for (kind, times) in plan.kinds() {
                *kinds.entry(kind).or_default() += times;
            }
            transactions += u32::from(plan.transactions);
            gentle +=
                u32::from(plan.faults.iter().all(|fault| ChaosFaultKind::HARMLESS.contains(&fault.kind)));
            assert!(!(plan.transactions && plan.needs_the_broker()), "{plan}");
        }
        assert_eq!(kinds.len(), ChaosFaultKind::ALL.len(), "{kinds:?}");
        assert!(kinds.values().all(|times| *times > 20), "{kinds:?}");
        assert!(gentle > 50 && transactions > 50, "{gentle} {transactions}");
    }

    #[test]
    fn faults_of_one_node_never_overlap() {
        for seed in 0..500 {
            let faults = ChaosPlan::draw(seed).faults;
            for (index, fault) in faults.iter().enumerate() {
                assert!(!faults[index + 1..].iter().any(|other| fault.meets(other)), "{seed}");
            }
        }
    }

    #[test]
    fn latency_profile_keeps_its_shares() {
        let mood = LatencyProfile { slow_ms: 50, failing: 100, refused: 200, lost: 10, long: 0 };
        let acts: Vec<InvocationAction> =
            (0..10_000).map(|n| mood.act(7, PoisonHandling::Whole, n)).collect();
        let count = |is: fn(&InvocationAction) -> bool| acts.iter().filter(|act| is(act)).count();
        assert!((850..1_150).contains(&count(|act| *act == InvocationAction::FunctionError)));
        let refused = count(|act| {
            matches!(
                act,
                InvocationAction::Throttle | InvocationAction::Status(503) | InvocationAction::CutBefore
            )
        });
        assert!((1_800..2_200).contains(&refused), "{refused}");
        assert!((60..140).contains(&count(|act| *act == InvocationAction::CutAfter)));
        let long = LatencyProfile { long: 4, ..mood };
        assert_eq!(
            (long.act(7, PoisonHandling::Whole, 4), long.act(7, PoisonHandling::Whole, 8)),
            (InvocationAction::Succeed(LONG), InvocationAction::Succeed(LONG))
        );
        assert!((0..1_000).all(|n| LatencyProfile::default().act(7, PoisonHandling::Named, n)
            == InvocationAction::Succeed(Duration::ZERO)));
    }
}
