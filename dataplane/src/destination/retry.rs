//! When one letter is tried again, and when it is given up.

use std::num::NonZeroU32;

use lighterman_proto::units::Moment;

use crate::error::ErrorClass;
use crate::invoker::retry::{RetryPolicy, jittered};

/// Tries of a mapping that drops, unless it says otherwise.
pub const DROP_TRIES: NonZeroU32 = NonZeroU32::new(3).unwrap();
/// A destination that throttles gets at least this step of the backoff.
const THROTTLED_STEP: u32 = 3;
/// A person has to act first: no reason for haste.
const FATAL_STEP: u32 = 6;

/// What becomes of records whose destination fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Tried until it succeeds; the partition waits. Nothing is lost.
    #[default]
    Hold,
    /// AWS's behaviour: given up after so many tries.
    Drop {
        /// All tries count, the first and throttled ones too.
        tries: NonZeroU32,
    },
}

/// Whether there is anything to send instead of a letter that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterForm {
    /// With what can be left out of it.
    Whole,
    /// Nothing can be left out: what does not take this waits for a person, as a missing queue does.
    Smallest,
}

/// What to do after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTry {
    /// Once more.
    Retry {
        /// Not before.
        at: Moment,
    },
    /// It will never fit as it is: to be sent in a smaller form.
    SendSmaller,
    /// Given up.
    Drop,
}

/// The tries of one letter.
#[derive(Clone, Debug)]
pub struct DeliveryCore {
    policy: RetryPolicy,
    on_failure: OnFailure,
    form: LetterForm,
    tries: u32,
}

impl DeliveryCore {
    /// A letter that was not tried yet.
    pub const fn new(policy: RetryPolicy, on_failure: OnFailure, form: LetterForm) -> Self {
        Self { policy, on_failure, form, tries: 0 }
    }

    /// A try failed. `random` spreads the waits (full jitter).
    pub fn failed(&mut self, class: ErrorClass, now: Moment, random: u64) -> NextTry {
        self.tries = self.tries.saturating_add(1);
        let step = match class {
            ErrorClass::Poison if self.form == LetterForm::Whole => return NextTry::SendSmaller,
            ErrorClass::Retry | ErrorClass::Fenced => self.tries,
            ErrorClass::Throttle => self.tries.max(THROTTLED_STEP),
            // A limit is raised by a person, if at all.
            ErrorClass::Poison | ErrorClass::Fatal => self.tries.max(FATAL_STEP),
        };
        match self.on_failure {
            OnFailure::Drop { tries } if self.tries >= tries.get() => NextTry::Drop,
            OnFailure::Drop { .. } | OnFailure::Hold => {
                NextTry::Retry { at: now + jittered(self.policy, step, random) }
            }
        }
    }

    /// Tries so far.
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
        fn alo_1_a_letter_that_is_held_is_never_given_up(
            failures in proptest::collection::vec((class(), any::<u64>()), 1..200)
        ) {
            let (now, policy) = (Moment::from_micros(5), RetryPolicy::default());
            let mut core = DeliveryCore::new(policy, OnFailure::Hold, LetterForm::Smallest);
            for (class, random) in failures {
                let NextTry::Retry { at } = core.failed(class, now, random) else {
                    return Err(TestCaseError::fail("given up"));
                };
                prop_assert!(at.since(now) <= policy.cap);
            }
        }

        #[test]
        fn a_mapping_that_drops_does_so_after_exactly_its_tries(
            most in 1u32..20, class in class(), random: u64
        ) {
            let tries = NonZeroU32::new(most).expect("from 1");
            let mut core = DeliveryCore::new(RetryPolicy::default(), OnFailure::Drop { tries }, LetterForm::Smallest);
            let now = Moment::from_micros(0);
            let nexts: Vec<NextTry> = (0..most).map(|_| core.failed(class, now, random)).collect();
            let (last, before) = nexts.split_last().expect("some");
            prop_assert_eq!(*last, NextTry::Drop);
            let all_again = before.iter().all(|next| matches!(next, NextTry::Retry { .. }));
            prop_assert!(all_again);
        }
    }

    #[test]
    fn what_is_too_large_is_never_tried_again_when_there_is_a_smaller_form() {
        for on_failure in [OnFailure::Hold, OnFailure::Drop { tries: DROP_TRIES }] {
            let mut core = DeliveryCore::new(RetryPolicy::default(), on_failure, LetterForm::Whole);
            assert_eq!(core.failed(ErrorClass::Poison, Moment::from_micros(0), 7), NextTry::SendSmaller);
        }
    }

    #[test]
    fn waits_double_and_those_that_need_a_person_begin_long() {
        let (now, policy) = (Moment::from_micros(0), RetryPolicy::default());
        // The largest number below a step of the backoff is the longest wait in it.
        let wait = |class, tries: u32, step: u32| {
            let mut core = DeliveryCore::new(policy, OnFailure::Hold, LetterForm::Smallest);
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
