//! Batcher of a consumer, modelled on `batcher/actor.rs`: it has slot and bytes before it seals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::batcher::core::{BatchLimits, BatcherCore, SealCondition, SealedBatch};
use lighterman::batcher::results::BatchShare;
use lighterman::credit::memory_budget::{MemoryLease, Overdraft};
use lighterman::credit::slots::{Slot, SlotReceiver};
use lighterman::invoker::retry::SetbackCounts;
use lighterman::messages::batch::BatchId;
use lighterman::messages::offer::Offer;
use lighterman::messages::records::RecordRun;
use lighterman::runtime::in_flight::{InFlightGuard, LongestRun};
use lighterman_proto::ids::{ConsumerId, Epoch, TopicPartition};
use lighterman_proto::units::Moment;

use super::super::environment::SimulatedEnvironment;
use super::invocations::CarriedInvocation;
use super::{OwnershipKey, SimulatedNode};
use crate::history::{HistoryEvent as Happened, InvocationShare};
use crate::node::messages::{MessageMailbox, NodeMessage};

const LOOK_AGAIN: Duration = Duration::from_millis(50);
const ASK_BYTES_AGAIN: Duration = Duration::from_millis(10);

/// Consumer with its batcher.
pub(super) struct SimulatedConsumer {
    pub(super) core: BatcherCore,
    pub(super) partitions: BTreeMap<i32, Epoch>,
    pub(super) sent: BTreeMap<BatchId, SentBatch>,
    pub(super) slot: Option<Slot>,
    pub(super) bytes: Option<MemoryLease>,
    /// Pending request for bytes.
    pub(super) asked: Option<BoxFuture<'static, MemoryLease>>,
    pub(super) next_batch: u64,
    pub(super) setbacks: SetbackCounts,
    pub(super) timer: Option<Moment>,
    /// Last moment at which something other than the window held batches back.
    pub(super) blocked: Moment,
    /// Set while it waits for a slot or for bytes.
    pub(super) stuck: bool,
    /// Moment since which each partition's first record is offered.
    pub(super) offered: BTreeMap<i32, Moment>,
}

pub(super) struct SentBatch {
    pub(super) members: Vec<BatchShare>,
    pub(super) flights: Vec<InFlightGuard>,
    pub(super) records: u32,
    pub(super) attempt: u32,
}

impl SimulatedConsumer {
    pub(super) fn new(env: &SimulatedEnvironment) -> Self {
        let plan = &env.plan;
        Self {
            core: BatcherCore::new(BatchLimits {
                records_max: plan.records_max,
                payload_bytes_max: plan.payload_bytes_max,
                envelope_bytes: env.envelope.base_bytes(),
                window: plan.window,
            }),
            partitions: BTreeMap::new(),
            sent: BTreeMap::new(),
            slot: None,
            bytes: None,
            asked: None,
            next_batch: 0,
            setbacks: SetbackCounts::default(),
            timer: None,
            blocked: Moment::default(),
            stuck: false,
            offered: BTreeMap::new(),
        }
    }

    fn knows(&self, key: OwnershipKey) -> bool {
        self.partitions.get(&key.0) == Some(&key.1)
    }
}

impl SimulatedNode {
    pub(super) fn register(&mut self, consumer: u32, key: OwnershipKey) {
        if let Some(consumer) = self.consumers.get_mut(&ConsumerId(consumer)) {
            consumer.partitions.insert(key.0, key.1);
        }
    }

    pub(super) fn end_consumer(&mut self, id: ConsumerId) {
        // The batcher outlives its consumer until its batches are answered; nobody receives their results.
        if let Some(gone) = self.consumers.get_mut(&id) {
            gone.partitions.clear();
        }
        self.invoker.slots.forget(u64::from(id.0));
        let idle = self.consumers.get(&id).is_some_and(|gone| gone.sent.is_empty());
        if idle {
            self.consumers.remove(&id);
        } else {
            self.invoker.leaving.insert(id);
        }
    }

