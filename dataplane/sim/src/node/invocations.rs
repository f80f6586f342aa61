//! Invoker, modelled on `invoker/actor.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lighterman::credit::memory_budget::MemoryLease;
use lighterman::credit::slots::{Slot, Slots};
use lighterman::invoker::InvocationOutcome;
use lighterman::invoker::outcome::InvokeResponse;
use lighterman::invoker::retry::RetryPolicy;
use lighterman::invoker::throttle::ThrottleControl;
use lighterman::messages::batch::BatchId;
use lighterman_proto::ids::ConsumerId;
use lighterman_proto::units::{Moment, SLOTS_PER_CONSUMER};

use super::super::environment::SimulatedEnvironment;
use super::super::function::SimulatedCall;
use super::SimulatedNode;
use crate::history::InvocationShare;
use crate::node::messages::{MessageMailbox, NodeMessage};

/// Shorter than in production, as schedules are.
pub(super) const RETRY: RetryPolicy =
    RetryPolicy { base: Duration::from_millis(50), cap: Duration::from_secs(2) };

/// Credits and shares that an invocation holds in flight.
pub(super) struct CarriedInvocation {
    /// Returned when it is answered.
    pub _credit: (Slot, MemoryLease),
    pub shares: Vec<InvocationShare>,
    pub sent_at: Moment,
}

pub(super) struct SimulatedInvoker {
    pub slots: Slots,
    throttle: ThrottleControl,
    carried: BTreeMap<(u32, BatchId), CarriedInvocation>,
    /// Consumers to end once their last batch is answered.
    pub leaving: BTreeSet<ConsumerId>,
}

impl SimulatedInvoker {
    pub(super) fn new(now: Moment) -> Self {
        Self {
            slots: Slots::new(SLOTS_PER_CONSUMER),
            throttle: ThrottleControl::new(SLOTS_PER_CONSUMER, now),
            carried: BTreeMap::new(),
            leaving: BTreeSet::new(),
        }
    }

    pub(super) fn carry(&mut self, key: (u32, BatchId), carried: CarriedInvocation) {
        self.carried.insert(key, carried);
    }
}

impl SimulatedNode {
    pub(super) fn set_ceiling(&mut self) {
        let consumers = self.floor.len().max(1) as u32;
        self.invoker.throttle.set_ceiling(consumers * SLOTS_PER_CONSUMER);
        self.invoker.slots.set_limit(self.invoker.throttle.limit());
    }

    pub(super) fn invoke(&mut self, env: &mut SimulatedEnvironment, consumer: u32, batch: BatchId) {
        let Some(carried) = self.invoker.carried.get_mut(&(consumer, batch)) else { return };
        carried.sent_at = env.now;
        if !self.group.lease.is_good(env.now) {
            return self.invoked(env, consumer, batch, InvokeResponse::Withheld);
        }
        let shares = carried.shares.clone();
        env.call(SimulatedCall {
            node: self.id,
            life: self.incarnation,
            consumer,
            batch,
            shares,
            orphaned: false,
        });
    }

    pub(super) fn invoked(
        &mut self,
        env: &mut SimulatedEnvironment,
        consumer: u32,
        batch: BatchId,
        reply: InvokeResponse,
    ) {
        let Some(carried) = self.invoker.carried.remove(&(consumer, batch)) else { return };
        let facts = reply.facts();
        let verdict = InvocationOutcome::of(reply);
        let throttled = matches!(verdict, InvocationOutcome::Throttled { .. });
        self.member.answered += 1;
        self.member.throttled += u64::from(throttled);
        let sent_at = carried.sent_at;
        let limit = self.invoker.throttle.answered(env.now, throttled, env.now.since(sent_at));
        let verdict = Box::new(verdict);
        let answered = NodeMessage::Answered { consumer, batch, verdict, facts, sent_at };
        self.post(env, MessageMailbox::Batcher(consumer), answered);
        if limit != self.invoker.slots.limit() {
            self.invoker.slots.set_limit(limit);
        }
        drop(carried);
    }
}
