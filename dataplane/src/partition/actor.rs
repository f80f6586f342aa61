//! Actor of a partition: passes messages to the state machine and carries out its effects.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Recipient};
use lighterman_proto::event::EventEnvelope;
use lighterman_proto::filter::FilterSet;
use lighterman_proto::ids::{Epoch, MappingId, Offset, TopicPartition};
use lighterman_proto::records::{AbortedTransactions, BatchInflater};
use lighterman_proto::topic_id::TopicId;
use tokio::sync::oneshot;

use super::core::{PartitionCore, is_for};
use super::decompress::{ContextParts, CreditWait, LeasedDecompressor};
use super::effects::{
    CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects, PartitionIdentity,
};
use super::messages::{Drain, Fence};
use super::turns::ScheduledTurns;
use crate::credit::memory_budget::{MemoryBudget, MemoryLease};
use crate::kafka::fetch::{
    FetchAnswered, FetchCancelled, FetchRequested, FetchRouter, FetchedRecords, HighWatermarkSeen,
};
use crate::messages::commit::{CommitAcknowledged, CommitGivenUp, CommitterRecipients};
use crate::messages::dead_letter::{DeadLetterLoad, DeadLetterSink};
use crate::messages::offer::{BatcherRecipients, OfferSealed, OfferWithdrawn, WithdrawOffer};
use crate::messages::report::{PartitionReport, PartitionState, PartitionStopped};
use crate::messages::resolution::BatchResolved;
use crate::messages::resume::ResumePoint;
use crate::partition::reader::pieces::PieceLimits;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::InFlight;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, Outbox, post};
use crate::status::MappingStatus;
use crate::status::partition::PartitionStats;

/// Dependencies and configuration of a partition actor.
pub struct PartitionParts {
    /// Mapping that the partition belongs to.
    pub mapping: MappingId,
    /// The topic-partition.
    pub partition: TopicPartition,
    /// Start position and limits.
    pub start: PartitionConfig,
    /// Event envelope, which gives exact record sizes.
    pub envelope: Arc<EventEnvelope>,
    /// Filters that select the records to deliver.
    pub filters: Arc<FilterSet>,
    /// Decompressor, shared by the partitions of one arbiter.
    pub inflater: Rc<RefCell<BatchInflater>>,
    /// Memory budget of the node.
    pub budget: MemoryBudget,
    /// Registry of invocations that may still be running.
    pub in_flight: InFlight,
    /// Sink for dead letters, if the mapping has an on-failure destination.
    pub dead_letters: Option<Arc<dyn DeadLetterSink>>,
    /// Router of fetch requests.
    pub router: Addr<FetchRouter>,
    /// Batcher that receives offers.
    pub batcher: BatcherRecipients,
    /// Committer that receives the frontier.
    pub committer: CommitterRecipients,
    /// Recipient of reports about the partition's state.
    pub consumer: Recipient<PartitionReport>,
    /// Statistics shown by the API and the metrics.
    pub stats: Arc<PartitionStats>,
    /// Counters of the mapping.
    pub status: MappingStatus,
}

/// Actor of one partition.
pub struct PartitionActor {
    pub(super) core: PartitionCore,
    pub(super) id: TopicPartition,
    pub(super) mapping: MappingId,
    pub(super) topic: Option<TopicId>,
    pub(super) epoch: Epoch,
    pub(super) context: ContextParts,
    pub(super) in_flight: InFlight,
    router: Outbox<FetchRouter>,
    batcher: BatcherRecipients,
    committer: CommitterRecipients,
    pub(super) consumer: Recipient<PartitionReport>,
    pub(super) stats: Arc<PartitionStats>,
    pub(super) status: MappingStatus,
    pub(super) dead_letters: Option<Arc<dyn DeadLetterSink>>,
    pub(super) dead_letter_request: Option<(u64, oneshot::Sender<()>)>,
    pub(super) in_line: Option<CreditWait>,
    pub(super) turns: ScheduledTurns,
    counted_frontier: Offset,
    _watch: DeathWatch,
}

