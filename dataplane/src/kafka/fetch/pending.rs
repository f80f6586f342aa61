//! What lies on a broker's desk: the wants of the partitions that it leads, what the next poll asks for, and what a reply
//! means to each of them. The shell polls and posts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::Moment;

use super::session::{FetchPartition, FetchSession, SessionRequest};
use super::wire::{ErrorAction, refused};
use crate::credit::memory::{MemoryBudget, MemoryLease};

/// While a partition of the broker has no room, polls are shorter than usual: it is asked for only in the next one. They take this
/// share of the time for which it had none, so that a poll holds up nobody for long who comes back soon, and a partition that
/// does not come back costs few polls.
const WAIT_SHARE_OF_REST: u32 = 8;
const WAIT_MIN: Duration = Duration::from_millis(20);
/// How long a partition's log end is believed that no poll has confirmed.
const UNHEARD_MAX: Duration = Duration::from_secs(5);
/// Longer ago than that.
const NEVER: Moment = Moment::from_micros(0);
const BYTES_MIN: usize = 64 * 1024;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// A frame holds so much beside records, and again for each partition that was asked for.
const HEAD_BYTES: usize = 256;

/// What a partition asks for.
pub(crate) trait FetchSpec {
    /// Of which topic of its name, where that is known.
    fn topic(&self) -> Option<TopicId>;
    /// First offset wanted.
    fn position(&self) -> Offset;
    /// Leader epoch of the record before it, when known.
    fn leader_epoch(&self) -> Option<i32>;
    /// Room, in bytes.
    fn bytes_max(&self) -> u32;
}

/// The desk.
pub(crate) struct PendingFetches<W> {
    /// Open wants.
    wants: BTreeMap<TopicPartition, OpenFetch<W>>,
    /// Partitions led by this broker that have no room now.
    paused: BTreeMap<TopicPartition, PausedFetch<W>>,
    /// Bytes of records that were worth asking for.
    useful_bytes: usize,
}

struct OpenFetch<W> {
    want: W,
    /// As metadata knew it.
    leader_epoch: i32,
    /// When its log end was last known.
    heard: Moment,
}

struct PausedFetch<W> {
    /// The want that was answered last.
    answered: W,
    since: Moment,
    heard: Moment,
}

impl<W> Default for PendingFetches<W> {
    fn default() -> Self {
        Self { wants: BTreeMap::new(), paused: BTreeMap::new(), useful_bytes: BYTES_MIN }
    }
}

impl<W: FetchSpec + Clone> PendingFetches<W> {
    /// Nobody wants anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// Nobody is known here.
    pub(crate) fn is_deserted(&self) -> bool {
        self.wants.is_empty() && self.paused.is_empty()
    }

    /// Puts a want down, in the place of an earlier one of its partition.
    pub(crate) fn put(&mut self, partition: TopicPartition, want: W, leader_epoch: i32, now: Moment) {
        let before = self.paused.remove(&partition).map(|resting| resting.heard);
        let heard = before.or(self.wants.get(&partition).map(|open| open.heard)).unwrap_or(now);
        self.wants.insert(partition, OpenFetch { want, leader_epoch, heard });
    }

    /// The partition wants nothing for now.
    pub(crate) fn pause(&mut self, partition: &TopicPartition, now: Moment) {
        if let Some(OpenFetch { want, heard, .. }) = self.wants.remove(partition) {
            self.paused.insert(partition.clone(), PausedFetch { answered: want, since: now, heard });
        }
    }

    /// The partition has no room since `since`: `answered`, its last want, was put down on another desk. Where its log ends is
    /// asked for at once.
    pub(crate) fn rest(&mut self, partition: TopicPartition, answered: W, since: Moment) {
        self.paused.insert(partition, PausedFetch { answered, since, heard: NEVER });
    }

    /// Partitions without room that are no business of this broker: their last wants, and since when they have none.
    pub(crate) fn take_resting(
        &mut self,
        is_elsewhere: impl Fn(&TopicPartition) -> bool,
    ) -> Vec<(W, Moment)> {
        let taken = self.paused.extract_if(.., |partition, _| is_elsewhere(partition));
        taken.map(|(_, resting)| (resting.answered, resting.since)).collect()
    }

