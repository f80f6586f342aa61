//! Fetch router and its broker tasks, modelled on `kafka/fetch`: one session and one poll in flight for each broker,
//! with bytes leased before the poll.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::credit::memory_budget::{MemoryLease, Overdraft};
use lighterman::kafka::fetch::pending::{
    FetchSpec, FrameLeases, PartitionReply, PendingFetches, classify_reply, is_session_lost,
};
use lighterman::kafka::fetch::session::FetchSession;
use lighterman::kafka::fetch::wire::ErrorAction;
use lighterman::kafka::offsets::OffsetSpec;
use lighterman::runtime::backoff::Backoff;
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;

use super::super::cluster::{BROKERS, BrokerReply, FetchedPart, RequestKind};
use super::super::environment::SimulatedEnvironment;
use super::connections::RequestPurpose;
use super::{OwnershipKey, SimulatedNode};
use crate::node::messages::{MessageMailbox, NodeMessage};

/// Longer than in production, where a poll is cheap.
const WAIT: Duration = Duration::from_secs(2);
const ASK_BYTES_AGAIN: Duration = Duration::from_millis(10);

/// Fetch of a partition that has room in its buffer.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedFetch {
    pub key: OwnershipKey,
    pub topic: Option<TopicId>,
    pub position: Offset,
    pub leader_epoch: Option<i32>,
    pub bytes_max: usize,
}

impl FetchSpec for SimulatedFetch {
    fn topic(&self) -> Option<TopicId> {
        self.topic
    }

    fn position(&self) -> Offset {
        self.position
    }

    fn leader_epoch(&self) -> Option<i32> {
        self.leader_epoch
    }

    fn bytes_max(&self) -> u32 {
        self.bytes_max as u32
    }
}

/// Pending fetches of a broker, with the task that polls it.
#[derive(Default)]
pub(super) struct SimulatedPoller {
    fetches: PendingFetches<SimulatedFetch>,
    session: FetchSession,
    polling: PollState,
    lease: Option<MemoryLease>,
    /// Pending lease for bytes beyond those leased before the poll.
    rest: Option<BoxFuture<'static, MemoryLease>>,
    arrived: Option<(i32, Vec<FetchedPart>)>,
    backoff: Option<Backoff>,
}

#[derive(Default)]
enum PollState {
    #[default]
    Idle,
    /// Pending lease before the poll.
    ForBytes(BoxFuture<'static, MemoryLease>),
    Out,
    BackingOff,
}

pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(5))
}

