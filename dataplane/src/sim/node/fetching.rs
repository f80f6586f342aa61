//! The fetch router and its broker tasks, as `kafka/fetch` runs them: one session and one poll in flight for each broker,
//! bytes leased before they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::ids::{Offset, TopicPartition};

use super::super::cluster::{BROKERS, Part, Reply, Request};
use super::super::outside::Outside;
use super::lines::Purpose;
use super::{Inside, Key, Mailbox, Node};
use crate::credit::bytes::Lease;
use crate::kafka::backoff::Backoff;
use crate::kafka::fetch::session::{Asked, Session};
use crate::kafka::offsets::At;

/// Longer than in production, where a poll costs nothing.
const WAIT: Duration = Duration::from_secs(2);
const WAIT_WHILE_SOME_REST: Duration = Duration::from_millis(20);
const BYTES_MIN: usize = 64 * 1024;
const BYTES_MAX: usize = 8 * 1024 * 1024;
const ASK_BYTES_AGAIN: Duration = Duration::from_millis(10);

/// A partition has room.
#[derive(Clone, Debug)]
pub(in crate::sim) struct Want {
    pub key: Key,
    pub position: Offset,
    pub leader_epoch: Option<i32>,
    pub bytes_max: usize,
}

/// What router and broker task share.
#[derive(Default)]
pub(super) struct Desk {
    wants: BTreeMap<i32, (Want, i32)>,
    resting: BTreeSet<i32>,
    session: Session,
    polling: Polling,
    lease: Option<Lease>,
    backoff: Option<Backoff>,
}

#[derive(Default)]
enum Polling {
    #[default]
    Idle,
    /// Bytes that were asked for and are not there yet.
    ForBytes(BoxFuture<'static, Lease>),
    Out,
    BackingOff,
}

pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(5))
}

impl Node {
    pub(super) fn router_gets(&mut self, outside: &mut Outside, what: Inside) {
        match what {
            Inside::Want(want) => {
                self.homeless.remove(&want.key.0);
                if self.partitions.contains_key(&want.key) {
                    self.place(outside, want);
                }
            }
            Inside::Forget { partition } => self.forget_want(partition),
            Inside::Poll { broker } => self.poll(outside, broker),
            Inside::BackedOff { broker } => {
                self.desks[broker].polling = Polling::Idle;
                let wants = std::mem::take(&mut self.desks[broker].wants);
                self.misplaced(outside, wants.into_values().map(|(want, _)| want).collect());
            }
            Inside::LookUp => {
                let broker = outside.random.below(BROKERS as u64) as usize;
                self.ask(outside, broker, Request::Metadata, Purpose::LookUp);
            }
            Inside::AskBounds { broker, partition, position } => {
                let request = Request::ListOffsets { partitions: vec![partition], at: At::Earliest };
                self.ask(
                    outside,
                    broker,
                    request,
                    Purpose::Bounds { broker, partition, position, start: None },
                );
            }
            _ => {}
        }
    }

    fn leader(&self, partition: i32) -> Option<(usize, i32)> {
        self.view.as_ref()?.1.get(usize::try_from(partition).ok()?).copied()
    }

    fn place(&mut self, outside: &mut Outside, want: Want) {
        let partition = want.key.0;
        let Some((broker, epoch)) = self.leader(partition) else {
            self.homeless.insert(partition, want);
            self.look_up(outside, Duration::ZERO);
            return;
        };
        self.unplace(partition);
        let desk = &mut self.desks[broker];
        desk.resting.remove(&partition);
        desk.wants.insert(partition, (want, epoch));
        self.placed.insert(partition, broker);
        self.poll(outside, broker);
    }

    fn unplace(&mut self, partition: i32) {
        if let Some(broker) = self.placed.remove(&partition) {
            self.desks[broker].wants.remove(&partition);
            self.desks[broker].resting.remove(&partition);
        }
    }

