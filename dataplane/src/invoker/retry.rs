//! How long a batch waits before it is tried again.

use std::time::Duration;

use lighterman_proto::units::Moment;

use super::verdict::Verdict;

/// How fast to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { base: Duration::from_millis(200), cap: Duration::from_secs(30) }
    }
}

/// The attempt that was judged.
#[derive(Clone, Copy, Debug)]
pub struct Sending {
    /// Which one, from 1.
    pub attempt: u32,
    /// When it was sent.
    pub sent_at: Moment,
    /// How long the function may run.
    pub function_timeout: Duration,
}

/// When the batch may be tried again after `verdict`. `random` spreads the waits (full jitter).
pub fn again_at(
    verdict: &Verdict,
    sending: Sending,
    now: Moment,
    policy: RetryPolicy,
    random: u64,
) -> Moment {
    let Sending { attempt, sent_at, function_timeout } = sending;
    match verdict {
        Verdict::Delivered { .. } | Verdict::FunctionError { .. } => now + jittered(policy, attempt, random),
        // It is smaller the next time: nothing to wait for.
        Verdict::TooLarge => now,
        Verdict::Throttled { retry_after, .. } => {
            now + retry_after.unwrap_or_default().min(policy.cap) + jittered(policy, 1, random)
        }
        Verdict::ServiceError { .. } => now + jittered(policy, 3, random),
        Verdict::ConfigError { .. } => now + jittered(policy, 6, random),
        Verdict::Unknown { .. } => {
            verdict.may_run_until(sent_at, function_timeout).unwrap_or(now).max(now + policy.base)
        }
    }
}

/// A wait of the `attempt`-th step, by `random`: anything from nothing to all of it.
pub(crate) fn jittered(policy: RetryPolicy, attempt: u32, random: u64) -> Duration {
    let step = policy.base.saturating_mul(1 << attempt.saturating_sub(1).min(20)).min(policy.cap);
    let micros = u64::try_from(step.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(random % micros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn sending(attempt: u32, sent_at: Moment) -> Sending {
        Sending { attempt, sent_at, function_timeout: TIMEOUT }
    }

    fn failed() -> Verdict {
        Verdict::FunctionError { error_type: "E".into(), message: String::new() }
    }

    proptest! {
        #[test]
        fn waits_stay_under_the_cap(attempt in 1u32..5000, random: u64) {
            let (now, policy) = (Moment::from_micros(7), RetryPolicy::default());
            let at = again_at(&failed(), sending(attempt, now), now, policy, random);
            prop_assert!(at.since(now) <= policy.cap);
            let throttled = Verdict::Throttled { reason: String::new(), retry_after: Some(Duration::from_secs(9999)) };
            let at = again_at(&throttled, sending(attempt, now), now, policy, random);
            prop_assert!(at.since(now) <= policy.cap + policy.base);
        }
    }

    #[test]
    fn an_unknown_outcome_waits_for_the_functions_deadline() {
        let (sent, now) = (Moment::from_micros(0), Moment::from_micros(5));
        let unknown = Verdict::Unknown { message: String::new() };
        let at = again_at(&unknown, sending(1, sent), now, RetryPolicy::default(), 0);
        assert!(at >= sent + TIMEOUT);
    }
}
