//! Faults of the proxy and the rules that select them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use parking_lot::Mutex;

/// Fault applied to one exchange. All but [`ExchangeFault::CutRequest`], [`ExchangeFault::HoldRequest`],
/// [`ExchangeFault::ServeLate`] and [`ExchangeFault::Refuse`] apply to the response, after the broker has handled
/// the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeFault {
    /// Closes the connection before the broker sees the request.
    CutRequest,
    /// Delays the response by this duration.
    Delay(Duration),
    /// Delays the response by a random duration up to this one.
    Jitter(Duration),
    /// Closes the connection instead of sending the response.
    Cut,
    /// Closes the proxy's half of the connection instead of sending the response; the other half stays open.
    HalfClose,
    /// Sends the first half of the response, then closes the connection.
    Truncate,
    /// Sends the first half of the response, then nothing until the client disconnects or the proxy is calm.
    Stall,
    /// Sends the response twice.
    Duplicate,
    /// Sends the response after the next one, or after this duration if there is none.
    Reorder(Duration),
    /// Changes one byte of a batch covered by its checksum (Fetch only).
    CorruptRecords,
    /// Changes the correlation id of the response.
    WrongCorrelation,
    /// Sends the response in small pieces.
    Drip {
        /// Bytes of each piece.
        bytes: usize,
        /// Pause between two pieces.
        pause: Duration,
    },
    /// Sets the throttle time of the response.
    Throttle(Duration),
    /// Sets this error code in every error field of the response; the broker has still handled the request.
    Code(i16),
    /// Responds with this error code in every error field; the broker never sees the request.
    Refuse(i16),
    /// Holds the response until the proxy is calm.
    Hold,
    /// Holds the request, and those after it, until the proxy is calm; then the broker handles all of them late.
    HoldRequest,
    /// Closes the connection and sends the request to the broker after this duration, over another connection.
    ServeLate(Duration),
    /// Replaces the response with invalid bytes or a misleading frame.
    Hostile(HostileFrame),
    /// Returns a well-formed response to a different question. Responses that name no topics are unchanged.
    Lie(WrongAnswer),
}

/// Mismatch between a well-formed response and its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongAnswer {
    /// Names another topic in place of each; metadata omits the first partition.
    Other,
    /// Names a partition twice, with contradictory content.
    Twice,
    /// Names additional topics and partitions, with other content.
    More,
}

/// Kind of malformed or misleading frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostileFrame {
    /// A length of 2³¹−1, followed by a large number of bytes.
    HugeLength,
    /// A length of −1.
    NegativeLength,
    /// The maximum permitted length, followed by nothing.
    EmptyPromise,
    /// Random bytes in a frame with the right length and correlation id.
    Garbage,
    /// An array that declares this many entries, in a frame that holds none.
    Entries(u32),
    /// An array of the smallest possible entries, as many as fit into this many bytes.
    Stuffed(usize),
}

/// Rule that selects the exchanges to which a fault is applied.
#[derive(Clone, Debug)]
pub struct FaultCondition {
    /// Affected APIs; all if empty.
    pub apis: Vec<ApiKey>,
    /// Remaining number of applications; unlimited if `None`.
    pub times: Option<u32>,
    /// Probability in thousandths.
    pub per_mille: u32,
    /// Applied fault.
    pub fault: ExchangeFault,
}

/// Splitmix64 generator: the same seed yields the same faults.
#[derive(Clone, Copy, Debug)]
pub struct FaultRandom(pub u64);

impl FaultRandom {
    /// Returns the next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `end`, or 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }
}

/// Active faults, shared by clones.
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
    /// Creates a set without rules.
    pub fn seeded(seed: u64) -> Self {
        let plan = FaultPlan { rules: Vec::new(), random: FaultRandom(seed), met: BTreeMap::new() };
        Self { shared: Arc::new(Mutex::new(plan)) }
    }

    /// Adds a rule. If several rules match, the oldest decides.
    pub fn add(&self, rule: FaultCondition) {
        self.shared.lock().rules.push(rule);
    }

    /// Applies `fault` to the next `times` exchanges of `api`.
    pub fn next_of(&self, api: ApiKey, times: u32, fault: ExchangeFault) {
        self.add(FaultCondition { apis: vec![api], times: Some(times), per_mille: 1_000, fault });
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.shared.lock().rules.clear();
    }

    /// Returns the remaining applications of all limited rules.
    pub fn left(&self) -> u32 {
        self.shared.lock().rules.iter().filter_map(|rule| rule.times).sum()
    }

    /// Returns the remaining applications of this fault to this API.
    pub fn left_of(&self, api: ApiKey, fault: ExchangeFault) -> u32 {
        let plan = self.shared.lock();
        let fits = |rule: &&FaultCondition| rule.apis == [api] && rule.fault == fault;
        plan.rules.iter().filter(fits).filter_map(|rule| rule.times).sum()
    }

    /// Returns the number of applications of each fault, by API key and the fault's debug text.
    pub fn met(&self) -> BTreeMap<(i16, String), u64> {
        self.shared.lock().met.clone()
    }

    /// Returns a random number below `end`.
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
