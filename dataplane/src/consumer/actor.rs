//! Consumer actor. It runs its partitions on one data arbiter behind one batcher: it starts, drains and fences them,
//! and reports how they ended. Partition ownership is decided elsewhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient};
use lighterman_proto::event::EventEnvelope;
use lighterman_proto::filter::FilterSet;
use lighterman_proto::ids::{ConsumerId, Epoch, MappingId, TopicPartition};
use lighterman_proto::records::BatchInflater;

use super::messages::{ConsumerEvent, ConsumerReport, DrainPartition, FencePartitions, StartPartition};
use crate::batcher::actor::{BatcherActor, BatcherParts};
use crate::commits::actor::CommitterActor;
use crate::credit::memory_budget::MemoryBudget;
use crate::kafka::fetch::FetchRouter;
use crate::messages::commit::{CommitReplies, CommitRequest, CommitterRecipients, FollowPartition};
use crate::messages::dead_letter::DeadLetterSink;
use crate::messages::offer::{BatcherRecipients, OfferReplies, RegisterPartition};
use crate::messages::records::PartitionBatchLimits;
use crate::messages::report::{PartitionReport, PartitionState};
use crate::messages::skip::SkipRecord;
use crate::partition::actor::{PartitionActor, PartitionParts};
use crate::partition::attempts::attempt::FailureHandling;
use crate::partition::effects::{PartitionConfig, PartitionIdentity};
use crate::partition::messages::{Drain, Fence, GiveBack};
use crate::partition::progress::commit_window::CommitWindowLimits;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::InFlight;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};
use crate::status::MappingStatus;

/// Parts that a consumer is built from.
pub struct ConsumerParts {
    /// Consumer id.
    pub id: ConsumerId,
    /// Mapping id.
    pub mapping: MappingId,
    /// Topic of the mapping.
    pub topic: Arc<str>,
    /// JSON envelope around the records.
    pub envelope: Arc<EventEnvelope>,
    /// Filters that select the records to deliver.
    pub filters: Arc<FilterSet>,
    /// Limits of a partition's share of a batch.
    pub limits: PartitionBatchLimits,
    /// Handling of failed records.
    pub policy: FailureHandling,
    /// Limits of the commits that need not be acknowledged when a batch starts.
    pub commit_window: CommitWindowLimits,
    /// Target of buffered bytes per partition.
    pub buffer_bytes_target: usize,
    /// Memory budget.
    pub budget: MemoryBudget,
    /// Registry of the invocations that may still run.
    pub in_flight: InFlight,
    /// Sink of failure messages, if the mapping has an on-failure destination.
    pub dead_letters: Option<Arc<dyn DeadLetterSink>>,
    /// Fetch router of this arbiter.
    pub router: Addr<FetchRouter>,
    /// Committer of the mapping.
    pub committer: Addr<CommitterActor>,
    /// Parts of the consumer's batcher.
    pub batcher: BatcherParts,
    /// Recipient of reports: the member.
    pub member: Recipient<ConsumerReport>,
    /// Status of the mapping.
    pub status: MappingStatus,
}

/// Actor that runs some of a mapping's partitions on one data arbiter.
pub struct ConsumerActor {
    id: ConsumerId,
    mapping: MappingId,
    topic: Arc<str>,
    envelope: Arc<EventEnvelope>,
    filters: Arc<FilterSet>,
    limits: PartitionBatchLimits,
    policy: FailureHandling,
    commit_window: CommitWindowLimits,
    buffer_bytes_target: usize,
    budget: MemoryBudget,
    in_flight: InFlight,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    router: Addr<FetchRouter>,
    committer: Addr<CommitterActor>,
    batcher_parts: Option<BatcherParts>,
    batcher: Option<Addr<BatcherActor>>,
    member: Recipient<ConsumerReport>,
    status: MappingStatus,
    inflater: Rc<RefCell<BatchInflater>>,
    partitions: HashMap<i32, (Epoch, Addr<PartitionActor>)>,
    _watch: DeathWatch,
}