    pub(super) fn forget_want(&mut self, partition: i32) {
        self.homeless.remove(&partition);
        self.unplace(partition);
    }

    fn look_up(&mut self, outside: &mut Outside, wait: Duration) {
        if !self.homeless.is_empty() && !std::mem::replace(&mut self.looking, true) {
            self.later(outside, wait, Inside::LookUp);
        }
    }

    pub(super) fn looked_up(&mut self, outside: &mut Outside, reply: Option<Reply>) {
        self.looking = false;
        if let Some(Reply::Topic(view)) = reply {
            self.view = Some((outside.now, view));
            for want in std::mem::take(&mut self.homeless).into_values() {
                self.place(outside, want);
            }
            if self.homeless.is_empty() {
                self.router_backoff.reset();
            }
        }
        if !self.homeless.is_empty() {
            let wait = self.router_backoff.next(outside.random.draw());
            self.look_up(outside, wait);
        }
    }

    fn misplaced(&mut self, outside: &mut Outside, wants: Vec<Want>) {
        for want in wants {
            if self.placed.remove(&want.key.0).is_some() {
                self.homeless.insert(want.key.0, want);
            }
        }
        let wait = self.router_backoff.next(outside.random.draw());
        self.look_up(outside, wait);
    }

    fn poll(&mut self, outside: &mut Outside, broker: usize) {
        let (budget, limit) = (self.budget.clone(), self.budget.limit());
        let desk = &mut self.desks[broker];
        if desk.wants.is_empty() {
            if matches!(desk.polling, Polling::ForBytes(_)) {
                desk.polling = Polling::Idle;
            }
            return;
        }
        if matches!(desk.polling, Polling::Idle) {
            let room: usize = desk.wants.values().map(|(want, _)| want.bytes_max).sum();
            let bytes = room.clamp(BYTES_MIN, BYTES_MAX.min(limit / 4).max(BYTES_MIN));
            desk.polling = Polling::ForBytes(async move { budget.lease(bytes).await }.boxed());
        }
        let Polling::ForBytes(asked) = &mut desk.polling else { return };
        let Some(lease) = asked.now_or_never() else {
            self.later(outside, ASK_BYTES_AGAIN, Inside::Poll { broker });
            return;
        };
        let wanted: BTreeMap<TopicPartition, Asked> = desk
            .wants
            .iter()
            .map(|(partition, want)| {
                (TopicPartition::new(Arc::clone(&outside.topic), *partition), asked_of(want))
            })
            .collect();
        let step = desk.session.next(&wanted);
        let wait = if desk.resting.is_empty() { WAIT } else { WAIT_WHILE_SOME_REST };
        let bytes_max = lease.bytes();
        (desk.polling, desk.lease) = (Polling::Out, Some(lease));
        self.ask(outside, broker, Request::Fetch { step, bytes_max, wait }, Purpose::Fetch { broker });
    }

    pub(super) fn polled(&mut self, outside: &mut Outside, broker: usize, reply: Option<Reply>) {
        let desk = &mut self.desks[broker];
        let lease = desk.lease.take();
        desk.polling = Polling::Idle;
        let (session, parts) = match reply {
            Some(Reply::Fetched { code: None, session, parts }) => (session, parts),
            Some(Reply::Fetched {
                code: Some(Code::FetchSessionIdNotFound | Code::InvalidFetchSessionEpoch),
                ..
            }) => {
                desk.session.reset();
                return self.poll(outside, broker);
            }
            _ => {
                desk.session.reset();
                desk.polling = Polling::BackingOff;
                let wait = desk.backoff.get_or_insert_with(backoff).next(outside.random.draw());
                return self.later(outside, wait, Inside::BackedOff { broker });
            }
        };
        desk.backoff = None;
        desk.session.answered(session);
        if let Some(lease) = lease {
            self.deliver(outside, broker, parts, lease);
        }
        // Turns are given to partitions first, so that their next wants are in the next poll.
        self.later(outside, Duration::from_micros(200), Inside::Poll { broker });
    }

