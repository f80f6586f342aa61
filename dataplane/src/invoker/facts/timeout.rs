//! How long a function may run, as it was told from time to time. A larger value counts at once, also for what is in flight; a
//! smaller one for what is sent from then on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lighterman_proto::units::Moment;
use parking_lot::Mutex;

/// Lambda's own limit: what a function may run that does not tell.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html>
pub const RUN_MAX: Duration = Duration::from_secs(900);
/// Changes kept; of older ones only the largest value.
const CHANGES_MAX: usize = 16;

/// One function's; clones share it, on all threads.
#[derive(Clone, Debug)]
pub struct FunctionTimeout {
    shared: Arc<TimeoutState>,
}

#[derive(Debug)]
struct TimeoutState {
    /// Microseconds; what holds now.
    current: AtomicU64,
    /// When it last changed: who was sent later need not look further.
    changed: AtomicU64,
    /// When the question was asked that was answered last.
    confirmed: AtomicU64,
    history: Mutex<TimeoutHistory>,
}

impl FunctionTimeout {
    /// `timeout` from `now` on.
    pub fn new(timeout: Duration, now: Moment) -> Self {
        let shared = TimeoutState {
            current: AtomicU64::new(micros(timeout)),
            changed: AtomicU64::new(now.as_micros()),
            confirmed: AtomicU64::new(0),
            history: Mutex::new(TimeoutHistory::new(timeout, now)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What holds for what is sent now.
    pub fn current(&self) -> Duration {
        Duration::from_micros(self.shared.current.load(Ordering::Acquire))
    }

    /// The longest that an invocation may run which was sent at `sent_at`.
    pub fn longest_since(&self, sent_at: Moment) -> Duration {
        // The value first: one that is newer than `changed` says would be shorter than what may have held.
        let current = self.current();
        if self.shared.changed.load(Ordering::Acquire) < sent_at.as_micros() {
            return current;
        }
        self.shared.history.lock().longest_since(sent_at)
    }

    /// Whether a question has been answered that was asked at `moment` or later.
    pub fn is_confirmed_since(&self, moment: Moment) -> bool {
        self.shared.confirmed.load(Ordering::Acquire) >= moment.as_micros().max(1)
    }

    /// The answer of `now` to what was asked at `asked_at`.
    pub fn told(&self, timeout: Duration, asked_at: Moment, now: Moment) {
        let mut history = self.shared.history.lock();
        if history.tell(timeout, now) {
            // In this order: who sees the value that holds now must not take it for what held before.
            self.shared.changed.store(now.as_micros(), Ordering::Release);
            self.shared.current.store(micros(timeout), Ordering::Release);
        }
        self.shared.confirmed.fetch_max(asked_at.as_micros(), Ordering::AcqRel);
    }
}

fn micros(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)
}

/// The values that were told, oldest first; the first stands for all before it.
#[derive(Debug)]
pub struct TimeoutHistory {
    told: VecDeque<(Moment, Duration)>,
}

impl TimeoutHistory {
    /// `timeout` from `now` on.
    pub fn new(timeout: Duration, now: Moment) -> Self {
        Self { told: VecDeque::from([(now, timeout)]) }
    }

    /// Remembers a value; false when it is the one that holds already.
    pub fn tell(&mut self, timeout: Duration, now: Moment) -> bool {
        if self.told.back().is_some_and(|(_, last)| *last == timeout) {
            return false;
        }
        self.told.push_back((now, timeout));
        if self.told.len() > CHANGES_MAX
            && let Some((from, oldest)) = self.told.pop_front()
            && let Some(next) = self.told.front_mut()
        {
            *next = (from, oldest.max(next.1));
        }
        true
    }

    /// The largest value that held at `sent_at` or was told since: what was told a little later may have held already.
    pub fn longest_since(&self, sent_at: Moment) -> Duration {
        let first = self.told.iter().rposition(|(from, _)| *from < sent_at).unwrap_or(0);
        self.told.iter().skip(first).map(|(_, timeout)| *timeout).max().unwrap_or(RUN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn own_1_a_larger_value_counts_at_once_and_a_smaller_one_for_what_is_sent_from_then_on() {
        let timeout = FunctionTimeout::new(seconds(1), at(0));
        timeout.told(seconds(120), at(50), at(51));
        assert_eq!((timeout.current(), timeout.longest_since(at(40))), (seconds(120), seconds(120)));
        timeout.told(seconds(3), at(100), at(101));
        assert_eq!(timeout.longest_since(at(40)), seconds(120));
        assert_eq!(timeout.longest_since(at(60)), seconds(120));
        assert_eq!((timeout.longest_since(at(102)), timeout.current()), (seconds(3), seconds(3)));
    }

    #[test]
    fn an_answer_confirms_what_was_doubted_before_it_was_asked_for() {
        let timeout = FunctionTimeout::new(seconds(1), at(1));
        assert!(!timeout.is_confirmed_since(Moment::default()));
        timeout.told(seconds(1), at(5), at(9));
        assert!(timeout.is_confirmed_since(at(5)) && !timeout.is_confirmed_since(at(6)));
    }

    proptest! {
        /// However many changes there were: never less than the largest value that may have held.
        #[test]
        fn what_is_forgotten_is_only_ever_taken_for_longer(
            changes in proptest::collection::vec((1u64..60, 1u64..900), 1..60),
            sent in 0u64..2000,
        ) {
            let timeout = FunctionTimeout::new(seconds(5), at(0));
            let (mut now, mut all) = (0, vec![(0, 5)]);
            for (wait, value) in changes {
                now += wait;
                timeout.told(seconds(value), at(now), at(now));
                all.push((now, value));
            }
            let held = all.iter().rposition(|(from, _)| *from < sent).unwrap_or(0);
            let largest = all[held..].iter().map(|(_, value)| *value).max().expect("one at least");
            prop_assert!(timeout.longest_since(at(sent)) >= seconds(largest));
            prop_assert!(timeout.shared.history.lock().told.len() <= CHANGES_MAX);
            prop_assert_eq!(timeout.current(), seconds(all.last().expect("one").1));
        }
    }
}
