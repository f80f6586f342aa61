//! Schedule of control plane queries. Functions with a doubted timeout come first, then those never answered for,
//! then all others once a minute. One query in five goes to the function that has been due longest, so that urgent
//! ones cannot starve the rest. Lambda's control plane allows an account 15 calls a second over all callers; a node
//! makes at most 5. <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;

use crate::invoker::port::FunctionFacts;
use crate::invoker::retry::{RetryPolicy, jittered};

/// Shortest interval between two queries of a node.
pub const TURN: Duration = Duration::from_millis(200);
/// Pause of all queries after a throttled one: other callers of the account contribute to the limit.
const THROTTLED_REST: Duration = Duration::from_secs(1);
/// Interval between two queries for a function with a known timeout.
pub const ROUTINE: Duration = Duration::from_secs(60);
/// Interval for a function whose configuration Lambda does not disclose.
const UNTOLD: Duration = Duration::from_secs(300);
/// Interval for a function that does not exist.
const MISSING: Duration = Duration::from_secs(5);
/// Shortest interval for a function with a doubted timeout, however often it is doubted.
const DOUBTED: Duration = Duration::from_secs(1);
/// Backoff after a query without an answer.
const AGAIN: RetryPolicy = RetryPolicy { base: Duration::from_secs(2), cap: ROUTINE };

/// One query in this many goes to the function that has been due longest.
const LONGEST_DUE_EACH: u64 = 5;

/// Urgency of a query, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum QuestionUrgency {
    Doubted,
    NeverTold,
    Routine,
}

#[derive(Debug)]
struct QuestionEntry {
    watchers: usize,
    due: Moment,
    asked: Option<Moment>,
    asking: bool,
    told: bool,
    /// Time of the last doubt. An answer to a query made at or after it clears it.
    doubted: Option<Moment>,
    unanswered: u32,
}

impl QuestionEntry {
    fn urgency(&self) -> QuestionUrgency {
        match (self.doubted, self.told) {
            (Some(_), _) => QuestionUrgency::Doubted,
            (None, false) => QuestionUrgency::NeverTold,
            (None, true) => QuestionUrgency::Routine,
        }
    }

    /// Brings the next query forward if the timeout is doubted. After unanswered queries the backoff stays in
    /// force.
    fn hasten(&mut self, now: Moment) {
        if self.doubted.is_some() && self.unanswered == 0 {
            self.due = self.due.min(self.asked.map_or(now, |asked| now.max(asked + DOUBTED)));
        }
    }
}

/// Next step of the schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextQuestion {
    /// Query this function immediately.
    Ask {
        /// Function to query.
        function: Arc<str>,
        /// Time of the query, which identifies its answer.
        asked: Moment,
    },
    /// Nothing is due before this time.
    At(Moment),
    /// Nothing is due until the book changes.
    Never,
}

/// Functions of a node's mappings and their query schedule.
#[derive(Debug, Default)]
pub struct QuestionBook {
    entries: BTreeMap<Arc<str>, QuestionEntry>,
    next_turn: Moment,
    /// Number of queries so far.
    turns: u64,
}

impl QuestionBook {
    /// Adds a watcher of `function`.
    pub fn watch(&mut self, function: &Arc<str>, now: Moment) {
        let fresh = QuestionEntry {
            watchers: 0,
            due: now,
            asked: None,
            asking: false,
            told: false,
            doubted: None,
            unanswered: 0,
        };
        self.entries.entry(Arc::clone(function)).or_insert(fresh).watchers += 1;
    }

    /// Removes a watcher. Returns true if it was the last one.
    pub fn unwatch(&mut self, function: &str) -> bool {
        let Some(entry) = self.entries.get_mut(function) else { return false };
        entry.watchers = entry.watchers.saturating_sub(1);
        let is_last = entry.watchers == 0;
        if is_last {
            self.entries.remove(function);
        }
        is_last
    }

