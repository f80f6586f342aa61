//! Pending fetches of one broker: the fetches of the partitions that it leads, the contents of the next poll, and
//! the effect of a response on each fetch. The code here does no I/O; the broker task polls and posts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::Moment;

use super::session::{FetchPartition, FetchSession, SessionRequest};
use super::wire::{ErrorAction, refused};
use crate::credit::memory_budget::{MemoryBudget, MemoryLease};

/// Divisor of the poll wait while a partition of the broker is paused. Only the next poll can include a partition
/// that resumes, so a poll waits for this share of the pause so far. A partition that resumes soon is then not
/// delayed for long, and one that does not costs few polls.
const WAIT_SHARE_OF_REST: u32 = 8;
const WAIT_MIN: Duration = Duration::from_millis(20);
/// Age at which a log end that no poll has confirmed is requested.
const UNHEARD_MAX: Duration = Duration::from_secs(5);
/// Moment longer ago than `UNHEARD_MAX`, for a log end that was never known here.
const NEVER: Moment = Moment::from_micros(0);
const BYTES_MIN: usize = 64 * 1024;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a frame in addition to records, once per frame and once per requested partition.
const HEAD_BYTES: usize = 256;

/// Parameters of a partition's fetch.
pub trait FetchSpec {
    /// Returns the id of the topic, if known.
    fn topic(&self) -> Option<TopicId>;
    /// Returns the offset of the first record to fetch.
    fn position(&self) -> Offset;
    /// Returns the leader epoch of the record before the position, when known.
    fn leader_epoch(&self) -> Option<i32>;
    /// Returns the partition's buffer space, in bytes.
    fn bytes_max(&self) -> u32;
}

/// Fetches of the partitions that one broker leads.
pub struct PendingFetches<W> {
    /// Fetches without an answer.
    wants: BTreeMap<TopicPartition, OpenFetch<W>>,
    /// Partitions of this broker that have no buffer space at present.
    paused: BTreeMap<TopicPartition, PausedFetch<W>>,
    /// Partitions whose pending fetch may differ from the last request. A poll must not compare all the others: with
    /// thousands of partitions, that would be most of its cost.
    changed: BTreeSet<TopicPartition>,
    /// Record bytes worth requesting, twice as many as the last poll returned.
    useful_bytes: usize,
}

struct OpenFetch<W> {
    want: W,
    /// Leader epoch from metadata.
    leader_epoch: i32,
    /// Moment at which the log end was last known.
    heard: Moment,
}

struct PausedFetch<W> {
    /// Last fetch of the partition.
    answered: W,
    since: Moment,
    heard: Moment,
}

impl<W> Default for PendingFetches<W> {
    fn default() -> Self {
        Self {
            wants: BTreeMap::new(),
            paused: BTreeMap::new(),
            changed: BTreeSet::new(),
            useful_bytes: BYTES_MIN,
        }
    }
}

impl<W: FetchSpec + Clone> PendingFetches<W> {
    /// True if no fetch is pending.
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// True if no partition is pending or paused.
    pub fn is_deserted(&self) -> bool {
        self.wants.is_empty() && self.paused.is_empty()
    }

    /// Adds a fetch, which replaces an earlier one of its partition.
    pub fn put(&mut self, partition: TopicPartition, want: W, leader_epoch: i32, now: Moment) {
        let before = self.paused.remove(&partition).map(|resting| resting.heard);
        let heard = before.or(self.wants.get(&partition).map(|open| open.heard)).unwrap_or(now);
        self.changed.insert(partition.clone());
        self.wants.insert(partition, OpenFetch { want, leader_epoch, heard });
    }

    /// Pauses a partition with a pending fetch.
    pub fn pause(&mut self, partition: &TopicPartition, now: Moment) {
        if let Some(OpenFetch { want, heard, .. }) = self.wants.remove(partition) {
            self.changed.insert(partition.clone());
            self.paused.insert(partition.clone(), PausedFetch { answered: want, since: now, heard });
        }
    }

