//! Incremental fetch session (KIP-227): a request repeats nothing that the broker already knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;

use crate::kafka::error::ResponseMismatch;

/// Parameters of one partition's fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// Id of the topic, if known.
    pub topic: Option<TopicId>,
    /// Offset of the first record to fetch.
    pub position: Offset,
    /// Maximum of bytes to return.
    pub bytes_max: u32,
    /// Leader epoch that metadata knows, −1 when unknown.
    pub current_leader_epoch: i32,
    /// Leader epoch of the record before the position, −1 when unknown.
    pub last_fetched_epoch: i32,
}

/// Session part of the next request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// Session id, 0 for a new one.
    pub id: i32,
    /// Session epoch, 0 for a full request.
    pub epoch: i32,
    /// True if topics are addressed by their ids, which all of `asked` and `forgotten` have (KIP-516).
    pub by_ids: bool,
    /// Partitions that are new or changed.
    pub asked: Vec<(TopicPartition, FetchPartition)>,
    /// Partitions that the broker must forget, with the topic ids of their earlier requests.
    pub forgotten: Vec<(TopicPartition, Option<TopicId>)>,
}

/// Client side of one session.
#[derive(Debug, Default)]
pub struct FetchSession {
    id: i32,
    epoch: i32,
    by_ids: bool,
    known: BTreeMap<TopicPartition, FetchPartition>,
    /// Partitions of `known` without a topic id.
    without_id: usize,
}

impl FetchSession {
    /// Builds the request that makes the broker's set equal to `wanted`. Topics are addressed by id if the broker
    /// supports it and all of `wanted` have one.
    pub fn next(
        &mut self,
        wanted: BTreeMap<TopicPartition, FetchPartition>,
        speaks_ids: bool,
    ) -> SessionRequest {
        self.without_id = wanted.values().filter(|asked| asked.topic.is_none()).count();
        let by_ids = speaks_ids && self.without_id == 0;
        let is_kept = by_ids == self.by_ids && !self.is_of_other_topics(&wanted);
        self.by_ids = by_ids;
        if self.epoch == 0 || !is_kept {
            self.epoch = 0;
            let asked = wanted.iter().map(|(partition, asked)| (partition.clone(), *asked)).collect();
            self.known = wanted;
            return SessionRequest { id: self.id, epoch: 0, by_ids, asked, forgotten: Vec::new() };
        }
        let changed = |(partition, asked): &(&TopicPartition, &FetchPartition)| {
            self.known.get(*partition) != Some(*asked)
        };
        let asked =
            wanted.iter().filter(changed).map(|(partition, asked)| (partition.clone(), *asked)).collect();
        let forgotten = self
            .known
            .iter()
            .filter(|(partition, _)| !wanted.contains_key(*partition))
            .map(|(partition, asked)| (partition.clone(), asked.topic))
            .collect();
        self.known = wanted;
        SessionRequest { id: self.id, epoch: self.epoch, by_ids, asked, forgotten }
    }

    /// Like [`FetchSession::next`] with the partitions that have `changed` since the last request, `None` for one that
    /// is no longer wanted. Its cost does not depend on the others. Returns `None` if the session cannot go on, and
    /// `next` must follow with everything that is wanted.
    pub fn next_changed(
        &mut self,
        changed: impl Iterator<Item = (TopicPartition, Option<FetchPartition>)>,
        speaks_ids: bool,
    ) -> Option<SessionRequest> {
        if self.epoch == 0 {
            return None;
        }
        let (mut asked, mut forgotten) = (Vec::new(), Vec::new());
        for (partition, wanted) in changed {
            let before = match wanted {
                Some(wanted) => self.known.insert(partition.clone(), wanted),
                None => self.known.remove(&partition),
            };
            let is_nameless =
                |asked: Option<FetchPartition>| asked.is_some_and(|asked| asked.topic.is_none());
            self.without_id += usize::from(is_nameless(wanted));
            self.without_id -= usize::from(is_nameless(before));
            match (before, wanted) {
                (Some(before), Some(wanted)) if before.topic != wanted.topic => {
                    self.epoch = 0;
                    return None;
                }
                (before, Some(wanted)) if before != Some(wanted) => asked.push((partition, wanted)),
                (Some(before), None) => forgotten.push((partition, before.topic)),
                _ => {}
            }
        }
        if self.by_ids != (speaks_ids && self.without_id == 0) {
            self.epoch = 0;
            return None;
        }
        Some(SessionRequest { id: self.id, epoch: self.epoch, by_ids: self.by_ids, asked, forgotten })
    }

