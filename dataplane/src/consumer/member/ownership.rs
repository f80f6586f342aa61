//! Who owns what, carried out: assignments, drains, losses, rebuilds.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{AsyncContext, Context};
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_scaler::assignment::Move;

use super::starts::{Remark, StartError, Starts};
use super::{MemberActor, START_AGAIN, TICK};
use crate::audit::{Entry, What};
use crate::consumer::messages::{
    DrainPartition, FencePartitions, PartitionReport, PartitionState, Position, StartPartition,
};
use crate::consumer::status::Shown;
use crate::kafka::group::GroupEvent;
use crate::offsets::start::still_holds;
use crate::runtime::clock;

/// Nothing holds under it: the next generation is to come.
const UNDECIDED: i32 = -1;
/// How long to wait for the news when our place in the group was found to have changed.
const PLACE_CHANGES: Duration = Duration::from_millis(100);
/// Partitions that are to begin anew within so long of each other are begun together.
const BEGIN_ANEW_TOGETHER: Duration = Duration::from_millis(200);

impl MemberActor {
    /// Brings consumers and partitions to where they should be.
    pub(super) fn balance(&mut self) {
        let Some((_, floor)) = &mut self.joined else { return };
        if self.stopping.is_some() {
            return;
        }
        let desired = self.run.bounds.clip(self.desired, self.table.len() as u32) as usize;
        while floor.consumers().len() < desired {
            floor.add_consumer();
        }
        let consumers: Vec<_> = floor.consumers().into_iter().take(desired).collect();
        let moves = self.table.balance(&consumers);
        for step in moves {
            self.carry_out(step);
        }
        let Some((_, floor)) = &mut self.joined else { return };
        for surplus in floor.consumers().into_iter().skip(desired) {
            if self.table.at(surplus) == 0 {
                floor.remove_consumer(surplus);
            }
        }
    }

    pub(super) fn carry_out(&mut self, step: Move) {
        let Some((_, floor)) = &self.joined else { return };
        match step {
            Move::Drain { partition, consumer, epoch } => {
                if let Some(address) = floor.consumer(consumer) {
                    address.do_send(DrainPartition { partition, epoch });
                }
            }
            Move::Assign { partition, consumer, epoch } => {
                let gauge = Arc::clone(self.gauges.entry(partition).or_default());
                let (Some(position), Some(address)) =
                    (self.positions.get(&partition).cloned(), floor.consumer(consumer))
                else {
                    return;
                };
                // Of a topic that was made anew nothing is committed that the account before it speaks of.
                gauge.set_committed(position.committed);
                self.note_beginning(partition, position.committed, What::Began(position.topic));
                self.status.show(partition, Shown { consumer, epoch, gauge: Arc::clone(&gauge) });
                address.do_send(StartPartition { partition, epoch, position, gauge });
            }
        }
    }

    fn note_beginning(&self, partition: i32, at: Offset, what: What) {
        let range = OffsetRange { first: at, end: at };
        self.node.audit.note(self.run.id, vec![Entry { at: clock::wall_ms(), partition, range, what }]);
    }

    /// What a person should know of where a partition begins.
    fn tell(&mut self, partition: i32, position: &Position, remark: Option<Remark>) {
        let anew = self.found_parted.remove(&partition) && position.topic.is_none();
        let topic = &self.run.topic;
        match remark.or(anew.then_some(Remark::Recreated)) {
            None => {}
            Some(Remark::Recreated) => {
                let at = position.committed.0;
                tracing::warn!(mapping = %self.run.id, partition, at, "topic recreated; reading it from its beginning");
                self.note_beginning(partition, position.committed, What::Recreated(position.topic));
            }
            Some(Remark::BeyondEnd(held)) => {
                self.status.notice(&format!(
                    "the group's offset {held} of partition {topic}-{partition} lies beyond the log's end, and Lighterman did not \
                     commit it: begun at {} as StartingPosition says. Whoever set it should check that",
                    position.committed
                ));
                self.note_beginning(partition, position.committed, What::BeyondEnd(held));
            }
        }
    }