    /// Adds a partition that has been paused since `since`. Its last fetch, `answered`, was sent to another broker.
    /// Its log end is requested at once.
    pub fn rest(&mut self, partition: TopicPartition, answered: W, since: Moment) {
        self.paused.insert(partition, PausedFetch { answered, since, heard: NEVER });
    }

    /// Removes the paused partitions for which `is_elsewhere` returns true. Returns their last fetches and the start
    /// of each pause.
    pub fn take_resting(&mut self, is_elsewhere: impl Fn(&TopicPartition) -> bool) -> Vec<(W, Moment)> {
        let taken = self.paused.extract_if(.., |partition, _| is_elsewhere(partition));
        taken.map(|(_, resting)| (resting.answered, resting.since)).collect()
    }

    /// Removes the partition, pending or paused.
    pub fn forget(&mut self, partition: &TopicPartition) {
        self.release(partition);
        self.paused.remove(partition);
    }

    /// Returns the partition's pending fetch.
    pub fn want(&self, partition: &TopicPartition) -> Option<&W> {
        self.wants.get(partition).map(|open| &open.want)
    }

    /// Returns the partition's pending fetch, or its last one while it is paused.
    pub fn last_want(&self, partition: &TopicPartition) -> Option<&W> {
        self.want(partition).or(self.paused.get(partition).map(|resting| &resting.answered))
    }

    /// Returns the topic id of the partition's pending fetch, the leader epoch of the record before its position,
    /// and the leader epoch from metadata.
    pub fn known(&self, partition: &TopicPartition) -> Option<(Option<TopicId>, Option<i32>, i32)> {
        let open = self.wants.get(partition)?;
        Some((open.want.topic(), open.want.leader_epoch(), open.leader_epoch))
    }

    /// Returns the maximum of bytes to lease for the next poll, from a budget of `limit`. Record bytes are twice
    /// those of the last poll, so a poll without records keeps little memory from others while it waits. The frame's
    /// other bytes are added on top. Otherwise the doubling would stop once they equal the record bytes.
    pub fn bytes_to_ask(&self, limit: usize) -> usize {
        let room: usize = self.wants.values().map(|open| open.want.bytes_max() as usize).sum();
        let records = room.min(self.useful_bytes).clamp(BYTES_MIN, BYTES_MAX);
        (records + self.head_bytes()).min((limit / 4).max(BYTES_MIN))
    }

    /// Returns the record bytes to request in the next poll, for which `leased` bytes are available. At least half
    /// of them are for records, for any number of partitions: a broker responds only with partitions that have
    /// something to report.
    pub fn record_bytes(&self, leased: usize) -> usize {
        (leased - self.head_bytes().min(leased / 2)).max(1)
    }

    fn head_bytes(&self) -> usize {
        HEAD_BYTES * (1 + self.wants.len())
    }

    /// Records that the last poll covered the pending fetches and returned `bytes` of records.
    pub fn answered(&mut self, bytes: usize, now: Moment) {
        self.useful_bytes = bytes.saturating_mul(2).clamp(BYTES_MIN, BYTES_MAX);
        for open in self.wants.values_mut() {
            open.heard = now;
        }
    }

