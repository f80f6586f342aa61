//! The partition's shell: messages in, effects out.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Recipient};
use lighterman_proto::event::Envelope;
use lighterman_proto::filter::Filters;
use lighterman_proto::ids::{Epoch, MappingId, Offset, TopicPartition};
use lighterman_proto::records::{AbortedTransactions, Inflater};
use lighterman_proto::topic_id::TopicId;
use tokio::sync::oneshot;

use super::core::{PartitionCore, is_for};
use super::effects::{Effect, Effects, Frame, Start, Tools};
use super::failing::{Burial, Load};
use super::gauge::Gauge;
use super::messages::{Committed, Drain, Fence, Resolved, Sealed, Withdrawn};
use super::pieces::PieceLimits;
use super::shelf::{InLine, OnCredit, Shelf};
use super::turns::Turns;
use crate::batcher::actor::BatcherActor;
use crate::batcher::messages::{Offer, Unregister, Withdraw};
use crate::consumer::messages::{PartitionReport, PartitionState, Position};
use crate::consumer::status::StatusBoard;
use crate::credit::bytes::{ByteBudget, Lease};
use crate::kafka::fetch::{FetchRouter, Fetched, FetchedRecords, Forget, Want, Watermarks};
use crate::offsets::actor::{CommitterActor, FrontierMoved, Unfollow};
use crate::offsets::committer::Frontier;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::InFlight;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, Outbox};

/// What a partition is built from.
pub struct PartitionParts {
    /// Whose partition.
    pub mapping: MappingId,
    /// Which one.
    pub partition: TopicPartition,
    /// Of which topic of its name, where that is known.
    pub topic: Option<TopicId>,
    /// Which ownership.
    pub epoch: Epoch,
    /// Where it goes on, and its limits.
    pub start: Start,
    /// Exact sizes.
    pub envelope: Arc<Envelope>,
    /// Which records are delivered.
    pub filters: Arc<Filters>,
    /// Inflates batches; shared by the partitions of one arbiter.
    pub inflater: Rc<RefCell<Inflater>>,
    /// The node's bytes.
    pub budget: ByteBudget,
    /// What may still be running.
    pub in_flight: InFlight,
    /// Where records go that are given up.
    pub burial: Option<Arc<dyn Burial>>,
    /// Where records come from.
    pub router: Addr<FetchRouter>,
    /// Where offers go.
    pub batcher: Addr<BatcherActor>,
    /// Where the frontier goes.
    pub committer: Addr<CommitterActor>,
    /// Who is told about the end.
    pub consumer: Recipient<PartitionReport>,
    /// What is shown.
    pub gauge: Arc<Gauge>,
    /// The mapping's counters.
    pub status: StatusBoard,
}

/// The actor.
pub struct PartitionActor {
    pub(super) core: PartitionCore,
    pub(super) id: TopicPartition,
    pub(super) mapping: MappingId,
    pub(super) topic: Option<TopicId>,
    pub(super) epoch: Epoch,
    pub(super) tools: Shelf,
    pub(super) in_flight: InFlight,
    router: Outbox<FetchRouter>,
    batcher: Outbox<BatcherActor>,
    committer: Outbox<CommitterActor>,
    pub(super) consumer: Recipient<PartitionReport>,
    pub(super) gauge: Arc<Gauge>,
    pub(super) status: StatusBoard,
    pub(super) burial: Option<Arc<dyn Burial>>,
    pub(super) errand: Option<(u64, oneshot::Sender<()>)>,
    pub(super) in_line: Option<InLine>,
    pub(super) turns: Turns,
    counted_frontier: Offset,
    _watch: DeathWatch,
}

