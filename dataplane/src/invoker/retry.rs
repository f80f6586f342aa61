//! Backoff before a batch is retried.

use std::collections::HashMap;
use std::time::Duration;

use lighterman_proto::ids::Epoch;
use lighterman_proto::units::Moment;

use super::outcome::InvocationOutcome;
use crate::runtime::backoff::full_jitter;

/// Bounds of the exponential backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Step of the first wait.
    pub base: Duration,
    /// Longest step.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { base: Duration::from_millis(200), cap: Duration::from_secs(30) }
    }
}

/// Attempt whose outcome was classified.
#[derive(Clone, Copy, Debug)]
pub struct AttemptInfo {
    /// Attempt number, from 1.
    pub attempt: u32,
    /// Consecutive attempts without the function's own answer, including this one.
    pub setbacks: u32,
    /// Time until which the function may still be running.
    pub may_run_until: Option<Moment>,
}

/// Consecutive attempts of each partition without the function's own answer: throttled, rejected or lost. A series
/// belongs to one epoch. Outcomes of an earlier epoch neither end nor extend it.
#[derive(Debug, Default)]
pub struct SetbackCounts {
    rows: HashMap<i32, SetbackRow>,
}

#[derive(Debug)]
struct SetbackRow {
    epoch: Epoch,
    count: u32,
}

impl SetbackCounts {
    /// Counts `verdict` for the partitions of its batch, each with the epoch that sent it. Returns the highest
    /// count among them. Any answer of the function ends a series.
    pub fn after(&mut self, verdict: &InvocationOutcome, sent: impl Iterator<Item = (i32, Epoch)>) -> u32 {
        match verdict {
            InvocationOutcome::Delivered { .. }
            | InvocationOutcome::FunctionError { .. }
            | InvocationOutcome::TooLarge => {
                sent.for_each(|(partition, epoch)| self.forget(partition, epoch));
                0
            }
            // This member withheld the request itself, so nothing was rejected.
            InvocationOutcome::Withheld => 0,
            InvocationOutcome::Throttled { .. }
            | InvocationOutcome::ServiceError { .. }
            | InvocationOutcome::ConfigError { .. }
            | InvocationOutcome::Unknown { .. } => {
                sent.filter_map(|(partition, epoch)| self.count(partition, epoch)).max().unwrap_or(1)
            }
        }
    }

    fn count(&mut self, partition: i32, epoch: Epoch) -> Option<u32> {
        let row = self.rows.entry(partition).or_insert(SetbackRow { epoch, count: 0 });
        if row.epoch < epoch {
            *row = SetbackRow { epoch, count: 0 };
        }
        row.count = row.count.saturating_add(u32::from(row.epoch == epoch));
        (row.epoch == epoch).then_some(row.count)
    }

    /// Removes the series of a partition that was revoked under `epoch`.
    pub fn forget(&mut self, partition: i32, epoch: Epoch) {
        if self.rows.get(&partition).is_some_and(|row| row.epoch <= epoch) {
            self.rows.remove(&partition);
        }
    }
}

/// Additional backoff steps of an error that an operator must fix.
const CONFIG_ERROR_STEPS: u32 = 5;

/// Returns the earliest time of the retry after `verdict`. `random` spreads the waits (full jitter).
pub fn retry_at(
    verdict: &InvocationOutcome,
    sending: AttemptInfo,
    now: Moment,
    policy: RetryPolicy,
    random: u64,
) -> Moment {
    let AttemptInfo { attempt, setbacks, may_run_until } = sending;
    let wait = |step| now + jittered(policy, step, random);
    match verdict {
        InvocationOutcome::Delivered { .. } | InvocationOutcome::FunctionError { .. } => wait(attempt),
        // The next batch is smaller, so there is nothing to wait for.
        InvocationOutcome::TooLarge => now,
        InvocationOutcome::Withheld => now,
        InvocationOutcome::Throttled { retry_after, .. } => {
            wait(setbacks) + retry_after.unwrap_or_default().min(policy.cap)
        }
        InvocationOutcome::ServiceError { .. } => wait(setbacks),
        InvocationOutcome::ConfigError { .. } => wait(setbacks.saturating_add(CONFIG_ERROR_STEPS)),
        InvocationOutcome::Unknown { .. } => {
            may_run_until.unwrap_or(now).max(wait(setbacks)).max(now + policy.base)
        }
    }
}

