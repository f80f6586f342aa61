//! Ownership of partitions on this node, executed: assignments, drains, losses, rebuilds. The table that decides it is
//! `scaler/src/assignment.rs`. The group decides which partitions this member has (`kafka/group/mod.rs`).

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::Context;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_scaler::assignment::AssignmentMove;

use super::out_of_range::StartRemark;
use super::resolving::UNDECIDED;
use super::{MEMBERSHIP_ENDED, MappingActor};
use crate::audit::{AuditEntry, EntryKind};
use crate::consumer::messages::{DrainPartition, FencePartitions, StartPartition};
use crate::kafka::group::GroupEvent;
use crate::messages::report::{PartitionReport, PartitionState};
use crate::messages::resume::ResumePoint;
use crate::runtime::clock;
use crate::status::PartitionRow;
use crate::status::standing::StandingCause;

/// Maximum number of partitions that a log line names.
const NAMED_MAX: usize = 32;

impl MappingActor {
    /// Adjusts the number of consumers and moves partitions to where they belong.
    pub(super) fn balance(&mut self) {
        let Some((_, actors)) = &mut self.joined else { return };
        // No partition starts while the audit has no room for its start.
        if self.stopping.is_some() || !self.node.audit.has_room() {
            return;
        }
        let desired = self.run.bounds.clip(self.desired, self.table.len() as u32) as usize;
        while actors.consumers().len() < desired {
            actors.add_consumer();
        }
        let consumers: Vec<_> = actors.consumers().into_iter().take(desired).collect();
        let moves = self.table.balance(&consumers);
        self.note_beginnings(&moves);
        for step in moves {
            self.carry_out(step);
        }
        let Some((_, actors)) = &mut self.joined else { return };
        if actors.consumers().len() <= desired {
            return;
        }
        let occupied = self.table.occupied();
        for surplus in actors.consumers().into_iter().skip(desired) {
            if !occupied.contains(&surplus) {
                actors.remove_consumer(surplus);
            }
        }
    }

    /// Writes the starts of all assigned partitions to the audit in one order, before any of them can commit.
    fn note_beginnings(&self, moves: &[AssignmentMove]) {
        let at = clock::wall_ms();
        let beginning = |step: &AssignmentMove| {
            let AssignmentMove::Assign { partition, .. } = *step else { return None };
            let position = self.positions.get(&partition)?;
            let range = OffsetRange { first: position.committed, end: position.committed };
            Some(AuditEntry { at, partition, range, what: EntryKind::Began(position.topic) })
        };
        let began: Vec<AuditEntry> = moves.iter().filter_map(beginning).collect();
        if !began.is_empty() {
            self.node.audit.note(self.run.id, began);
        }
    }

    pub(super) fn carry_out(&mut self, step: AssignmentMove) {
        let Some((_, actors)) = &self.joined else { return };
        match step {
            AssignmentMove::Drain { partition, consumer, epoch } => {
                if let Some(address) = actors.consumer(consumer) {
                    address.do_send(DrainPartition { partition, epoch });
                }
            }
            AssignmentMove::Assign { partition, consumer, epoch } => {
                let stats = Arc::clone(self.gauges.entry(partition).or_default());
                let (Some(position), Some(address)) =
                    (self.positions.get(&partition).cloned(), actors.consumer(consumer))
                else {
                    return;
                };
                // After a topic is recreated, the old committed offset does not apply.
                stats.set_committed(position.committed);
                self.epochs.begin(partition, epoch);
                self.status.show(partition, PartitionRow { consumer, epoch, stats: Arc::clone(&stats) });
                address.do_send(StartPartition { partition, epoch, position, stats });
            }
        }
    }

    fn note_beginning(&self, partition: i32, at: Offset, what: EntryKind) {
        let range = OffsetRange { first: at, end: at };
        self.node.audit.note(self.run.id, vec![AuditEntry { at: clock::wall_ms(), partition, range, what }]);
    }