    /// The partition wants nothing here any more.
    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.wants.remove(partition);
        self.paused.remove(partition);
    }

    /// The partition's open want.
    pub(crate) fn want(&self, partition: &TopicPartition) -> Option<&W> {
        self.wants.get(partition).map(|open| &open.want)
    }

    /// The want that a partition without room had last.
    pub(crate) fn last_want(&self, partition: &TopicPartition) -> Option<&W> {
        self.want(partition).or(self.paused.get(partition).map(|resting| &resting.answered))
    }

    /// Of which topic the partition's open want is, the leader epoch of what was read before it, and that of its leader.
    pub(crate) fn known(&self, partition: &TopicPartition) -> Option<(Option<TopicId>, Option<i32>, i32)> {
        let open = self.wants.get(partition)?;
        Some((open.want.topic(), open.want.leader_epoch(), open.leader_epoch))
    }

    /// Bytes to lease for the next poll at most, of a budget of `limit`. For records twice of what came, so that a poll which
    /// brings nothing keeps little from others while it waits; what the frame holds beside them comes on top, for otherwise that
    /// doubling ends where as much is beside them.
    pub(crate) fn bytes_to_ask(&self, limit: usize) -> usize {
        let room: usize = self.wants.values().map(|open| open.want.bytes_max() as usize).sum();
        let records = room.min(self.useful_bytes).clamp(BYTES_MIN, BYTES_MAX);
        (records + self.head_bytes()).min((limit / 4).max(BYTES_MIN))
    }

    /// Bytes of records to ask for in the next poll, for which `leased` are there. Half of them is for records, however many
    /// partitions are asked for: a broker tells only of those that have something to tell.
    pub(crate) fn record_bytes(&self, leased: usize) -> usize {
        (leased - self.head_bytes().min(leased / 2)).max(1)
    }

    fn head_bytes(&self) -> usize {
        HEAD_BYTES * (1 + self.wants.len())
    }

    /// The last poll asked for the partitions on the desk, and brought `bytes`.
    pub(crate) fn answered(&mut self, bytes: usize, now: Moment) {
        self.useful_bytes = bytes.saturating_mul(2).clamp(BYTES_MIN, BYTES_MAX);
        for open in self.wants.values_mut() {
            open.heard = now;
        }
    }

    /// Partitions whose log end nobody has told for a while; each is named once in that while.
    pub(crate) fn take_unheard(&mut self, now: Moment) -> Vec<TopicPartition> {
        let open = self.wants.iter_mut().map(|(partition, open)| (partition, &mut open.heard));
        let resting = self.paused.iter_mut().map(|(partition, resting)| (partition, &mut resting.heard));
        let unheard = open.chain(resting).filter(|(_, heard)| now.since(**heard) >= UNHEARD_MAX);
        unheard
            .map(|(partition, heard)| {
                *heard = now;
                partition.clone()
            })
            .collect()
    }

    /// The next request of `session` to a broker that `speaks_ids` of topics, or does not.
    pub(crate) fn next(&self, session: &mut FetchSession, speaks_ids: bool) -> SessionRequest {
        let asked = |(partition, open): (&TopicPartition, &OpenFetch<W>)| {
            let asked = FetchPartition {
                topic: open.want.topic(),
                position: open.want.position(),
                bytes_max: open.want.bytes_max(),
                current_leader_epoch: open.leader_epoch,
                last_fetched_epoch: open.want.leader_epoch().unwrap_or(-1),
            };
            (partition.clone(), asked)
        };
        session.next(self.wants.iter().map(asked).collect(), speaks_ids)
    }

    /// How long the broker may wait for records, `longest` when nobody rests.
    pub(crate) fn wait(&self, longest: Duration, now: Moment) -> Duration {
        let shortest = self.paused.values().map(|resting| now.since(resting.since)).min();
        shortest.map_or(longest, |rest| (rest / WAIT_SHARE_OF_REST).max(WAIT_MIN).min(longest))
    }

    /// The want that the reply of `session` answers. One that was replaced while the poll was under way is not answered with
    /// what its predecessor asked for.
    pub(crate) fn take(
        &mut self,
        partition: &TopicPartition,
        session: &FetchSession,
        now: Moment,
    ) -> Option<W> {
        let want = self.want(partition)?;
        let asked = session.asked_for(partition)?;
        let is_same = (asked.position, asked.topic) == (want.position(), want.topic());
        if !mutant!("fetch-not-matched", is_same, true) {
            return None;
        }
        let answered = want.clone();
        self.paused.insert(partition.clone(), PausedFetch { answered, since: now, heard: now });
        self.release(partition)
    }

    /// Wants that are of another topic than the one that has the name `topic` now, by its id: they are taken off the desk.
    pub(crate) fn take_outdated(&mut self, topic: &str, now: Option<TopicId>) -> Vec<W> {
        let is_outdated = |partition: &TopicPartition, open: &mut OpenFetch<W>| {
            &*partition.topic == topic && is_another(open.want.topic(), now)
        };
        self.wants.extract_if(.., is_outdated).map(|(_, open)| open.want).collect()
    }

    /// The broker does not lead the partition: its want goes elsewhere.
    pub(crate) fn release(&mut self, partition: &TopicPartition) -> Option<W> {
        self.wants.remove(partition).map(|open| open.want)
    }

    /// The broker is gone: all wants go elsewhere.
    pub(crate) fn hand_back_all(&mut self) -> Vec<W> {
        std::mem::take(&mut self.wants).into_values().map(|open| open.want).collect()
    }
}

