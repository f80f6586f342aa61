//! What a chaos run does: everything is drawn from the seed, and nothing else decides.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::fault_proxy::FaultRandom;
use crate::function::{FUNCTION_TIMEOUT_SECONDS, InvocationAction};
use crate::produce::Compression;

/// After so long without heartbeat a node's partitions go to others.
pub const SESSION: Duration = Duration::from_secs(6);
/// Faults begin after this, when records flow.
const FIRST_AT: u64 = 500;
/// And none begins later.
const LAST_AT: u64 = 6_000;
/// Records are written for at least so long.
const WRITES_FOR: Duration = Duration::from_secs(9);
/// Of what a function can take in the time it is written, so much is written: what has piled up behind a fault goes soon.
const LOAD_PERCENT: u64 = 50;
/// What a batch costs beside its function, in milliseconds.
const AROUND_A_BATCH: u64 = 25;
const RECORDS_PER_SECOND_MAX: u64 = 60;
const FAULTS_MAX: u64 = 4;
/// Longer than it takes Kafka to give up a node.
const LONG: Duration = Duration::from_secs(8);
/// Between two faults of one node.
const REST: Duration = Duration::from_secs(1);

/// The faults there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChaosFaultKind {
    /// SIGKILL, and a start over the same data.
    Killed,
    /// SIGSTOP for less than the session.
    FrozenBriefly,
    /// SIGSTOP for longer than the session.
    FrozenForLong,
    /// SIGTERM, and a start over the same data.
    Drained,
    /// One more node.
    Joined,
    /// Every connection between the node and Kafka is cut, old and new.
    CutOff,
    /// Kafka does what it is asked, and no reply comes.
    RepliesHeld,
    /// Kafka hears nothing, and later everything.
    RequestsHeld,
    /// Every reply comes late.
    Delayed,
    /// Connections are closed by half instead of replies.
    HalfClosed,
    /// The broker gets SIGKILL, and starts over the same data.
    BrokerKilled,
    /// The broker stops in good order, and starts over the same data.
    BrokerStopped,
    /// The file system of the node's data has no room.
    DiskFull,
    /// The wall clock jumps by hours, and back.
    ClockJumped,
}

impl ChaosFaultKind {
    /// All of them.
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
    /// Those that no node has to pay for with a repeated record.
    const HARMLESS: [Self; 6] =
        [Self::FrozenBriefly, Self::Drained, Self::Joined, Self::Delayed, Self::DiskFull, Self::ClockJumped];

    /// What it does, behind whom it happens to.
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

    /// Whether it happens to the broker, and so to every node.
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

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChaosFault {
    /// Which node, from 0; of no meaning when the broker is meant.
    pub node: usize,
    /// What.
    pub kind: ChaosFaultKind,
    /// When, from the first record on.
    pub at: Duration,
    /// For how long.
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

/// What becomes of a batch of which the function cannot take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoisonHandling {
    /// The function fails, and gets it again.
    Whole,
    /// It gets halves (`BisectBatchOnFunctionError`).
    Halves,
    /// It says which it cannot take, and gets the first of them and all behind it.
    FromTheFirst,
    /// It gets those that it named.
    Named,
}

/// What the function does: how long it takes, and in how many of a thousand cases it does something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyProfile {
    /// Longest time it takes, in milliseconds.
    pub slow_ms: u64,
    /// Fails.
    pub failing: u64,
    /// Is throttled, or the service is not available.
    pub refused: u64,
    /// Succeeds, and the reply is lost.
    pub lost: u64,
    /// This invocation and its double take longer than a session: what runs when a node is lost still runs when the next one
    /// begins. None when 0.
    pub long: u64,
}

impl LatencyProfile {
    fn draw(random: &mut FaultRandom, with_losses: bool) -> Self {
        let mut maybe = |most: u64| if random.below(2) == 0 { 1 + random.below(most) } else { 0 };
        let (slow_ms, failing, refused, lost) = (maybe(500), maybe(100), maybe(200), maybe(10));
        let long = if random.below(4) == 0 { 3 + random.below(20) } else { 0 };
        // A lost reply is waited for as long as the function may run.
        let lost = if with_losses && long == 0 { lost } else { 0 };
        Self { slow_ms, failing, refused, lost, long }
    }

