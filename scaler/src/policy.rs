//! Scaling policy: the number of consumers, decided each second from lag, rates and slots.
//!
//! | observed | decision |
//! |---|---|
//! | a lag is unknown | no change: unknown is never zero |
//! | more than 5 % of invocations throttled, for 5 s | one fewer |
//! | drain time over 10 s, or over 1 s with all slots used, for 2 s, unthrottled | half as many more, at least one |
//! | drain time under 2 s and at least half of the slots idle, for 30 s | one fewer |
//!
//! The result is always within `MinimumPollers`, `MaximumPollers` and the number of partitions.

use std::time::Duration;

use lighterman_proto::control::MappingSample;
use lighterman_proto::units::Moment;

/// Bounds that the mapping sets: AWS's `MinimumPollers` and `MaximumPollers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollerBounds {
    /// Minimum number of consumers.
    pub minimum: u32,
    /// Maximum number of consumers.
    pub maximum: u32,
}

impl PollerBounds {
    /// Clamps `desired` to the bounds and to `partitions`; returns at least one.
    pub fn clip(self, desired: u32, partitions: u32) -> u32 {
        let most = self.maximum.min(partitions).max(1);
        desired.clamp(self.minimum.clamp(1, most), most)
    }
}

/// Scaling decision. A receiver rejects one with a version below the last it accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalingDecision {
    /// Version, which grows with each decision.
    pub version: u64,
    /// Desired number of consumers.
    pub desired: u32,
}

const UP_AFTER: Duration = Duration::from_secs(2);
const DOWN_AFTER: Duration = Duration::from_secs(30);
const THROTTLED_AFTER: Duration = Duration::from_secs(5);
const DRAIN_SECONDS_HIGH: f64 = 10.0;
const DRAIN_SECONDS_LOW: f64 = 2.0;
const THROTTLE_RATIO_MAX: f64 = 0.05;
const RATE_SMOOTHING: f64 = 0.3;
/// Rate in records per second below which nothing counts as drained: smoothing never reaches zero.
const RATE_MIN: f64 = 0.001;

/// Scaling policy of one mapping on one node.
#[derive(Clone, Debug)]
pub struct ScalingPolicy {
    bounds: PollerBounds,
    desired: u32,
    version: u64,
    drained_per_second: f64,
    last: Option<Moment>,
    pressed_since: Option<Moment>,
    idle_since: Option<Moment>,
    throttled_since: Option<Moment>,
}

impl ScalingPolicy {
    /// Creates a policy that starts with the minimum.
    pub fn new(bounds: PollerBounds) -> Self {
        Self {
            bounds,
            desired: bounds.minimum.max(1),
            version: 0,
            drained_per_second: 0.0,
            last: None,
            pressed_since: None,
            idle_since: None,
            throttled_since: None,
        }
    }

    /// Decides on the latest sample.
    pub fn decide(&mut self, sample: &MappingSample) -> ScalingDecision {
        let now = sample.at;
        let partitions = sample.partitions.len() as u32;
        self.observe_rate(sample);
        let lag = sample.partitions.iter().map(|partition| partition.lag).sum::<Option<u64>>();
        let throttled =
            sample.answered > 0 && sample.throttled as f64 / sample.answered as f64 > THROTTLE_RATIO_MAX;
        let saturated = sample.slots_in_use >= sample.slots_limit;
        let drain_seconds = lag.map(|lag| self.drain_seconds(lag));
        let pressed = !throttled
            && drain_seconds
                .is_some_and(|seconds| seconds > DRAIN_SECONDS_HIGH || (saturated && seconds > 1.0));
        let idle = drain_seconds.is_some_and(|seconds| seconds < DRAIN_SECONDS_LOW)
            && sample.slots_in_use * 2 <= sample.slots_limit;
        let held = |since: &mut Option<Moment>, seen: bool, long: Duration| {
            let began = *since.get_or_insert(now);
            if !seen {
                *since = None;
                return false;
            }
            let due = now.since(began) >= long;
            if due {
                *since = Some(now);
            }
            due
        };
        if held(&mut self.throttled_since, throttled, THROTTLED_AFTER) {
            self.desired = self.desired.saturating_sub(1);
        } else if held(&mut self.pressed_since, pressed, UP_AFTER) {
            self.desired += (self.desired / 2).max(1);
        } else if held(&mut self.idle_since, idle, DOWN_AFTER) {
            self.desired = self.desired.saturating_sub(1);
        }
        self.desired = self.bounds.clip(self.desired, partitions);
        self.version += 1;
        ScalingDecision { version: self.version, desired: self.desired }
    }

    /// Estimates the seconds to drain `lag`, for the scaler's thresholds: a rate below 0.1 records per second counts as 0.1, so
    /// that the result is finite.
    pub fn drain_seconds(&self, lag: u64) -> f64 {
        if lag == 0 { 0.0 } else { lag as f64 / self.drained_per_second.max(0.1) }
    }

    /// Estimates the seconds to drain `lag`, for operators: infinite while nothing is drained.
    pub fn seconds_to_drain(&self, lag: u64) -> f64 {
        match (lag, self.drained_per_second) {
            (0, _) => 0.0,
            (_, rate) if rate < RATE_MIN => f64::INFINITY,
            (lag, rate) => lag as f64 / rate,
        }
    }