    pub(super) fn give_up(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(step) = self.table.give_up(*partition) {
                self.carry_out(step);
            }
            self.forget_if_gone(*partition);
        }
    }

    /// A partition that the table does not hold any more is shown no more, and released if the group waits for it.
    pub(super) fn forget_if_gone(&mut self, partition: i32) {
        if self.table.holds(partition) {
            return;
        }
        self.status.hide(partition);
        self.positions.remove(&partition);
        self.gauges.remove(&partition);
        self.resolved_before.remove(&partition);
        if self.revoking.remove(&partition) {
            self.release(partition);
        }
    }

    /// A beginning that is being committed is committed before its partition goes to anyone else.
    fn release(&self, partition: i32) {
        let Some((membership, _)) = &self.joined else { return };
        if self.resolving.try_lock().is_ok() {
            membership.released(vec![partition]);
            return;
        }
        let (membership, turn) = (membership.clone(), Arc::clone(&self.resolving));
        actix_rt::spawn(async move {
            let _turn = turn.lock().await;
            membership.released(vec![partition]);
        });
    }

    pub(super) fn lose(&mut self, partitions: &[i32]) {
        self.lost_something = true;
        if let Some((_, floor)) = &self.joined {
            for consumer in floor.consumers() {
                if let Some(address) = floor.consumer(consumer) {
                    address.do_send(FencePartitions(Some(partitions.to_vec())));
                }
            }
        }
        for partition in partitions {
            self.owned.remove(partition);
            self.revoking.remove(partition);
            self.table.lose(*partition);
            self.forget_if_gone(*partition);
        }
    }

    pub(super) fn take_event(&mut self, event: GroupEvent, ctx: &mut Context<Self>) {
        match event {
            GroupEvent::Assigned { generation, owned, added } => {
                tracing::info!(mapping = %self.run.id, generation, ?owned, ?added, "partitions assigned");
                if let Some((_, floor)) = &self.joined {
                    floor.set_fence(generation);
                }
                self.generation = generation;
                self.assigned = true;
                self.owned = owned.into_iter().chain(added.iter().copied()).collect();
                if !added.is_empty() {
                    self.resolve_starts(added, Duration::ZERO, ctx);
                }
            }
            GroupEvent::Revoke { partitions } => {
                tracing::info!(mapping = %self.run.id, ?partitions, "partitions revoked; draining them");
                for partition in &partitions {
                    self.owned.remove(partition);
                    self.revoking.insert(*partition);
                }
                self.give_up(&partitions);
            }
            GroupEvent::Lost { partitions, reason } => {
                tracing::warn!(mapping = %self.run.id, ?partitions, reason, "partitions lost");
                self.assigned = false;
                self.lose(&partitions);
            }
            GroupEvent::Trouble(text) => self.status.poll_failed(&text),
            GroupEvent::Healthy => self.status.reachable(),
        }
    }

    pub(super) fn take_starts(
        &mut self,
        wanted: &[i32],
        generation: i32,
        starts: Result<Option<Starts>, StartError>,
        ctx: &mut Context<Self>,
    ) {
        let still: Vec<i32> =
            wanted.iter().copied().filter(|partition| self.owned.contains(partition)).collect();
        if !still_holds(generation, self.generation) {
            // Lost and ours again, it may be elsewhere by now.
            if !still.is_empty() {
                self.resolve_starts(still, Duration::ZERO, ctx);
            }
            return;
        }
        match starts {
            // Our place has changed, and we shall hear of it.
            Ok(None) if still.is_empty() => {}
            Ok(None) => self.resolve_starts(still, PLACE_CHANGES, ctx),
            Ok(Some(starts)) => {
                self.activated.store(starts.activated, Ordering::Relaxed);
                for partition in still {
                    if let Some(position) = starts.positions.get(&partition)
                        && !self.table.holds(partition)
                    {
                        self.tell(partition, position, starts.remarks.get(&partition).copied());
                        self.positions.insert(partition, position.clone());
                        self.table.add(partition);
                    }
                }
                self.balance();
            }
            Err(error) => {
                self.status.poll_failed(&error.to_string());
                if error.may_be_served() {
                    self.start_over();
                }
                if !still.is_empty() {
                    self.resolve_starts(still, START_AGAIN, ctx);
                }
            }
        }
    }

    /// The beginning of a topic, which was committed and not answered, may be served when others have begun by it: committed once
    /// more it would take back what they have delivered. It is decided anew in a generation in which the first is refused.
    fn start_over(&mut self) {
        let Some((membership, _)) = self.joined.as_ref().filter(|_| self.table.is_empty()) else { return };
        membership.start_over(self.generation);
        self.generation = UNDECIDED;
    }

    pub(super) fn take_report(&mut self, report: PartitionReport, ctx: &mut Context<Self>) {
        let PartitionReport { partition, epoch, state } = report;
        if self.table.place(partition).is_none_or(|(_, current)| current != epoch) {
            return;
        }
        match state {
            PartitionState::Drained { position } => {
                self.positions.insert(partition, position);
                self.table.freed(partition, epoch);
                self.forget_if_gone(partition);
                self.balance();
            }
            PartitionState::Rebuild { position } => {
                let at = position.committed.0;
                tracing::warn!(mapping = %self.run.id, partition, at, "going on where the log was truncated");
                self.positions.insert(partition, position);
                self.table.freed(partition, epoch);
                self.forget_if_gone(partition);
                self.balance();
            }
            PartitionState::BeginAnew => self.begin_anew(partition, ctx),
            PartitionState::Exited { panicking } => self.rebuild(partition, panicking, ctx),
        }
    }

    /// A topic that was made anew, or a log that is not what it was. All partitions of a topic find that out at about the same time.
    fn begin_anew(&mut self, partition: i32, ctx: &mut Context<Self>) {
        self.table.lose(partition);
        self.forget_if_gone(partition);
        if self.stopping.is_some() || !self.owned.contains(&partition) {
            return;
        }
        self.found_parted.insert(partition);
        if self.beginning_anew.is_empty() {
            ctx.run_later(BEGIN_ANEW_TOGETHER, |member, ctx| {
                let wanted = std::mem::take(&mut member.beginning_anew);
                let still: Vec<i32> =
                    wanted.into_iter().filter(|partition| member.owned.contains(partition)).collect();
                if !still.is_empty() && member.stopping.is_none() {
                    member.resolve_starts(still, Duration::ZERO, ctx);
                }
            });
        }
        self.beginning_anew.insert(partition);
    }

    /// Recovery is always the same: forget it, and start it again from what the group has committed.
    pub(super) fn rebuild(&mut self, partition: i32, panicking: bool, ctx: &mut Context<Self>) {
        metrics::counter!(crate::metrics::REBUILDS).increment(1);
        tracing::error!(mapping = %self.run.id, partition, panicking, "partition ended; rebuilding it");
        self.table.lose(partition);
        self.forget_if_gone(partition);
        if self.owned.contains(&partition) && self.stopping.is_none() {
            self.resolve_starts(vec![partition], TICK, ctx);
        }
    }

    pub(super) fn rebuild_all(&mut self, what: &'static str, ctx: &mut Context<Self>) {
        tracing::error!(mapping = %self.run.id, what, "an actor of the mapping ended; rebuilding all of it");
        metrics::counter!(crate::metrics::REBUILDS).increment(1);
        let partitions: Vec<i32> = self.table.partitions().collect();
        for partition in &partitions {
            self.table.lose(*partition);
            self.forget_if_gone(*partition);
        }
        if let Some((membership, floor)) = self.joined.take() {
            let fresh = self.floor(membership.clone(), floor.function_timeout(), ctx);
            let mut old = floor;
            old.clear();
            self.joined = Some((membership, fresh));
        }
        let owned: Vec<i32> = self.owned.iter().copied().collect();
        if !owned.is_empty() && self.stopping.is_none() {
            self.resolve_starts(owned, TICK, ctx);
        }
    }
}
