//! Owned partitions that cannot start yet, with the reason and the time of the next lookup.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;

use crate::runtime::backoff::Backoff;

const AGAIN_MIN: Duration = Duration::from_secs(2);
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// Maximum number of partition ranges that a status text names.
const NAMED_MAX: usize = 8;

/// Owned partitions that cannot start yet.
#[derive(Debug)]
pub(super) struct WaitingStarts {
    reasons: BTreeMap<i32, Arc<str>>,
    /// Partitions for the next lookup, done in one request.
    again: BTreeSet<i32>,
    at: Moment,
    /// Set if the last lookup failed through a fault of this node.
    is_ours: bool,
    backoff: Backoff,
}

impl Default for WaitingStarts {
    fn default() -> Self {
        Self {
            reasons: BTreeMap::new(),
            again: BTreeSet::new(),
            at: Moment::default(),
            is_ours: false,
            backoff: Backoff::new(AGAIN_MIN, AGAIN_MAX),
        }
    }
}

impl WaitingStarts {
    /// Adds partitions with their reasons. The delay of the next lookup grows until no partition waits.
    pub(super) fn wait(&mut self, reasons: BTreeMap<i32, Arc<str>>, now: Moment, random: u64) {
        if reasons.is_empty() {
            return;
        }
        let after = self.backoff.next(random);
        self.again(reasons.keys().copied(), now + after);
        self.reasons.extend(reasons);
    }

    /// Records whether the last lookup failed through a fault of this node.
    pub(super) fn blame(&mut self, is_ours: bool) {
        self.is_ours = is_ours;
    }

    /// True if partitions wait through a fault of this node.
    pub(super) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Schedules a lookup of the partitions at `at`, or earlier if one is already due earlier.
    pub(super) fn again(&mut self, partitions: impl IntoIterator<Item = i32>, at: Moment) {
        let none = self.again.is_empty();
        self.again.extend(partitions);
        self.at = if none { at } else { self.at.min(at) };
    }

    /// Takes the partitions that are due for a lookup.
    pub(super) fn due(&mut self, now: Moment) -> BTreeSet<i32> {
        if now < self.at { BTreeSet::new() } else { std::mem::take(&mut self.again) }
    }

    /// Removes the partitions for which `wait` returns false.
    pub(super) fn retain(&mut self, wait: impl Fn(i32) -> bool) {
        self.reasons.retain(|partition, _| wait(*partition));
        self.again.retain(|partition| wait(*partition));
        if self.reasons.is_empty() {
            self.backoff.reset();
        }
    }

    /// Returns a text that names the waiting partitions and the reason of the first.
    pub(super) fn text(&self) -> Option<String> {
        let (first, why) = self.reasons.first_key_value()?;
        let stretches = stretches(self.reasons.keys().copied());
        let mut named: Vec<String> = stretches.iter().copied().take(NAMED_MAX).map(text_of).collect();
        if stretches.len() > NAMED_MAX {
            let rest: usize = stretches.iter().skip(NAMED_MAX).map(|(a, b)| (b - a + 1) as usize).sum();
            named.push(format!("and {rest} more"));
        }
        let (named, many) = (named.join(", "), self.reasons.len() > 1);
        let first = if many { format!("partition {first}: ") } else { String::new() };
        let subject = if many { "partitions" } else { "partition" };
        let cannot = if many { "cannot start and are" } else { "cannot start and is" };
        Some(format!("{subject} {named} {cannot} retried. {first}{why}"))
    }
}

/// Merges neighbouring partitions into ranges of first and last.
fn stretches(partitions: impl Iterator<Item = i32>) -> Vec<(i32, i32)> {
    let mut found: Vec<(i32, i32)> = Vec::new();
    for partition in partitions {
        match found.last_mut().filter(|(_, last)| *last + 1 == partition) {
            Some((_, last)) => *last = partition,
            None => found.push((partition, partition)),
        }
    }
    found
}

fn text_of((first, last): (i32, i32)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn because(partitions: impl IntoIterator<Item = i32>, why: &str) -> BTreeMap<i32, Arc<str>> {
        partitions.into_iter().map(|partition| (partition, why.into())).collect()
    }

    /// Random number that yields the longest backoff.
    const LONGEST: u64 = 1_000_000;

    #[test]
    fn waiting_partitions_share_lookups_with_backoff() {
        let mut waiting = WaitingStarts::default();
        waiting.wait(because(0..1000, "no leader"), at(0), LONGEST);
        waiting.again([1000], at(9));
        assert_eq!(waiting.due(at(1)), BTreeSet::new());
        assert_eq!(waiting.due(at(2)), (0..=1000).collect());
        assert_eq!(waiting.due(at(3)), BTreeSet::new(), "once");
        waiting.wait(because([7], "no leader"), at(3), 2 * LONGEST);
        assert_eq!(waiting.due(at(6)), BTreeSet::new());
        assert_eq!(waiting.due(at(7)), BTreeSet::from([7]));
        for _ in 0..5 {
            waiting.wait(because([7], "no leader"), at(7), 5 * LONGEST);
        }
        assert_eq!(waiting.due(at(17)), BTreeSet::from([7]), "up to a bound");
        waiting.retain(|_| false);
        waiting.wait(because([7], "no leader"), at(20), LONGEST);
        assert_eq!(waiting.due(at(22)), BTreeSet::from([7]), "anew");
    }

    #[test]
    fn partitions_are_named_while_they_wait() {
        let mut waiting = WaitingStarts::default();
        assert_eq!(waiting.text(), None);
        waiting.wait(because([3], "no leader"), at(0), 0);
        assert_eq!(waiting.text().as_deref(), Some("partition 3 cannot start and is retried. no leader"));
        waiting.wait(because([7, 8, 9, 11], "no broker"), at(0), 0);
        assert_eq!(
            waiting.text().as_deref(),
            Some("partitions 3, 7-9, 11 cannot start and are retried. partition 3: no leader")
        );
        waiting.retain(|partition| partition == 8);
        assert_eq!(waiting.text().as_deref(), Some("partition 8 cannot start and is retried. no broker"));
        waiting.wait(because((0..5_000).map(|number| 2 * number), "no leader"), at(0), 0);
        let text = waiting.text().expect("partitions wait");
        assert!(text.starts_with("partitions 0, 2, 4, 6, 8, 10, 12, 14, and 4992 more cannot"), "{text}");
    }
}