#[derive(Message)]
#[rtype(result = "()")]
struct BatcherEnded {
    panicking: bool,
}

impl ConsumerActor {
    /// Creates a consumer without partitions. Call it on the consumer's arbiter.
    pub fn new(parts: ConsumerParts) -> Self {
        let (member, id) = (parts.member.clone(), parts.id);
        let watch = DeathWatch::new("consumer", move |panicking| {
            if panicking {
                let _ = post(&member, ConsumerReport { consumer: id, event: ConsumerEvent::Exited });
            }
        });
        Self {
            id: parts.id,
            mapping: parts.mapping,
            topic: parts.topic,
            envelope: parts.envelope,
            filters: parts.filters,
            limits: parts.limits,
            policy: parts.policy,
            commit_window: parts.commit_window,
            buffer_bytes_target: parts.buffer_bytes_target,
            budget: parts.budget,
            in_flight: parts.in_flight,
            dead_letters: parts.dead_letters,
            router: parts.router,
            committer: parts.committer,
            batcher_parts: Some(parts.batcher),
            batcher: None,
            member: parts.member,
            status: parts.status,
            inflater: Rc::new(RefCell::new(BatchInflater::default())),
            partitions: HashMap::new(),
            _watch: watch,
        }
    }

    fn start_partition(
        &mut self,
        start: &StartPartition,
        batcher: Addr<BatcherActor>,
        ctx: &mut Context<Self>,
    ) {
        let me = ctx.address().recipient::<PartitionReport>();
        let (partition, epoch) = (start.partition, start.epoch);
        tracing::debug!(mapping = %self.mapping, partition, epoch = epoch.0, "partition starts");
        let beginning = CommitRequest::beginning(partition, epoch, &start.position);
        let watch_to = me.clone();
        let watch = DeathWatch::new("partition", move |panicking| {
            let state = PartitionState::Exited { panicking };
            let _ = post(&watch_to, PartitionReport { partition, epoch, state });
        });
        let parts = PartitionParts {
            mapping: self.mapping,
            partition: TopicPartition::new(Arc::clone(&self.topic), partition),
            start: PartitionConfig {
                identity: PartitionIdentity { partition, topic: start.position.topic, epoch },
                key_bytes: self.envelope.partition_bytes(partition, false),
                committed: start.position.committed,
                leader_epoch: start.position.leader_epoch,
                progress: start.position.progress.clone(),
                failures: start.position.failures.clone(),
                policy: self.policy,
                filters: self.filters.fingerprint(),
                limits: self.limits,
                commit_window: self.commit_window,
                buffer_bytes_target: self.buffer_bytes_target,
            },
            envelope: Arc::clone(&self.envelope),
            filters: Arc::clone(&self.filters),
            inflater: Rc::clone(&self.inflater),
            budget: self.budget.clone(),
            in_flight: self.in_flight.clone(),
            dead_letters: self.dead_letters.clone(),
            router: self.router.clone(),
            batcher: BatcherRecipients {
                offers: batcher.clone().recipient(),
                withdrawals: batcher.clone().recipient(),
                ends: batcher.clone().recipient(),
            },
            committer: CommitterRecipients {
                requests: self.committer.clone().recipient(),
                ends: self.committer.clone().recipient(),
            },
            consumer: me,
            stats: Arc::clone(&start.stats),
            status: self.status.clone(),
        };
        // Batcher and committer must get the recipients before the partition's first message to them.
        let (batcher_mail, committer_mail) = (batcher, self.committer.clone());
        let address = PartitionActor::create(move |ctx| {
            let address = ctx.address();
            let replies = OfferReplies {
                sealed: address.clone().recipient(),
                withdrawn: address.clone().recipient(),
                resolved: address.clone().recipient(),
            };
            batcher_mail.do_send(RegisterPartition { partition, epoch, replies });
            let replies =
                CommitReplies { acknowledged: address.clone().recipient(), given_up: address.recipient() };
            committer_mail.do_send(FollowPartition { beginning, replies });
            PartitionActor::new(parts, watch)
        });
        self.partitions.insert(partition, (epoch, address));
    }

