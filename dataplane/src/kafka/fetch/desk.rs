//! What lies on a broker's desk: the wants of the partitions that it leads, what the next poll asks for, and what a reply
//! means to each of them. The shell polls and posts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::{TopicId, is_another};

use super::session::{Asked, Session, Step};
use super::wire::{Refused, refused};
use crate::credit::bytes::{ByteBudget, Lease};

/// While some partitions of the broker have no room, polls are short: the moment they have room they must be asked for.
const WAIT_WHILE_SOME_REST: Duration = Duration::from_millis(20);
const BYTES_MIN: usize = 64 * 1024;
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a partition asks for.
pub(crate) trait Wish {
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
pub(crate) struct Desk<W> {
    /// Open wants, with the leader epoch that metadata knew.
    wants: BTreeMap<TopicPartition, (W, i32)>,
    /// Partitions led by this broker that have no room now.
    resting: BTreeSet<TopicPartition>,
}

impl<W> Default for Desk<W> {
    fn default() -> Self {
        Self { wants: BTreeMap::new(), resting: BTreeSet::new() }
    }
}

impl<W: Wish> Desk<W> {
    pub(crate) fn is_empty(&self) -> bool {
        self.wants.is_empty()
    }

    /// Puts a want down, in the place of an earlier one of its partition.
    pub(crate) fn put(&mut self, partition: TopicPartition, want: W, leader_epoch: i32) {
        self.resting.remove(&partition);
        self.wants.insert(partition, (want, leader_epoch));
    }

    /// The partition wants nothing here any more.
    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.wants.remove(partition);
        self.resting.remove(partition);
    }

    /// The partition's open want.
    pub(crate) fn want(&self, partition: &TopicPartition) -> Option<&W> {
        self.wants.get(partition).map(|(want, _)| want)
    }

    /// Of which topic the partition's open want is, the leader epoch of what was read before it, and that of its leader.
    pub(crate) fn known(&self, partition: &TopicPartition) -> Option<(Option<TopicId>, Option<i32>, i32)> {
        let (want, leader_epoch) = self.wants.get(partition)?;
        Some((want.topic(), want.leader_epoch(), *leader_epoch))
    }

    /// Bytes to lease for the next poll, of a budget of `limit`.
    pub(crate) fn bytes_to_ask(&self, limit: usize) -> usize {
        let room: usize = self.wants.values().map(|(want, _)| want.bytes_max() as usize).sum();
        room.clamp(BYTES_MIN, BYTES_MAX.min(limit / 4).max(BYTES_MIN))
    }

    /// The next request of `session` to a broker that `speaks_ids` of topics, or does not.
    pub(crate) fn next(&self, session: &mut Session, speaks_ids: bool) -> Step {
        let asked = |(partition, (want, current_leader_epoch)): (&TopicPartition, &(W, i32))| {
            let asked = Asked {
                topic: want.topic(),
                position: want.position(),
                bytes_max: want.bytes_max(),
                current_leader_epoch: *current_leader_epoch,
                last_fetched_epoch: want.leader_epoch().unwrap_or(-1),
            };
            (partition.clone(), asked)
        };
        session.next(&self.wants.iter().map(asked).collect(), speaks_ids)
    }

    /// How long the broker may wait for records, `longest` when nobody rests.
    pub(crate) fn wait(&self, longest: Duration) -> Duration {
        if self.resting.is_empty() { longest } else { WAIT_WHILE_SOME_REST }
    }

    /// The want that the reply of `session` answers. One that was replaced while the poll was under way is not answered with
    /// what its predecessor asked for.
    pub(crate) fn take(&mut self, partition: &TopicPartition, session: &Session) -> Option<W> {
        let (want, _) = self.wants.get(partition)?;
        let asked = session.asked_for(partition)?;
        let is_same = (asked.position, asked.topic) == (want.position(), want.topic());
        if !mutant!("fetch-not-matched", is_same, true) {
            return None;
        }
        self.resting.insert(partition.clone());
        self.hand_back(partition)
    }

    /// Wants that are of another topic than the one that has the name `topic` now, by its id: they are taken off the desk.
    pub(crate) fn take_outdated(&mut self, topic: &str, now: Option<TopicId>) -> Vec<W> {
        let is_outdated = |partition: &TopicPartition, (want, _): &mut (W, i32)| {
            &*partition.topic == topic && is_another(want.topic(), now)
        };
        self.wants.extract_if(.., is_outdated).map(|(_, (want, _))| want).collect()
    }

    /// The broker does not lead the partition: its want goes elsewhere.
    pub(crate) fn hand_back(&mut self, partition: &TopicPartition) -> Option<W> {
        self.wants.remove(partition).map(|(want, _)| want)
    }

    /// The broker is gone: all wants go elsewhere.
    pub(crate) fn hand_back_all(&mut self) -> Vec<W> {
        std::mem::take(&mut self.wants).into_values().map(|(want, _)| want).collect()
    }
}

/// What a broker says of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Nothing new.
    Nothing,
    /// Records.
    Records,
    /// Histories part there.
    Diverged(Offset),
    /// Why there are none.
    Refused(Refused),
}

/// What `code`, a diverging end and the emptiness of the records mean.
pub(crate) fn word(code: Option<ResponseError>, diverging_end: Option<Offset>, is_empty: bool) -> Word {
    match (code, diverging_end) {
        (None, Some(end)) => Word::Diverged(end),
        (None, None) if is_empty => Word::Nothing,
        (None, None) => Word::Records,
        (Some(code), _) => Word::Refused(refused(code)),
    }
}

/// Whether a reply's own code only says that the broker has forgotten the session.
pub(crate) fn begins_anew(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::FetchSessionIdNotFound
            | ResponseError::InvalidFetchSessionEpoch
            | ResponseError::FetchSessionTopicIdError
    )
}

/// What keeps the parts of one frame on the budget. A slow partition must not pin a large frame for the others while bytes
/// are short: then each holds its own bytes, and its records are copied out.
pub(crate) struct Holds {
    shared: Option<Arc<Lease>>,
    rest: Option<Lease>,
}

impl Holds {
    /// Of a frame whose parts have `sizes` bytes of records; `lease` was taken from `budget` before it was asked for.
    pub(crate) fn new(
        sizes: impl Iterator<Item = usize> + Clone,
        mut lease: Lease,
        budget: &ByteBudget,
    ) -> Self {
        let held: usize = sizes.clone().sum();
        lease.shrink_to(held);
        lease.grow_to(held);
        if sizes.filter(|bytes| *bytes > 0).count() > 1 && budget.is_pressed() {
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
    pub(crate) fn next(&mut self, bytes: usize) -> Option<Arc<Lease>> {
        match &mut self.rest {
            Some(rest) => Some(Arc::new(rest.split(bytes))),
            None => self.shared.clone(),
        }
    }
}
