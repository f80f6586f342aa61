//! Batcher actor. It acquires a slot and bytes before it seals, writes the payload and passes it to the invoker.
//! Each partition then receives the resolution of its records.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use actix::{Actor, AsyncContext, Context, Handler, Recipient, SpawnHandle};
use lighterman_proto::event::EventEnvelope;
use lighterman_proto::ids::{Epoch, MappingId, TopicPartition};
use lighterman_proto::units::Moment;

use super::core::{BatchLimits, BatcherCore, LOOK_AGAIN, SealCondition};
use super::dispatch::InFlightBatch;
use super::messages::{BytesGranted, SlotGranted};
use super::payload::PayloadPool;
use crate::credit::memory_budget::{MemoryBudget, MemoryLease, Overdraft};
use crate::credit::slots::{Slot, SlotReceiver, Slots};
use crate::invoker::invocation::{InvokeRequest, Invoker};
use crate::invoker::retry::{RetryPolicy, SetbackCounts};
use crate::kafka::group::ownership_lease::OwnershipLease;
use crate::messages::batch::BatchId;
use crate::messages::offer::{Offer, OfferReplies, OfferWithdrawn, RegisterPartition, WithdrawOffer};
use crate::messages::report::PartitionStopped;
use crate::runtime::clock;
use crate::runtime::current_epochs::CurrentEpochs;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::{InFlight, LongestRun};
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};
use crate::runtime::owned_task::OwnedTask;
use crate::status::MappingStatus;
use crate::status::waiting_offers::WaitingOffers;

/// Components of a batcher.
pub struct BatcherParts {
    /// Mapping of the batches.
    pub mapping: MappingId,
    /// Topic of the mapping.
    pub topic: Arc<str>,
    /// Limits of a batch.
    pub limits: BatchLimits,
    /// JSON around the records.
    pub envelope: Arc<EventEnvelope>,
    /// Invocation slots of the mapping.
    pub slots: Slots,
    /// Key of this batcher in the queue for slots.
    pub slot_line: u64,
    /// Byte budget that payloads and responses are leased from.
    pub budget: MemoryBudget,
    /// Pool of payload buffers.
    pub payloads: PayloadPool,
    /// Registry of invocations that may still be running.
    pub in_flight: InFlight,
    /// Epochs under which invocations may start.
    pub epochs: CurrentEpochs,
    /// Group lease under which the member may start invocations.
    pub ownership: OwnershipLease,
    /// Fencing token, sent to the function as `fence`. It grows with the group's generation.
    pub fence: Arc<AtomicU64>,
    /// Longest possible duration of an invocation.
    pub longest_run: LongestRun,
    /// Backoff of retries.
    pub retry: RetryPolicy,
    /// True if the function reports single records: `ReportBatchItemFailures`.
    pub partial_responses: bool,
    /// Invoker on the batcher's thread, for small batches.
    pub invoker: Invoker,
    /// Invoker on another thread, for large batches.
    pub invoker_apart: Recipient<InvokeRequest>,
    /// Status shown by the API, and counters of the mapping.
    pub status: MappingStatus,
}

/// Actor that seals the offers of one consumer into batches.
pub struct BatcherActor {
    pub(super) parts: BatcherParts,
    core: BatcherCore,
    pub(super) partitions: HashMap<i32, (Epoch, OfferReplies)>,
    pub(super) sent: HashMap<BatchId, InFlightBatch>,
    slot: Option<Slot>,
    bytes: Option<MemoryLease>,
    /// Pending request for payload bytes, dropped when they are not needed.
    in_line: Option<OwnedTask>,
    pub(super) next_batch: u64,
    pub(super) setbacks: SetbackCounts,
    timer: Option<(Moment, SpawnHandle)>,
    waiting: WaitingOffers,
    _watch: DeathWatch,
}

impl BatcherActor {
    /// Creates a batcher without partitions.
    pub fn new(parts: BatcherParts, watch: DeathWatch) -> Self {
        Self {
            core: BatcherCore::new(parts.limits),
            waiting: parts.status.waiting_offers(),
            parts,
            partitions: HashMap::new(),
            sent: HashMap::new(),
            slot: None,
            bytes: None,
            in_line: None,
            next_batch: 0,
            setbacks: SetbackCounts::default(),
            timer: None,
            _watch: watch,
        }
    }

    /// Seals batches while one is due and both a slot and its bytes are available.
    pub(super) fn pump(&mut self, ctx: &mut Context<Self>) {
        loop {
            let now = clock::now();
            let wake = match self.readiness(now) {
                SealCondition::Now => None,
                SealCondition::At(when) => Some(Some(when)),
                SealCondition::Never => Some(None),
            };
            if let Some(wake) = wake {
                (self.slot, self.bytes, self.in_line) = (None, None, None);
                if let Some(when) = wake {
                    self.wake_at(when, now, ctx);
                }
                break;
            }
            let has_slot = self.take_slot(ctx);
            if !has_slot || !self.seal(now, ctx) {
                // Without a slot, release the bytes: the holder of the slot may be waiting for them.
                self.bytes.take_if(|_| !has_slot);
                break;
            }
        }
        self.waiting.set(self.core.waiting());
    }