    /// True if no function is watched.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Records that the known timeout may be wrong, because an outcome is unknown or a reply is overdue.
    pub fn doubt(&mut self, function: &str, now: Moment) {
        if let Some(entry) = self.entries.get_mut(function) {
            entry.doubted = Some(now);
            entry.hasten(now);
        }
    }

    /// Returns the next step.
    pub fn next(&mut self, now: Moment) -> NextQuestion {
        let waiting = self.entries.iter().filter(|(_, entry)| !entry.asking);
        let due = waiting.clone().filter(|(_, entry)| entry.due <= now);
        let is_for_longest_due = self.turns % LONGEST_DUE_EACH == LONGEST_DUE_EACH - 1;
        let rank = |entry: &QuestionEntry| (!is_for_longest_due).then(|| entry.urgency());
        let first = due.min_by_key(|(_, entry)| (rank(entry), entry.due));
        let Some((first, _)) = first else {
            let soonest = waiting.map(|(_, entry)| entry.due).min();
            return soonest.map_or(NextQuestion::Never, |due| NextQuestion::At(due.max(self.next_turn)));
        };
        if now < self.next_turn {
            return NextQuestion::At(self.next_turn);
        }
        let first = Arc::clone(first);
        self.next_turn = now + TURN;
        self.turns += 1;
        if let Some(entry) = self.entries.get_mut(&first) {
            (entry.asking, entry.asked) = (true, Some(now));
        }
        NextQuestion::Ask { function: first, asked: now }
    }

    /// Records the answer to the query made at `asked`. Returns false if that query is no longer current. `random`
    /// jitters the next one.
    pub fn answered(
        &mut self,
        function: &str,
        asked: Moment,
        facts: FunctionFacts,
        now: Moment,
        random: u64,
    ) -> bool {
        if matches!(facts, FunctionFacts::Unanswered { throttled: true }) {
            self.next_turn = self.next_turn.max(now + THROTTLED_REST);
        }
        let asking = |entry: &&mut QuestionEntry| entry.asking && entry.asked == Some(asked);
        let Some(entry) = self.entries.get_mut(function).filter(asking) else { return false };
        entry.asking = false;
        if matches!(facts, FunctionFacts::Unanswered { .. }) {
            entry.unanswered = entry.unanswered.saturating_add(1);
            entry.due = now + DOUBTED + jittered(AGAIN, entry.unanswered, random);
            return true;
        }
        entry.unanswered = 0;
        entry.told |= !matches!(facts, FunctionFacts::Missing);
        entry.doubted = entry.doubted.filter(|since| asked < *since);
        entry.due = now + wait_after(facts, random);
        entry.hasten(now);
        true
    }
}

