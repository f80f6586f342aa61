//! The batcher's shell: holds slot and bytes before it seals, writes the payload, hands it to the invoker, and tells each
//! partition what became of its records.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Recipient, SpawnHandle};
use bytes::Bytes;
use lighterman_proto::event::Envelope;
use lighterman_proto::ids::{Epoch, MappingId, OffsetRange, TopicPartition};
use lighterman_proto::units::Moment;

use super::BatchId;
use super::core::{BatchLimits, BatcherCore, Pending, Plan, Ready};
use super::messages::{BytesGranted, Offer, Register, SlotGranted, Unregister, Withdraw};
use super::payload::{self, PayloadPool};
use super::settle::Member;
use crate::consumer::status::StatusBoard;
use crate::consumer::waiting::WaitingOffers;
use crate::credit::bytes::{ByteBudget, Lease, Overdraft};
use crate::credit::slots::{Grant, Slot, Slots};
use crate::invoker::Verdict;
use crate::invoker::answer_room::AnswerRoom;
use crate::invoker::invoke::{Answered, Invoke, Invoker};
use crate::invoker::port::{ANSWER_BYTES_MAX, ERROR_BYTES_MAX};
use crate::invoker::retry::{RetryPolicy, Setbacks};
use crate::kafka::group::lease::OwnershipLease;
use crate::partition::actor::PartitionActor;
use crate::partition::messages::{Sealed, Withdrawn};
use crate::runtime::clock;
use crate::runtime::current_epochs::CurrentEpochs;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::{Flight, InFlight, LongestRun};
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};
use crate::runtime::owned_task::OwnedTask;

/// How soon a batcher that may not start anything looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A payload up to this size is signed and sent from the batcher's own thread: its hash takes some ten microseconds, which
/// is what waking another thread and being woken by it costs.
const SENT_FROM_HERE_BYTES_MAX: usize = 32 * 1024;

/// What a batcher is built from.
pub struct BatcherParts {
    /// Whose batches.
    pub mapping: MappingId,
    /// Topic of the mapping.
    pub topic: Arc<str>,
    /// What a batch may hold.
    pub limits: BatchLimits,
    /// The JSON around the records.
    pub envelope: Arc<Envelope>,
    /// Invocation slots of the mapping.
    pub slots: Slots,
    /// This batcher's place in line for slots.
    pub slot_line: u64,
    /// The node's bytes.
    pub budget: ByteBudget,
    /// Buffers to write payloads into.
    pub payloads: PayloadPool,
    /// What may still be running.
    pub in_flight: InFlight,
    /// Under which epochs anything may begin.
    pub epochs: CurrentEpochs,
    /// The group's word that the member may start invocations.
    pub ownership: OwnershipLease,
    /// Grows with the group's generation; sent to the function as `fence`.
    pub fence: Arc<AtomicU64>,
    /// How long an invocation can run.
    pub longest_run: LongestRun,
    /// How fast to try again.
    pub retry: RetryPolicy,
    /// The function answers for single records: `ReportBatchItemFailures`.
    pub partial_responses: bool,
    /// Invokes on this thread: for small batches.
    pub invoker: Invoker,
    /// Invokes on another: for large ones.
    pub invoker_apart: Recipient<Invoke>,
    /// What the API shows, and the mapping's counters.
    pub status: StatusBoard,
}

/// The actor.
pub struct BatcherActor {
    pub(super) parts: BatcherParts,
    core: BatcherCore,
    pub(super) partitions: HashMap<i32, (Epoch, Addr<PartitionActor>)>,
    pub(super) sent: HashMap<BatchId, Sent>,
    slot: Option<Slot>,
    bytes: Option<Lease>,
    /// A place in the line for bytes, left when there is no more use for them.
    in_line: Option<OwnedTask>,
    next_batch: u64,
    pub(super) setbacks: Setbacks,
    timer: Option<(Moment, SpawnHandle)>,
    waiting: WaitingOffers,
    _watch: DeathWatch,
}

pub(super) struct Sent {
    pub(super) members: Vec<Member>,
    pub(super) flights: Vec<Flight>,
    pub(super) oldest_timestamp_ms: i64,
    pub(super) records: u32,
    pub(super) attempt: u32,
}

