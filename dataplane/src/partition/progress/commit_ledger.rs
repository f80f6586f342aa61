//! Ledger of the outcome of every offset, in O(ranges). The frontier, the end of the contiguous resolved offsets, is
//! the only source of commits (COM-1).

use std::collections::BTreeMap;

use lighterman_proto::ids::{Offset, OffsetRange};

use crate::messages::outcome::{Outcome, ResolvedRange};

/// Ledger of one partition under one ownership epoch.
#[derive(Clone, Debug)]
pub struct Ledger {
    frontier: Offset,
    /// Resolved ranges beyond the frontier, disjoint, keyed by their first offset.
    ahead: BTreeMap<Offset, (Offset, Outcome)>,
    passed: Vec<ResolvedRange>,
    counts: [u64; Outcome::ALL.len()],
}

/// Error for an outcome of offsets that already have one or that precede this epoch: a bug that must not reach a
/// commit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{range} has an outcome already (frontier {frontier})")]
pub struct AlreadyResolved {
    /// The rejected range.
    pub range: OffsetRange,
    /// Frontier at the time.
    pub frontier: Offset,
}

impl Ledger {
    /// Creates a ledger that starts at the committed offset.
    pub fn new(committed: Offset) -> Self {
        Self {
            frontier: committed,
            ahead: BTreeMap::new(),
            passed: Vec::new(),
            counts: [0; Outcome::ALL.len()],
        }
    }

    /// Returns the offset that may be committed: every offset before it has an outcome.
    pub fn frontier(&self) -> Offset {
        self.frontier
    }

    /// Returns the number of offsets resolved as `outcome` since the ledger was created.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// Returns the ranges resolved ahead of the frontier, in order.
    pub fn ahead(&self) -> impl Iterator<Item = ResolvedRange> {
        let passed = |(first, (end, outcome)): (&Offset, &(Offset, Outcome))| ResolvedRange {
            range: OffsetRange { first: *first, end: *end },
            outcome: *outcome,
        };
        self.ahead.iter().map(passed)
    }

    /// Returns the ranges that the frontier has passed since the last call, in order, with adjacent ranges of one
    /// outcome joined.
    pub fn drain_resolved(&mut self) -> Vec<ResolvedRange> {
        std::mem::take(&mut self.passed)
    }

