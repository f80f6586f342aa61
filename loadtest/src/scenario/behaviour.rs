//! What the function does with an invocation: decided by the invocation's number and the moment, so that two runs meet the
//! same function.

use std::sync::Arc;
use std::time::Duration;

use crate::function::InvocationAction;

/// How long the function takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LatencyCurve {
    /// Always this long.
    Constant(Duration),
    /// These percentiles; between them it grows evenly, as logarithms go.
    Percentiles {
        /// Half of the invocations are shorter.
        p50: Duration,
        /// Nine of ten.
        p90: Duration,
        /// 99 of a hundred.
        p99: Duration,
        /// All.
        max: Duration,
    },
    /// From one duration to another over the phase.
    Ramp {
        /// At its beginning.
        from: Duration,
        /// At its end.
        to: Duration,
    },
}

/// What the function does during a phase. Of a thousand invocations `throttle` are refused, `errors` fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FunctionBehaviour {
    /// How long those take that succeed.
    pub latency: LatencyCurve,
    /// Share that is refused with 429, in thousandths.
    pub throttle: u32,
    /// Share that runs and fails, in thousandths.
    pub errors: u32,
}

/// Draws of one invocation, each independent of the others.
const DRAW_FATE: u64 = 1;
const DRAW_LATENCY: u64 = 2;

/// Behaviours, one after the other; the last one stays.
#[derive(Clone, Debug)]
pub struct BehaviourSequence {
    placed: Arc<[(Duration, Duration, FunctionBehaviour)]>,
}

impl LatencyCurve {
    /// The longest that it can be.
    pub fn max(self) -> Duration {
        match self {
            Self::Constant(always) => always,
            Self::Percentiles { max, .. } => max,
            Self::Ramp { from, to } => from.max(to),
        }
    }

    /// How long an invocation takes that draws `draw` of 1, when `share` of the phase has passed.
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
    /// What becomes of invocation `n`, when `share` of the phase has passed.
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
    /// Each for this long.
    pub fn new(each: impl IntoIterator<Item = (Duration, FunctionBehaviour)>) -> Self {
        let mut begins = Duration::ZERO;
        let placed = each.into_iter().map(|(lasting, behaviour)| {
            let placed = (begins, lasting, behaviour);
            begins += lasting;
            placed
        });
        Self { placed: placed.collect() }
    }

    /// What becomes of invocation `n` at a moment.
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

/// A number of [0, 1) that `n` and `which` decide (splitmix64).
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
    fn percentiles_come_out_as_they_were_put_in() {
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
    fn shares_are_kept_and_each_number_has_its_fate() {
        let behaviour = constant(1, 300, 50);
        let acts: Vec<InvocationAction> = (0..10_000).map(|n| behaviour.act(n, 0.5)).collect();
        let share =
            |wanted: &dyn Fn(&InvocationAction) -> bool| acts.iter().filter(|act| wanted(act)).count();
        assert!(share(&|act| *act == InvocationAction::Throttle).abs_diff(3_000) < 200);
        assert!(share(&|act| *act == InvocationAction::FunctionError).abs_diff(500) < 100);
        assert!((0..10_000).all(|n| behaviour.act(n, 0.9) == acts[n as usize]));
    }

    #[test]
    fn phases_follow_one_another_and_the_last_one_stays() {
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