    /// True if the session knows another topic under a name of `wanted`. A session of one topic does not apply to
    /// another of the same name.
    fn is_of_other_topics(&self, wanted: &BTreeMap<TopicPartition, FetchPartition>) -> bool {
        let is_other = |(partition, asked): (&TopicPartition, &FetchPartition)| {
            self.known.get(partition).is_some_and(|known| known.topic != asked.topic)
        };
        wanted.iter().any(is_other)
    }

    /// Records that the broker answered the request under session `id`; 0 means that it keeps no session.
    pub fn answered(&mut self, id: i32) {
        self.epoch = match (id, self.epoch) {
            (0, _) => 0,
            (_, i32::MAX) => 1,
            (_, epoch) => epoch + 1,
        };
        self.id = id;
    }

    /// Checks the partitions that the response to the last request names, and returns a mismatch if there is one. A
    /// full request is answered for all of its partitions, an incremental one for some. Java's `FetchSessionHandler`
    /// rejects such responses too.
    pub fn check_response<'p>(
        &self,
        named: impl Iterator<Item = &'p TopicPartition>,
    ) -> Option<(TopicPartition, ResponseMismatch)> {
        let mut named: Vec<&TopicPartition> = named.collect();
        named.sort_unstable();
        if let Some(twice) = named.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some((twice[0].clone(), ResponseMismatch::Duplicate));
        }
        if let Some(foreign) = named.iter().find(|partition| !self.known.contains_key(**partition)) {
            return Some(((*foreign).clone(), ResponseMismatch::Unexpected));
        }
        let is_silent = |partition: &&TopicPartition| named.binary_search(partition).is_err();
        let silent = if self.epoch == 0 { self.known.keys().find(is_silent) } else { None };
        silent.map(|partition| (partition.clone(), ResponseMismatch::Missing))
    }

    /// Returns the position at which the last request fetches `partition`.
    pub fn position_of(&self, partition: &TopicPartition) -> Option<Offset> {
        Some(self.asked_for(partition)?.position)
    }

    /// Returns the parameters of `partition` that the broker has, from the last request or an earlier one.
    pub fn asked_for(&self, partition: &TopicPartition) -> Option<&FetchPartition> {
        self.known.get(partition)
    }

    /// Returns the name of the topic `id` in the last request.
    pub fn name_of(&self, id: TopicId) -> Option<&Arc<str>> {
        self.known.iter().find(|(_, asked)| asked.topic == Some(id)).map(|(partition, _)| &partition.topic)
    }

    /// Resets the session after the connection or the session was lost.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Broker side of a session, as in `FetchSession.scala`.
    #[derive(Default)]
    struct SessionModel {
        id: i32,
        epoch: i32,
        by_ids: bool,
        cached: BTreeMap<TopicPartition, FetchPartition>,
    }

    impl SessionModel {
        fn serve(&mut self, step: SessionRequest) -> i32 {
            if step.epoch == 0 {
                self.id += 1;
                self.cached.clear();
            } else {
                assert_eq!((step.id, step.epoch), (self.id, self.epoch + 1));
            }
            let is_named = |topic: Option<TopicId>| !step.by_ids || topic.is_some();
            // A broker rejects a change in how a session addresses topics (`FETCH_SESSION_TOPIC_ID_ERROR`).
            assert!(step.epoch == 0 || self.by_ids == step.by_ids);
            (self.epoch, self.by_ids) = (step.epoch, step.by_ids);
            for (partition, asked) in step.asked {
                assert!(is_named(asked.topic));
                let before = self.cached.insert(partition, asked);
                assert!(
                    before.is_none_or(|before| before.topic == asked.topic),
                    "one topic per name in a session"
                );
            }
            for (partition, topic) in step.forgotten {
                assert!(is_named(topic));
                assert!(self.cached.remove(&partition).is_some(), "only cached partitions are forgotten");
            }
            self.id
        }
    }

    proptest! {
        #[test]
        fn broker_state_always_equals_wanted_partitions(
            rounds in prop::collection::vec(
                (prop::collection::btree_map(0i32..6, (0i64..4, 0u128..3), 0..6), 0u8..8, prop::bool::weighted(0.8)),
                1..30,
            )
        ) {
            let (mut session, mut broker) = (FetchSession::default(), SessionModel::default());
            let mut before = BTreeMap::new();
            for (wants, fault, speaks_ids) in rounds {
                let wanted: BTreeMap<_, _> = wants
                    .into_iter()
                    .map(|(partition, (position, topic))| {
                        let topic = TopicId::of(uuid::Uuid::from_u128(topic));
                        let asked = FetchPartition {
                            topic, position: Offset(position), bytes_max: 1, current_leader_epoch: 0, last_fetched_epoch: -1,
                        };
                        (TopicPartition::new("t", partition), asked)
                    })
                    .collect();
                if fault == 0 {
                    session.reset();
                }
                let step = match session.next_changed(changes(&before, &wanted), speaks_ids) {
                    Some(step) => step,
                    None => session.next(wanted.clone(), speaks_ids),
                };
                before.clone_from(&wanted);
                prop_assert!(speaks_ids || !step.by_ids);
                let id = broker.serve(step);
                session.answered(id);
                prop_assert_eq!(&broker.cached, &wanted);
            }
        }
    }

    type WantedPartitions = BTreeMap<TopicPartition, FetchPartition>;

    fn changes<'w>(
        before: &'w WantedPartitions,
        wanted: &'w WantedPartitions,
    ) -> impl Iterator<Item = (TopicPartition, Option<FetchPartition>)> + 'w {
        let gone = before.keys().filter(|partition| !wanted.contains_key(*partition));
        let now = wanted.iter().filter(|(partition, asked)| before.get(*partition) != Some(*asked));
        let now = now.map(|(partition, asked)| (partition.clone(), Some(*asked)));
        now.chain(gone.map(|partition| (partition.clone(), None)))
    }

    #[test]
    fn request_repeats_no_comparison_of_unchanged_partitions() {
        let mut session = FetchSession::default();
        assert_eq!(session.next_changed(std::iter::empty(), false), None, "a new session names everything");
        session.next(wanted(&[0, 1, 2]), false);
        session.answered(7);
        let moved = wanted(&[1])
            .into_iter()
            .map(|(partition, asked)| (partition, Some(FetchPartition { position: Offset(2), ..asked })));
        let gone = std::iter::once((TopicPartition::new("t", 2), None));
        let step = session.next_changed(moved.chain(gone), false).expect("the session goes on");
        let names = |index: usize| TopicPartition::new("t", index as i32);
        assert_eq!(step.asked.iter().map(|(partition, _)| partition.clone()).collect::<Vec<_>>(), [names(1)]);
        assert_eq!(step.forgotten, [(names(2), None)]);
        assert_eq!(session.position_of(&names(1)), Some(Offset(2)));
    }

    fn wanted(partitions: &[i32]) -> BTreeMap<TopicPartition, FetchPartition> {
        let (topic, position) = (None, Offset(1));
        let asked =
            FetchPartition { topic, position, bytes_max: 1, current_leader_epoch: 0, last_fetched_epoch: -1 };
        partitions.iter().map(|partition| (TopicPartition::new("t", *partition), asked)).collect()
    }

    #[test]
    fn response_names_each_requested_partition_once() {
        let misfit = |session: &FetchSession, named: &[(&str, i32)]| {
            let named: Vec<_> =
                named.iter().map(|(topic, partition)| TopicPartition::new(*topic, *partition)).collect();
            session.check_response(named.iter()).map(|(partition, what)| (partition.to_string(), what))
        };
        let is = |partition: &str, what| Some((partition.to_owned(), what));
        let mut session = FetchSession::default();
        session.next(wanted(&[0, 1]), false);
        assert_eq!(misfit(&session, &[("t", 1), ("t", 0)]), None);
        assert_eq!(misfit(&session, &[("t", 1)]), is("t-0", ResponseMismatch::Missing));
        assert_eq!(misfit(&session, &[("t", 1), ("t", 0), ("t", 1)]), is("t-1", ResponseMismatch::Duplicate));
        assert_eq!(
            misfit(&session, &[("t", 1), ("t", 0), ("t", 2)]),
            is("t-2", ResponseMismatch::Unexpected)
        );
        assert_eq!(
            misfit(&session, &[("t", 1), ("t", 0), ("u", 0)]),
            is("u-0", ResponseMismatch::Unexpected)
        );
        session.answered(7);
        session.next(wanted(&[1, 3]), false);
        assert_eq!(misfit(&session, &[]), None, "nothing is new");
        assert_eq!(misfit(&session, &[("t", 3)]), None);
        assert_eq!(
            misfit(&session, &[("t", 0)]),
            is("t-0", ResponseMismatch::Unexpected),
            "the partition was forgotten"
        );
        assert_eq!(misfit(&session, &[("t", 3), ("t", 3)]), is("t-3", ResponseMismatch::Duplicate));
    }

    #[test]
    fn unchanged_partitions_are_not_sent_again() {
        let wanted = wanted(&[0]);
        let mut session = FetchSession::default();
        session.next(wanted.clone(), false);
        session.answered(7);
        let step = SessionRequest { id: 7, epoch: 1, by_ids: false, asked: vec![], forgotten: vec![] };
        assert_eq!(session.next(wanted, false), step);
    }
}