/// What a broker says of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PartitionReply {
    /// Nothing new.
    Nothing,
    /// Records.
    Records,
    /// Histories part there.
    Diverged(Offset),
    /// Why there are none.
    Refused(ErrorAction),
}

/// What `code`, a diverging end and the emptiness of the records mean.
pub(crate) fn classify_reply(
    code: Option<ResponseError>,
    diverging_end: Option<Offset>,
    is_empty: bool,
) -> PartitionReply {
    match (code, diverging_end) {
        (None, Some(end)) => PartitionReply::Diverged(end),
        (None, None) if is_empty => PartitionReply::Nothing,
        (None, None) => PartitionReply::Records,
        (Some(code), _) => PartitionReply::Refused(refused(code)),
    }
}

/// Whether a reply's own code only says that the broker has forgotten the session.
pub(crate) fn is_session_lost(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::FetchSessionIdNotFound
            | ResponseError::InvalidFetchSessionEpoch
            | ResponseError::FetchSessionTopicIdError
    )
}

/// What keeps the parts of one frame on the budget. A slow partition must not pin a large frame for the others while bytes
/// are short: then each holds its own bytes, and its records are copied out.
pub(crate) struct FrameLeases {
    shared: Option<Arc<MemoryLease>>,
    rest: Option<MemoryLease>,
}

impl FrameLeases {
    /// Of a frame whose parts have `sizes` bytes of records; `lease` was taken from `budget` before it was received.
    pub(crate) fn new(
        sizes: impl Iterator<Item = usize> + Clone,
        mut lease: MemoryLease,
        budget: &MemoryBudget,
    ) -> Self {
        let held: usize = sizes.clone().sum();
        debug_assert!(lease.bytes() >= held, "nothing is received that nothing was lent for");
        lease.shrink_to(held);
        if sizes.filter(|bytes| *bytes > 0).count() > 1 && budget.is_half_used() {
            Self { shared: None, rest: Some(lease) }
        } else {
            Self { shared: Some(Arc::new(lease)), rest: None }
        }
    }

    /// Whether records are to be copied out of the frame.
    pub(crate) fn are_apart(&self) -> bool {
        self.rest.is_some()
    }