impl PartitionActor {
    /// Creates a partition that has not fetched yet; `watch` notifies the consumer when it ends.
    pub fn new(parts: PartitionParts, watch: DeathWatch) -> Self {
        let counted_frontier = parts.start.committed;
        let PartitionIdentity { topic, epoch, .. } = parts.start.identity;
        parts.stats.set_committed(counted_frontier);
        Self {
            core: PartitionCore::new(parts.start),
            context: ContextParts {
                envelope: parts.envelope,
                filters: parts.filters,
                id: parts.partition.clone(),
                inflater: parts.inflater,
                limits: PieceLimits::of(parts.budget.limit()),
                budget: parts.budget,
            },
            id: parts.partition,
            mapping: parts.mapping,
            topic,
            epoch,
            in_flight: parts.in_flight,
            router: Outbox::new(parts.router),
            batcher: parts.batcher,
            committer: parts.committer,
            consumer: parts.consumer,
            stats: parts.stats,
            status: parts.status,
            dead_letters: parts.dead_letters,
            dead_letter_request: None,
            in_line: None,
            turns: ScheduledTurns::default(),
            counted_frontier,
            _watch: watch,
        }
    }

    /// Runs one event through the core and carries out the effects.
    pub(super) fn step(
        &mut self,
        ctx: &mut Context<Self>,
        event: impl FnOnce(&mut PartitionCore, &mut CoreContext<'_>) -> PartitionEffects,
    ) {
        self.step_with(None, ctx, event);
    }

    pub(super) fn step_with(
        &mut self,
        granted: Option<MemoryLease>,
        ctx: &mut Context<Self>,
        event: impl FnOnce(&mut PartitionCore, &mut CoreContext<'_>) -> PartitionEffects,
    ) {
        let effects = {
            let (inflater, budget) = (&*self.context.inflater, &self.context.budget);
            let mut batch_opener =
                LeasedDecompressor { inflater, budget, limits: self.context.limits, spent: 0, granted };
            let mut context = CoreContext {
                batch_opener: &mut batch_opener,
                sizer: &self.context,
                record_filter: &self.context,
                wall: clock::wall_ms(),
            };
            event(&mut self.core, &mut context)
        };
        for effect in effects {
            self.carry_out(effect, ctx);
        }
        if self.core.is_buffer_empty() {
            // No batch is left to decompress, so granted memory would go unused.
            self.in_line = None;
        }
        self.update_stats();
    }

    fn carry_out(&mut self, effect: PartitionEffect, ctx: &mut Context<Self>) {
        let (partition, epoch) = (self.id.partition, self.epoch);
        match effect {
            PartitionEffect::Fetch { position, leader_epoch, bytes_max } => {
                self.want(position, leader_epoch, bytes_max, ctx);
            }
            ref forgets @ (PartitionEffect::CancelFetch | PartitionEffect::Pause) => {
                let pauses = matches!(forgets, PartitionEffect::Pause);
                let _ = self.router.send(FetchCancelled { partition: self.id.clone(), pauses });
            }
            PartitionEffect::Offer(offer) => {
                let _ = post(&self.batcher.offers, offer);
            }
            PartitionEffect::Withdraw { seq } => {
                let _ = post(&self.batcher.withdrawals, WithdrawOffer { partition, epoch, seq });
            }
            PartitionEffect::Commit(request) => {
                self.status.resolved(self.counted_frontier.distance_to(request.offset), &self.stats);
                self.status.passed(&request.passed);
                self.counted_frontier = request.offset;
                let _ = post(&self.committer.requests, request);
            }
            PartitionEffect::DeadLetter { request_id, records, condition } => {
                self.send_dead_letter(request_id, DeadLetterLoad::Records { records, condition }, ctx);
            }
            PartitionEffect::DeadLetterRaw { request_id, batch } => {
                self.send_dead_letter(request_id, DeadLetterLoad::Raw(batch), ctx);
            }
            PartitionEffect::CancelDeadLetter { request_id } => self.cancel_dead_letter(request_id),
            PartitionEffect::WakeAt(when) => {
                ctx.run_later(when.since(clock::now()), Self::wake);
            }
            PartitionEffect::AwaitCredit(shortage) => self.await_credit(shortage, ctx),
            PartitionEffect::ContinueSoon => self.go_on(ctx),
            PartitionEffect::PollSoon => self.look_again(ctx),
            PartitionEffect::Drained => self.report_drained(ctx),
            PartitionEffect::Restart { at, leader_epoch } => {
                self.unfollow();
                let topic = self.topic;
                let position =
                    ResumePoint { topic, committed: at, leader_epoch, progress: None, failures: None };
                self.report(PartitionState::Rebuild { position });
            }
            PartitionEffect::StartNewLog => {
                self.unfollow();
                self.report_parted(ctx);
            }
            PartitionEffect::Log(note) => self.note(&note),
        }
    }

    fn want(&self, position: Offset, leader_epoch: i32, bytes_max: usize, ctx: &mut Context<Self>) {
        let want = FetchRequested {
            partition: self.id.clone(),
            topic: self.topic,
            epoch: self.epoch,
            position,
            leader_epoch: (leader_epoch >= 0).then_some(leader_epoch),
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            reply: ctx.address().recipient(),
            watermarks: ctx.address().recipient(),
        };
        let _ = self.router.send(want);
    }

    /// Unregisters from the committer, which then stops retrying a commit that the group has not acknowledged.
    fn unfollow(&self) {
        let _ =
            post(&self.committer.ends, PartitionStopped { partition: self.id.partition, epoch: self.epoch });
    }

    pub(super) fn wake(&mut self, ctx: &mut Context<Self>) {
        self.step(ctx, |core, context| core.wake(clock::now(), context));
    }

    fn update_stats(&self) {
        self.stats.set_position(self.core.position());
        self.stats.set_buffered(self.core.buffered_bytes());
        self.stats.set_oldest(self.core.oldest());
        self.show_failing();
    }

    fn on_fetched(&mut self, position: Offset, fetched: FetchedRecords, ctx: &mut Context<Self>) {
        self.stats.set_log_end(Some(fetched.high_watermark));
        let (aborted, before) = (AbortedTransactions::new(fetched.aborted), self.core.position());
        self.step(ctx, |core, context| {
            let frame = FetchedFrame { position, records: &fetched.records, aborted, hold: &fetched.hold };
            core.fetched(clock::now(), frame, context)
        });
        self.status.polled(before.distance_to(self.core.position()));
    }
}

impl Actor for PartitionActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        self.wake(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let (partition, epoch) = (self.id.partition, self.epoch);
        let _ = self.router.send(FetchCancelled { partition: self.id.clone(), pauses: false });
        let _ = post(&self.batcher.ends, PartitionStopped { partition, epoch });
        self.unfollow();
    }
}

impl Handler<FetchAnswered> for PartitionActor {
    type Result = ();