    /// The function's timeout.
    pub fn timeout(&self) -> Duration {
        if self.long == 0 { Duration::from_secs(FUNCTION_TIMEOUT_SECONDS) } else { LONG + LONG / 2 }
    }

    /// What it does with invocation `n`.
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

/// Everything that one chaos run does.
#[derive(Clone, Debug, PartialEq)]
pub struct ChaosPlan {
    /// What it was drawn from.
    pub seed: u64,
    /// Nodes from the beginning.
    pub nodes: usize,
    /// Partitions of the topic.
    pub partitions: i32,
    /// `BatchSize`.
    pub batch: u32,
    /// `MaximumBatchingWindowInSeconds`.
    pub window_seconds: u32,
    /// How record batches are packed.
    pub codec: Compression,
    /// Some records are written in transactions, of which some are aborted.
    pub transactions: bool,
    /// The function, until the faults are over.
    pub latency_profile: LatencyProfile,
    /// And what it does when it fails.
    pub failures: PoisonHandling,
    /// Records a second, in each partition.
    pub records_per_second: u64,
    /// In the order in which they begin.
    pub faults: Vec<ChaosFault>,
}

impl ChaosPlan {
    /// The plan of a seed.
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
        // Whether a transaction stands whose broker died is not known to who wrote it.
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

    /// Records are written for so long.
    pub fn writes_for(&self) -> Duration {
        self.faults.iter().map(ChaosFault::until).max().unwrap_or_default().max(WRITES_FOR)
    }

    /// How often each kind of fault happens.
    pub fn kinds(&self) -> BTreeMap<ChaosFaultKind, u32> {
        let mut kinds = BTreeMap::new();
        for fault in &self.faults {
            *kinds.entry(fault.kind).or_default() += 1;
        }
        kinds
    }

    /// Whether it needs a broker for itself.
    pub fn needs_the_broker(&self) -> bool {
        self.faults.iter().any(|fault| fault.kind.is_of_the_broker())
    }
}

/// A few, of kinds of which a random half is left out: what never meets, hides less.
fn faults(random: &mut FaultRandom, nodes: usize, gentle: bool) -> Vec<ChaosFault> {
    let kinds = if gentle { &ChaosFaultKind::HARMLESS[..] } else { &ChaosFaultKind::ALL[..] };
    let mut kinds: Vec<ChaosFaultKind> = kinds.iter().copied().filter(|_| random.below(2) == 0).collect();
    if kinds.is_empty() {
        kinds = vec![ChaosFaultKind::Killed, ChaosFaultKind::Drained];
        kinds.remove(usize::from(!gentle));
    }
    let wanted = 1 + random.below(FAULTS_MAX);
    let mut faults: Vec<ChaosFault> = Vec::new();
    // What does not fit beside the others is drawn again, a few times.
    for _ in 0..wanted * 4 {
        let kind = kinds[random.below(kinds.len() as u64) as usize];
        let at = Duration::from_millis(FIRST_AT + random.below(LAST_AT - FIRST_AT));
        let node = random.below(nodes as u64) as usize;
        let fault = ChaosFault { node, kind, at, lasting: kind.lasting(random) };
        // A broker takes as long as all the rest to come back.
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
    fn a_seed_draws_the_same_plan_and_every_kind_is_drawn() {
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
    fn faults_of_one_node_do_not_meet() {
        for seed in 0..500 {
            let faults = ChaosPlan::draw(seed).faults;
            for (index, fault) in faults.iter().enumerate() {
                assert!(!faults[index + 1..].iter().any(|other| fault.meets(other)), "{seed}");
            }
        }
    }

    #[test]
    fn a_mood_is_what_it_says() {
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