    /// The hold of the next part, of `bytes`.
    pub(crate) fn next(&mut self, bytes: usize) -> Option<Arc<MemoryLease>> {
        match &mut self.rest {
            Some(rest) => Some(Arc::new(rest.split(bytes))),
            None => self.shared.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    struct AskingBroker(i64);

    impl FetchSpec for AskingBroker {
        fn topic(&self) -> Option<TopicId> {
            None
        }

        fn position(&self) -> Offset {
            Offset(self.0)
        }

        fn leader_epoch(&self) -> Option<i32> {
            None
        }

        fn bytes_max(&self) -> u32 {
            512 * 1024
        }
    }

    const BEGAN: Moment = Moment::from_micros(1);
    const LONGEST: Duration = Duration::from_millis(500);

    fn of(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    /// Two partitions, of which the first was answered at the beginning.
    fn desk() -> (PendingFetches<AskingBroker>, FetchSession) {
        let (mut desk, mut session) = (PendingFetches::default(), FetchSession::default());
        for partition in 0..2 {
            desk.put(of(partition), AskingBroker(5), 0, BEGAN);
        }
        desk.next(&mut session, true);
        assert!(desk.take(&of(0), &session, BEGAN).is_some());
        (desk, session)
    }

    #[test]
    fn a_partition_that_stays_without_room_costs_few_polls_and_leaves_the_session() {
        let (desk, mut session) = desk();
        let (mut now, mut polls) = (BEGAN, 0);
        assert_eq!(desk.wait(LONGEST, now), WAIT_MIN, "it may be back at once");
        while now < BEGAN + Duration::from_secs(60) {
            let wait = desk.wait(LONGEST, now);
            let rested = now.since(BEGAN);
            assert!(wait <= WAIT_MIN || wait <= rested / WAIT_SHARE_OF_REST, "{wait:?} after {rested:?}");
            now = now + wait;
            polls += 1;
        }
        assert!(polls < 200, "{polls} polls in a minute, for a partition that does not come back");
        assert_eq!(desk.next(&mut session, true).asked.len(), 1, "only who has room is asked for");
    }

    #[test]
    fn log_ends_that_no_poll_tells_are_asked_for_once_in_a_while() {
        let (mut desk, _) = desk();
        let later = BEGAN + UNHEARD_MAX;
        desk.answered(10, BEGAN + UNHEARD_MAX / 2);
        assert_eq!(desk.take_unheard(BEGAN + UNHEARD_MAX / 2), []);
        assert_eq!(desk.take_unheard(later), [of(0)], "it rests, and polls do not ask for it");
        assert_eq!(desk.take_unheard(later), []);
        let much_later = later + UNHEARD_MAX;
        desk.put(of(0), AskingBroker(9), 0, much_later);
        assert_eq!(desk.take_unheard(much_later), [of(0), of(1)], "no poll has come back since");
        desk.forget(&of(1));
        assert_eq!(desk.take_unheard(much_later + UNHEARD_MAX), [of(0)]);
    }

    #[test]
    fn a_partition_that_rests_elsewhere_is_asked_about_at_once_and_for_no_longer_than_it_rests() {
        let (mut old, _) = desk();
        old.pause(&of(1), BEGAN + Duration::from_secs(1));
        assert!(old.take_resting(|_| false).is_empty());
        let taken = old.take_resting(|partition| *partition == of(0));
        let [(answered, since)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!((answered.0, *since), (5, BEGAN));
        assert!(!old.is_deserted(), "the other is still there");
        let now = BEGAN + UNHEARD_MAX;
        let mut new = PendingFetches::default();
        new.rest(of(0), answered.clone(), *since);
        assert_eq!(new.take_unheard(now), [of(0)]);
        assert_eq!(new.take_unheard(now), []);
        new.put(of(0), AskingBroker(9), 0, now);
        assert!(new.take_resting(|_| true).is_empty());
    }

    #[test]
    fn mem_1_a_poll_that_brings_nothing_holds_little() {
        let mut desk = PendingFetches::default();
        for partition in 0..64 {
            desk.put(of(partition), AskingBroker(5), 0, BEGAN);
        }
        let mut asked = vec![records_asked_for(&desk, LIMIT)];
        for _ in 0..10 {
            desk.answered(records_asked_for(&desk, LIMIT), BEGAN);
            asked.push(records_asked_for(&desk, LIMIT));
        }
        assert_eq!((asked[0], asked[1], *asked.last().expect("some")), (BYTES_MIN, BYTES_MIN * 2, BYTES_MAX));
        desk.answered(0, BEGAN);
        assert_eq!(records_asked_for(&desk, LIMIT), BYTES_MIN);
        assert_eq!(desk.bytes_to_ask(LIMIT), BYTES_MIN + HEAD_BYTES * 65);
    }

    const LIMIT: usize = 1 << 30;

    fn records_asked_for(desk: &PendingFetches<AskingBroker>, limit: usize) -> usize {
        desk.record_bytes(desk.bytes_to_ask(limit))
    }

    #[test]
    fn liv_1_many_partitions_leave_room_for_records() {
        for partitions in [1, 127, 128, 1_000, 10_000] {
            let mut desk = PendingFetches::default();
            for partition in 0..partitions {
                desk.put(of(partition), AskingBroker(5), 0, BEGAN);
            }
            let (mut polls, worth) = (0, BYTES_MAX.min(desk.wants.len() * 512 * 1024) / 2);
            while records_asked_for(&desk, LIMIT) < worth {
                assert!(
                    polls < 8,
                    "{partitions} partitions, poll {polls}: {}",
                    records_asked_for(&desk, LIMIT)
                );
                desk.answered(records_asked_for(&desk, LIMIT), BEGAN);
                polls += 1;
            }
            // As little memory as there may be.
            for leased in [BYTES_MIN, BYTES_MIN / 4, 1] {
                assert!(
                    desk.record_bytes(leased) >= (leased / 2).max(1),
                    "{partitions} partitions, {leased} leased"
                );
            }
        }
    }
}
