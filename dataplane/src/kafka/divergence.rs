//! Why a log ends before what was read of it. It was cut off, or it is not the log that was read: a topic that was deleted and
//! made anew, which shows by its id where brokers have ids. Where they have none, before 2.8, the leader epoch tells.

use std::cmp::Ordering;

/// Why a log ends before a reader's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogDivergence {
    /// An election has cost it its end: a new leader has a later epoch than all before it (KIP-101).
    CutOff,
    /// It has no leader later than one whose records were read, and leaders do not take back what they have shown: it is another
    /// log, which begins at its own beginning.
    Recreated,
    /// Nothing is known of what was read: the position was set by somebody.
    Unfounded,
}

/// Why a log whose leader has `leader_epoch` (−1 when unknown) ends before the position of a reader who has read records up to the
/// epoch `known`.
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
    fn alo_1_only_a_later_leader_cuts_a_log_off() {
        assert_eq!(parting(Some(3), 4), LogDivergence::CutOff);
        assert_eq!(parting(Some(3), 3), LogDivergence::Recreated);
        assert_eq!(parting(Some(3), 0), LogDivergence::Recreated);
        assert_eq!(
            parting(Some(0), -1),
            LogDivergence::Recreated,
            "a beginning costs repeats, an end would cost records"
        );
        assert_eq!(parting(None, 7), LogDivergence::Unfounded);
    }
}