    fn handle(&mut self, fetched: FetchAnswered, ctx: &mut Self::Context) {
        if !is_for(fetched.epoch, self.epoch) {
            return;
        }
        match fetched.outcome {
            Ok(records) => self.on_fetched(fetched.position, records, ctx),
            Err(trouble) => self.on_fetch_error(&trouble, ctx),
        }
    }
}

impl Handler<HighWatermarkSeen> for PartitionActor {
    type Result = ();

    fn handle(&mut self, watermarks: HighWatermarkSeen, _: &mut Self::Context) {
        if watermarks.epoch == self.epoch {
            self.stats.set_log_end(watermarks.high_watermark);
        }
    }
}

impl Handler<OfferSealed> for PartitionActor {
    type Result = ();

    fn handle(&mut self, sealed: OfferSealed, ctx: &mut Self::Context) {
        if !is_for(sealed.epoch, self.epoch) {
            return;
        }
        let stats = Arc::clone(&self.stats);
        self.step(ctx, |core, context| {
            if core.sealed(sealed.seq, sealed.end, sealed.batch, context) {
                stats.set_in_flight(true);
            }
            PartitionEffects::new()
        });
    }
}

impl Handler<OfferWithdrawn> for PartitionActor {
    type Result = ();

    fn handle(&mut self, withdrawn: OfferWithdrawn, ctx: &mut Self::Context) {
        if is_for(withdrawn.epoch, self.epoch) {
            self.step(ctx, |core, context| core.withdrawn(clock::now(), withdrawn.seq, context));
        }
    }
}

impl Handler<BatchResolved> for PartitionActor {
    type Result = ();

    fn handle(&mut self, resolved: BatchResolved, ctx: &mut Self::Context) {
        if is_for(resolved.epoch, self.epoch) {
            self.stats.set_in_flight(false);
            self.stats.set_last_error(resolved.error);
            self.step(ctx, |core, context| {
                core.resolved(clock::now(), resolved.batch, resolved.resolution, context)
            });
        }
    }
}

impl Handler<CommitAcknowledged> for PartitionActor {
    type Result = ();

    fn handle(&mut self, committed: CommitAcknowledged, ctx: &mut Self::Context) {
        if is_for(committed.epoch, self.epoch) {
            self.stats.set_committed(committed.offset);
            self.step(ctx, |core, context| core.committed(clock::now(), committed.seq, context));
        }
    }
}

impl Handler<CommitGivenUp> for PartitionActor {
    type Result = ();

    fn handle(&mut self, given_up: CommitGivenUp, ctx: &mut Self::Context) {
        if is_for(given_up.epoch, self.epoch) {
            self.step(ctx, |core, context| core.commit_given_up(clock::now(), context));
        }
    }
}

impl Handler<Drain> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.step(ctx, |core, context| core.drain(clock::now(), context));
    }
}

impl Handler<Fence> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _: Fence, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
