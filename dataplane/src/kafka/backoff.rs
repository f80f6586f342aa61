//! Exponential backoff with full jitter. The random number is handed in, so that cores stay deterministic.

use std::time::Duration;

/// Grows from `base` to `cap`; reset by success.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff that has seen no failure.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// The wait after another failure: between half and all of the current step, by `random`.
    pub fn next(&mut self, random: u64) -> Duration {
        let step = self.base.saturating_mul(1 << self.failures.min(16)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let micros = u64::try_from(step.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(micros / 2 + random % (micros / 2 + 1))
    }

    /// Success: begin again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// A random number from the operating system, for jitter.
pub fn random() -> u64 {
    getrandom::u64().unwrap_or_default()
}
