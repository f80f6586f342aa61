//! Dispatch of a sealed batch: entry into the in-flight registry, then the payload, then the invocation.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{AsyncContext, Context};
use bytes::Bytes;
use lighterman_proto::ids::{OffsetRange, TopicPartition};
use lighterman_proto::units::Moment;

use super::actor::BatcherActor;
use super::core::SealedBatch;
use super::payload;
use super::results::BatchShare;
use crate::credit::memory_budget::MemoryLease;
use crate::credit::slots::Slot;
use crate::invoker::answer_room::AnswerRoom;
use crate::invoker::invocation::{InvocationFinished, InvokeRequest};
use crate::invoker::port::{ANSWER_BYTES_MAX, ERROR_BYTES_MAX};
use crate::invoker::{ClientContext, InvocationOutcome, batch_key};
use crate::messages::batch::BatchId;
use crate::messages::offer::{Offer, OfferSealed};
use crate::runtime::in_flight::InFlightGuard;
use crate::runtime::outbox::post;

/// Largest payload that is signed and sent on the batcher's thread. Its hash takes some ten microseconds, as much
/// as waking another thread and being woken by it.
const SENT_FROM_HERE_BYTES_MAX: usize = 32 * 1024;

pub(super) struct InFlightBatch {
    pub(super) members: Vec<BatchShare>,
    pub(super) flights: Vec<InFlightGuard>,
    pub(super) oldest_timestamp_ms: i64,
    pub(super) records: u32,
    pub(super) attempt: u32,
}

impl BatcherActor {
    pub(super) fn dispatch(
        &mut self,
        plan: &SealedBatch,
        slot: Slot,
        mut lease: MemoryLease,
        now: Moment,
        ctx: &mut Context<Self>,
    ) {
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        lease.shrink_to(plan.payload_bytes);
        let payload =
            payload::write(plan, &self.parts.envelope, self.parts.payloads.take(plan.payload_bytes));
        let sent = self.register_in_flight(plan, now);
        self.parts.status.sealed(plan.records(), plan.payload_bytes, plan.reason);
        for part in &plan.parts {
            let sealed =
                OfferSealed { epoch: part.epoch, seq: part.seq, end: part.partition_batch.range.end, batch };
            if let Some((_, replies)) = self.partitions.get(&part.partition) {
                let _ = post(&replies.sealed, sealed);
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
        // Without partial responses nothing reads the response of a successful invocation.
        let answer_bytes_max = if self.parts.partial_responses { ANSWER_BYTES_MAX } else { ERROR_BYTES_MAX };
        let answer_room = AnswerRoom::new(answer_bytes_max, self.parts.budget.clone());
        let invoke = InvokeRequest { payload, lease, slot, ownership, context, answer_room, batch, reply };
        if invoke.payload.len() <= SENT_FROM_HERE_BYTES_MAX {
            self.parts.invoker.start(invoke);
        } else if post(&self.parts.invoker_apart, invoke).is_err() {
            self.parts.status.problem("the invoker of this consumer has ended and is being rebuilt");
        }
    }

    /// Withholds a batch if a partition was revoked, or an older invocation may still run over it. The other
    /// partitions offer their records again.
    fn withhold(&mut self, batch: BatchId, payload: Bytes, now: Moment) {
        let (verdict, payload_back) = (InvocationOutcome::Withheld, Some(payload));
        let (facts, answer_lease, sent_at, answered_at) = (None, None, now, now);
        self.on_invocation_finished(InvocationFinished {
            batch,
            verdict,
            facts,
            sent_at,
            answered_at,
            payload_back,
            answer_lease,
        });
    }

    fn context_of(&self, plan: &SealedBatch, attempt: u32) -> ClientContext {
        let ranges: Vec<(i32, OffsetRange)> =
            plan.parts.iter().map(|part| (part.partition, part.partition_batch.range)).collect();
        ClientContext {
            mapping: self.parts.mapping,
            batch: batch_key(&self.parts.topic, &ranges),
            attempt,
            fence: self.parts.fence.load(Ordering::Relaxed),
        }
    }

    fn register_in_flight(&self, plan: &SealedBatch, now: Moment) -> InFlightBatch {
        let enter = |part: &Offer| {
            let key = TopicPartition::new(Arc::clone(&self.parts.topic), part.partition);
            let enter = || self.parts.in_flight.enter(self.parts.mapping, &key, &self.parts.longest_run, now);
            self.parts.epochs.enter(part.partition, part.epoch, enter)
        };
        let oldest =
            |part: &Offer| part.partition_batch.runs.first().map(|slice| slice.header.base_timestamp);
        InFlightBatch {
            members: plan.parts.iter().map(|part| self.member_of(part)).collect(),
            flights: plan.parts.iter().filter_map(enter).collect(),
            oldest_timestamp_ms: plan.parts.iter().filter_map(oldest).min().unwrap_or(-1),
            records: plan.records(),
            attempt: plan.parts.iter().map(|part| part.attempt).max().unwrap_or(1),
        }
    }

    /// Returns a partition's share. Its records are kept only if the response may name single ones.
    fn member_of(&self, part: &Offer) -> BatchShare {
        let partition_batch = self.parts.partial_responses.then(|| part.partition_batch.clone());
        BatchShare { partition: part.partition, epoch: part.epoch, partition_batch }
    }
}