    fn observe_rate(&mut self, sample: &MappingSample) {
        let elapsed = self.last.map_or(0.0, |last| sample.at.since(last).as_secs_f64());
        self.last = Some(sample.at);
        if elapsed > 0.0 {
            let resolved: u64 = sample.partitions.iter().map(|partition| partition.resolved).sum();
            let rate = resolved as f64 / elapsed;
            self.drained_per_second += RATE_SMOOTHING * (rate - self.drained_per_second);
        }
    }
}

#[cfg(test)]
mod tests {
    use lighterman_proto::control::PartitionSample;
    use lighterman_proto::ids::TopicPartition;
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: PollerBounds = PollerBounds { minimum: 1, maximum: 20 };

    fn sample(
        second: u64,
        lag: Option<u64>,
        resolved: u64,
        in_use: u32,
        limit: u32,
        throttled: u64,
    ) -> MappingSample {
        let partition = |index| PartitionSample {
            partition: TopicPartition::new("t", index),
            lag: if index == 0 { lag } else { Some(0) },
            arrived: None,
            resolved: if index == 0 { resolved } else { 0 },
        };
        MappingSample {
            at: Moment::from_micros(second * 1_000_000),
            partitions: (0..12).map(partition).collect(),
            slots_in_use: in_use,
            slots_limit: limit,
            throttled,
            answered: 100,
        }
    }

    fn run(
        scaler: &mut ScalingPolicy,
        seconds: std::ops::Range<u64>,
        of: impl Fn(u64) -> MappingSample,
    ) -> u32 {
        seconds.map(|second| scaler.decide(&of(second)).desired).last().expect("some")
    }

    #[test]
    fn high_lag_adds_consumers_up_to_partition_count() {
        let mut scaler = ScalingPolicy::new(BOUNDS);
        let desired = run(&mut scaler, 0..40, |second| sample(second, Some(1_000_000), 100, 5, 5, 0));
        assert_eq!(desired, 12);
    }

    #[test]
    fn failed_lag_query_keeps_consumer_count() {
        let mut scaler = ScalingPolicy::new(BOUNDS);
        let before = run(&mut scaler, 0..20, |second| sample(second, Some(1_000_000), 100, 5, 5, 0));
        assert_eq!(run(&mut scaler, 20..300, |second| sample(second, None, 0, 0, 5, 0)), before);
    }

    #[test]
    fn throttled_function_loses_consumers_despite_high_lag() {
        let mut scaler = ScalingPolicy::new(BOUNDS);
        run(&mut scaler, 0..20, |second| sample(second, Some(1_000_000), 100, 5, 5, 0));
        assert_eq!(run(&mut scaler, 20..200, |second| sample(second, Some(1_000_000), 100, 5, 5, 30)), 1);
    }

    #[test]
    fn time_to_drain_is_infinite_without_rate() {
        let mut scaler = ScalingPolicy::new(BOUNDS);
        assert_eq!((scaler.seconds_to_drain(0), scaler.seconds_to_drain(1)), (0.0, f64::INFINITY));
        run(&mut scaler, 0..40, |second| sample(second, Some(5_000), 50, 1, 5, 0));
        let seconds = scaler.seconds_to_drain(5_000);
        assert!((99.0..101.0).contains(&seconds), "{seconds}");
        run(&mut scaler, 40..120, |second| sample(second, Some(5_000), 0, 1, 5, 0));
        assert_eq!((scaler.seconds_to_drain(5_000), scaler.seconds_to_drain(0)), (f64::INFINITY, 0.0));
    }

    #[test]
    fn low_lag_scales_down_slowly_without_flapping() {
        let mut scaler = ScalingPolicy::new(BOUNDS);
        run(&mut scaler, 0..40, |second| sample(second, Some(1_000_000), 100, 5, 5, 0));
        let calm = |second| sample(second, Some(100), 1000, 1, 60, 0);
        assert_eq!(run(&mut scaler, 40..65, calm), 12, "no scale-down before a long calm period");
        assert_eq!(run(&mut scaler, 65..600, calm), 1);
        let wave = |second: u64| {
            sample(second, Some(if second.is_multiple_of(2) { 20_000 } else { 0 }), 1000, 3, 5, 0)
        };
        let before = scaler.clone().desired;
        assert_eq!(run(&mut scaler, 600..700, wave), before, "a lag that fluctuates within the window");
    }

    proptest! {
        #[test]
        fn decisions_stay_within_bounds(
            minimum in 1u32..30, extra in 0u32..30, partitions in 0usize..10,
            steps in prop::collection::vec((prop::option::of(0u64..1_000_000), 0u64..10_000, 0u32..10, 0u64..100), 1..60),
        ) {
            let bounds = PollerBounds { minimum, maximum: minimum + extra };
            let mut scaler = ScalingPolicy::new(bounds);
            let mut version = 0;
            for (second, (lag, resolved, in_use, throttled)) in steps.into_iter().enumerate() {
                let mut sample = sample(second as u64, lag, resolved, in_use, 5, throttled);
                sample.partitions.truncate(partitions);
                let decision = scaler.decide(&sample);
                prop_assert!(decision.version > version);
                version = decision.version;
                let most = (partitions as u32).min(bounds.maximum).max(1);
                prop_assert!((bounds.minimum.min(most)..=most).contains(&decision.desired));
            }
        }
    }
}