/// Jitters the usual interval between three quarters and the whole of it, so that mappings that started together
/// spread out.
fn wait_after(facts: FunctionFacts, random: u64) -> Duration {
    let usual = match facts {
        FunctionFacts::Known { .. } | FunctionFacts::Unanswered { .. } => ROUTINE,
        FunctionFacts::Unknown => UNTOLD,
        FunctionFacts::Missing => MISSING,
    };
    usual.saturating_sub((usual / 4).mul_f64((random % 1024) as f64 / 1024.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: FunctionFacts = FunctionFacts::Known { timeout: Duration::from_secs(60) };
    const SILENCE: FunctionFacts = FunctionFacts::Unanswered { throttled: false };

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    fn book_of(functions: &[&str]) -> QuestionBook {
        let mut book = QuestionBook::default();
        for function in functions {
            book.watch(&Arc::from(*function), at(0));
        }
        book
    }

    fn ask(book: &mut QuestionBook, now: Moment) -> String {
        match book.next(now) {
            NextQuestion::Ask { function, asked } if asked == now => function.to_string(),
            other => panic!("{other:?} at {now:?}"),
        }
    }

    #[test]
    fn mappings_of_one_function_share_queries() {
        let mut book = book_of(&["f", "f"]);
        assert_eq!(ask(&mut book, at(0)), "f");
        assert_eq!(book.next(at(5000)), NextQuestion::Never, "a query is in flight");
        assert!(!book.answered("f", at(1), MINUTE, at(5000), 0), "to a question of before");
        assert!(book.answered("f", at(0), MINUTE, at(5000), 0));
        assert_eq!(book.next(at(6000)), NextQuestion::At(at(65_000)));
        assert_eq!(ask(&mut book, at(65_000)), "f");
        assert!(!book.unwatch("f") && book.unwatch("f") && book.is_empty());
        assert!(!book.answered("f", at(65_000), MINUTE, at(66_000), 0), "an unwatched function is dropped");
    }

    #[test]
    fn doubt_has_priority_until_query_answered() {
        let mut book = book_of(&["a", "b"]);
        for turn in 0..2 {
            let function = ask(&mut book, at(turn * 200));
            book.answered(&function, at(turn * 200), MINUTE, at(turn * 200), 0);
        }
        book.watch(&Arc::from("c"), at(9000));
        book.doubt("b", at(9000));
        assert_eq!(ask(&mut book, at(9000)), "b");
        book.doubt("b", at(9100));
        assert_eq!(ask(&mut book, at(9200)), "c");
        book.answered("b", at(9000), MINUTE, at(9300), 0);
        assert_eq!(book.next(at(9400)), NextQuestion::At(at(10_000)), "the doubt is newer than the query");
        assert_eq!(ask(&mut book, at(10_000)), "b");
        book.answered("b", at(10_000), MINUTE, at(10_100), 0);
        book.answered("c", at(9200), MINUTE, at(10_100), 0);
        assert!(matches!(book.next(at(10_200)), NextQuestion::At(next) if next > at(50_000)));
    }

    #[test]
    fn unanswered_queries_back_off_unknown_requeried() {
        let mut book = book_of(&["f"]);
        let (mut now, mut waits) = (at(0), Vec::new());
        for _ in 0..10 {
            ask(&mut book, now);
            book.answered("f", now, SILENCE, now, u64::MAX / 3);
            book.doubt("f", now);
            let NextQuestion::At(next) = book.next(now) else { panic!("queried at once") };
            waits.push(next.since(now));
            now = next;
        }
        assert!(waits.iter().all(|wait| *wait >= DOUBTED && *wait <= DOUBTED + AGAIN.cap), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(10)), "{waits:?}");
        ask(&mut book, now);
        book.answered("f", now, FunctionFacts::Unknown, now, 0);
        assert_eq!(book.next(now), NextQuestion::At(now + UNTOLD));
    }

    #[test]
    fn lim_1_queries_are_paced_slower_when_throttled() {
        let names: Vec<String> = (0..1000).map(|index| format!("f{index}")).collect();
        let mut book = book_of(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut asked, mut now, mut throttled) = (0, at(0), 0);
        while now < at(600_000) {
            match book.next(now) {
                NextQuestion::Ask { function, .. } => {
                    asked += 1;
                    let refused = asked % 50 == 0;
                    throttled += u64::from(refused);
                    let facts = if refused { FunctionFacts::Unanswered { throttled: true } } else { MINUTE };
                    book.answered(&function, now, facts, now, asked);
                }
                NextQuestion::At(next) => now = next,
                NextQuestion::Never => panic!("no query is due at {now:?}"),
            }
        }
        assert!(asked <= 600 * 5, "{asked} questions");
        assert!(asked + throttled * 5 >= 600 * 5 - 10, "{asked} questions, {throttled} throttled");
        assert!(book.entries.values().all(|entry| entry.told), "every function was queried");
    }

    #[test]
    fn liv_1_repeated_doubts_starve_no_other_function() {
        let names: Vec<String> = (0..20).map(|index| format!("f{index:02}")).collect();
        let mut book = book_of(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut now, mut asked) = (at(0), BTreeMap::<String, u32>::new());
        while now < at(180_000) {
            // Ten with constantly unknown outcomes, five that do not exist.
            (0..10).for_each(|index| book.doubt(&names[index], now));
            match book.next(now) {
                NextQuestion::Ask { function, .. } => {
                    *asked.entry(function.to_string()).or_default() += 1;
                    let is_missing = ("f10".."f15").contains(&&*function);
                    let facts = if is_missing { FunctionFacts::Missing } else { MINUTE };
                    book.answered(&function, now, facts, now, 0);
                }
                NextQuestion::At(next) => now = next,
                NextQuestion::Never => panic!("no query is due at {now:?}"),
            }
        }
        for name in &names {
            assert!(asked.get(name).is_some_and(|asked| *asked >= 2), "{name}: {asked:?}");
        }
        let doubted: u32 = names[..10].iter().filter_map(|name| asked.get(name)).sum();
        assert!(
            doubted >= 180 * 4 - 10,
            "most queries are for functions with waiting invocations: {asked:?}"
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum QuestionStep {
        Wait(u64),
        Watch(u8),
        Unwatch(u8),
        Doubt(u8),
        Answer(u8, u8),
    }

    fn step() -> impl Strategy<Value = QuestionStep> {
        prop_oneof![
            (1u64..5000).prop_map(QuestionStep::Wait),
            (0u8..4).prop_map(QuestionStep::Watch),
            (0u8..4).prop_map(QuestionStep::Unwatch),
            (0u8..4).prop_map(QuestionStep::Doubt),
            (0u8..4, 0u8..4).prop_map(|(function, facts)| QuestionStep::Answer(function, facts)),
        ]
    }

    proptest! {
        /// For any sequence of steps the pace holds and no function has two queries in flight. Once all are
        /// answered, a doubt is cleared within its interval.
        #[test]
        fn liv_1_every_doubt_is_resolved(steps in proptest::collection::vec(step(), 1..200)) {
            let mut book = QuestionBook::default();
            let (mut now, mut last, mut asking) = (0, None::<u64>, BTreeMap::<String, Moment>::new());
            let all = [MINUTE, FunctionFacts::Unknown, FunctionFacts::Missing, SILENCE];
            for step in steps {
                match step {
                    QuestionStep::Wait(millis) => now += millis,
                    QuestionStep::Watch(function) => book.watch(&Arc::from(function.to_string()), at(now)),
                    QuestionStep::Unwatch(function) => {
                        if book.unwatch(&function.to_string()) {
                            asking.remove(&function.to_string());
                        }
                    }
                    QuestionStep::Doubt(function) => book.doubt(&function.to_string(), at(now)),
                    QuestionStep::Answer(function, facts) => {
                        if let Some(asked) = asking.remove(&function.to_string()) {
                            book.answered(&function.to_string(), asked, all[usize::from(facts)], at(now), 7);
                        }
                    }
                }
                if let NextQuestion::Ask { function, asked } = book.next(at(now)) {
                    prop_assert!(last.is_none_or(|last| now - last >= TURN.as_millis() as u64));
                    prop_assert!(asking.insert(function.to_string(), asked).is_none(), "{} twice", function);
                    last = Some(now);
                }
            }
            for _ in 0..200 {
                for (function, asked) in std::mem::take(&mut asking) {
                    book.answered(&function, asked, MINUTE, at(now), 7);
                }
                match book.next(at(now)) {
                    NextQuestion::Ask { function, asked } => drop(asking.insert(function.to_string(), asked)),
                    NextQuestion::At(next) if book.entries.values().any(|entry| entry.doubted.is_some()) => {
                        now = next.as_micros().div_ceil(1000);
                    }
                    _ => break,
                }
            }
            prop_assert!(book.entries.values().all(|entry| entry.doubted.is_none()));
        }
    }
}
