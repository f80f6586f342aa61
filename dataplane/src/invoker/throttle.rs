//! Concurrency limit of a throttling function, controlled by the *ratio* of throttles instead of single ones. Rules
//! that react to any throttle keep a third of the throughput at one percent of random throttles. A ratio keeps
//! nearly all of it.

use std::time::Duration;

use lighterman_proto::units::Moment;

/// Smoothed ratio above which the limit shrinks.
const RATIO_MAX: f64 = 0.02;
const SMOOTHING: f64 = 0.3;
const WINDOW_MIN: Duration = Duration::from_secs(1);
const GROWTH: f64 = 0.02;

/// Concurrency limit of one mapping's function.
#[derive(Clone, Debug)]
pub struct ThrottleControl {
    ceiling: u32,
    limit: f64,
    ratio: f64,
    window_began: Moment,
    answered: u32,
    throttled: u32,
    busy: Duration,
}

impl ThrottleControl {
    /// Creates a limit that starts at the ceiling.
    pub fn new(ceiling: u32, now: Moment) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            limit: f64::from(ceiling),
            ratio: 0.0,
            window_began: now,
            answered: 0,
            throttled: 0,
            busy: Duration::ZERO,
        }
    }

    /// Number of concurrent invocations allowed.
    pub fn limit(&self) -> u32 {
        (self.limit as u32).clamp(1, self.ceiling)
    }

    /// Sets the upper bound: five for each consumer. A limit that had not been reduced follows a raised bound.
    pub fn set_ceiling(&mut self, ceiling: u32) {
        let unhindered = self.limit >= f64::from(self.ceiling);
        self.ceiling = ceiling.max(1);
        if unhindered {
            self.limit = f64::from(self.ceiling);
        }
        self.limit = self.limit.min(f64::from(self.ceiling));
    }

    /// Records a completed invocation and returns the resulting limit.
    pub fn answered(&mut self, now: Moment, throttled: bool, took: Duration) -> u32 {
        self.answered += 1;
        self.throttled += u32::from(throttled);
        self.busy += took;
        let mean = self.busy / self.answered;
        if now.since(self.window_began) >= WINDOW_MIN.max(mean) {
            self.close_window(now);
        }
        self.limit()
    }

    fn close_window(&mut self, now: Moment) {
        let ratio = f64::from(self.throttled) / f64::from(self.answered.max(1));
        self.ratio += SMOOTHING * (ratio - self.ratio);
        if self.ratio > RATIO_MAX && self.throttled > 0 {
            self.limit = (self.limit * (1.0 - ratio).max(0.5)).max(1.0);
        } else {
            self.limit = (self.limit + (self.limit * GROWTH).max(1.0)).min(f64::from(self.ceiling));
        }
        (self.window_began, self.answered, self.throttled, self.busy) = (now, 0, 0, Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Closed-loop model of a function with `capacity` concurrent invocations of 100 ms each. A fraction `noise` of
    /// them is throttled at random.
    struct FunctionModel {
        control: ThrottleControl,
        seed: u64,
        now_ms: u64,
        running: Vec<u64>,
        delivered: u64,
        throttled: u64,
    }

    impl FunctionModel {
        fn new(ceiling: u32) -> Self {
            let control = ThrottleControl::new(ceiling, Moment::default());
            Self { control, seed: 9, now_ms: 0, running: Vec::new(), delivered: 0, throttled: 0 }
        }

        fn random(&mut self) -> f64 {
            self.seed =
                self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.seed >> 11) as f64 / (1u64 << 53) as f64
        }

        fn run(&mut self, seconds: u64, capacity: usize, noise: f64) {
            (self.delivered, self.throttled) = (0, 0);
            for _ in 0..seconds * 100 {
                self.now_ms += 10;
                let now = Moment::from_micros(self.now_ms * 1000);
                let before = self.running.len();
                let now_ms = self.now_ms;
                self.running.retain(|ends| *ends > now_ms);
                for _ in self.running.len()..before {
                    self.delivered += 1;
                    self.control.answered(now, false, Duration::from_millis(100));
                }
                // A throttled call occupies its slot for this tick, as its retry waits.
                let mut open = (self.control.limit() as usize).saturating_sub(self.running.len());
                while open > 0 {
                    open -= 1;
                    if self.running.len() >= capacity || self.random() < noise {
                        self.throttled += 1;
                        self.control.answered(now, true, Duration::from_millis(1));
                    } else {
                        self.running.push(self.now_ms + 100);
                    }
                }
            }
        }

        fn throughput(&self, seconds: u64) -> f64 {
            self.delivered as f64 / seconds as f64
        }
    }

    #[test]
    fn one_percent_of_random_throttles_keeps_throughput() {
        let mut model = FunctionModel::new(100);
        model.run(120, 1000, 0.01);
        assert!(model.throughput(120) >= 0.95 * 1000.0, "{} of 1000 a second", model.throughput(120));
    }

    #[test]
    fn limit_follows_function_capacity_both_ways() {
        let mut model = FunctionModel::new(200);
        model.run(60, 40, 0.0);
        model.run(120, 40, 0.0);
        let throttled = model.throttled as f64 / (model.throttled + model.delivered) as f64;
        assert!(model.throughput(120) >= 0.9 * 400.0, "{} of 400 a second", model.throughput(120));
        assert!(throttled <= 0.12, "{throttled} throttled");
        model.run(90, 1000, 0.0);
        assert!(model.control.limit() > 100, "the limit grows again: {}", model.control.limit());
    }

    #[test]
    fn slt_1_limit_stays_within_its_bounds() {
        let mut control = ThrottleControl::new(5, Moment::default());
        for second in 1..200 {
            let limit =
                control.answered(Moment::from_micros(second * 1_100_000), true, Duration::from_millis(1));
            assert!((1..=5).contains(&limit));
        }
        assert_eq!(control.limit(), 1);
        control.set_ceiling(50);
        assert_eq!(control.limit(), 1, "a throttled function is not rushed by more consumers");
        let mut fresh = ThrottleControl::new(5, Moment::default());
        fresh.set_ceiling(50);
        assert_eq!(fresh.limit(), 50);
    }
}