    /// Returns the partitions whose log end has been unconfirmed for a while, each once in that time.
    pub fn take_unheard(&mut self, now: Moment) -> Vec<TopicPartition> {
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

    /// Builds the next request of `session`, which must be the one of the request before. `speaks_ids` is true if the
    /// broker supports topic ids.
    pub fn next(&mut self, session: &mut FetchSession, speaks_ids: bool) -> SessionRequest {
        let (wants, changed) = (&self.wants, std::mem::take(&mut self.changed));
        let now = |partition| {
            let asked = wants.get(&partition).map(asked);
            (partition, asked)
        };
        if let Some(step) = session.next_changed(changed.into_iter().map(now), speaks_ids) {
            return step;
        }
        let all = wants.iter().map(|(partition, open)| (partition.clone(), asked(open)));
        session.next(all.collect(), speaks_ids)
    }

    /// Returns the time that the broker may wait for records, `longest` if no partition is paused.
    pub fn wait(&self, longest: Duration, now: Moment) -> Duration {
        let shortest = self.paused.values().map(|resting| now.since(resting.since)).min();
        shortest.map_or(longest, |rest| (rest / WAIT_SHARE_OF_REST).max(WAIT_MIN).min(longest))
    }

    /// Removes and returns the fetch that the response in `session` answers, and pauses its partition. A fetch that
    /// replaced another during the poll is not answered with its predecessor's records.
    pub fn take(&mut self, partition: &TopicPartition, session: &FetchSession, now: Moment) -> Option<W> {
        let want = self.want(partition)?;
        if !is_answered(want, session.asked_for(partition)?) {
            return None;
        }
        let answered = want.clone();
        self.paused.insert(partition.clone(), PausedFetch { answered, since: now, heard: now });
        self.release(partition)
    }

    /// Removes and returns the fetches of the topic named `topic` whose topic id differs from the current one,
    /// `now`.
    pub fn take_outdated(&mut self, topic: &str, now: Option<TopicId>) -> Vec<W> {
        let is_outdated = |partition: &TopicPartition, open: &mut OpenFetch<W>| {
            &*partition.topic == topic && is_another(open.want.topic(), now)
        };
        let outdated = self.wants.extract_if(.., is_outdated);
        let changed = &mut self.changed;
        outdated
            .map(|(partition, open)| {
                changed.insert(partition);
                open.want
            })
            .collect()
    }

    /// Removes and returns the pending fetch of a partition that the broker does not lead.
    pub fn release(&mut self, partition: &TopicPartition) -> Option<W> {
        let open = self.wants.remove(partition)?;
        self.changed.insert(partition.clone());
        Some(open.want)
    }

    /// Removes and returns all pending fetches of a broker that is gone.
    pub fn hand_back_all(&mut self) -> Vec<W> {
        let wants = std::mem::take(&mut self.wants);
        self.changed.extend(wants.keys().cloned());
        wants.into_values().map(|open| open.want).collect()
    }
}

fn asked(open: &OpenFetch<impl FetchSpec>) -> FetchPartition {
    FetchPartition {
        topic: open.want.topic(),
        position: open.want.position(),
        bytes_max: open.want.bytes_max(),
        current_leader_epoch: open.leader_epoch,
        last_fetched_epoch: open.want.leader_epoch().unwrap_or(-1),
    }
}

/// True if the response to `asked` answers `want`: both name the same position of the same log.
fn is_answered(want: &impl FetchSpec, asked: &FetchPartition) -> bool {
    mutant!("fetch-not-matched", (asked.position, asked.topic) == (want.position(), want.topic()), true)
}

/// Result for one partition in a fetch response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionReply {
    /// No records and no error.
    Nothing,
    /// Records to deliver.
    Records,
    /// The histories diverge at this offset.
    Diverged(Offset),
    /// Action that the error code requires.
    Refused(ErrorAction),
}

/// Classifies the result of one partition by its error code, its diverging end and the absence of records.
pub fn classify_reply(
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

/// True if a response's top-level error code means only that the broker has lost the session.
pub fn is_session_lost(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::FetchSessionIdNotFound
            | ResponseError::InvalidFetchSessionEpoch
            | ResponseError::FetchSessionTopicIdError
    )
}

/// Leases of the memory budget for the parts of one frame. A slow partition must not pin a large frame for the
/// others while memory is short. Each part then holds its own bytes, and its records are copied out.
pub struct FrameLeases {
    shared: Option<Arc<MemoryLease>>,
    rest: Option<MemoryLease>,
}

