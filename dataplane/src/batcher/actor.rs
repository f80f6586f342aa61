//! The batcher's shell: holds slot and bytes before it seals, writes the payload, hands it to the invoker, and tells each
//! partition what became of its records.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Recipient, SpawnHandle};
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
use crate::invoker::invoke::{Invoke, Invoker};
use crate::invoker::port::{ANSWER_BYTES_MAX, ERROR_BYTES_MAX};
use crate::invoker::retry::{RetryPolicy, Setbacks};
use crate::kafka::group::lease::OwnershipLease;
use crate::partition::actor::PartitionActor;
use crate::partition::messages::{Sealed, Withdrawn};
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::{Flight, InFlight, LongestRun};
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};

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
    bytes_asked: bool,
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
            bytes_asked: false,
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
                (self.slot, self.bytes) = (None, None);
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
        if self.bytes.is_none() && !self.bytes_asked {
            self.bytes_asked = true;
            let (budget, recipient) = (self.parts.budget.clone(), ctx.address().recipient::<BytesGranted>());
            actix_rt::spawn(async move {
                let lease = budget.lease_or_overdraft(bytes, Overdraft::Payload).await;
                let _ = post(&recipient, BytesGranted(lease));
            });
        }
        self.bytes.is_some()
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
        self.sent.insert(batch, sent);
        let reply = ctx.address().recipient();
        let ownership = self.parts.ownership.clone();
        // Nobody else reads what the function says of its success.
        let answer_bytes_max = if self.parts.partial_responses { ANSWER_BYTES_MAX } else { ERROR_BYTES_MAX };
        let invoke = Invoke { payload, lease, slot, ownership, context, answer_bytes_max, batch, reply };
        if invoke.payload.len() <= SENT_FROM_HERE_BYTES_MAX {
            self.parts.invoker.start(invoke);
        } else if post(&self.parts.invoker_apart, invoke).is_err() {
            self.parts.status.problem("the invoker of this consumer has ended and is being rebuilt");
        }
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
            self.parts.in_flight.enter(self.parts.mapping, &key, &self.parts.longest_run, now)
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
            self.setbacks.forget(message.partition);
            self.core.forget(message.partition);
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
        if self.core.withdraw(partition, epoch, seq)
            && let Some((_, address)) = self.partitions.get(&partition)
        {
            address.do_send(Withdrawn { epoch, seq });
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
        self.bytes_asked = false;
        self.bytes = Some(lease);
        self.pump(ctx);
    }
}