impl SimulatedNode {
    pub(super) fn router_gets(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::Want(want) => {
                self.leaderless.remove(&want.key.0);
                if self.partitions.contains_key(&want.key) {
                    self.place(env, want);
                }
            }
            NodeMessage::Forget { partition } => self.forget_want(env, partition),
            NodeMessage::Poll { broker } => self.poll(env, broker),
            NodeMessage::BackedOff { broker } => {
                self.desks[broker].polling = PollState::Idle;
                let wants = self.desks[broker].fetches.hand_back_all();
                self.misplaced(env, wants);
            }
            NodeMessage::LookUp => {
                let broker = env.random.below(BROKERS as u64) as usize;
                self.ask(env, broker, RequestKind::Metadata, RequestPurpose::LookUp);
            }
            NodeMessage::AskBounds { broker, partition, position } => {
                let request =
                    RequestKind::ListOffsets { partitions: vec![partition], at: OffsetSpec::Earliest };
                self.ask(
                    env,
                    broker,
                    request,
                    RequestPurpose::Bounds { broker, partition, position, start: None },
                );
            }
            _ => {}
        }
    }

    fn leader(&self, partition: i32) -> Option<(usize, i32)> {
        self.leaders.as_ref()?.get(usize::try_from(partition).ok()?).copied()
    }

    fn place(&mut self, env: &mut SimulatedEnvironment, want: SimulatedFetch) {
        let partition = want.key.0;
        let Some((broker, epoch)) = self.leader(partition) else {
            self.leaderless.insert(partition, want);
            self.look_up(env, Duration::ZERO);
            return;
        };
        self.unplace(env, partition);
        let now = env.now;
        self.desks[broker].fetches.put(id_of(env, partition), want, epoch, now);
        self.placed.insert(partition, broker);
        self.poll(env, broker);
    }

    fn unplace(&mut self, env: &SimulatedEnvironment, partition: i32) {
        if let Some(broker) = self.placed.remove(&partition) {
            self.desks[broker].fetches.forget(&id_of(env, partition));
        }
    }

    pub(super) fn forget_want(&mut self, env: &SimulatedEnvironment, partition: i32) {
        self.leaderless.remove(&partition);
        self.unplace(env, partition);
    }

    fn look_up(&mut self, env: &mut SimulatedEnvironment, wait: Duration) {
        if !self.leaderless.is_empty() && !std::mem::replace(&mut self.looking, true) {
            self.later(env, wait, NodeMessage::LookUp);
        }
    }

    pub(super) fn looked_up(&mut self, env: &mut SimulatedEnvironment, reply: Option<BrokerReply>) {
        self.looking = false;
        if let Some(BrokerReply::Topic(_, leaders)) = reply {
            self.leaders = Some(leaders);
            for want in std::mem::take(&mut self.leaderless).into_values() {
                self.place(env, want);
            }
            if self.leaderless.is_empty() {
                self.router_backoff.reset();
            }
        }
        if !self.leaderless.is_empty() {
            let wait = self.router_backoff.next(env.random.draw());
            self.look_up(env, wait);
        }
    }

    fn misplaced(&mut self, env: &mut SimulatedEnvironment, wants: Vec<SimulatedFetch>) {
        for want in wants {
            if self.placed.remove(&want.key.0).is_some() {
                self.leaderless.insert(want.key.0, want);
            }
        }
        let wait = self.router_backoff.next(env.random.draw());
        self.look_up(env, wait);
    }

    fn poll(&mut self, env: &mut SimulatedEnvironment, broker: usize) {
        let budget = self.budget.clone();
        let poller = &mut self.desks[broker];
        if poller.arrived.is_some() {
            return self.receive(env, broker);
        }
        if poller.fetches.is_empty() {
            if matches!(poller.polling, PollState::ForBytes(_)) {
                poller.polling = PollState::Idle;
            }
            return;
        }
        if matches!(poller.polling, PollState::Idle) {
            let most = poller.fetches.bytes_to_ask(budget.limit());
            let least = budget.fetch_bytes_min().min(most);
            let leased = async move { budget.lease_for_records(least, most).await };
            poller.polling = PollState::ForBytes(leased.boxed());
        }
        let PollState::ForBytes(asked) = &mut poller.polling else { return };
        let Some(lease) = asked.now_or_never() else {
            self.later(env, ASK_BYTES_AGAIN, NodeMessage::Poll { broker });
            return;
        };
        let step = poller.fetches.next(&mut poller.session, true);
        let wait = poller.fetches.wait(WAIT, env.now);
        let bytes_max = poller.fetches.record_bytes(lease.bytes());
        (poller.polling, poller.lease) = (PollState::Out, Some(lease));
        self.ask(env, broker, RequestKind::Fetch { step, bytes_max, wait }, RequestPurpose::Fetch { broker });
    }

    pub(super) fn polled(
        &mut self,
        env: &mut SimulatedEnvironment,
        broker: usize,
        reply: Option<BrokerReply>,
    ) {
        let fetches = &mut self.desks[broker];
        match reply {
            Some(BrokerReply::Fetched { code: None, session, parts }) => {
                fetches.arrived = Some((session, parts));
                self.receive(env, broker);
            }
            Some(BrokerReply::Fetched { code: Some(code), .. }) if is_session_lost(code) => {
                (fetches.polling, fetches.lease) = (PollState::Idle, None);
                fetches.session.reset();
                self.poll(env, broker);
            }
            _ => {
                fetches.lease = None;
                fetches.session.reset();
                fetches.polling = PollState::BackingOff;
                let wait = fetches.backoff.get_or_insert_with(backoff).next(env.random.draw());
                self.later(env, wait, NodeMessage::BackedOff { broker });
            }
        }
    }

    /// Receives a response once all of its bytes are leased: a broker sends a first batch whole (KIP-74).
    fn receive(&mut self, env: &mut SimulatedEnvironment, broker: usize) {
        let budget = self.budget.clone();
        let poller = &mut self.desks[broker];
        let (Some((session, parts)), Some(mut lease)) = (poller.arrived.take(), poller.lease.take()) else {
            return;
        };
        let brought: usize = parts.iter().map(|part| part.records.len()).sum();
        let missing = brought.saturating_sub(lease.bytes());
        if missing > 0 {
            let ask = async move { budget.lease_or_overdraft(missing, Overdraft::Fetched).await };
            let rest = poller.rest.get_or_insert_with(|| ask.boxed()).now_or_never();
            let Some(rest) = rest else {
                (poller.arrived, poller.lease) = (Some((session, parts)), Some(lease));
                return self.later(env, ASK_BYTES_AGAIN, NodeMessage::Poll { broker });
            };
            poller.rest = None;
            lease.join(rest);
        }
        (poller.polling, poller.backoff) = (PollState::Idle, None);
        poller.session.answered(session);
        poller.fetches.answered(brought, env.now);
        self.deliver(env, broker, parts, lease);
        // Partitions run first, so that their next fetches are part of the next poll.
        self.later(env, Duration::from_micros(200), NodeMessage::Poll { broker });
    }

    fn deliver(
        &mut self,
        env: &mut SimulatedEnvironment,
        broker: usize,
        parts: Vec<FetchedPart>,
        lease: MemoryLease,
    ) {
        let mut holds = FrameLeases::new(parts.iter().map(|part| part.records.len()), lease, &self.budget);
        let apart = holds.are_apart();
        for mut part in parts {
            let Some(hold) = holds.next(part.records.len()) else { continue };
            if apart {
                part.records = Bytes::copy_from_slice(&part.records);
            }
            self.settle_part(env, broker, part, hold);
        }
    }

    fn settle_part(
        &mut self,
        env: &mut SimulatedEnvironment,
        broker: usize,
        part: FetchedPart,
        hold: Arc<MemoryLease>,
    ) {
        let partition = part.partition.partition;
        let SimulatedPoller { fetches, session, .. } = &mut self.desks[broker];
        match classify_reply(part.code, part.diverging_end, part.records.is_empty()) {
            PartitionReply::Records
            | PartitionReply::Diverged(_)
            | PartitionReply::Refused(ErrorAction::Trouble(_)) => {
                if let Some(want) = fetches.take(&part.partition, session, env.now) {
                    let (key, position) = (want.key, want.position);
                    let fetched = NodeMessage::Fetched { key, position, part: Box::new(part), hold };
                    self.post(env, MessageMailbox::Partition(key.0, key.1.0), fetched);
                }
            }
            PartitionReply::Refused(ErrorAction::OutOfRange) => {
                if let Some(position) = session.position_of(&part.partition) {
                    let ask = NodeMessage::AskBounds { broker, partition, position };
                    self.later(env, Duration::ZERO, ask);
                }
            }
            PartitionReply::Refused(ErrorAction::Misplaced) => {
                self.release_unsent(env, broker, partition);
            }
            PartitionReply::Nothing => {}
        }
    }

    fn release_unsent(&mut self, env: &mut SimulatedEnvironment, broker: usize, partition: i32) {
        if let Some(want) = self.desks[broker].fetches.release(&id_of(env, partition)) {
            self.misplaced(env, vec![want]);
        }
    }

    pub(super) fn bounds(
        &mut self,
        env: &mut SimulatedEnvironment,
        broker: usize,
        (partition, position): (i32, Offset),
        start: Option<Offset>,
        reply: Option<BrokerReply>,
    ) {
        let found = match reply {
            Some(BrokerReply::Offsets(Ok(found))) => found.get(&partition).copied(),
            _ => None,
        };
        let Some(found) = found else {
            return self.release_unsent(env, broker, partition);
        };
        let Some(log_start) = start else {
            let request = RequestKind::ListOffsets { partitions: vec![partition], at: OffsetSpec::Latest };
            let purpose = RequestPurpose::Bounds { broker, partition, position, start: Some(found) };
            return self.ask(env, broker, request, purpose);
        };
        let id = id_of(env, partition);
        let SimulatedPoller { fetches, session, .. } = &mut self.desks[broker];
        let is_same = fetches.want(&id).is_some_and(|want| want.position == position);
        if is_same && let Some(want) = fetches.take(&id, session, env.now) {
            let key = want.key;
            let told = NodeMessage::OutOfRange { key, log_start, log_end: found };
            self.post(env, MessageMailbox::Partition(key.0, key.1.0), told);
        }
    }
}

fn id_of(env: &SimulatedEnvironment, partition: i32) -> TopicPartition {
    TopicPartition::new(Arc::clone(&env.topic), partition)
}
