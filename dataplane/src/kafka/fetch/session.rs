//! One incremental fetch session (KIP-227): what the broker already knows is not said again.

use std::collections::BTreeMap;

use lighterman_proto::ids::{Offset, TopicPartition};

use crate::kafka::error::Unanswered;

/// What is asked for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// First offset wanted.
    pub position: Offset,
    /// At most this much.
    pub bytes_max: u32,
    /// Leader epoch that metadata knows, −1 when unknown.
    pub current_leader_epoch: i32,
    /// Leader epoch of the record before, −1 when unknown.
    pub last_fetched_epoch: i32,
}

/// The next request's part that belongs to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Session id, 0 for a new one.
    pub id: i32,
    /// Session epoch, 0 for a full request.
    pub epoch: i32,
    /// Partitions that are new or changed.
    pub asked: Vec<(TopicPartition, Asked)>,
    /// Partitions that the broker shall forget.
    pub forgotten: Vec<TopicPartition>,
}

/// The client's side of one session.
#[derive(Debug, Default)]
pub struct Session {
    id: i32,
    epoch: i32,
    known: BTreeMap<TopicPartition, Asked>,
}

impl Session {
    /// The request that makes the broker's set equal to `wanted`.
    pub fn next(&mut self, wanted: &BTreeMap<TopicPartition, Asked>) -> Step {
        if self.epoch == 0 {
            self.known.clone_from(wanted);
            let asked = wanted.iter().map(|(partition, asked)| (partition.clone(), *asked)).collect();
            return Step { id: self.id, epoch: 0, asked, forgotten: Vec::new() };
        }
        let changed =
            |(partition, asked): &(&TopicPartition, &Asked)| self.known.get(*partition) != Some(*asked);
        let asked =
            wanted.iter().filter(changed).map(|(partition, asked)| (partition.clone(), *asked)).collect();
        let forgotten =
            self.known.keys().filter(|partition| !wanted.contains_key(*partition)).cloned().collect();
        self.known.clone_from(wanted);
        Step { id: self.id, epoch: self.epoch, asked, forgotten }
    }

    /// The broker answered the request under session `id`; 0 means that it keeps none.
    pub fn answered(&mut self, id: i32) {
        self.epoch = match (id, self.epoch) {
            (0, _) => 0,
            (_, i32::MAX) => 1,
            (_, epoch) => epoch + 1,
        };
        self.id = id;
    }

    /// What in the answer to the last request, which names these partitions, is no answer to it: a full request is answered for
    /// all of them, an increment for some. Java's `FetchSessionHandler` takes no such reply either.
    pub fn misfit<'p>(
        &self,
        named: impl Iterator<Item = &'p TopicPartition>,
    ) -> Option<(TopicPartition, Unanswered)> {
        let mut named: Vec<&TopicPartition> = named.collect();
        named.sort_unstable();
        if let Some(twice) = named.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some((twice[0].clone(), Unanswered::Twice));
        }
        if let Some(foreign) = named.iter().find(|partition| !self.known.contains_key(**partition)) {
            return Some(((*foreign).clone(), Unanswered::NotAsked));
        }
        let is_silent = |partition: &&TopicPartition| named.binary_search(partition).is_err();
        let silent = if self.epoch == 0 { self.known.keys().find(is_silent) } else { None };
        silent.map(|partition| (partition.clone(), Unanswered::LeftOut))
    }

    /// Where the last request asked for `partition`.
    pub fn position_of(&self, partition: &TopicPartition) -> Option<Offset> {
        Some(self.known.get(partition)?.position)
    }

    /// Partitions that the last request asked for, those included that it did not have to name again.
    pub fn partitions(&self) -> usize {
        self.known.len()
    }

    /// Begin anew: the connection or the session is gone.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The broker's side, as `FetchSession.scala` keeps it.
    #[derive(Default)]
    struct Model {
        id: i32,
        epoch: i32,
        cached: BTreeMap<TopicPartition, Asked>,
    }

    impl Model {
        fn serve(&mut self, step: Step) -> i32 {
            if step.epoch == 0 {
                self.id += 1;
                self.cached.clear();
            } else {
                assert_eq!((step.id, step.epoch), (self.id, self.epoch + 1));
            }
            self.epoch = step.epoch;
            self.cached.extend(step.asked);
            for partition in step.forgotten {
                assert!(self.cached.remove(&partition).is_some(), "forgets what it knows");
            }
            self.id
        }
    }

    proptest! {
        #[test]
        fn the_broker_always_knows_exactly_what_is_wanted(
            rounds in prop::collection::vec((prop::collection::btree_map(0i32..6, 0i64..4, 0..6), 0u8..8), 1..30)
        ) {
            let (mut session, mut broker) = (Session::default(), Model::default());
            for (wants, fault) in rounds {
                let wanted: BTreeMap<_, _> = wants
                    .into_iter()
                    .map(|(partition, position)| {
                        let asked = Asked {
                            position: Offset(position), bytes_max: 1, current_leader_epoch: 0, last_fetched_epoch: -1,
                        };
                        (TopicPartition::new("t", partition), asked)
                    })
                    .collect();
                if fault == 0 {
                    session.reset();
                }
                let id = broker.serve(session.next(&wanted));
                session.answered(id);
                prop_assert_eq!(&broker.cached, &wanted);
            }
        }
    }

    fn wanted(partitions: &[i32]) -> BTreeMap<TopicPartition, Asked> {
        let asked =
            Asked { position: Offset(1), bytes_max: 1, current_leader_epoch: 0, last_fetched_epoch: -1 };
        partitions.iter().map(|partition| (TopicPartition::new("t", *partition), asked)).collect()
    }

    #[test]
    fn b16_an_answer_names_what_was_asked_for_once() {
        let misfit = |session: &Session, named: &[(&str, i32)]| {
            let named: Vec<_> =
                named.iter().map(|(topic, partition)| TopicPartition::new(*topic, *partition)).collect();
            session.misfit(named.iter()).map(|(partition, what)| (partition.to_string(), what))
        };
        let is = |partition: &str, what| Some((partition.to_owned(), what));
        let mut session = Session::default();
        session.next(&wanted(&[0, 1]));
        assert_eq!(misfit(&session, &[("t", 1), ("t", 0)]), None);
        assert_eq!(misfit(&session, &[("t", 1)]), is("t-0", Unanswered::LeftOut));
        assert_eq!(misfit(&session, &[("t", 1), ("t", 0), ("t", 1)]), is("t-1", Unanswered::Twice));
        assert_eq!(misfit(&session, &[("t", 1), ("t", 0), ("t", 2)]), is("t-2", Unanswered::NotAsked));
        assert_eq!(misfit(&session, &[("t", 1), ("t", 0), ("u", 0)]), is("u-0", Unanswered::NotAsked));
        session.answered(7);
        session.next(&wanted(&[1, 3]));
        assert_eq!(misfit(&session, &[]), None, "nothing is new");
        assert_eq!(misfit(&session, &[("t", 3)]), None);
        assert_eq!(misfit(&session, &[("t", 0)]), is("t-0", Unanswered::NotAsked), "it was forgotten");
        assert_eq!(misfit(&session, &[("t", 3), ("t", 3)]), is("t-3", Unanswered::Twice));
    }

    #[test]
    fn nothing_changed_is_nothing_said() {
        let wanted = wanted(&[0]);
        let mut session = Session::default();
        session.next(&wanted);
        session.answered(7);
        assert_eq!(session.next(&wanted), Step { id: 7, epoch: 1, asked: vec![], forgotten: vec![] });
    }
}
