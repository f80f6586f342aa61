//! Timeout of a function as observed over time. A larger value applies at once, also to invocations in flight. A
//! smaller one applies only to invocations sent after it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lighterman_proto::units::Moment;
use parking_lot::Mutex;

/// Lambda's maximum timeout, assumed for functions whose timeout is unknown.
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-timeout.html>
pub const RUN_MAX: Duration = Duration::from_secs(900);
/// Number of changes kept. Older ones are merged into their largest value.
const CHANGES_MAX: usize = 16;

/// Timeout of one function. Clones share it across threads.
#[derive(Clone, Debug)]
pub struct FunctionTimeout {
    shared: Arc<TimeoutState>,
}

#[derive(Debug)]
struct TimeoutState {
    /// Current value in microseconds.
    current: AtomicU64,
    /// Time of the last change. Invocations sent after it need no history.
    changed: AtomicU64,
    /// Send time of the latest query that was answered.
    confirmed: AtomicU64,
    history: Mutex<TimeoutHistory>,
}

impl FunctionTimeout {
    /// Creates the timeout with an initial value that applies from `now`.
    pub fn new(timeout: Duration, now: Moment) -> Self {
        let shared = TimeoutState {
            current: AtomicU64::new(micros(timeout)),
            changed: AtomicU64::new(now.as_micros()),
            confirmed: AtomicU64::new(0),
            history: Mutex::new(TimeoutHistory::new(timeout, now)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Timeout that applies to an invocation sent at this moment.
    pub fn current(&self) -> Duration {
        Duration::from_micros(self.shared.current.load(Ordering::Acquire))
    }

    /// Returns the longest time for which an invocation sent at `sent_at` may run.
    pub fn longest_since(&self, sent_at: Moment) -> Duration {
        // Load the value first. One newer than `changed` could be shorter than the timeout that applied before.
        let current = self.current();
        if self.shared.changed.load(Ordering::Acquire) < sent_at.as_micros() {
            return current;
        }
        self.shared.history.lock().longest_since(sent_at)
    }

    /// Returns true if a query made at or after `moment` has been answered.
    pub fn is_confirmed_since(&self, moment: Moment) -> bool {
        self.shared.confirmed.load(Ordering::Acquire) >= moment.as_micros().max(1)
    }

    /// Records the answer, received at `now`, to a query made at `asked_at`.
    pub fn told(&self, timeout: Duration, asked_at: Moment, now: Moment) {
        let mut history = self.shared.history.lock();
        if history.tell(timeout, now) {
            // `changed` goes first: a reader of the new value must not take it for the one that applied before.
            self.shared.changed.store(now.as_micros(), Ordering::Release);
            self.shared.current.store(micros(timeout), Ordering::Release);
        }
        self.shared.confirmed.fetch_max(asked_at.as_micros(), Ordering::AcqRel);
    }
}

fn micros(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX)
}

/// Observed values, oldest first. The first covers all earlier times.
#[derive(Debug)]
pub struct TimeoutHistory {
    told: VecDeque<(Moment, Duration)>,
}

impl TimeoutHistory {
    /// Creates a history with an initial value that applies from `now`.
    pub fn new(timeout: Duration, now: Moment) -> Self {
        Self { told: VecDeque::from([(now, timeout)]) }
    }

    /// Records a value. Returns false if it equals the current one.
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

    /// Returns the largest value in force at `sent_at` or recorded since. A value recorded shortly after may
    /// already have been in force.
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
    fn own_1_increase_is_immediate_decrease_deferred() {
        let timeout = FunctionTimeout::new(seconds(1), at(0));
        timeout.told(seconds(120), at(50), at(51));
        assert_eq!((timeout.current(), timeout.longest_since(at(40))), (seconds(120), seconds(120)));
        timeout.told(seconds(3), at(100), at(101));
        assert_eq!(timeout.longest_since(at(40)), seconds(120));
        assert_eq!(timeout.longest_since(at(60)), seconds(120));
        assert_eq!((timeout.longest_since(at(102)), timeout.current()), (seconds(3), seconds(3)));
    }

    #[test]
    fn answer_confirms_doubts_raised_before_its_query() {
        let timeout = FunctionTimeout::new(seconds(1), at(1));
        assert!(!timeout.is_confirmed_since(Moment::default()));
        timeout.told(seconds(1), at(5), at(9));
        assert!(timeout.is_confirmed_since(at(5)) && !timeout.is_confirmed_since(at(6)));
    }

    proptest! {
        /// However many changes there were, the result is never less than the largest value that may have applied.
        #[test]
        fn merged_history_never_shortens_the_timeout(
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
            let largest = all[held..].iter().map(|(_, value)| *value).max().expect("at least one");
            prop_assert!(timeout.longest_since(at(sent)) >= seconds(largest));
            prop_assert!(timeout.shared.history.lock().told.len() <= CHANGES_MAX);
            prop_assert_eq!(timeout.current(), seconds(all.last().expect("one").1));
        }
    }
}