    fn readiness(&self, now: Moment) -> SealCondition {
        if self.core.waiting() > 0 && !self.parts.ownership.is_good(now) {
            return SealCondition::At(now + LOOK_AGAIN);
        }
        self.core.ready(now, &self.may_start(now))
    }

    /// Returns a check that no older invocation can still run over a partition (H4).
    fn may_start(&self, now: Moment) -> impl Fn(i32) -> bool + use<> {
        let (in_flight, mapping, topic) =
            (self.parts.in_flight.clone(), self.parts.mapping, Arc::clone(&self.parts.topic));
        move |partition| in_flight.is_clear(mapping, &TopicPartition::new(Arc::clone(&topic), partition), now)
    }

    fn take_slot(&mut self, ctx: &mut Context<Self>) -> bool {
        if self.slot.is_none() {
            let recipient = ctx.address().recipient::<SlotGranted>();
            let grant: SlotReceiver = Arc::new(move |slot| {
                let _ = post(&recipient, SlotGranted(slot));
            });
            self.slot = self.parts.slots.take(self.parts.slot_line, &grant);
        }
        self.slot.is_some()
    }

    /// Returns false if nothing is due or the payload's bytes are not available yet.
    fn seal(&mut self, now: Moment, ctx: &mut Context<Self>) -> bool {
        let may_start = self.may_start(now);
        let Some(bytes) = self.core.due_bytes(now, &may_start) else { return false };
        if !self.take_bytes(bytes, ctx) {
            return false;
        }
        let Some(plan) = self.core.seal(now, &may_start) else { return false };
        let (Some(slot), Some(lease)) = (self.slot.take(), self.bytes.take()) else { return false };
        self.dispatch(&plan, slot, lease, now, ctx);
        true
    }

    fn take_bytes(&mut self, bytes: usize, ctx: &mut Context<Self>) -> bool {
        if self.bytes.as_ref().is_some_and(|lease| lease.bytes() >= bytes) {
            return true;
        }
        self.bytes = None;
        self.bytes = self.parts.budget.try_lease_or_overdraft(bytes, Overdraft::Payload);
        if self.bytes.is_none() && self.in_line.is_none() {
            // The task owns a weak address: a strong one would keep the batcher, and with it this request, alive.
            let (budget, me) = (self.parts.budget.clone(), ctx.address().downgrade());
            self.in_line = Some(OwnedTask::spawn(async move {
                let lease = budget.lease_or_overdraft(bytes, Overdraft::Payload).await;
                if let Some(me) = me.upgrade() {
                    me.do_send(BytesGranted(lease));
                }
            }));
        }
        self.bytes.is_some()
    }

    /// Cancels the request for bytes if there are no offers, so that the bytes are left to other requests.
    fn leave_line_if_idle(&mut self) {
        if self.core.waiting() == 0 {
            self.in_line = None;
        }
    }

    fn wake_at(&mut self, when: Moment, now: Moment, ctx: &mut Context<Self>) {
        if let Some((set, handle)) = self.timer.take() {
            if set <= when && set > now {
                self.timer = Some((set, handle));
                return;
            }
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(when.since(now), |actor, ctx| {
            actor.timer = None;
            actor.pump(ctx);
        });
        self.timer = Some((when, handle));
    }
}

impl Actor for BatcherActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.parts.slots.forget(self.parts.slot_line);
    }
}

impl Handler<RegisterPartition> for BatcherActor {
    type Result = ();

    fn handle(&mut self, message: RegisterPartition, _: &mut Self::Context) {
        self.partitions.insert(message.partition, (message.epoch, message.replies));
    }
}

impl Handler<PartitionStopped> for BatcherActor {
    type Result = ();

    fn handle(&mut self, message: PartitionStopped, _: &mut Self::Context) {
        if self.partitions.get(&message.partition).is_some_and(|(epoch, _)| *epoch == message.epoch) {
            self.partitions.remove(&message.partition);
            self.setbacks.forget(message.partition, message.epoch);
            self.core.forget(message.partition);
            self.leave_line_if_idle();
        }
    }
}

impl Handler<Offer> for BatcherActor {
    type Result = ();

    fn handle(&mut self, offer: Offer, ctx: &mut Self::Context) {
        if self.partitions.get(&offer.partition).is_none_or(|(epoch, _)| *epoch != offer.epoch) {
            return;
        }
        self.core.offer(offer);
        self.pump(ctx);
    }
}

impl Handler<WithdrawOffer> for BatcherActor {
    type Result = ();

    fn handle(&mut self, message: WithdrawOffer, _: &mut Self::Context) {
        let WithdrawOffer { partition, epoch, seq } = message;
        if self.core.withdraw(partition, epoch, seq) {
            self.leave_line_if_idle();
            if let Some((_, replies)) = self.partitions.get(&partition) {
                let _ = post(&replies.withdrawn, OfferWithdrawn { epoch, seq });
            }
        }
    }
}

