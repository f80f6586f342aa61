//! Actor of a partition, modelled on `partition/actor.rs`.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::credit::memory_budget::MemoryLease;
use lighterman::messages::commit::CommitRequest;
use lighterman::messages::dead_letter::{AbandonedRecords, DeadLetterResult};
use lighterman::messages::records::PartitionBatchLimits;
use lighterman::messages::report::{PartitionReport, PartitionState};
use lighterman::messages::resume::ResumePoint;
use lighterman::partition::core::{PartitionCore, is_for};
use lighterman::partition::effects::{
    CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects, PartitionEvent,
    PartitionIdentity,
};
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::records::AbortedTransactions;
use lighterman_proto::topic_id::TopicId;

use super::super::environment::SimulatedEnvironment;
use super::super::schedule::FaultKind;
use super::shelf::{OnCredit, SimulatedContext};
use super::{OwnershipKey, SimulatedFetch, SimulatedNode};
use crate::history::HistoryEvent as Happened;
use crate::node::messages::{MessageMailbox, NodeMessage};

const LOOK_AGAIN: Duration = Duration::from_millis(20);
const BUFFER_BYTES_TARGET: usize = 1_500;

/// Running partition.
pub(crate) struct RunningPartition {
    pub core: PartitionCore,
    /// Id of its topic.
    topic: Option<TopicId>,
    pub consumer: u32,
    pub committed: Offset,
    pub log_end: Option<Offset>,
    counted: Offset,
    /// Pending lease.
    in_line: Option<BoxFuture<'static, MemoryLease>>,
    looking_again: bool,
    /// Ticket of the failure message in transit.
    dead_letter_request: Option<u64>,
}

impl SimulatedNode {
    pub(super) fn start_partition(
        &mut self,
        env: &mut SimulatedEnvironment,
        consumer: u32,
        key: OwnershipKey,
        position: ResumePoint,
    ) {
        let plan = &env.plan;
        let key_bytes = env.envelope.partition_bytes(i32::MAX, false);
        let committed = Self::first_of(&position);
        let beginning = CommitRequest::beginning(key.0, key.1, &position);
        let start = PartitionConfig {
            identity: PartitionIdentity { partition: key.0, topic: position.topic, epoch: key.1 },
            key_bytes: env.envelope.partition_bytes(key.0, false),
            committed,
            leader_epoch: position.leader_epoch,
            progress: position.progress,
            failures: position.failures,
            filters: 0,
            policy: plan.policy,
            limits: PartitionBatchLimits {
                records_max: plan.records_max,
                payload_bytes_max: plan.payload_bytes_max - env.envelope.base_bytes() - key_bytes,
            },
            commit_window: plan.commit_window,
            buffer_bytes_target: BUFFER_BYTES_TARGET,
        };
        let running = RunningPartition {
            core: PartitionCore::new(start),
            topic: position.topic,
            consumer,
            committed,
            log_end: None,
            counted: committed,
            in_line: None,
            looking_again: false,
            dead_letter_request: None,
        };
        self.partitions.insert(key, running);
        // In the production node these are two messages that arrive before any of the partition's.
        self.register(consumer, key);
        self.follow(beginning);
        self.step(env, key, |core, now, context| core.wake(now, context));
    }

    pub(super) fn step(
        &mut self,
        env: &mut SimulatedEnvironment,
        key: OwnershipKey,
        event: impl FnOnce(
            &mut PartitionCore,
            lighterman_proto::units::Moment,
            &mut CoreContext<'_>,
        ) -> PartitionEffects,
    ) {
        let wall = self.wall(env);
        let Some(running) = self.partitions.get_mut(&key) else { return };
        let shelf = SimulatedContext {
            envelope: Arc::clone(&env.envelope),
            partition: key.0,
            budget: self.budget.clone(),
        };
        let granted = running.in_line.as_mut().and_then(FutureExt::now_or_never);
        if granted.is_some() {
            running.in_line = None;
        }
        let mut batch_opener = OnCredit { budget: &shelf.budget, granted, spent: 0 };
        let mut context =
            CoreContext { batch_opener: &mut batch_opener, sizer: &shelf, record_filter: &shelf, wall };
        let effects = event(&mut running.core, env.now, &mut context);
        drop(batch_opener);
        for effect in effects {
            self.carry_out(env, key, effect);
        }
        if let Some(running) = self.partitions.get_mut(&key).filter(|running| running.core.is_buffer_empty())
        {
            running.in_line = None;
        }
        self.show(key.0, key.1);
    }

