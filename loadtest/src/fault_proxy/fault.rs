//! What can go wrong with one frame, and who decides that it does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use parking_lot::Mutex;

/// What happens to one exchange. All but [`ExchangeFault::CutRequest`], [`ExchangeFault::HoldRequest`], [`ExchangeFault::ServeLate`] and
/// [`ExchangeFault::Refuse`] happen to the reply: the broker has done what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeFault {
    /// The connection is cut before the broker sees the request.
    CutRequest,
    /// The reply comes this much later.
    Delay(Duration),
    /// The reply comes up to so much later.
    Jitter(Duration),
    /// The connection is cut instead of the reply.
    Cut,
    /// Our half of the connection is closed instead of the reply; the other stays open.
    HalfClose,
    /// The first half of the reply, then a cut.
    Truncate,
    /// The first half of the reply, then nothing, until the client goes away or the proxy is calm.
    Stall,
    /// The reply twice.
    Duplicate,
    /// The reply behind the next one, or later by this much when there is none.
    Reorder(Duration),
    /// One byte of a batch's checked part differs (Fetch; others are passed).
    CorruptRecords,
    /// The reply answers another request.
    WrongCorrelation,
    /// Few bytes at a time.
    Drip {
        /// Bytes at a time.
        bytes: usize,
        /// Between two of them.
        pause: Duration,
    },
    /// The broker says that it throttles the client this long.
    Throttle(Duration),
    /// The reply carries this error code wherever it has one; what the broker did stays done.
    Code(i16),
    /// The broker never sees the request: the reply has this error code wherever it has one.
    Refuse(i16),
    /// The reply waits until the proxy is calm.
    Hold,
    /// The request waits until the proxy is calm, and what the client asks behind it; then the broker does it all, late.
    HoldRequest,
    /// The connection is cut, and the broker sees the request so much later, over another.
    ServeLate(Duration),
    /// Bytes that are not Kafka, or that lie, instead of the reply.
    Hostile(HostileFrame),
    /// The reply answers something else than was asked; one that names no topics stays as it is.
    Lie(WrongAnswer),
}

/// How a good reply does not answer what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongAnswer {
    /// It names another topic in the place of each; metadata leaves the first partition out.
    Other,
    /// It names a partition twice, and says two things of it.
    Twice,
    /// It names more topics, and more partitions, and says other things of them.
    More,
}

/// How a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostileFrame {
    /// A length of 2³¹−1, then bytes without end.
    HugeLength,
    /// A length of −1.
    NegativeLength,
    /// The largest length that is allowed, and nothing behind it.
    EmptyPromise,
    /// Random bytes in a frame of the right length that answers the right request.
    Garbage,
    /// An array of so many entries, in a frame that holds none.
    Entries(u32),
    /// An array of the smallest entries there are, as many as fit into so many bytes.
    Stuffed(usize),
}

/// When a fault happens.
#[derive(Clone, Debug)]
pub struct FaultCondition {
    /// To replies of these; of all when empty.
    pub apis: Vec<ApiKey>,
    /// How many more times; without end when `None`.
    pub times: Option<u32>,
    /// In how many of a thousand cases.
    pub per_mille: u32,
    /// What.
    pub fault: ExchangeFault,
}

/// Splitmix64: the same seed, the same faults.
#[derive(Clone, Copy, Debug)]
pub struct FaultRandom(pub u64);

impl FaultRandom {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`; 0 when `end` is.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }
}

/// Faults in force; clones share them.
#[derive(Clone)]
pub struct ActiveFaults {
    shared: Arc<Mutex<FaultPlan>>,
}

struct FaultPlan {
    rules: Vec<FaultCondition>,
    random: FaultRandom,
    met: BTreeMap<(i16, String), u64>,
}

impl ActiveFaults {
    /// No rules yet.
    pub fn seeded(seed: u64) -> Self {
        let plan = FaultPlan { rules: Vec::new(), random: FaultRandom(seed), met: BTreeMap::new() };
        Self { shared: Arc::new(Mutex::new(plan)) }
    }

    /// One more rule; of several that fit, the oldest decides.
    pub fn add(&self, rule: FaultCondition) {
        self.shared.lock().rules.push(rule);
    }

    /// The next `times` exchanges of `api` meet `fault`.
    pub fn next_of(&self, api: ApiKey, times: u32, fault: ExchangeFault) {
        self.add(FaultCondition { apis: vec![api], times: Some(times), per_mille: 1_000, fault });
    }

    /// Forgets all rules.
    pub fn clear(&self) {
        self.shared.lock().rules.clear();
    }

    /// How many times rules with an end must still happen.
    pub fn left(&self) -> u32 {
        self.shared.lock().rules.iter().filter_map(|rule| rule.times).sum()
    }

    /// How many times this fault must still happen to this API.
    pub fn left_of(&self, api: ApiKey, fault: ExchangeFault) -> u32 {
        let plan = self.shared.lock();
        let fits = |rule: &&FaultCondition| rule.apis == [api] && rule.fault == fault;
        plan.rules.iter().filter(fits).filter_map(|rule| rule.times).sum()
    }

    /// How often each fault has happened, by API key and the fault's text.
    pub fn met(&self) -> BTreeMap<(i16, String), u64> {
        self.shared.lock().met.clone()
    }

    /// A random number below `end`.
    pub(super) fn below(&self, end: u64) -> u64 {
        self.shared.lock().random.below(end)
    }

    pub(super) fn decide(&self, api: ApiKey) -> Option<ExchangeFault> {
        let mut plan = self.shared.lock();
        let plan = &mut *plan;
        let random = &mut plan.random;
        let happens = |rule: &&mut FaultCondition| {
            let fits = rule.times != Some(0) && (rule.apis.is_empty() || rule.apis.contains(&api));
            fits && random.below(1_000) < u64::from(rule.per_mille)
        };
        let rule = plan.rules.iter_mut().find(happens)?;
        rule.times = rule.times.map(|times| times - 1);
        let fault = rule.fault;
        *plan.met.entry((api as i16, format!("{fault:?}"))).or_default() += 1;
        Some(fault)
    }
}