    fn report(&self, event: ConsumerEvent) {
        let _ = post(&self.member, ConsumerReport { consumer: self.id, event });
    }

    fn fence(&mut self, gone: impl Fn(i32) -> bool) {
        self.partitions.retain(|partition, (_, address)| {
            let fenced = gone(*partition);
            if fenced {
                address.do_send(Fence);
            }
            !fenced
        });
    }
}

/// A consumer that panics must leave no partition running.
impl Drop for ConsumerActor {
    fn drop(&mut self) {
        self.fence(|_| true);
    }
}

impl Actor for ConsumerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        let me = ctx.address().recipient::<BatcherEnded>();
        let watch = DeathWatch::new("batcher", move |panicking| {
            let _ = post(&me, BatcherEnded { panicking });
        });
        if let Some(parts) = self.batcher_parts.take() {
            self.batcher = Some(BatcherActor::new(parts, watch).start());
        }
    }
}

impl Handler<StartPartition> for ConsumerActor {
    type Result = ();

    fn handle(&mut self, start: StartPartition, ctx: &mut Self::Context) {
        if let Some(batcher) = self.batcher.clone() {
            self.start_partition(&start, batcher, ctx);
        }
    }
}

impl Handler<DrainPartition> for ConsumerActor {
    type Result = ();

    fn handle(&mut self, drain: DrainPartition, _: &mut Self::Context) {
        if let Some((epoch, address)) = self.partitions.get(&drain.partition)
            && *epoch == drain.epoch
        {
            address.do_send(Drain);
        }
    }
}

impl Handler<SkipRecord> for ConsumerActor {
    type Result = ();

    fn handle(&mut self, skip: SkipRecord, _: &mut Self::Context) {
        if let Some((_, address)) = self.partitions.get(&skip.partition) {
            address.do_send(skip);
        }
    }
}

impl Handler<FencePartitions> for ConsumerActor {
    type Result = ();

    fn handle(&mut self, FencePartitions(which): FencePartitions, ctx: &mut Self::Context) {
        match which {
            Some(partitions) => self.fence(|partition| partitions.contains(&partition)),
            None => {
                self.fence(|_| true);
                ctx.stop();
            }
        }
    }
}

impl Handler<GiveBack> for ConsumerActor {
    type Result = ();

    fn handle(&mut self, _: GiveBack, _: &mut Self::Context) {
        for (_, address) in self.partitions.values() {
            address.do_send(GiveBack);
        }
    }
}

impl Handler<PartitionReport> for ConsumerActor {
    type Result = ();

    fn handle(&mut self, report: PartitionReport, _: &mut Self::Context) {
        let known = self.partitions.get(&report.partition).is_some_and(|(epoch, _)| *epoch == report.epoch);
        if !known {
            return;
        }
        match report.state {
            PartitionState::Drained { .. } | PartitionState::Rebuild { .. } | PartitionState::BeginAnew => {
                if let Some((_, address)) = self.partitions.remove(&report.partition) {
                    address.do_send(Fence);
                }
            }
            PartitionState::Exited { .. } => {
                self.partitions.remove(&report.partition);
            }
        }
        self.report(ConsumerEvent::Partition(report));
    }
}

impl Handler<BatcherEnded> for ConsumerActor {
    type Result = ();

    fn handle(&mut self, ended: BatcherEnded, ctx: &mut Self::Context) {
        if ended.panicking {
            self.fence(|_| true);
            self.report(ConsumerEvent::Exited);
            ctx.stop();
        }
    }
}