    fn carry_out(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey, effect: PartitionEffect) {
        let (partition, _epoch) = key;
        let Some(running) = self.partitions.get_mut(&key) else { return };
        let consumer = running.consumer;
        let batcher = MessageMailbox::Batcher(consumer);
        match effect {
            PartitionEffect::Fetch { position, leader_epoch, bytes_max } => {
                let leader_epoch = (leader_epoch >= 0).then_some(leader_epoch);
                let topic = running.topic;
                let want = SimulatedFetch { key, topic, position, leader_epoch, bytes_max };
                self.post(env, MessageMailbox::Router, NodeMessage::Want(want));
            }
            PartitionEffect::CancelFetch | PartitionEffect::Pause => {
                self.post(env, MessageMailbox::Router, NodeMessage::Forget { partition });
            }
            PartitionEffect::Offer(offer) => {
                let pending = Box::new(offer);
                self.post(env, batcher, NodeMessage::Offer { consumer, pending });
            }
            PartitionEffect::Withdraw { seq } => {
                self.post(env, batcher, NodeMessage::Withdraw { consumer, key, seq });
            }
            PartitionEffect::Commit(request) => {
                let moved = running.counted.distance_to(request.offset);
                running.counted = request.offset;
                *self.member.resolved.entry(partition).or_default() += moved;
                self.post(env, MessageMailbox::Committer, NodeMessage::Frontier(Box::new(request)));
            }
            PartitionEffect::DeadLetter { request_id, records, condition } => {
                self.send_dead_letter(env, key, request_id, &records, condition);
            }
            // Skipping unreadable batches is not simulated.
            PartitionEffect::DeadLetterRaw { .. } => {}
            PartitionEffect::CancelDeadLetter { request_id } => self.cancel_dead_letter(env, key, request_id),
            PartitionEffect::WakeAt(when) => {
                let wait = when.since(env.now);
                self.later(env, wait, NodeMessage::Wake(key));
            }
            PartitionEffect::AwaitCredit(short) => {
                if running.in_line.is_none() {
                    let budget = self.budget.clone();
                    let lease = async move { budget.lease_or_overdraft(short.bytes, short.purpose).await };
                    running.in_line = Some(lease.boxed());
                }
                self.look_again(env, key);
            }
            PartitionEffect::PollSoon => self.look_again(env, key),
            PartitionEffect::ContinueSoon => {
                self.post(env, MessageMailbox::Partition(key.0, key.1.0), NodeMessage::Wake(key));
            }
            PartitionEffect::Drained => self.tell_drained(env, key),
            PartitionEffect::Restart { at, leader_epoch } => {
                let topic = running.topic;
                let position =
                    ResumePoint { topic, committed: at, leader_epoch, progress: None, failures: None };
                self.report(env, key, PartitionState::Rebuild { position });
            }
            PartitionEffect::StartNewLog => {
                self.post(env, MessageMailbox::Committer, NodeMessage::Unfollow(key));
                self.tell_parted(env, key);
            }
            PartitionEffect::Log(PartitionEvent::LedgerRefused(refused)) => {
                // The production node counts this as a violation of COM-1 and stops the partition.
                env.violated(crate::history::Invariant::Com1, refused.to_string());
            }
            PartitionEffect::Log(_) => {}
        }
    }