    pub(super) fn batcher_gets(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        let id = match &what {
            NodeMessage::Offer { consumer, .. }
            | NodeMessage::Withdraw { consumer, .. }
            | NodeMessage::Unregister { consumer, .. }
            | NodeMessage::SlotGranted { consumer, .. }
            | NodeMessage::BatcherWake { consumer }
            | NodeMessage::Answered { consumer, .. } => *consumer,
            _ => return,
        };
        let now = env.now;
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return };
        match what {
            NodeMessage::Offer { pending, .. } => {
                if !consumer.knows((pending.partition, pending.epoch)) {
                    return;
                }
                let partition = pending.partition;
                if consumer.core.offer(*pending) {
                    consumer.offered.entry(partition).or_insert(now);
                }
            }
            NodeMessage::Withdraw { key, seq, .. } => {
                if consumer.core.withdraw(key.0, key.1, seq) {
                    consumer.offered.remove(&key.0);
                    self.post(
                        env,
                        MessageMailbox::Partition(key.0, key.1.0),
                        NodeMessage::Withdrawn { key, seq },
                    );
                }
                return;
            }
            NodeMessage::Unregister { key, .. } => {
                if consumer.knows(key) {
                    consumer.partitions.remove(&key.0);
                    consumer.offered.remove(&key.0);
                    consumer.setbacks.forget(key.0, key.1);
                    consumer.core.forget(key.0);
                }
                return;
            }
            NodeMessage::SlotGranted { slot, .. } => {
                if consumer.slot.is_none() {
                    consumer.slot = Some(slot);
                }
            }
            NodeMessage::BatcherWake { .. } => consumer.timer = consumer.timer.filter(|at| *at > now),
            NodeMessage::Answered { batch, verdict, facts, sent_at, .. } => {
                self.settle(env, id, batch, &verdict, facts, sent_at);
            }
            _ => {}
        }
        self.pump(env, id);
    }

    fn pump(&mut self, env: &mut SimulatedEnvironment, id: u32) {
        self.seal_what_is_due(env, id);
        if self.consumers.get(&ConsumerId(id)).is_some_and(|consumer| consumer.asked.is_some()) {
            let when = env.now + ASK_BYTES_AGAIN;
            self.batcher_wake_at(env, id, when);
        }
    }

    /// Seals batches as long as one is due and both credits are available.
    fn seal_what_is_due(&mut self, env: &mut SimulatedEnvironment, id: u32) {
        self.take_granted_bytes(id);
        if let Some(consumer) = self.consumers.get_mut(&ConsumerId(id))
            && std::mem::take(&mut consumer.stuck)
        {
            consumer.blocked = env.now;
        }
        loop {
            let now = env.now;
            let wake = match self.readiness(env, id) {
                SealCondition::Now => None,
                SealCondition::At(when) => Some(Some(when)),
                SealCondition::Never => Some(None),
            };
            let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return };
            if let Some(wake) = wake {
                (consumer.slot, consumer.bytes) = (None, None);
                if let Some(when) = wake {
                    self.batcher_wake_at(env, id, when);
                }
                return;
            }
            let has_slot = self.take_slot(env, id);
            if !has_slot || !self.seal(env, id) {
                if let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) {
                    (consumer.blocked, consumer.stuck) = (now, true);
                    // The holder of the slot may wait for exactly these bytes.
                    consumer.bytes.take_if(|_| !has_slot);
                }
                return;
            }
        }
    }

    fn batcher_wake_at(&mut self, env: &mut SimulatedEnvironment, id: u32, when: Moment) {
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return };
        if consumer.timer.is_none_or(|set| when < set) {
            consumer.timer = Some(when);
            let wait = when.since(env.now);
            self.later(env, wait, NodeMessage::BatcherWake { consumer: id });
        }
    }

    fn readiness(&mut self, env: &SimulatedEnvironment, id: u32) -> SealCondition {
        let now = env.now;
        let may_start = self.may_start(env);
        let lease = &self.group.lease;
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return SealCondition::Never };
        if consumer.core.waiting() > 0 && !lease.is_good(now) {
            consumer.blocked = now;
            return SealCondition::At(now + LOOK_AGAIN);
        }
        if consumer.offered.keys().any(|partition| !may_start(*partition)) {
            consumer.blocked = now;
        }
        consumer.core.ready(now, &may_start)
    }

    /// Returns a test for partitions over which no earlier invocation can still run (H4).
    fn may_start(&self, env: &SimulatedEnvironment) -> impl Fn(i32) -> bool + use<> {
        let (in_flight, mapping, topic) = (self.in_flight.clone(), env.mapping, Arc::clone(&env.topic));
        let now = env.now;
        move |partition| in_flight.is_clear(mapping, &TopicPartition::new(Arc::clone(&topic), partition), now)
    }

    fn take_slot(&mut self, env: &mut SimulatedEnvironment, id: u32) -> bool {
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return false };
        if consumer.slot.is_none() {
            let granted = Arc::clone(&self.granted);
            let grant: SlotReceiver = Arc::new(move |slot| granted.lock().push((id, slot)));
            consumer.slot = self.invoker.slots.take(u64::from(id), &grant);
            if consumer.slot.is_some() {
                let (in_use, limit) = (self.invoker.slots.in_use(), self.invoker.slots.limit());
                env.record(Happened::SlotTaken { in_use, limit });
            }
        }
        consumer.slot.is_some()
    }

    /// Seals a batch. Returns false if the payload's bytes are not available yet.
    fn seal(&mut self, env: &mut SimulatedEnvironment, id: u32) -> bool {
        let may_start = self.may_start(env);
        let now = env.now;
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return false };
        let Some(bytes) = consumer.core.due_bytes(now, &may_start) else { return false };
        if !self.take_bytes(id, bytes) {
            return false;
        }
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return false };
        let Some(plan) = consumer.core.seal(now, &may_start) else { return false };
        let (Some(slot), Some(lease)) = (consumer.slot.take(), consumer.bytes.take()) else { return false };
        self.dispatch(env, id, &plan, slot, lease);
        true
    }

    fn take_bytes(&mut self, id: u32, bytes: usize) -> bool {
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return false };
        if consumer.bytes.as_ref().is_some_and(|lease| lease.bytes() >= bytes) {
            return true;
        }
        consumer.bytes = None;
        consumer.bytes = self.budget.try_lease_or_overdraft(bytes, Overdraft::Payload);
        if consumer.bytes.is_none() {
            if consumer.asked.is_none() {
                let budget = self.budget.clone();
                let lease = async move { budget.lease_or_overdraft(bytes, Overdraft::Payload).await };
                consumer.asked = Some(lease.boxed());
            }
            return false;
        }
        true
    }

    /// Takes bytes granted since. In the production node they arrive as a message.
    fn take_granted_bytes(&mut self, id: u32) {
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return };
        if let Some(lease) = consumer.asked.as_mut().and_then(FutureExt::now_or_never) {
            (consumer.asked, consumer.bytes) = (None, Some(lease));
        }
    }

    fn dispatch(
        &mut self,
        env: &mut SimulatedEnvironment,
        id: u32,
        plan: &SealedBatch,
        slot: Slot,
        mut lease: MemoryLease,
    ) {
        let now = env.now;
        lease.shrink_to(plan.payload_bytes);
        let function_timeout = env.plan.function_timeout;
        let longest_run: LongestRun = Arc::new(move |_| function_timeout);
        let flights = plan.parts.iter().filter_map(|part| {
            let key = TopicPartition::new(Arc::clone(&env.topic), part.partition);
            self.in_flight.enter(env.mapping, &key, &longest_run, now)
        });
        let flights: Vec<InFlightGuard> = flights.collect();
        let partial = env.plan.partial_responses;
        let member = |part: &Offer| BatchShare {
            partition: part.partition,
            epoch: part.epoch,
            partition_batch: partial.then(|| part.partition_batch.clone()),
        };
        let members = plan.parts.iter().map(member).collect();
        let attempt = plan.parts.iter().map(|part| part.attempt).max().unwrap_or(1);
        let awake_since = self.awake_since;
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return };
        let batch = BatchId(consumer.next_batch);
        consumer.next_batch += 1;
        let waited = plan
            .parts
            .iter()
            .filter_map(|part| {
                consumer.offered.remove(&part.partition).map(|since| since.max(part.partition_batch.oldest))
            })
            .min()
            .map_or(0, |since| now.since(since.max(consumer.blocked).max(awake_since)).as_micros() as u64);
        consumer.sent.insert(batch, SentBatch { members, flights, records: plan.records(), attempt });
        let (records, payload_bytes) = (plan.records(), plan.payload_bytes);
        env.record(Happened::Sealed { records, payload_bytes, waited_micros: waited });
        let shares = plan.parts.iter().map(share).collect();
        for part in &plan.parts {
            let key = (part.partition, part.epoch);
            self.post(
                env,
                MessageMailbox::Partition(key.0, key.1.0),
                NodeMessage::Sealed { key, seq: part.seq, end: part.partition_batch.range.end, batch },
            );
        }
        self.invoker.carry((id, batch), CarriedInvocation { _credit: (slot, lease), shares, sent_at: now });
        self.post(env, MessageMailbox::Invoker, NodeMessage::Invoke { consumer: id, batch });
    }
}

fn share(part: &Offer) -> InvocationShare {
    let epoch_of = |slice: &RecordRun| std::iter::repeat_n(slice.header.leader_epoch, slice.records as usize);
    InvocationShare {
        leader_epochs: part.partition_batch.runs.iter().flat_map(epoch_of).collect(),
        partition: part.partition,
        epoch: part.epoch.0,
        offsets: part.partition_batch.walk().map(|record| record.offset.0).collect(),
    }
}