    fn deliver(&mut self, outside: &mut Outside, broker: usize, parts: Vec<Part>, mut lease: Lease) {
        let held: usize = parts.iter().map(|part| part.records.len()).sum();
        lease.shrink_to(held);
        lease.grow_to(held);
        let served = parts.iter().filter(|part| !part.records.is_empty()).count();
        let apart = served > 1 && self.budget.is_pressed();
        let mut whole = Some(lease);
        let shared = if apart { None } else { whole.take().map(Arc::new) };
        for mut part in parts {
            let hold = match (&shared, &mut whole) {
                (Some(shared), _) => Arc::clone(shared),
                (None, Some(lease)) => Arc::new(lease.split(part.records.len())),
                (None, None) => continue,
            };
            if apart {
                part.records = Bytes::copy_from_slice(&part.records);
            }
            let partition = part.partition.partition;
            match part.code {
                None | Some(Code::CorruptMessage) => {
                    if let Some(want) = self.take_want(broker, &part.partition) {
                        let (key, position) = (want.key, want.position);
                        let fetched = Inside::Fetched { key, position, part: Box::new(part), hold };
                        self.post(outside, Mailbox::Partition(key.0, key.1.0), fetched);
                    }
                }
                Some(Code::OffsetOutOfRange) => {
                    if let Some(position) = self.desks[broker].session.position_of(&part.partition) {
                        self.later(
                            outside,
                            Duration::ZERO,
                            Inside::AskBounds { broker, partition, position },
                        );
                    }
                }
                Some(_) => {
                    if let Some((want, _)) = self.desks[broker].wants.remove(&partition) {
                        self.misplaced(outside, vec![want]);
                    }
                }
            }
        }
    }

    /// A want that was replaced while the poll was under way is not answered with what its predecessor asked for.
    fn take_want(&mut self, broker: usize, partition: &TopicPartition) -> Option<Want> {
        let desk = &mut self.desks[broker];
        let index = partition.partition;
        let asked = desk.session.position_of(partition);
        if desk.wants.get(&index).is_none_or(|(want, _)| asked != Some(want.position)) {
            return None;
        }
        desk.resting.insert(index);
        desk.wants.remove(&index).map(|(want, _)| want)
    }

    pub(super) fn bounds(
        &mut self,
        outside: &mut Outside,
        broker: usize,
        (partition, position): (i32, Offset),
        start: Option<Offset>,
        reply: Option<Reply>,
    ) {
        let found = match reply {
            Some(Reply::Offsets(Ok(found))) => found.get(&partition).copied(),
            _ => None,
        };
        let Some(found) = found else {
            if let Some((want, _)) = self.desks[broker].wants.remove(&partition) {
                self.misplaced(outside, vec![want]);
            }
            return;
        };
        let Some(log_start) = start else {
            let request = Request::ListOffsets { partitions: vec![partition], at: At::Latest };
            let purpose = Purpose::Bounds { broker, partition, position, start: Some(found) };
            return self.ask(outside, broker, request, purpose);
        };
        let id = TopicPartition::new(Arc::clone(&outside.topic), partition);
        let is_same =
            self.desks[broker].wants.get(&partition).is_some_and(|(want, _)| want.position == position);
        if is_same && let Some(want) = self.take_want(broker, &id) {
            let key = want.key;
            let told = Inside::OutOfRange { key, log_start, log_end: found };
            self.post(outside, Mailbox::Partition(key.0, key.1.0), told);
        }
    }
}

fn asked_of((want, current_leader_epoch): &(Want, i32)) -> Asked {
    Asked {
        position: want.position,
        bytes_max: want.bytes_max as u32,
        current_leader_epoch: *current_leader_epoch,
        last_fetched_epoch: want.leader_epoch.unwrap_or(-1),
    }
}