    /// Wakes the partition soon. It then checks whether a pending lease was granted, which in the production node
    /// arrives as a message, or whether others wait for bytes.
    fn look_again(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey) {
        let Some(running) = self.partitions.get_mut(&key) else { return };
        if !std::mem::replace(&mut running.looking_again, true) {
            self.later(env, LOOK_AGAIN, NodeMessage::Wake(key));
        }
    }

    fn report(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey, state: PartitionState) {
        let (partition, epoch) = key;
        let consumer = self.partitions.get(&key).map(|running| running.consumer);
        let ends = !matches!(state, PartitionState::Exited { .. });
        if consumer.is_some() && ends {
            self.fence(env, key);
        }
        let report = Box::new(PartitionReport { partition, epoch, state });
        self.post(env, MessageMailbox::Member, NodeMessage::Report(report));
    }

    /// Reports the partition as drained, once no invocation of this node can still have an effect (DRN-1, H4).
    fn tell_drained(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey) {
        let Some(running) = self.partitions.get(&key) else { return };
        let id = TopicPartition::new(Arc::clone(&env.topic), key.0);
        if self.in_flight.is_clear(env.mapping, &id, env.now) {
            let committed = running.core.ledger().frontier();
            let (leader_epoch, progress) =
                (running.core.frontier_leader_epoch(), running.core.progress().cloned());
            let failures = running.core.work().failures();
            let topic = running.topic;
            let position = ResumePoint { topic, committed, leader_epoch, progress, failures };
            self.report(env, key, PartitionState::Drained { position });
        } else {
            self.later(env, LOOK_AGAIN, NodeMessage::TellDrained(key));
        }
    }

    /// Reports that the partition has a new log, once no invocation of the old one can still run (OWN-1).
    fn tell_parted(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey) {
        if !self.partitions.contains_key(&key) {
            return;
        }
        let id = TopicPartition::new(Arc::clone(&env.topic), key.0);
        if self.in_flight.is_clear(env.mapping, &id, env.now) {
            self.report(env, key, PartitionState::BeginAnew);
        } else {
            self.later(env, LOOK_AGAIN, NodeMessage::TellParted(key));
        }
    }

    /// Stops a partition whose ownership is lost.
    pub(super) fn fence(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey) {
        let Some(running) = self.partitions.remove(&key) else { return };
        let consumer = running.consumer;
        self.forget_want(env, key.0);
        self.post(env, MessageMailbox::Batcher(consumer), NodeMessage::Unregister { consumer, key });
        self.post(env, MessageMailbox::Committer, NodeMessage::Unfollow(key));
    }