    /// Reports to operators anything unusual about the offset a partition starts at.
    pub(super) fn tell(&mut self, partition: i32, position: &ResumePoint, remark: Option<StartRemark>) {
        let anew = self.found_parted.remove(&partition) && position.topic.is_none();
        let topic = &self.run.topic;
        match remark.or(anew.then_some(StartRemark::Recreated)) {
            None => {}
            Some(StartRemark::Recreated) => {
                let at = position.committed.0;
                tracing::warn!(mapping = %self.run.id, partition, at, "topic recreated; reading it from its beginning");
                self.note_beginning(partition, position.committed, EntryKind::Recreated(position.topic));
            }
            Some(StartRemark::BeyondEnd(held)) => {
                self.status.notice(&format!(
                    "the group's offset {held} of partition {topic}-{partition} lies beyond the log's end, and Lighterman did not \
                     commit it: begun at {} as StartingPosition says. Whoever set it should check that",
                    position.committed
                ));
                self.note_beginning(partition, position.committed, EntryKind::BeyondEnd(held));
            }
        }
    }

    pub(super) fn revoke_partitions(&mut self, partitions: &[i32]) {
        for partition in partitions {
            if let Some(step) = self.table.revoke(*partition) {
                self.carry_out(step);
            }
            self.forget_if_gone(*partition);
        }
    }

    /// Clears the state of a partition that the table does not hold any more. If the group awaits it, it is released
    /// at the end of the turn.
    pub(super) fn forget_if_gone(&mut self, partition: i32) {
        if self.table.holds(partition) {
            return;
        }
        self.epochs.end(partition);
        self.status.hide(partition);
        self.positions.remove(&partition);
        self.gauges.remove(&partition);
        self.resolved_before.remove(&partition);
        if self.revoking.remove(&partition) {
            self.turn.released.insert(partition);
        }
    }

    pub(super) fn lose_partitions(&mut self, partitions: &[i32]) {
        self.lost_something = true;
        if let Some((_, actors)) = &self.joined {
            let which: Arc<BTreeSet<i32>> = Arc::new(partitions.iter().copied().collect());
            for consumer in actors.consumers() {
                if let Some(address) = actors.consumer(consumer) {
                    address.do_send(FencePartitions(Some(Arc::clone(&which))));
                }
            }
        }
        for partition in partitions {
            self.owned.remove(partition);
            self.revoking.remove(partition);
            self.table.remove_partition(*partition);
            self.forget_if_gone(*partition);
            self.turn.released.remove(partition);
            self.held_back.remove(partition);
        }
    }

    /// Joins the group again as another member, since no heartbeats are sent for the owned partitions. The ended
    /// membership keeps its partitions until its session expires. By then their invocations here have ended or are
    /// known to run.
    fn join_again(&mut self, ctx: &mut Context<Self>) {
        metrics::counter!(crate::metrics::REBUILDS).increment(1);
        tracing::error!(mapping = %self.run.id, "the group membership ended; joining again");
        let all: Vec<i32> = self.owned.iter().copied().chain(self.table.partitions()).collect();
        self.lose_partitions(&all);
        self.revoking.clear();
        self.turn.released.clear();
        self.held_back.clear();
        self.lost_something = false;
        (self.assigned, self.generation) = (false, UNDECIDED);
        self.joined = None;
        self.watch.held.let_go();
        if self.stopping.is_none() {
            self.status.stand(StandingCause::Membership, Some(MEMBERSHIP_ENDED.to_owned()));
            Self::join_later(ctx);
        }
    }

