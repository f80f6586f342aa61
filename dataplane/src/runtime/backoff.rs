//! Exponential backoff: with equal jitter against brokers, with full jitter for attempts. The caller passes the random
//! number, so that the state machines stay deterministic.

use std::cell::Cell;
use std::time::Duration;

/// Backoff that grows from `base` to `cap` with each failure and is reset by a success.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Creates a backoff without failures.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// Returns the wait after another failure: between half and all of the current step, by `random`.
    pub fn next(&mut self, random: u64) -> Duration {
        let step = self.base.saturating_mul(1 << self.failures.min(16)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        let micros = u64::try_from(step.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(micros / 2 + random % (micros / 2 + 1))
    }

    /// Resets the backoff after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Returns the number of failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// Returns a wait between nothing and all of the `attempt`-th step, which doubles from `base` to `cap`.
pub fn full_jitter(base: Duration, cap: Duration, attempt: u32, random: u64) -> Duration {
    let step = base.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(cap);
    let micros = u64::try_from(step.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(random % micros)
}

/// Weyl increment and finalizer of `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
const WEYL: u64 = 0x9E37_79B9_7F4A_7C15;
const MIX: [u64; 2] = [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB];

thread_local! {
    static STATE: Cell<u64> = Cell::new(getrandom::u64().unwrap_or_default());
}

/// Returns a random number for jitter, not for secrets. The operating system seeds each thread once.
pub fn random() -> u64 {
    let mut z = STATE.get().wrapping_add(WEYL);
    STATE.set(z);
    z = (z ^ (z >> 30)).wrapping_mul(MIX[0]);
    z = (z ^ (z >> 27)).wrapping_mul(MIX[1]);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_differs_between_threads_and_calls() {
        let here: Vec<u64> = (0..4).map(|_| random()).collect();
        let there =
            std::thread::spawn(|| (0..4).map(|_| random()).collect::<Vec<u64>>()).join().expect("joins");
        let all: std::collections::BTreeSet<u64> = here.into_iter().chain(there).collect();
        assert_eq!(all.len(), 8);
    }
}