impl FrameLeases {
    /// Creates the leases of a frame whose parts have `sizes` bytes of records. `lease` was taken from `budget`
    /// before the frame was received.
    pub fn new(
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

    /// True if records must be copied out of the frame.
    pub fn are_apart(&self) -> bool {
        self.rest.is_some()
    }

    /// Returns the lease of the next part, which has `bytes` bytes of records.
    pub fn next(&mut self, bytes: usize) -> Option<Arc<MemoryLease>> {
        match &mut self.rest {
            Some(rest) => Some(Arc::new(rest.split(bytes))),
            None => self.shared.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    /// Creates two partitions, of which the first is answered at the beginning.
    fn fetches() -> (PendingFetches<AskingBroker>, FetchSession) {
        let (mut fetches, mut session) = (PendingFetches::default(), FetchSession::default());
        for partition in 0..2 {
            fetches.put(of(partition), AskingBroker(5), 0, BEGAN);
        }
        fetches.next(&mut session, true);
        assert!(fetches.take(&of(0), &session, BEGAN).is_some());
        (fetches, session)
    }

    #[test]
    fn paused_partition_costs_few_polls_and_leaves_session() {
        let (mut fetches, mut session) = fetches();
        let (mut now, mut polls) = (BEGAN, 0);
        assert_eq!(fetches.wait(LONGEST, now), WAIT_MIN, "the partition may resume at once");
        while now < BEGAN + Duration::from_secs(60) {
            let wait = fetches.wait(LONGEST, now);
            let rested = now.since(BEGAN);
            assert!(wait <= WAIT_MIN || wait <= rested / WAIT_SHARE_OF_REST, "{wait:?} after {rested:?}");
            now = now + wait;
            polls += 1;
        }
        assert!(polls < 200, "{polls} polls in a minute, for a partition that does not come back");
        assert_eq!(fetches.next(&mut session, true).asked.len(), 1, "only resumed partitions are requested");
    }

    #[test]
    fn unconfirmed_log_ends_requested_per_interval() {
        let (mut fetches, _) = fetches();
        let later = BEGAN + UNHEARD_MAX;
        fetches.answered(10, BEGAN + UNHEARD_MAX / 2);
        assert_eq!(fetches.take_unheard(BEGAN + UNHEARD_MAX / 2), []);
        assert_eq!(fetches.take_unheard(later), [of(0)], "paused, so that polls do not request it");
        assert_eq!(fetches.take_unheard(later), []);
        let much_later = later + UNHEARD_MAX;
        fetches.put(of(0), AskingBroker(9), 0, much_later);
        assert_eq!(fetches.take_unheard(much_later), [of(0), of(1)], "no poll was answered since");
        fetches.forget(&of(1));
        assert_eq!(fetches.take_unheard(much_later + UNHEARD_MAX), [of(0)]);
    }

    #[test]
    fn partition_paused_elsewhere_gets_log_end_at_once() {
        let (mut old, _) = fetches();
        old.pause(&of(1), BEGAN + Duration::from_secs(1));
        assert!(old.take_resting(|_| false).is_empty());
        let taken = old.take_resting(|partition| *partition == of(0));
        let [(answered, since)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!((answered.0, *since), (5, BEGAN));
        assert!(!old.is_deserted(), "the other partition remains");
        let now = BEGAN + UNHEARD_MAX;
        let mut new = PendingFetches::default();
        new.rest(of(0), answered.clone(), *since);
        assert_eq!(new.take_unheard(now), [of(0)]);
        assert_eq!(new.take_unheard(now), []);
        new.put(of(0), AskingBroker(9), 0, now);
        assert!(new.take_resting(|_| true).is_empty());
    }

    #[test]
    fn mem_1_empty_poll_holds_little_memory() {
        let mut fetches = PendingFetches::default();
        for partition in 0..64 {
            fetches.put(of(partition), AskingBroker(5), 0, BEGAN);
        }
        let mut asked = vec![records_asked_for(&fetches, LIMIT)];
        for _ in 0..10 {
            fetches.answered(records_asked_for(&fetches, LIMIT), BEGAN);
            asked.push(records_asked_for(&fetches, LIMIT));
        }
        assert_eq!((asked[0], asked[1], *asked.last().expect("some")), (BYTES_MIN, BYTES_MIN * 2, BYTES_MAX));
        fetches.answered(0, BEGAN);
        assert_eq!(records_asked_for(&fetches, LIMIT), BYTES_MIN);
        assert_eq!(fetches.bytes_to_ask(LIMIT), BYTES_MIN + HEAD_BYTES * 65);
    }

    const LIMIT: usize = 1 << 30;

    fn records_asked_for(fetches: &PendingFetches<AskingBroker>, limit: usize) -> usize {
        fetches.record_bytes(fetches.bytes_to_ask(limit))
    }

    #[test]
    fn liv_1_many_partitions_leave_room_for_records() {
        for partitions in [1, 127, 128, 1_000, 10_000] {
            let mut fetches = PendingFetches::default();
            for partition in 0..partitions {
                fetches.put(of(partition), AskingBroker(5), 0, BEGAN);
            }
            let (mut polls, worth) = (0, BYTES_MAX.min(fetches.wants.len() * 512 * 1024) / 2);
            while records_asked_for(&fetches, LIMIT) < worth {
                assert!(
                    polls < 8,
                    "{partitions} partitions, poll {polls}: {}",
                    records_asked_for(&fetches, LIMIT)
                );
                fetches.answered(records_asked_for(&fetches, LIMIT), BEGAN);
                polls += 1;
            }
            // Leases as small as they can be.
            for leased in [BYTES_MIN, BYTES_MIN / 4, 1] {
                assert!(
                    fetches.record_bytes(leased) >= (leased / 2).max(1),
                    "{partitions} partitions, {leased} leased"
                );
            }
        }
    }

    #[derive(Clone, Debug)]
    struct AskedLog {
        topic: Option<TopicId>,
        position: i64,
    }

    impl FetchSpec for AskedLog {
        fn topic(&self) -> Option<TopicId> {
            self.topic
        }

        fn position(&self) -> Offset {
            Offset(self.position)
        }

        fn leader_epoch(&self) -> Option<i32> {
            None
        }

        fn bytes_max(&self) -> u32 {
            1
        }
    }

    fn change(
        fetches: &mut PendingFetches<AskedLog>,
        session: &mut FetchSession,
        (kind, partition, log): (u8, i32, AskedLog),
    ) {
        match kind {
            0..4 => fetches.put(of(partition), log, 0, BEGAN),
            4 => fetches.pause(&of(partition), BEGAN),
            5 => fetches.forget(&of(partition)),
            6 => drop(fetches.release(&of(partition))),
            7 => drop(fetches.take(&of(partition), session, BEGAN)),
            8 => drop(fetches.take_outdated("t", log.topic)),
            9 => drop(fetches.hand_back_all()),
            _ => session.reset(),
        }
    }

    proptest! {
        /// A partition that a change leaves unmarked would never be polled again, or be polled for nobody.
        #[test]
        fn liv_1_broker_polls_exactly_pending_partitions(
            rounds in prop::collection::vec(
                prop::collection::vec((0u8..11, 0i32..5, (0u128..3, 0i64..4)), 0..4),
                1..30,
            ),
        ) {
            let (mut fetches, mut session) = (PendingFetches::default(), FetchSession::default());
            let mut polled = BTreeMap::new();
            for (round, changes) in rounds.into_iter().enumerate() {
                for (kind, partition, (topic, position)) in changes {
                    let log = AskedLog { topic: TopicId::of(uuid::Uuid::from_u128(topic)), position };
                    change(&mut fetches, &mut session, (kind, partition, log));
                }
                let request = fetches.next(&mut session, true);
                if request.epoch == 0 {
                    polled.clear();
                }
                polled.extend(request.asked);
                for (partition, _) in request.forgotten {
                    polled.remove(&partition);
                }
                session.answered(round as i32 + 1);
                let pending = fetches.wants.iter().map(|(partition, open)| (partition.clone(), asked(open)));
                prop_assert_eq!(&polled, &pending.collect::<BTreeMap<_, _>>());
            }
        }
    }
}
