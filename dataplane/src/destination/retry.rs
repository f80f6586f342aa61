//! Retry state of one failure message.

use std::num::NonZeroU32;

use lighterman_proto::units::Moment;

use crate::error::ErrorClass;
use crate::invoker::retry::{RetryPolicy, jittered};

/// Default number of attempts of a mapping that drops.
pub const DROP_TRIES: NonZeroU32 = NonZeroU32::new(3).unwrap();
/// Minimum backoff step for a destination that throttles.
const THROTTLED_STEP: u32 = 3;
/// Minimum backoff step for an error that an operator must fix.
const FATAL_STEP: u32 = 6;

/// Behaviour while the destination fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Retry until it succeeds, while the partition waits. Nothing is lost.
    #[default]
    Hold,
    /// Drop after a number of attempts, as AWS does.
    Drop {
        /// Maximum number of attempts, counting the first and throttled ones.
        tries: NonZeroU32,
    },
}

/// Form of a message: whether a smaller one can be sent instead if it is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageForm {
    /// Whole message, with a payload that can be left out.
    Whole,
    /// Smallest form. A destination that rejects it as too large needs an operator, as a missing queue does.
    Smallest,
}

/// Decision after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTry {
    /// Try again.
    Retry {
        /// Earliest time of the next attempt.
        at: Moment,
    },
    /// The message can never fit; send a smaller form.
    SendSmaller,
    /// Drop the message.
    Drop,
}

/// Attempts of one message.
#[derive(Clone, Debug)]
pub struct DeliveryCore {
    policy: RetryPolicy,
    on_failure: OnFailure,
    form: MessageForm,
    tries: u32,
}

impl DeliveryCore {
    /// Starts the attempts of a message.
    pub const fn new(policy: RetryPolicy, on_failure: OnFailure, form: MessageForm) -> Self {
        Self { policy, on_failure, form, tries: 0 }
    }

    /// Records a failed attempt and returns the decision. `random` spreads the delays (full jitter).
    pub fn failed(&mut self, class: ErrorClass, now: Moment, random: u64) -> NextTry {
        self.tries = self.tries.saturating_add(1);
        let step = match class {
            ErrorClass::Poison if self.form == MessageForm::Whole => return NextTry::SendSmaller,
            ErrorClass::Retry | ErrorClass::Fenced => self.tries,
            ErrorClass::Throttle => self.tries.max(THROTTLED_STEP),
            // Only an operator can raise a size limit.
            ErrorClass::Poison | ErrorClass::Fatal => self.tries.max(FATAL_STEP),
        };
        match self.on_failure {
            OnFailure::Drop { tries } if self.tries >= tries.get() => NextTry::Drop,
            OnFailure::Drop { .. } | OnFailure::Hold => {
                NextTry::Retry { at: now + jittered(self.policy, step, random) }
            }
        }
    }

    /// Returns the number of attempts.
    pub const fn tries(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class() -> impl Strategy<Value = ErrorClass> {
        prop_oneof![
            Just(ErrorClass::Retry),
            Just(ErrorClass::Throttle),
            Just(ErrorClass::Fatal),
            Just(ErrorClass::Poison)
        ]
    }

    proptest! {
        #[test]
        fn alo_1_held_message_is_never_dropped(
            failures in proptest::collection::vec((class(), any::<u64>()), 1..200)
        ) {
            let (now, policy) = (Moment::from_micros(5), RetryPolicy::default());
            let mut core = DeliveryCore::new(policy, OnFailure::Hold, MessageForm::Smallest);
            for (class, random) in failures {
                let NextTry::Retry { at } = core.failed(class, now, random) else {
                    return Err(TestCaseError::fail("given up"));
                };
                prop_assert!(at.since(now) <= policy.cap);
            }
        }

        #[test]
        fn message_dropped_after_configured_attempts(
            most in 1u32..20, class in class(), random: u64
        ) {
            let tries = NonZeroU32::new(most).expect("from 1");
            let mut core = DeliveryCore::new(RetryPolicy::default(), OnFailure::Drop { tries }, MessageForm::Smallest);
            let now = Moment::from_micros(0);
            let nexts: Vec<NextTry> = (0..most).map(|_| core.failed(class, now, random)).collect();
            let (last, before) = nexts.split_last().expect("some");
            prop_assert_eq!(*last, NextTry::Drop);
            let all_again = before.iter().all(|next| matches!(next, NextTry::Retry { .. }));
            prop_assert!(all_again);
        }
    }

    #[test]
    fn oversized_message_takes_smaller_form() {
        for on_failure in [OnFailure::Hold, OnFailure::Drop { tries: DROP_TRIES }] {
            let mut core = DeliveryCore::new(RetryPolicy::default(), on_failure, MessageForm::Whole);
            assert_eq!(core.failed(ErrorClass::Poison, Moment::from_micros(0), 7), NextTry::SendSmaller);
        }
    }

    #[test]
    fn backoff_starts_long_for_fatal_errors() {
        let (now, policy) = (Moment::from_micros(0), RetryPolicy::default());
        // The largest random number below the step gives the step's longest delay.
        let wait = |class, tries: u32, step: u32| {
            let mut core = DeliveryCore::new(policy, OnFailure::Hold, MessageForm::Smallest);
            let step = (policy.base * step).min(policy.cap).as_micros() as u64 - 1;
            let last = (0..tries).map(|_| core.failed(class, now, step)).last();
            assert_eq!(last, Some(NextTry::Retry { at: Moment::from_micros(step) }), "{class:?} {tries}");
        };
        wait(ErrorClass::Retry, 1, 1);
        wait(ErrorClass::Retry, 4, 8);
        wait(ErrorClass::Retry, 40, 1000);
        wait(ErrorClass::Throttle, 1, 4);
        wait(ErrorClass::Fatal, 1, 32);
        wait(ErrorClass::Poison, 1, 32);
    }
}