    pub(super) fn partition_gets(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::Wake(key) => {
                if let Some(running) = self.partitions.get_mut(&key) {
                    running.looking_again = false;
                }
                self.step(env, key, |core, now, context| core.wake(now, context));
                if self.partitions.get(&key).is_some_and(|running| running.in_line.is_some()) {
                    self.look_again(env, key);
                }
            }
            NodeMessage::Fetched { key, position, part, hold } => {
                if let Some(running) = self.partitions.get_mut(&key) {
                    running.log_end = Some(part.high_watermark);
                }
                self.step(env, key, |core, now, context| match (part.code, part.diverging_end) {
                    (None, None) => {
                        let aborted = AbortedTransactions::new(part.aborted);
                        core.fetched(
                            now,
                            FetchedFrame { position, records: &part.records, aborted, hold: &hold },
                            context,
                        )
                    }
                    (None, Some(end)) => core.diverged(end),
                    (Some(_), _) => core.unreadable(now),
                });
            }
            NodeMessage::OutOfRange { key, log_start, log_end } => {
                self.step(env, key, |core, now, context| core.out_of_range(now, log_start, log_end, context));
            }
            NodeMessage::Sealed { key, seq, end, batch } => {
                self.step(env, key, |core, _, context| {
                    core.sealed(seq, end, batch, context);
                    PartitionEffects::new()
                });
            }
            NodeMessage::Withdrawn { key, seq } => {
                self.step(env, key, |core, now, context| core.withdrawn(now, seq, context));
            }
            NodeMessage::Resolved { key, epoch, batch, resolution } => {
                if is_for(epoch, key.1) {
                    self.step(env, key, |core, now, context| core.resolved(now, batch, *resolution, context));
                }
            }
            NodeMessage::Committed { key, offset, seq } => {
                if let Some(running) = self.partitions.get_mut(&key) {
                    running.committed = offset;
                }
                self.step(env, key, |core, now, context| core.committed(now, seq, context));
            }
            NodeMessage::GiveBack(key) => self.step(env, key, |core, _, context| core.give_back(context)),
            NodeMessage::Drain(key) => self.step(env, key, |core, now, context| core.drain(now, context)),
            NodeMessage::Buried { key, request_id, dead_letter_result } => {
                self.errand_ended(env, key, request_id, dead_letter_result);
            }
            NodeMessage::TellDrained(key) => self.tell_drained(env, key),
            NodeMessage::TellParted(key) => self.tell_parted(env, key),
            _ => {}
        }
    }

    /// Sends records to the destination, which accepts them after a while or rejects them permanently.
    fn send_dead_letter(
        &mut self,
        env: &mut SimulatedEnvironment,
        key: OwnershipKey,
        request_id: u64,
        records: &AbandonedRecords,
        _: FailureCondition,
    ) {
        if let Some(running) = self.partitions.get_mut(&key) {
            running.dead_letter_request = Some(request_id);
        }
        let troubled = env.draws_fault(FaultKind::DestinationTrouble, 400);
        let wait = if troubled { env.random.millis(200, 6_000) } else { env.random.millis(1, 60) };
        let refused = troubled && env.plan.drops && env.random.chance(500);
        let partition = key.0;
        for slice in &records.batch.runs {
            let leader_epoch = slice.header.leader_epoch;
            for offset in slice.walk().map(|record| record.offset.0) {
                if refused {
                    env.record(Happened::Refused { partition, offset, leader_epoch });
                } else {
                    env.destination.on_its_way.push((request_id, key, offset, leader_epoch));
                }
            }
        }
        let dead_letter_result =
            if refused { DeadLetterResult::Dropped } else { DeadLetterResult::Acknowledged };
        self.later(env, wait, NodeMessage::Buried { key, request_id, dead_letter_result });
    }

    fn cancel_dead_letter(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey, request_id: u64) {
        let Some(running) = self.partitions.get_mut(&key) else { return };
        if running.dead_letter_request.take_if(|sent| *sent == request_id).is_some() {
            let dead_letter_result = DeadLetterResult::Stopped;
            self.post(
                env,
                MessageMailbox::Partition(key.0, key.1.0),
                NodeMessage::Buried { key, request_id, dead_letter_result },
            );
        }
    }

    fn errand_ended(
        &mut self,
        env: &mut SimulatedEnvironment,
        key: OwnershipKey,
        request_id: u64,
        dead_letter_result: DeadLetterResult,
    ) {
        if let Some(running) = self.partitions.get_mut(&key) {
            running.dead_letter_request.take_if(|sent| *sent == request_id);
        }
        env.arrive(request_id, key, dead_letter_result == DeadLetterResult::Acknowledged);
        self.step(env, key, |core, now, context| {
            core.dead_letter_result(now, request_id, dead_letter_result, context)
        });
    }

    /// Returns the failing records, for the operator.
    pub(crate) fn failing(&self) -> Vec<(OwnershipKey, Offset)> {
        let of =
            |(key, running): (&OwnershipKey, &RunningPartition)| Some((*key, running.core.failing()?.offset));
        self.partitions.iter().filter_map(of).collect()
    }

    /// Skips a record for the operator.
    pub(crate) fn skip(&mut self, env: &mut SimulatedEnvironment, key: OwnershipKey, offset: Offset) {
        self.step(env, key, |core, now, context| core.skip(now, offset, None, context).1);
    }
}
