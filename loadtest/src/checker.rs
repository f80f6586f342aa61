//! Judges a history by the invariants of the design: what the function saw, against what was produced.

use std::collections::{BTreeMap, BTreeSet};

use crate::function::{Act, Event};

/// What is wrong with a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// ALO-1: produced, never delivered.
    Missing {
        /// Where.
        partition: i32,
        /// Which.
        offset: i64,
    },
    /// Delivered, never produced (or aborted).
    Unexpected {
        /// Where.
        partition: i32,
        /// Which.
        offset: i64,
    },
    /// ORD-1: begun before an earlier record was delivered.
    OutOfOrder {
        /// Where.
        partition: i32,
        /// Which.
        offset: i64,
        /// The earlier one.
        before: i64,
    },
    /// OWN-1: two invocations over a partition at once.
    Overlap {
        /// Where.
        partition: i32,
        /// The two.
        invocations: (u64, u64),
    },
}

/// A judged history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// Deliveries beyond the first, by partition.
    pub repeated: BTreeMap<i32, u64>,
    /// Records delivered at least once.
    pub delivered: u64,
}

impl Verdict {
    /// Panics with the first violations, for tests.
    pub fn assert_clean(&self) {
        let some: Vec<_> = self.violations.iter().take(5).collect();
        assert!(self.violations.is_empty(), "{} violations, among them {some:?}", self.violations.len());
    }
}

/// Judges `events`; `produced` holds the visible offsets of each partition.
pub fn check(produced: &BTreeMap<i32, BTreeSet<i64>>, events: &[Event]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut open: BTreeMap<u64, &BTreeMap<i32, Vec<i64>>> = BTreeMap::new();
    let mut running: BTreeMap<i32, u64> = BTreeMap::new();
    let mut left = produced.clone();
    let mut delivered: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
    for event in events {
        match event {
            Event::Start { id, offsets } => {
                for (partition, list) in offsets {
                    if let Some(other) = running.insert(*partition, *id) {
                        verdict
                            .violations
                            .push(Violation::Overlap { partition: *partition, invocations: (other, *id) });
                    }
                    check_order(*partition, list, left.get(partition), &mut verdict);
                }
                open.insert(*id, offsets);
            }
            Event::End { id, act, failed } => {
                for (partition, list) in open.remove(id).into_iter().flatten() {
                    if running.get(partition) == Some(id) {
                        running.remove(partition);
                    }
                    let taken: Vec<i64> = list
                        .iter()
                        .copied()
                        .filter(|offset| !failed.contains(&(*partition, *offset)))
                        .collect();
                    if act.succeeds() || *act == Act::Report {
                        take(*partition, &taken, produced, &mut left, &mut delivered, &mut verdict);
                    }
                }
            }
        }
    }
    for (partition, offsets) in left {
        let missing = offsets.into_iter().map(|offset| Violation::Missing { partition, offset });
        verdict.violations.extend(missing);
    }
    verdict.delivered = delivered.values().map(|offsets| offsets.len() as u64).sum();
    verdict
}

/// No record of `list` may begin while an earlier one that is not in the list is undelivered.
fn check_order(partition: i32, list: &[i64], left: Option<&BTreeSet<i64>>, verdict: &mut Verdict) {
    let inside: BTreeSet<i64> = list.iter().copied().collect();
    if let Some(pair) = list.windows(2).find(|pair| pair[0] >= pair[1]) {
        verdict.violations.push(Violation::OutOfOrder { partition, offset: pair[1], before: pair[0] });
    }
    let earlier = left.and_then(|left| left.iter().find(|offset| !inside.contains(offset)));
    let late = earlier.and_then(|earlier| Some((*earlier, *list.iter().find(|offset| *offset > earlier)?)));
    if let Some((before, offset)) = late {
        verdict.violations.push(Violation::OutOfOrder { partition, offset, before });
    }
}

fn take(
    partition: i32,
    list: &[i64],
    produced: &BTreeMap<i32, BTreeSet<i64>>,
    left: &mut BTreeMap<i32, BTreeSet<i64>>,
    delivered: &mut BTreeMap<i32, BTreeSet<i64>>,
    verdict: &mut Verdict,
) {
    for offset in list {
        if !produced.get(&partition).is_some_and(|offsets| offsets.contains(offset)) {
            verdict.violations.push(Violation::Unexpected { partition, offset: *offset });
        }
        left.entry(partition).or_default().remove(offset);
        if !delivered.entry(partition).or_default().insert(*offset) {
            *verdict.repeated.entry(partition).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn produced() -> BTreeMap<i32, BTreeSet<i64>> {
        BTreeMap::from([(0, BTreeSet::from([0, 1, 2]))])
    }

    fn start(id: u64, offsets: &[i64]) -> Event {
        Event::Start { id, offsets: BTreeMap::from([(0, offsets.to_vec())]) }
    }

    fn end(id: u64, act: Act) -> Event {
        Event::End { id, act, failed: BTreeSet::new() }
    }

    const OK: Act = Act::Succeed(Duration::ZERO);

    #[test]
    fn a_good_history_is_clean_and_repeats_are_counted() {
        let events = [
            start(0, &[0, 1]),
            end(0, Act::FunctionError),
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
    fn alo_1_a_lost_record_is_found() {
        let verdict =
            check(&produced(), &[start(0, &[0, 1]), end(0, OK), start(1, &[2]), end(1, Act::FunctionError)]);
        assert_eq!(verdict.violations, [Violation::Missing { partition: 0, offset: 2 }]);
    }

    #[test]
    fn ord_1_overtaking_is_found() {
        let events = [start(0, &[1]), end(0, OK), start(1, &[0]), end(1, OK), start(2, &[2]), end(2, OK)];
        assert_eq!(
            check(&produced(), &events).violations,
            [Violation::OutOfOrder { partition: 0, offset: 1, before: 0 }]
        );
        let backwards = [start(0, &[1, 0]), end(0, OK), start(2, &[2]), end(2, OK)];
        assert_eq!(
            check(&produced(), &backwards).violations,
            [Violation::OutOfOrder { partition: 0, offset: 0, before: 1 }]
        );
    }

    #[test]
    fn own_1_two_at_once_are_found() {
        let events = [start(0, &[0]), start(1, &[0, 1, 2]), end(0, OK), end(1, OK)];
        assert_eq!(
            check(&produced(), &events).violations,
            [Violation::Overlap { partition: 0, invocations: (0, 1) }]
        );
    }

    #[test]
    fn a_record_nobody_produced_is_found() {
        let events = [start(0, &[0, 1, 2, 7]), end(0, OK)];
        assert_eq!(
            check(&produced(), &events).violations,
            [Violation::Unexpected { partition: 0, offset: 7 }]
        );
    }
}
