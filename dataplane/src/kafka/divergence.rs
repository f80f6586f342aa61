//! Classification of logs that end before a reader's position. Such a log was truncated, or its topic was deleted
//! and recreated. A recreation shows by the topic id; brokers before 2.8 have no topic ids, and there the leader
//! epoch decides.

use std::cmp::Ordering;

/// Reason why a log ends before a reader's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogDivergence {
    /// The log was truncated by an election: a new leader has a later epoch than all before it (KIP-101).
    CutOff,
    /// The topic was recreated. No leader is later than the one whose records were read, and a leader does not take
    /// back records that it has shown. It is therefore another log, with its own beginning.
    Recreated,
    /// The position was set externally, so nothing is known of the records before it.
    Unfounded,
}

/// Classifies a log that ends before the position of a reader. `known` is the leader epoch of the last record read,
/// `leader_epoch` that of the current leader (−1 when unknown).
#[must_use]
pub fn parting(known: Option<i32>, leader_epoch: i32) -> LogDivergence {
    match known.map(|known| leader_epoch.cmp(&known)) {
        None => LogDivergence::Unfounded,
        Some(Ordering::Greater) => LogDivergence::CutOff,
        Some(_) => LogDivergence::Recreated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alo_1_only_later_leader_truncates_log() {
        assert_eq!(parting(Some(3), 4), LogDivergence::CutOff);
        assert_eq!(parting(Some(3), 3), LogDivergence::Recreated);
        assert_eq!(parting(Some(3), 0), LogDivergence::Recreated);
        assert_eq!(
            parting(Some(0), -1),
            LogDivergence::Recreated,
            "a restart repeats records, the log end would lose them"
        );
        assert_eq!(parting(None, 7), LogDivergence::Unfounded);
    }
}