    /// Records the outcome of `range`; returns true if the frontier moved.
    pub fn resolve(&mut self, range: OffsetRange, outcome: Outcome) -> Result<bool, AlreadyResolved> {
        if range.is_empty() {
            return Ok(false);
        }
        self.check_free(range)?;
        self.counts[outcome as usize] += range.first.distance_to(range.end);
        if self.is_after_gap(range) {
            self.insert_ahead(range, outcome);
            return Ok(false);
        }
        self.pass(range, outcome);
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() != self.frontier {
                break;
            }
            let (first, (end, outcome)) = entry.remove_entry();
            self.pass(OffsetRange { first, end }, outcome);
        }
        Ok(true)
    }

    /// Returns the parts of `range` that have no outcome, in order.
    pub fn open_in(&self, range: OffsetRange) -> Vec<OffsetRange> {
        let mut open = Vec::new();
        let mut from = range.first.max(self.frontier);
        if from >= range.end {
            return open;
        }
        let before = self.ahead.range(..=from).next_back().map_or(from, |(first, _)| *first);
        for (first, (end, _)) in self.ahead.range(before..range.end) {
            if *end <= from {
                continue;
            }
            if *first > from {
                open.push(OffsetRange { first: from, end: *first });
            }
            from = *end;
        }
        if from < range.end {
            open.push(OffsetRange { first: from, end: range.end });
        }
        open
    }

    /// True if offsets without an outcome lie between the frontier and `range`. The frontier then stays (COM-1).
    fn is_after_gap(&self, range: OffsetRange) -> bool {
        mutant!("frontier-skips-a-gap", range.first > self.frontier, false)
    }

    fn pass(&mut self, range: OffsetRange, outcome: Outcome) {
        self.frontier = range.end;
        match self.passed.last_mut() {
            Some(last) if last.outcome == outcome && last.range.end == range.first => {
                last.range.end = range.end;
            }
            _ => self.passed.push(ResolvedRange { range, outcome }),
        }
    }

    fn check_free(&self, range: OffsetRange) -> Result<(), AlreadyResolved> {
        let overlaps_before = range.first < self.frontier;
        let overlaps_ahead =
            self.ahead.range(..range.end).next_back().is_some_and(|(_, (end, _))| *end > range.first);
        if overlaps_before || overlaps_ahead {
            return Err(AlreadyResolved { range, frontier: self.frontier });
        }
        Ok(())
    }

    fn insert_ahead(&mut self, range: OffsetRange, outcome: Outcome) {
        let joined = self
            .ahead
            .range_mut(..range.first)
            .next_back()
            .filter(|(_, (end, known))| *end == range.first && *known == outcome);
        if let Some((_, (end, _))) = joined {
            *end = range.end;
        } else {
            self.ahead.insert(range.first, (range.end, outcome));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn range(first: i64, end: i64) -> OffsetRange {
        OffsetRange { first: Offset(first), end: Offset(end) }
    }

    #[test]
    fn com_1_frontier_never_passes_a_gap() {
        let mut ledger = Ledger::new(Offset(10));
        assert_eq!(ledger.resolve(range(12, 14), Outcome::Delivered), Ok(false));
        assert_eq!(ledger.frontier(), Offset(10));
        assert_eq!(ledger.resolve(range(10, 12), Outcome::NoRecord), Ok(true));
        assert_eq!(ledger.frontier(), Offset(14));
        assert!(ledger.resolve(range(13, 15), Outcome::Delivered).is_err(), "resolved twice");
        assert_eq!((ledger.count(Outcome::Delivered), ledger.count(Outcome::NoRecord)), (2, 2));
    }

    proptest! {
        /// Compares with a map of every offset.
        #[test]
        fn com_1_alo_1_agrees_with_a_naive_map(steps in prop::collection::vec((0i64..60, 1i64..8, 0usize..11), 1..60)) {
            const ALL: [Outcome; 11] = Outcome::ALL;
            let mut ledger = Ledger::new(Offset(0));
            let mut naive: HashMap<i64, Outcome> = HashMap::new();
            let mut told = 0;
            for (first, length, outcome) in steps {
                let offsets = first..first + length;
                let taken = offsets.clone().any(|offset| naive.contains_key(&offset));
                let before = ledger.frontier();
                let resolved = ledger.resolve(range(first, first + length), ALL[outcome]);
                prop_assert_eq!(resolved.is_err(), taken);
                if !taken {
                    naive.extend(offsets.map(|offset| (offset, ALL[outcome])));
                }
                let frontier = (0..100_000).find(|offset| !naive.contains_key(offset)).expect("finite");
                prop_assert_eq!(ledger.frontier(), Offset(frontier));
                prop_assert!(ledger.frontier() >= before);
                for known in ALL {
                    let count = naive.values().filter(|outcome| **outcome == known).count();
                    prop_assert_eq!(ledger.count(known), count as u64);
                }
                for passed in ledger.drain_resolved() {
                    for offset in passed.range.first.0..passed.range.end.0 {
                        prop_assert_eq!(naive.get(&offset), Some(&passed.outcome));
                        prop_assert_eq!(offset, told);
                        told += 1;
                    }
                }
                prop_assert_eq!(Offset(told), ledger.frontier(), "every passed offset is reported once, in order");
                let open: Vec<i64> = ledger.open_in(range(5, 50)).iter().flat_map(|open| open.first.0..open.end.0).collect();
                let naively: Vec<i64> = (5..50).filter(|offset| !naive.contains_key(offset)).collect();
                prop_assert_eq!(open, naively);
            }
        }
    }
}
