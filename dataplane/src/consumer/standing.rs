//! Causes that keep a mapping, or some of its partitions, from running, shown for as long as they do. A poll that succeeds elsewhere
//! does not end one: whoever found it withdraws it.

use std::collections::BTreeMap;

/// A cause, by who finds it; the first one is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StandingCause {
    /// The member has ended by a panic.
    Member,
    /// Its membership in the group has ended by itself.
    Membership,
    /// The topic is not there, or the cluster does not tell.
    Topic,
    /// The consumer group cannot be joined.
    Group,
    /// None of our partitions can begin.
    Cluster,
    /// The consumer group takes its time.
    Joining,
    /// Some of our partitions cannot begin; others run.
    Partitions,
}

/// The causes that stand.
#[derive(Debug, Default)]
pub struct StandingTroubles {
    texts: BTreeMap<StandingCause, String>,
}

impl StandingTroubles {
    /// `cause` stands, or does not any more. True when it stands for another reason than before.
    pub fn set(&mut self, cause: StandingCause, text: Option<String>) -> bool {
        let Some(text) = text else {
            self.texts.remove(&cause);
            return false;
        };
        let is_news = self.texts.get(&cause) != Some(&text);
        self.texts.insert(cause, text);
        is_news
    }

    /// The text that is shown.
    pub fn first(&self) -> Option<&str> {
        self.texts.values().next().map(String::as_str)
    }

    /// Whether what stands is ours to mend as little as any other node's.
    pub fn lies_outside(&self) -> bool {
        use StandingCause::{Cluster, Group, Topic};
        self.texts.keys().any(|cause| matches!(cause, Topic | Group | Cluster))
    }

    /// Whether something stands in the way, and no other node would be kept by it.
    pub fn is_ours(&self) -> bool {
        !self.texts.is_empty() && !self.lies_outside()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_stands_until_it_is_withdrawn_and_the_first_is_shown() {
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