/// Returns a wait of the `attempt`-th step with full jitter by `random`: between zero and the whole step.
pub(crate) fn jittered(policy: RetryPolicy, attempt: u32, random: u64) -> Duration {
    full_jitter(policy.base, policy.cap, attempt, random)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MILLIS: u64 = 1000;

    fn sending(attempt: u32, setbacks: u32) -> AttemptInfo {
        AttemptInfo { attempt, setbacks, may_run_until: None }
    }

    fn throttled() -> InvocationOutcome {
        InvocationOutcome::Throttled { reason: String::new(), retry_after: None }
    }

    fn refused() -> InvocationOutcome {
        InvocationOutcome::ServiceError { message: String::new() }
    }

    fn failed() -> InvocationOutcome {
        InvocationOutcome::FunctionError { error_type: "E".into(), message: String::new() }
    }

    proptest! {
        #[test]
        fn waits_stay_under_the_cap(attempt in 1u32..5000, setbacks in 0u32..5000, random: u64) {
            let (now, policy) = (Moment::from_micros(7), RetryPolicy::default());
            let after = Some(Duration::from_secs(9999));
            let asked_to_wait = InvocationOutcome::Throttled { reason: String::new(), retry_after: after };
            for (verdict, most) in [(failed(), 1), (refused(), 1), (throttled(), 1), (asked_to_wait, 2)] {
                let at = retry_at(&verdict, sending(attempt, setbacks), now, policy, random);
                prop_assert!(at.since(now) <= policy.cap * most, "{:?}", verdict);
            }
        }
    }

    #[test]
    fn liv_1_backoff_doubles_to_cap_until_answer() {
        let (now, policy) = (Moment::from_micros(0), RetryPolicy::default());
        for verdict in [throttled(), refused()] {
            let mut setbacks = SetbackCounts::default();
            let mut wait = |verdict: &InvocationOutcome, partition| {
                let step = setbacks.after(verdict, std::iter::once((partition, Epoch(1))));
                // Full jitter yields at most one microsecond less than the step.
                let step_micros = (policy.base.as_micros() as u64) << step.saturating_sub(1).min(20);
                let random = step_micros.min(policy.cap.as_micros() as u64) - 1;
                retry_at(verdict, sending(1, step), now, policy, random).as_micros().div_ceil(MILLIS)
            };
            let waits: Vec<u64> = (0..10).map(|_| wait(&verdict, 3)).collect();
            assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
            assert_eq!(wait(&verdict, 4), 200, "each partition has its own series");
            wait(&InvocationOutcome::Withheld, 3);
            assert_eq!(wait(&verdict, 3), 30_000, "a withheld invocation does not end the series");
            wait(&failed(), 3);
            assert_eq!(wait(&verdict, 3), 200);
        }
    }

    #[test]
    fn liv_1_outcome_of_earlier_epoch_leaves_series_unchanged() {
        let mut setbacks = SetbackCounts::default();
        let mut after =
            |verdict: &InvocationOutcome, epoch| setbacks.after(verdict, std::iter::once((3, Epoch(epoch))));
        assert_eq!([after(&refused(), 1), after(&refused(), 1), after(&refused(), 1)], [1, 2, 3]);
        assert_eq!(after(&throttled(), 2), 1, "a new epoch starts a new series");
        assert_eq!(after(&refused(), 1), 1, "late: no series is affected");
        assert_eq!(after(&failed(), 1), 0);
        assert_eq!(after(&throttled(), 2), 2, "a late outcome neither ends nor extends the series");
        setbacks.forget(3, Epoch(1));
        assert_eq!(setbacks.after(&throttled(), std::iter::once((3, Epoch(2)))), 3);
        setbacks.forget(3, Epoch(2));
        assert!(setbacks.rows.is_empty());
    }

    #[test]
    fn unknown_outcome_backs_off_past_deadline() {
        let now = Moment::from_micros(5);
        let until = Moment::from_micros(60_000_000);
        let unknown = InvocationOutcome::Unknown { message: String::new() };
        let lost = AttemptInfo { attempt: 1, setbacks: 1, may_run_until: Some(until) };
        assert!(retry_at(&unknown, lost, now, RetryPolicy::default(), 0) >= until);
        let often = AttemptInfo { setbacks: 9, may_run_until: Some(now), ..lost };
        let at = retry_at(&unknown, often, now, RetryPolicy::default(), 29_000_000);
        assert_eq!(at.since(now), Duration::from_secs(29));
    }
}
