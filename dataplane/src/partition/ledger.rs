//! What became of every offset, in O(ranges). The frontier, the end of the contiguous run of outcomes, is the only source
//! of commits (COM-1).

use std::collections::BTreeMap;

use lighterman_proto::ids::{Offset, OffsetRange};

/// What became of an offset. Every offset ends as one of these (ALO-1); a new way to end is a new variant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The function answered for it.
    Delivered,
    /// No record stands there: control record, aborted transaction, compaction gap.
    Absent,
    /// Its payload alone exceeds the invocation limit.
    Oversized,
    /// Deleted by the topic's retention, or truncated by the broker, before we read it.
    Lost,
}

const OUTCOMES: usize = 4;

/// The ledger of one partition under one epoch.
#[derive(Clone, Debug)]
pub struct Ledger {
    frontier: Offset,
    /// Resolved ranges behind the frontier, disjoint, keyed by their first offset.
    ahead: BTreeMap<Offset, (Offset, Outcome)>,
    counts: [u64; OUTCOMES],
}

/// An outcome for offsets that have one already, or from before this epoch: a bug that must not reach a commit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{range} has an outcome already (frontier {frontier})")]
pub struct AlreadyResolved {
    /// The offending range.
    pub range: OffsetRange,
    /// Where the frontier stood.
    pub frontier: Offset,
}

impl Ledger {
    /// A ledger that starts at the committed offset.
    pub fn new(committed: Offset) -> Self {
        Self { frontier: committed, ahead: BTreeMap::new(), counts: [0; OUTCOMES] }
    }

    /// What may be committed: every offset before it has an outcome.
    pub fn frontier(&self) -> Offset {
        self.frontier
    }

    /// Offsets resolved as `outcome` since the ledger began.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }

    /// Ranges held ahead of the frontier.
    pub fn ranges_ahead(&self) -> usize {
        self.ahead.len()
    }

    /// Records the outcome of `range`; returns whether the frontier moved.
    pub fn resolve(&mut self, range: OffsetRange, outcome: Outcome) -> Result<bool, AlreadyResolved> {
        if range.is_empty() {
            return Ok(false);
        }
        self.check_free(range)?;
        self.counts[outcome as usize] += range.first.distance_to(range.end);
        if range.first > self.frontier {
            self.insert_ahead(range, outcome);
            return Ok(false);
        }
        self.frontier = range.end;
        while let Some(entry) = self.ahead.first_entry() {
            if *entry.key() != self.frontier {
                break;
            }
            self.frontier = entry.remove().0;
        }
        Ok(true)
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
    fn com_1_the_frontier_never_jumps_a_gap() {
        let mut ledger = Ledger::new(Offset(10));
        assert_eq!(ledger.resolve(range(12, 14), Outcome::Delivered), Ok(false));
        assert_eq!(ledger.frontier(), Offset(10));
        assert_eq!(ledger.resolve(range(10, 12), Outcome::Absent), Ok(true));
        assert_eq!(ledger.frontier(), Offset(14));
        assert!(ledger.resolve(range(13, 15), Outcome::Delivered).is_err(), "resolved twice");
        assert_eq!((ledger.count(Outcome::Delivered), ledger.count(Outcome::Absent)), (2, 2));
    }

    proptest! {
        /// Against a map of every single offset.
        #[test]
        fn com_1_alo_1_agrees_with_a_naive_map(steps in prop::collection::vec((0i64..60, 1i64..8, 0usize..4), 1..60)) {
            const ALL: [Outcome; 4] = [Outcome::Delivered, Outcome::Absent, Outcome::Oversized, Outcome::Lost];
            let mut ledger = Ledger::new(Offset(0));
            let mut naive: HashMap<i64, Outcome> = HashMap::new();
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
            }
        }
    }
}