impl Handler<SlotGranted> for BatcherActor {
    type Result = ();

    fn handle(&mut self, SlotGranted(slot): SlotGranted, ctx: &mut Self::Context) {
        self.slot.get_or_insert(slot);
        self.pump(ctx);
    }
}

impl Handler<BytesGranted> for BatcherActor {
    type Result = ();

    fn handle(&mut self, BytesGranted(lease): BytesGranted, ctx: &mut Self::Context) {
        self.in_line = None;
        self.bytes = Some(lease);
        self.pump(ctx);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use actix::Addr;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use lighterman_proto::event::EventSource;

    use super::*;
    use crate::invoker::facts::timeout::FunctionTimeout;
    use crate::invoker::invocation::{ConcurrencyLimit, InvokedFunction};
    use crate::invoker::outcome::InvokeResponse;
    use crate::invoker::port::{FunctionFacts, FunctionPort, Invocation};
    use crate::partition::model_tests::{batch, cut_of};

    /// Port that never answers.
    struct Silent;

    impl FunctionPort for Silent {
        fn invoke(&self, _: Invocation) -> BoxFuture<'static, InvokeResponse> {
            std::future::pending().boxed()
        }

        fn facts(&self, _: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
            std::future::pending().boxed()
        }
    }

    impl Actor for Silent {
        type Context = Context<Self>;
    }

    impl Handler<InvokeRequest> for Silent {
        type Result = ();

        fn handle(&mut self, _: InvokeRequest, _: &mut Self::Context) {}
    }

    fn parts(budget: &MemoryBudget, slots: &Slots) -> BatcherParts {
        let second = Duration::from_secs(1);
        let ownership = OwnershipLease::default();
        ownership.extend(clock::now() + second * 3_600);
        let function = InvokedFunction {
            name: Arc::from("f"),
            timeout: FunctionTimeout::new(second, clock::now()),
            doubt: Arc::new(|| {}),
        };
        let envelope = EventEnvelope::new(&EventSource::SelfManaged, "b:9092", "t");
        BatcherParts {
            mapping: MappingId(uuid::Uuid::nil()),
            topic: Arc::from("t"),
            limits: BatchLimits {
                records_max: 10,
                payload_bytes_max: 10_000,
                envelope_bytes: envelope.base_bytes(),
                window: Duration::ZERO,
            },
            envelope: Arc::new(envelope),
            slots: slots.clone(),
            slot_line: 0,
            budget: budget.clone(),
            payloads: PayloadPool::new(1 << 20),
            in_flight: InFlight::default(),
            epochs: CurrentEpochs::default(),
            ownership,
            fence: Arc::default(),
            longest_run: Arc::new(move |_| second),
            retry: RetryPolicy::default(),
            partial_responses: false,
            invoker: Invoker::new(Arc::new(Silent), function, ConcurrencyLimit::new(slots.clone())),
            invoker_apart: Silent.start().recipient(),
            status: MappingStatus::new(Vec::new()),
        }
    }

    /// Starts a batcher that has a batch and a slot and waits for bytes.
    async fn waiting_in(budget: &MemoryBudget) -> Addr<BatcherActor> {
        let slots = Slots::new(1);
        let mut batcher = BatcherActor::new(parts(budget, &slots), DeathWatch::new("batcher", |_| {}));
        let partition_batch = cut_of(&batch(0, &[(0, 5)], 0, false));
        let (partition, epoch, seq, attempt) = (0, Epoch(1), 1, 1);
        batcher.core.offer(Offer {
            partition,
            epoch,
            seq,
            partition_batch,
            attempt,
            alone: true,
            key_bytes: 9,
            expires: None,
        });
        let address = batcher.start();
        let grant: SlotReceiver = Arc::new(drop);
        let slot = slots.take(7, &grant).expect("free");
        address.send(SlotGranted(slot)).await.expect("it runs");
        while !budget.has_waiters() {
            tokio::task::yield_now().await;
        }
        address
    }

    async fn is_left(budget: &MemoryBudget) -> bool {
        for _ in 0..1_000 {
            if !budget.has_waiters() {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }

    #[actix::test]
    async fn mem_1_byte_request_ends_with_its_offer() {
        let budget = MemoryBudget::new(1_000);
        let all = budget.try_lease(1_000).expect("room");
        let over = budget.try_lease_or_overdraft(1, Overdraft::Payload).expect("the overdraft");
        let batcher = waiting_in(&budget).await;
        batcher.send(WithdrawOffer { partition: 0, epoch: Epoch(1), seq: 1 }).await.expect("it runs");
        assert!(is_left(&budget).await, "a withdrawn offer cancels its request");
        drop(waiting_in(&budget).await);
        assert!(is_left(&budget).await, "a stopped batcher cancels its request");
        assert_eq!(budget.leased(), all.bytes() + over.bytes());
    }
}