    pub(super) fn take_event(&mut self, event: GroupEvent, ctx: &mut Context<Self>) {
        match event {
            GroupEvent::Assigned { generation, owned, added } => {
                tracing::info!(mapping = %self.run.id, generation, owned = %PartitionNames(&owned), added = %PartitionNames(&added), "partitions assigned");
                if let Some((_, actors)) = &self.joined {
                    actors.set_fence(generation);
                }
                self.generation = generation;
                self.assigned = true;
                self.status.stand(StandingCause::Membership, None);
                self.owned = owned.into_iter().chain(added.iter().copied()).collect();
                if !added.is_empty() {
                    self.resolve_starts(added, Duration::ZERO, ctx);
                }
            }
            GroupEvent::Revoke { partitions } => {
                tracing::info!(mapping = %self.run.id, partitions = %PartitionNames(&partitions), "partitions revoked; draining them");
                for partition in &partitions {
                    self.owned.remove(partition);
                    self.revoking.insert(*partition);
                }
                self.revoke_partitions(&partitions);
            }
            GroupEvent::Lost { partitions, reason } => {
                tracing::warn!(mapping = %self.run.id, partitions = %PartitionNames(&partitions), reason, "partitions lost");
                (self.assigned, self.unassigned_since) = (false, clock::now());
                self.lose_partitions(&partitions);
            }
            GroupEvent::Ended => self.join_again(ctx),
            GroupEvent::Trouble(text) => self.status.stand(StandingCause::Group, Some(text)),
            GroupEvent::Healthy => {
                self.status.stand(StandingCause::Group, None);
                self.status.reachable();
            }
        }
    }

    pub(super) fn take_report(&mut self, report: PartitionReport) {
        let PartitionReport { partition, epoch, state } = report;
        if self.table.place(partition).is_none_or(|(_, current)| current != epoch) {
            return;
        }
        match state {
            PartitionState::Drained { position } => {
                self.positions.insert(partition, position);
                self.table.released(partition, epoch);
                self.forget_if_gone(partition);
                self.turn.is_unbalanced = true;
            }
            PartitionState::Rebuild { position } => {
                let at = position.committed.0;
                tracing::warn!(mapping = %self.run.id, partition, at, "going on where the log was truncated");
                self.positions.insert(partition, position);
                self.table.released(partition, epoch);
                self.forget_if_gone(partition);
                self.turn.is_unbalanced = true;
            }
            PartitionState::BeginAnew => self.begin_anew(partition),
            PartitionState::Exited { panicking } => self.rebuild(&[partition], panicking),
        }
    }

    /// Restarts a partition whose topic was recreated or whose log diverged.
    fn begin_anew(&mut self, partition: i32) {
        self.table.remove_partition(partition);
        self.forget_if_gone(partition);
        if self.stopping.is_none() && self.owned.contains(&partition) {
            self.found_parted.insert(partition);
            self.resolve_again([partition], Duration::ZERO);
        }
    }

    /// Rebuilds partitions: forgets them and starts them again from the committed offsets, all in one lookup.
    pub(super) fn rebuild(&mut self, partitions: &[i32], panicking: bool) {
        for partition in partitions {
            metrics::counter!(crate::metrics::REBUILDS).increment(1);
            tracing::error!(mapping = %self.run.id, partition, panicking, "partition ended; rebuilding it");
            self.table.remove_partition(*partition);
            self.forget_if_gone(*partition);
        }
        self.resolve_again(partitions.iter().copied(), Duration::ZERO);
    }

    pub(super) fn rebuild_all(&mut self, what: &'static str, ctx: &mut Context<Self>) {
        tracing::error!(mapping = %self.run.id, what, "an actor of the mapping ended; rebuilding all of it");
        metrics::counter!(crate::metrics::REBUILDS).increment(1);
        let partitions: Vec<i32> = self.table.partitions().collect();
        for partition in &partitions {
            self.table.remove_partition(*partition);
            self.forget_if_gone(*partition);
        }
        if let Some((membership, actors)) = self.joined.take() {
            let fresh = self.actors(membership.clone(), actors.function().clone(), ctx);
            drop(actors);
            self.joined = Some((membership, fresh));
        }
        self.resolve_again(self.owned.clone(), Duration::ZERO);
    }
}

/// Partitions as shown in a log line.
struct PartitionNames<'p>(&'p [i32]);

impl fmt::Display for PartitionNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = &self.0[..self.0.len().min(NAMED_MAX)];
        write!(f, "{named:?}")?;
        match self.0.len() - named.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