impl PartitionActor {
    /// A partition that has not asked for anything yet; `watch` tells the consumer when it ends.
    pub fn new(parts: PartitionParts, watch: DeathWatch) -> Self {
        let counted_frontier = parts.start.committed;
        parts.gauge.set_committed(counted_frontier);
        Self {
            core: PartitionCore::new(parts.start),
            tools: Shelf {
                envelope: parts.envelope,
                filters: parts.filters,
                id: parts.partition.clone(),
                inflater: parts.inflater,
                limits: PieceLimits::of(parts.budget.limit()),
                budget: parts.budget,
            },
            id: parts.partition,
            mapping: parts.mapping,
            topic: parts.topic,
            epoch: parts.epoch,
            in_flight: parts.in_flight,
            router: Outbox::new(parts.router),
            batcher: Outbox::new(parts.batcher),
            committer: Outbox::new(parts.committer),
            consumer: parts.consumer,
            gauge: parts.gauge,
            status: parts.status,
            burial: parts.burial,
            errand: None,
            in_line: None,
            turns: Turns::default(),
            counted_frontier,
            _watch: watch,
        }
    }

    /// Runs one event through the core and carries out what it decided.
    pub(super) fn step(
        &mut self,
        ctx: &mut Context<Self>,
        event: impl FnOnce(&mut PartitionCore, &mut Tools<'_>) -> Effects,
    ) {
        self.step_with(None, ctx, event);
    }

    pub(super) fn step_with(
        &mut self,
        granted: Option<Lease>,
        ctx: &mut Context<Self>,
        event: impl FnOnce(&mut PartitionCore, &mut Tools<'_>) -> Effects,
    ) {
        let effects = {
            let (inflater, budget) = (&*self.tools.inflater, &self.tools.budget);
            let mut opener = OnCredit { inflater, budget, limits: self.tools.limits, spent: 0, granted };
            let mut tools =
                Tools { opener: &mut opener, sizer: &self.tools, sieve: &self.tools, wall: clock::wall_ms() };
            event(&mut self.core, &mut tools)
        };
        for effect in effects {
            self.carry_out(effect, ctx);
        }
        if self.core.is_buffer_empty() {
            // There is nothing to inflate: credit that is waited for would be lent for nothing.
            self.in_line = None;
        }
        self.show();
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let (partition, epoch) = (self.id.partition, self.epoch);
        match effect {
            Effect::Want { position, leader_epoch, bytes_max } => {
                self.want(position, leader_epoch, bytes_max, ctx);
            }
            ref forgets @ (Effect::Forget | Effect::Pause) => {
                let pauses = matches!(forgets, Effect::Pause);
                let _ = self.router.send(Forget { partition: self.id.clone(), pauses });
            }
            Effect::Offer { seq, cut, attempt, alone, expires } => {
                let _ = self.batcher.send(Offer { partition, epoch, seq, cut, attempt, alone, expires });
            }
            Effect::Withdraw { seq } => {
                let _ = self.batcher.send(Withdraw { partition, epoch, seq });
            }
            Effect::Commit { seq, offset, leader_epoch, progress, passed } => {
                self.status.resolved(self.counted_frontier.distance_to(offset), &self.gauge);
                self.status.passed(&passed);
                self.counted_frontier = offset;
                let topic = self.topic;
                let frontier =
                    Frontier { partition, topic, epoch, offset, leader_epoch, seq, progress, passed };
                let _ = self.committer.send(FrontierMoved(frontier));
            }
            Effect::Bury { ticket, work, condition } => {
                self.bury(ticket, Load::Records { work, condition }, ctx);
            }
            Effect::BuryRaw { ticket, batch } => self.bury(ticket, Load::Raw(batch), ctx),
            Effect::StopBurying { ticket } => self.stop_burying(ticket),
            Effect::WakeAt(when) => {
                ctx.run_later(when.since(clock::now()), Self::wake);
            }
            Effect::AwaitCredit(shortage) => self.await_credit(shortage, ctx),
            Effect::GoOn => self.go_on(ctx),
            Effect::LookAgain => self.look_again(ctx),
            Effect::Drained => self.report_drained(ctx),
            Effect::Rebuild { at, leader_epoch } => {
                self.unfollow();
                let topic = self.topic;
                let position =
                    Position { topic, committed: at, leader_epoch, progress: None, failures: None };
                self.report(PartitionState::Rebuild { position });
            }
            Effect::BeginAnew => {
                self.unfollow();
                self.report_parted(ctx);
            }
            Effect::Note(note) => self.note(&note),
        }
    }

    fn want(&self, position: Offset, leader_epoch: i32, bytes_max: usize, ctx: &mut Context<Self>) {
        let want = Want {
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

    /// Leaves the committer: a commit that the group has not acknowledged by now is not tried again.
    fn unfollow(&self) {
        let _ = self.committer.send(Unfollow { partition: self.id.partition, epoch: self.epoch });
    }

    pub(super) fn wake(&mut self, ctx: &mut Context<Self>) {
        self.step(ctx, |core, tools| core.wake(clock::now(), tools));
    }

    fn show(&self) {
        self.gauge.set_position(self.core.position());
        self.gauge.set_buffered(self.core.buffered_bytes());
        self.gauge.set_oldest(self.core.oldest());
        self.show_failing();
    }

    fn take_in(&mut self, position: Offset, fetched: FetchedRecords, ctx: &mut Context<Self>) {
        self.gauge.set_log_end(Some(fetched.high_watermark));
        let (aborted, before) = (AbortedTransactions::new(fetched.aborted), self.core.position());
        self.step(ctx, |core, tools| {
            let frame = Frame { position, records: &fetched.records, aborted, hold: &fetched.hold };
            core.fetched(clock::now(), frame, tools)
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
        let _ = self.router.send(Forget { partition: self.id.clone(), pauses: false });
        let _ = self.batcher.send(Unregister { partition, epoch });
        self.unfollow();
    }
}

impl Handler<Fetched> for PartitionActor {
    type Result = ();

    fn handle(&mut self, fetched: Fetched, ctx: &mut Self::Context) {
        if !is_for(fetched.epoch, self.epoch) {
            return;
        }
        match fetched.outcome {
            Ok(records) => self.take_in(fetched.position, records, ctx),
            Err(trouble) => self.face(&trouble, ctx),
        }
    }
}

impl Handler<Watermarks> for PartitionActor {
    type Result = ();

    fn handle(&mut self, watermarks: Watermarks, _: &mut Self::Context) {
        if watermarks.epoch == self.epoch {
            self.gauge.set_log_end(watermarks.high_watermark);
        }
    }
}

impl Handler<Sealed> for PartitionActor {
    type Result = ();

    fn handle(&mut self, sealed: Sealed, ctx: &mut Self::Context) {
        if !is_for(sealed.epoch, self.epoch) {
            return;
        }
        let gauge = Arc::clone(&self.gauge);
        self.step(ctx, |core, tools| {
            if core.sealed(sealed.seq, sealed.end, sealed.batch, tools) {
                gauge.set_in_flight(true);
            }
            Effects::new()
        });
    }
}

impl Handler<Withdrawn> for PartitionActor {
    type Result = ();

    fn handle(&mut self, withdrawn: Withdrawn, ctx: &mut Self::Context) {
        if is_for(withdrawn.epoch, self.epoch) {
            self.step(ctx, |core, tools| core.withdrawn(clock::now(), withdrawn.seq, tools));
        }
    }
}

impl Handler<Resolved> for PartitionActor {
    type Result = ();

    fn handle(&mut self, resolved: Resolved, ctx: &mut Self::Context) {
        if is_for(resolved.epoch, self.epoch) {
            self.gauge.set_in_flight(false);
            self.gauge.set_last_error(resolved.error);
            self.step(ctx, |core, tools| {
                core.resolved(clock::now(), resolved.batch, resolved.resolution, tools)
            });
        }
    }
}

impl Handler<Committed> for PartitionActor {
    type Result = ();

    fn handle(&mut self, committed: Committed, ctx: &mut Self::Context) {
        if is_for(committed.epoch, self.epoch) {
            self.gauge.set_committed(committed.offset);
            self.step(ctx, |core, tools| core.committed(clock::now(), committed.seq, tools));
        }
    }
}

impl Handler<Drain> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _: Drain, ctx: &mut Self::Context) {
        self.step(ctx, |core, tools| core.drain(clock::now(), tools));
    }
}

impl Handler<Fence> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _: Fence, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
