//! Behaviour of the function for an invocation. It depends only on the invocation's number and the time, so that
//! two runs see the same function.

use std::sync::Arc;
use std::time::Duration;

use crate::function::InvocationAction;

/// Duration of the function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatencyCurve {
    /// Constant duration.
    Constant(Duration),
    /// Duration by percentiles, interpolated logarithmically.
    Percentiles {
        /// Median.
        p50: Duration,
        /// 90th percentile.
        p90: Duration,
        /// 99th percentile.
        p99: Duration,
        /// Maximum.
        max: Duration,
    },
    /// Linear change over the phase.
    Ramp {
        /// Duration at the start of the phase.
        from: Duration,
        /// Duration at the end of the phase.
        to: Duration,
    },
}

/// Behaviour of the function during a phase. Of a thousand invocations, `throttle` are throttled and `errors` fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FunctionBehaviour {
    /// Duration of successful invocations.
    pub latency: LatencyCurve,
    /// Thousandths of invocations that are rejected with 429.
    pub throttle: u32,
    /// Thousandths of invocations that run and fail.
    pub errors: u32,
}

/// Independent random draws of one invocation.
const DRAW_FATE: u64 = 1;
const DRAW_LATENCY: u64 = 2;

/// Sequence of behaviours; the last one stays.
#[derive(Clone, Debug)]
pub struct BehaviourSequence {
    placed: Arc<[(Duration, Duration, FunctionBehaviour)]>,
}

impl LatencyCurve {
    /// Returns the maximum duration.
    pub fn max(self) -> Duration {
        match self {
            Self::Constant(always) => always,
            Self::Percentiles { max, .. } => max,
            Self::Ramp { from, to } => from.max(to),
        }
    }

    /// Returns the duration for a random number `draw` in [0, 1), after `share` of the phase.
    fn at(self, draw: f64, share: f64) -> Duration {
        match self {
            Self::Constant(always) => always,
            Self::Ramp { from, to } => {
                let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
                Duration::from_secs_f64((from + (to - from) * share.clamp(0.0, 1.0)).max(0.0))
            }
            Self::Percentiles { p50, p90, p99, max } => {
                let knots = [(0.0, p50 / 2), (0.5, p50), (0.9, p90), (0.99, p99), (1.0, max)];
                let above = knots.iter().position(|(share, _)| *share > draw).unwrap_or(knots.len() - 1);
                let ((low, short), (high, long)) = (knots[above - 1], knots[above]);
                let (short, long) = (short.as_secs_f64().max(1e-6), long.as_secs_f64().max(1e-6));
                let within = ((draw - low) / (high - low)).clamp(0.0, 1.0);
                Duration::from_secs_f64((short.ln() + (long.ln() - short.ln()) * within).exp())
            }
        }
    }
}

impl FunctionBehaviour {
    /// Returns the action for invocation `n` after `share` of the phase.
    fn act(&self, n: u64, share: f64) -> InvocationAction {
        let fate = draw(n, DRAW_FATE) * 1000.0;
        if fate < f64::from(self.throttle) {
            InvocationAction::Throttle
        } else if fate < f64::from(self.throttle + self.errors) {
            InvocationAction::FunctionError
        } else {
            InvocationAction::Succeed(self.latency.at(draw(n, DRAW_LATENCY), share))
        }
    }
}

impl BehaviourSequence {
    /// Creates a sequence in which each behaviour applies for its duration.
    pub fn new(each: impl IntoIterator<Item = (Duration, FunctionBehaviour)>) -> Self {
        let mut begins = Duration::ZERO;
        let placed = each.into_iter().map(|(lasting, behaviour)| {
            let placed = (begins, lasting, behaviour);
            begins += lasting;
            placed
        });
        Self { placed: placed.collect() }
    }

    /// Returns the action for invocation `n` at `moment`.
    pub fn act(&self, n: u64, moment: Duration) -> InvocationAction {
        let behind = self.placed.partition_point(|(begins, ..)| *begins <= moment);
        let Some((begins, lasting, behaviour)) = self.placed.get(behind.saturating_sub(1)) else {
            return InvocationAction::Succeed(Duration::ZERO);
        };
        let share =
            moment.saturating_sub(*begins).as_secs_f64() / lasting.as_secs_f64().max(f64::MIN_POSITIVE);
        behaviour.act(n, share)
    }
}

/// Returns a number in [0, 1) that depends only on `n` and `which` (splitmix64).
fn draw(n: u64, which: u64) -> f64 {
    let state = (n * 4 + which).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::LatencyPercentiles;

    const MS: Duration = Duration::from_millis(1);

    fn constant(ms: u32, throttle: u32, errors: u32) -> FunctionBehaviour {
        FunctionBehaviour { latency: LatencyCurve::Constant(MS * ms), throttle, errors }
    }

    #[test]
    fn durations_match_the_given_percentiles() {
        let latency = LatencyCurve::Percentiles { p50: MS * 20, p90: MS * 60, p99: MS * 200, max: MS * 800 };
        let behaviour = FunctionBehaviour { latency, throttle: 0, errors: 0 };
        let took = (0..20_000).map(|n| match behaviour.act(n, 0.0) {
            InvocationAction::Succeed(took) => took,
            other => panic!("{other:?}"),
        });
        let took = LatencyPercentiles::of(took.collect());
        for (permille, expected) in [(500, 20.0), (900, 60.0), (990, 200.0)] {
            let ratio = took.at(permille).as_secs_f64() * 1e3 / expected;
            assert!((0.9..1.1).contains(&ratio), "{permille}: {ratio}");
        }
        assert!(took.at(1000) <= MS * 800 && took.at(1) >= MS * 10);
    }

    #[test]
    fn outcome_shares_hold_and_are_deterministic() {
        let behaviour = constant(1, 300, 50);
        let acts: Vec<InvocationAction> = (0..10_000).map(|n| behaviour.act(n, 0.5)).collect();
        let share =
            |wanted: &dyn Fn(&InvocationAction) -> bool| acts.iter().filter(|act| wanted(act)).count();
        assert!(share(&|act| *act == InvocationAction::Throttle).abs_diff(3_000) < 200);
        assert!(share(&|act| *act == InvocationAction::FunctionError).abs_diff(500) < 100);
        assert!((0..10_000).all(|n| behaviour.act(n, 0.9) == acts[n as usize]));
    }

    #[test]
    fn phases_follow_in_order_and_last_stays() {
        let ramp = LatencyCurve::Ramp { from: MS * 10, to: MS * 30 };
        let ramp = FunctionBehaviour { latency: ramp, throttle: 0, errors: 0 };
        let second = Duration::from_secs(1);
        let moods = BehaviourSequence::new([(second, constant(5, 0, 0)), (second * 2, ramp)]);
        let at = |ms: u32| match moods.act(0, MS * ms) {
            InvocationAction::Succeed(took) => took.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!([0, 999, 1_000, 2_000, 3_000, 60_000].map(at), [5, 5, 10, 20, 30, 30]);
    }
}