impl BatcherActor {
    /// A batcher without partitions.
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
            setbacks: Setbacks::default(),
            timer: None,
            _watch: watch,
        }
    }

    /// Seals as long as a batch is due and both credits are in hand.
    pub(super) fn pump(&mut self, ctx: &mut Context<Self>) {
        loop {
            let now = clock::now();
            let wake = match self.readiness(now) {
                Ready::Now => None,
                Ready::At(when) => Some(Some(when)),
                Ready::Never => Some(None),
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
                // Whoever has the slot may wait for just these bytes.
                self.bytes.take_if(|_| !has_slot);
                break;
            }
        }
        self.waiting.set(self.core.waiting());
    }

    fn readiness(&self, now: Moment) -> Ready {
        if self.core.waiting() > 0 && !self.parts.ownership.is_good(now) {
            return Ready::At(now + LOOK_AGAIN);
        }
        self.core.ready(now, &self.may_start(now))
    }

    /// Whether nothing older can still run over a partition (H4).
    fn may_start(&self, now: Moment) -> impl Fn(i32) -> bool + use<> {
        let (in_flight, mapping, topic) =
            (self.parts.in_flight.clone(), self.parts.mapping, Arc::clone(&self.parts.topic));
        move |partition| in_flight.is_clear(mapping, &TopicPartition::new(Arc::clone(&topic), partition), now)
    }

    fn take_slot(&mut self, ctx: &mut Context<Self>) -> bool {
        if self.slot.is_none() {
            let recipient = ctx.address().recipient::<SlotGranted>();
            let grant: Grant = Arc::new(move |slot| {
                let _ = post(&recipient, SlotGranted(slot));
            });
            self.slot = self.parts.slots.take(self.parts.slot_line, &grant);
        }
        self.slot.is_some()
    }

    /// False when the payload's bytes are not to be had yet.
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
            // An address would keep the batcher, which has the place, for as long as it waits.
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

    /// Leaves the line when nothing is offered: bytes that nobody needs any more would be kept from others.
    fn leave_line_if_idle(&mut self) {
        if self.core.waiting() == 0 {
            self.in_line = None;
        }
    }

    fn dispatch(&mut self, plan: &Plan, slot: Slot, mut lease: Lease, now: Moment, ctx: &mut Context<Self>) {
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        lease.shrink_to(plan.payload_bytes);
        let payload =
            payload::write(plan, &self.parts.envelope, self.parts.payloads.take(plan.payload_bytes));
        let sent = self.enter(plan, now);
        self.parts.status.sealed(plan);
        for part in &plan.parts {
            let sealed = Sealed { epoch: part.epoch, seq: part.seq, end: part.cut.range.end, batch };
            if let Some((_, address)) = self.partitions.get(&part.partition) {
                address.do_send(sealed);
            }
        }
        let context = self.context_of(plan, sent.attempt);
        let has_all = sent.flights.len() == plan.parts.len();
        self.sent.insert(batch, sent);
        if !has_all {
            self.withhold(batch, payload, now);
            return;
        }
        let reply = ctx.address().recipient();
        let ownership = self.parts.ownership.clone();
        // Nobody else reads what the function says of its success.
        let answer_bytes_max = if self.parts.partial_responses { ANSWER_BYTES_MAX } else { ERROR_BYTES_MAX };
        let answer_room = AnswerRoom::new(answer_bytes_max, self.parts.budget.clone());
        let invoke = Invoke { payload, lease, slot, ownership, context, answer_room, batch, reply };
        if invoke.payload.len() <= SENT_FROM_HERE_BYTES_MAX {
            self.parts.invoker.start(invoke);
        } else if post(&self.parts.invoker_apart, invoke).is_err() {
            self.parts.status.problem("the invoker of this consumer has ended and is being rebuilt");
        }
    }

    /// A partition in it is not ours any more, or an older invocation runs over it: the others offer theirs again.
    fn withhold(&mut self, batch: BatchId, payload: Bytes, now: Moment) {
        let (verdict, payload_back) = (Verdict::Withheld, Some(payload));
        let (facts, answer_lease, sent_at, answered_at) = (None, None, now, now);
        self.settle(Answered { batch, verdict, facts, sent_at, answered_at, payload_back, answer_lease });
    }

    fn context_of(&self, plan: &Plan, attempt: u32) -> crate::invoker::ClientContext {
        let ranges: Vec<(i32, OffsetRange)> =
            plan.parts.iter().map(|part| (part.partition, part.cut.range)).collect();
        crate::invoker::ClientContext {
            mapping: self.parts.mapping,
            batch: crate::invoker::batch_key(&self.parts.topic, &ranges),
            attempt,
            fence: self.parts.fence.load(Ordering::Relaxed),
        }
    }

    fn enter(&self, plan: &Plan, now: Moment) -> Sent {
        let enter = |part: &Pending| {
            let key = TopicPartition::new(Arc::clone(&self.parts.topic), part.partition);
            let enter = || self.parts.in_flight.enter(self.parts.mapping, &key, &self.parts.longest_run, now);
            self.parts.epochs.enter(part.partition, part.epoch, enter)
        };
        let oldest = |part: &Pending| part.cut.slices.first().map(|slice| slice.header.base_timestamp);
        Sent {
            members: plan.parts.iter().map(|part| self.member_of(part)).collect(),
            flights: plan.parts.iter().filter_map(enter).collect(),
            oldest_timestamp_ms: plan.parts.iter().filter_map(oldest).min().unwrap_or(-1),
            records: plan.records(),
            attempt: plan.parts.iter().map(|part| part.attempt).max().unwrap_or(1),
        }
    }

    /// The cut is kept only where the answer may speak of single records.
    fn member_of(&self, part: &Pending) -> Member {
        let cut = self.parts.partial_responses.then(|| part.cut.clone());
        Member { partition: part.partition, epoch: part.epoch, cut }
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

impl Handler<Register> for BatcherActor {
    type Result = ();

    fn handle(&mut self, message: Register, _: &mut Self::Context) {
        self.partitions.insert(message.partition, (message.epoch, message.address));
    }
}

impl Handler<Unregister> for BatcherActor {
    type Result = ();

    fn handle(&mut self, message: Unregister, _: &mut Self::Context) {
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
        let key_bytes = self.parts.envelope.partition_bytes(offer.partition, false);
        let Offer { partition, epoch, seq, cut, attempt, alone, expires } = offer;
        self.core.offer(Pending { partition, epoch, seq, cut, attempt, alone, key_bytes, expires });
        self.pump(ctx);
    }
}

impl Handler<Withdraw> for BatcherActor {
    type Result = ();

    fn handle(&mut self, message: Withdraw, _: &mut Self::Context) {
        let Withdraw { partition, epoch, seq } = message;
        if self.core.withdraw(partition, epoch, seq) {
            self.leave_line_if_idle();
            if let Some((_, address)) = self.partitions.get(&partition) {
                address.do_send(Withdrawn { epoch, seq });
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
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use lighterman_proto::event::EventSource;

    use super::*;
    use crate::invoker::facts::timeout::FunctionTimeout;
    use crate::invoker::invoke::{Concurrency, InvokedFunction};
    use crate::invoker::port::{FunctionFacts, FunctionPort, Invocation};
    use crate::invoker::verdict::Reply;
    use crate::partition::model_tests::{batch, cut_of};

    /// Never answers.
    struct Silent;

    impl FunctionPort for Silent {
        fn invoke(&self, _: Invocation) -> BoxFuture<'static, Reply> {
            std::future::pending().boxed()
        }

        fn facts(&self, _: Arc<str>) -> BoxFuture<'static, FunctionFacts> {
            std::future::pending().boxed()
        }
    }

    impl Actor for Silent {
        type Context = Context<Self>;
    }

    impl Handler<Invoke> for Silent {
        type Result = ();

        fn handle(&mut self, _: Invoke, _: &mut Self::Context) {}
    }

    fn parts(budget: &ByteBudget, slots: &Slots) -> BatcherParts {
        let second = Duration::from_secs(1);
        let ownership = OwnershipLease::default();
        ownership.extend(clock::now() + second * 3_600);
        let function = InvokedFunction {
            name: Arc::from("f"),
            timeout: FunctionTimeout::new(second, clock::now()),
            doubt: Arc::new(|| {}),
        };
        let envelope = Envelope::new(&EventSource::SelfManaged, "b:9092", "t");
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
            invoker: Invoker::new(Arc::new(Silent), function, Concurrency::new(slots.clone())),
            invoker_apart: Silent.start().recipient(),
            status: StatusBoard::new(Vec::new()),
        }
    }

    /// A batcher that has a batch and a slot, and waits for bytes.
    async fn waiting_in(budget: &ByteBudget) -> Addr<BatcherActor> {
        let slots = Slots::new(1);
        let mut batcher = BatcherActor::new(parts(budget, &slots), DeathWatch::new("batcher", |_| {}));
        let cut = cut_of(&batch(0, &[(0, 5)], 0, false));
        let (partition, epoch, seq, attempt) = (0, Epoch(1), 1, 1);
        batcher.core.offer(Pending {
            partition,
            epoch,
            seq,
            cut,
            attempt,
            alone: true,
            key_bytes: 9,
            expires: None,
        });
        let address = batcher.start();
        let grant: Grant = Arc::new(drop);
        let slot = slots.take(7, &grant).expect("free");
        address.send(SlotGranted(slot)).await.expect("it runs");
        while !budget.is_short() {
            tokio::task::yield_now().await;
        }
        address
    }

    async fn is_left(budget: &ByteBudget) -> bool {
        for _ in 0..1_000 {
            if !budget.is_short() {
                return true;
            }
            tokio::task::yield_now().await;
        }
        false
    }

    #[actix::test]
    async fn mem_1_a_place_in_the_line_for_a_payload_is_left_with_its_offer_and_with_its_batcher() {
        let budget = ByteBudget::new(1_000);
        let all = budget.try_lease(1_000).expect("room");
        let over = budget.try_lease_or_overdraft(1, Overdraft::Payload).expect("the overdraft");
        let batcher = waiting_in(&budget).await;
        batcher.send(Withdraw { partition: 0, epoch: Epoch(1), seq: 1 }).await.expect("it runs");
        assert!(is_left(&budget).await, "nobody offers anything");
        drop(waiting_in(&budget).await);
        assert!(is_left(&budget).await, "it has ended");
        assert_eq!(budget.leased(), all.bytes() + over.bytes());
    }
}
