//! Lasting problems that keep a mapping, or some of its partitions, from running. A successful poll elsewhere does
//! not clear one: its finder withdraws it.

use std::collections::BTreeMap;

/// Kind of a lasting problem, ordered by precedence: the first one is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StandingCause {
    /// The member panicked.
    Member,
    /// The membership in the group ended by itself.
    Membership,
    /// The topic does not exist, or the cluster does not describe it.
    Topic,
    /// The consumer group cannot be joined.
    Group,
    /// None of the member's partitions can start.
    Cluster,
    /// Joining the consumer group takes long.
    Joining,
    /// Some of the member's partitions cannot start; others run.
    Partitions,
}

/// Lasting problems that are set.
#[derive(Debug, Default)]
pub struct StandingTroubles {
    texts: BTreeMap<StandingCause, String>,
}

impl StandingTroubles {
    /// Sets or clears `cause`. Returns true if it is set with a new text.
    pub fn set(&mut self, cause: StandingCause, text: Option<String>) -> bool {
        let Some(text) = text else {
            self.texts.remove(&cause);
            return false;
        };
        let is_news = self.texts.get(&cause) != Some(&text);
        self.texts.insert(cause, text);
        is_news
    }

    /// Returns the text of the first problem.
    pub fn first(&self) -> Option<&str> {
        self.texts.values().next().map(String::as_str)
    }

    /// True if a problem is set that every other node would have as well.
    pub fn lies_outside(&self) -> bool {
        use StandingCause::{Cluster, Group, Topic};
        self.texts.keys().any(|cause| matches!(cause, Topic | Group | Cluster))
    }

    /// True if problems are set, and none of them would affect another node.
    pub fn is_ours(&self) -> bool {
        !self.texts.is_empty() && !self.lies_outside()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_cause_is_shown_until_withdrawn() {
        let mut troubles = StandingTroubles::default();
        assert!((troubles.first(), troubles.lies_outside(), troubles.is_ours()) == (None, false, false));
        let waits = || Some("partition 3".to_owned());
        assert!(troubles.set(StandingCause::Partitions, waits()));
        assert!(!troubles.set(StandingCause::Partitions, waits()), "no news");
        assert!(troubles.is_ours());
        troubles.set(StandingCause::Topic, Some("no topic".to_owned()));
        assert_eq!((troubles.first(), troubles.lies_outside()), (Some("no topic"), true));
        troubles.set(StandingCause::Topic, None);
        assert_eq!(troubles.first(), Some("partition 3"));
    }
}
