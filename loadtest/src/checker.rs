//! Check of the function's events against the produced records, by the checker that also judges simulated
//! schedules.

use std::collections::{BTreeMap, BTreeSet};

use lighterman::config;
use lighterman_proto::units::Moment;
use lighterman_sim::history::{self, HistoryChecker, HistoryRules, Invariant, InvocationShare, Violation};

use crate::function::{InvocationAction, InvocationEvent};

/// Result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryVerdict {
    /// Violations found.
    pub violations: Vec<Violation>,
    /// Deliveries beyond the first, by partition.
    pub repeated: BTreeMap<i32, u64>,
    /// Records delivered at least once.
    pub delivered: u64,
}

impl HistoryVerdict {
    /// Panics with the first violations; for tests.
    pub fn assert_clean(&self) {
        let some: Vec<_> = self.violations.iter().take(5).map(ToString::to_string).collect();
        assert!(self.violations.is_empty(), "{} violations, among them {some:?}", self.violations.len());
    }
}

/// Checks `events`; `produced` holds the visible offsets of each partition. Facts that only a node knows are not
/// checked: ownership, recorded progress and held records.
pub fn check(produced: &BTreeMap<i32, BTreeSet<i64>>, events: &[InvocationEvent]) -> HistoryVerdict {
    let mut checker = HistoryChecker::new(HistoryRules::default());
    let begin = Moment::default();
    for (partition, offsets) in produced {
        for offset in offsets {
            checker.take(begin, &history::HistoryEvent::Produced { partition: *partition, offset: *offset });
        }
    }
    // The order is known, the times are not.
    let (mut at, mut open, mut unexpected) = (begin, BTreeMap::new(), Vec::new());
    for (number, event) in (1..).zip(events) {
        at = Moment::from_micros(number);
        match event {
            InvocationEvent::Start { id, offsets } => drop(open.insert(*id, offsets)),
            InvocationEvent::End { id, failed, .. } if takes(event) => {
                let taken = open.remove(id).into_iter().flatten();
                let taken =
                    taken.flat_map(|(partition, list)| list.iter().map(move |offset| (*partition, *offset)));
                unexpected.extend(
                    taken
                        .filter(|place| !failed.contains(place) && !is_expected(produced, *place))
                        .map(|place| strange(at, place)),
                );
            }
            InvocationEvent::End { .. } => {}
        }
        checker.take(at, &told(produced, event));
    }
    let (repeated, delivered) = (checker.taken_again(), checker.taken());
    let violations = unexpected.into_iter().chain(checker.finish(at)).collect();
    HistoryVerdict { violations, repeated, delivered }
}

fn is_expected(produced: &BTreeMap<i32, BTreeSet<i64>>, (partition, offset): (i32, i64)) -> bool {
    produced.get(&partition).is_some_and(|offsets| offsets.contains(&offset))
}

fn strange(at: Moment, (partition, offset): (i32, i64)) -> Violation {
    let what = format!("partition {partition}: the function took {offset}, which must not be delivered");
    Violation { invariant: Invariant::Alo1, at, what }
}

fn takes(event: &InvocationEvent) -> bool {
    matches!(event, InvocationEvent::End { act, .. } if act.succeeds() || *act == InvocationAction::Report)
}

/// Converts an event for the checker. Records that must not be delivered may be attempted any number of times, and
/// are left out.
fn told(produced: &BTreeMap<i32, BTreeSet<i64>>, event: &InvocationEvent) -> history::HistoryEvent {
    match event {
        InvocationEvent::Start { id, offsets } => {
            let share = |(partition, offsets): (&i32, &Vec<i64>)| InvocationShare {
                partition: *partition,
                epoch: 0,
                offsets: offsets
                    .iter()
                    .copied()
                    .filter(|offset| is_expected(produced, (*partition, *offset)))
                    .collect(),
                leader_epochs: Vec::new(),
            };
            history::HistoryEvent::Started {
                invocation: *id,
                owner: None,
                shares: offsets.iter().map(share).collect(),
            }
        }
        InvocationEvent::End { id, failed, .. } => history::HistoryEvent::Ended {
            invocation: *id,
            taken: takes(event),
            failed: failed.iter().copied().collect(),
        },
    }
}

/// Returns the batches of each partition that a killed node may repeat: those of the default window of unacknowledged
/// commits, and the one in flight.
pub fn repeated_batches_max() -> u64 {
    let key = config::KEYS.iter().find(|key| key.path == "commit.unacknowledged_batches");
    key.and_then(|key| key.default.parse::<u64>().ok()).map_or(1, |batches| batches + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn produced() -> BTreeMap<i32, BTreeSet<i64>> {
        BTreeMap::from([(0, BTreeSet::from([0, 1, 2]))])
    }

    fn start(id: u64, offsets: &[i64]) -> InvocationEvent {
        InvocationEvent::Start { id, offsets: BTreeMap::from([(0, offsets.to_vec())]) }
    }

    fn end(id: u64, act: InvocationAction) -> InvocationEvent {
        InvocationEvent::End { id, act, failed: BTreeSet::new() }
    }

    fn broken(events: &[InvocationEvent]) -> Vec<Invariant> {
        check(&produced(), events).violations.iter().map(|violation| violation.invariant).collect()
    }

    const OK: InvocationAction = InvocationAction::Succeed(Duration::ZERO);

    #[test]
    fn correct_history_is_clean_and_counts_repeats() {
        let events = [
            start(0, &[0, 1]),
            end(0, InvocationAction::FunctionError),
            start(1, &[0, 1]),
            end(1, OK),
            start(2, &[1, 2]),
            end(2, OK),
        ];
        let verdict = check(&produced(), &events);
        verdict.assert_clean();
        assert_eq!((verdict.delivered, verdict.repeated), (3, BTreeMap::from([(0, 1)])));
    }

    #[test]
    fn violations_are_found_from_function_events() {
        let lost = [start(0, &[0, 1]), end(0, OK), start(1, &[2]), end(1, InvocationAction::FunctionError)];
        assert_eq!(broken(&lost), [Invariant::Alo1]);
        let overtaking = [start(0, &[1]), end(0, OK), start(1, &[0]), end(1, OK), start(2, &[2]), end(2, OK)];
        assert_eq!(broken(&overtaking), [Invariant::Ord1]);
        let backwards = [start(0, &[1, 0]), end(0, OK), start(2, &[2]), end(2, OK)];
        assert_eq!(broken(&backwards), [Invariant::Ord1]);
        let two = [start(0, &[0]), start(1, &[0, 1, 2]), end(0, OK), end(1, OK)];
        assert_eq!(broken(&two), [Invariant::Own1]);
        assert_eq!(broken(&[start(0, &[0, 1, 2, 7]), end(0, OK)]), [Invariant::Alo1]);
        let given_up =
            [start(0, &[0, 7]), end(0, InvocationAction::FunctionError), start(1, &[0, 1, 2]), end(1, OK)];
        assert_eq!(broken(&given_up), [], "invoked, not delivered");
    }
}
