//! Model of a consumer group's coordinator, after Kafka's, that members are tested against. It has a target
//! assignment for each group epoch and moves the members to it one by one. No partition is assigned before its owner
//! has stopped reporting it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::units::Moment;

/// Heartbeat as received by the coordinator.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedHeartbeat {
    pub member: String,
    pub epoch: i32,
    pub everything: bool,
    pub rebalance_timeout: Duration,
    pub owned: Option<BTreeSet<i32>>,
}

/// Successful response to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeartbeatResponse {
    pub epoch: i32,
    pub assignment: Option<BTreeSet<i32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ModelPhase {
    Stable,
    Unrevoked,
    Unreleased,
}

#[derive(Debug)]
pub(crate) struct ModelMember {
    epoch: i32,
    previous_epoch: i32,
    phase: ModelPhase,
    pub assigned: BTreeSet<i32>,
    pub pending_revocation: BTreeSet<i32>,
    rebalance_timeout: Duration,
    pub session_ends: Moment,
    /// Moment at which it is expelled for not having released its partitions.
    barrier_ends: Option<Moment>,
}

/// Coordinator of one group that reads one topic.
#[derive(Debug)]
pub(crate) struct ConsumerCoordinator {
    pub members: BTreeMap<String, ModelMember>,
    partitions: i32,
    session: Duration,
    epoch: i32,
    target: BTreeMap<String, BTreeSet<i32>>,
    /// Set if a known member may rejoin with epoch 0 at any time; brokers differ.
    pub lenient: bool,
}

impl ConsumerCoordinator {
    pub(crate) fn new(partitions: i32, session: Duration, lenient: bool) -> Self {
        Self { members: BTreeMap::new(), partitions, session, epoch: 0, target: BTreeMap::new(), lenient }
    }

    pub(crate) fn heartbeat(
        &mut self,
        now: Moment,
        said: &ReceivedHeartbeat,
    ) -> Result<HeartbeatResponse, Code> {
        self.tick(now);
        if said.epoch == -1 {
            self.remove(&said.member).ok_or(Code::UnknownMemberId)?;
            return Ok(HeartbeatResponse { epoch: -1, assignment: None });
        }
        let joins = said.epoch == 0;
        if joins && !(said.everything && said.owned.as_ref().is_some_and(BTreeSet::is_empty)) {
            return Err(Code::InvalidRequest);
        }
        match self.members.get(&said.member) {
            None if !joins => return Err(Code::UnknownMemberId),
            None => self.add(now, said),
            Some(known) => self.check_epoch(known, said)?,
        }
        let session_ends = now + self.session;
        let before = self.members.get(&said.member).map(|member| member.assigned.clone());
        self.reconcile(now, &said.member, said.owned.as_ref());
        let member = self.members.get_mut(&said.member).ok_or(Code::UnknownMemberId)?;
        member.session_ends = session_ends;
        let changed = before.as_ref() != Some(&member.assigned);
        let assignment = (said.everything || changed).then(|| member.assigned.clone());
        Ok(HeartbeatResponse { epoch: member.epoch, assignment })
    }

    /// Returns the error code if this member may not commit, `None` if it may.
    #[cfg(feature = "sim")]
    pub(crate) fn may_commit(&self, member: &str, epoch: i32) -> Option<Code> {
        match self.members.get(member) {
            None => Some(Code::UnknownMemberId),
            Some(member) => (member.epoch != epoch).then_some(Code::StaleMemberEpoch),
        }
    }

    /// Sets the partition count of the topic.
    #[cfg(feature = "sim")]
    pub(crate) fn set_partitions(&mut self, partitions: i32) {
        if partitions != self.partitions {
            self.partitions = partitions;
            self.assign();
        }
    }

    /// Removes the members whose session or barrier has ended.
    pub(crate) fn tick(&mut self, now: Moment) {
        let over = |member: &ModelMember| {
            now >= member.session_ends || member.barrier_ends.is_some_and(|barrier| now >= barrier)
        };
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| over(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.remove(&id);
        }
    }

    /// Moves the coordinator to another broker, which restarts all timers.
    pub(crate) fn fail_over(&mut self, now: Moment) {
        for member in self.members.values_mut() {
            member.session_ends = now + self.session;
            member.barrier_ends =
                (member.phase == ModelPhase::Unrevoked).then_some(now + member.rebalance_timeout);
        }
    }

    fn check_epoch(&self, known: &ModelMember, said: &ReceivedHeartbeat) -> Result<(), Code> {
        if said.epoch == known.epoch || (said.epoch == 0 && self.lenient) {
            return Ok(());
        }
        // The response with the next epoch may have been lost.
        let subset = said.owned.as_ref().is_some_and(|owned| owned.is_subset(&known.assigned));
        let behind = said.epoch == known.previous_epoch && said.epoch < known.epoch && subset;
        if behind { Ok(()) } else { Err(Code::FencedMemberEpoch) }
    }

    fn add(&mut self, now: Moment, said: &ReceivedHeartbeat) {
        let member = ModelMember {
            epoch: 0,
            previous_epoch: 0,
            phase: ModelPhase::Stable,
            assigned: BTreeSet::new(),
            pending_revocation: BTreeSet::new(),
            rebalance_timeout: said.rebalance_timeout,
            session_ends: now + self.session,
            barrier_ends: None,
        };
        self.members.insert(said.member.clone(), member);
        self.assign();
    }

    fn remove(&mut self, id: &str) -> Option<ModelMember> {
        let gone = self.members.remove(id)?;
        self.assign();
        Some(gone)
    }

    /// Computes a new target: each member keeps its partitions, up to the size of its share.
    fn assign(&mut self) {
        self.epoch += 1;
        let members = self.members.len().max(1) as i32;
        let before = std::mem::take(&mut self.target);
        let mut rest: BTreeSet<i32> = (0..self.partitions).collect();
        for (index, id) in self.members.keys().enumerate() {
            let share = self.partitions / members + i32::from((index as i32) < self.partitions % members);
            let kept: BTreeSet<i32> =
                before.get(id).into_iter().flatten().copied().take(share as usize).collect();
            rest.retain(|partition| !kept.contains(partition));
            self.target.insert(id.clone(), kept);
        }
        for (index, id) in self.members.keys().enumerate() {
            let share = self.partitions / members + i32::from((index as i32) < self.partitions % members);
            let Some(target) = self.target.get_mut(id) else { continue };
            while (target.len() as i32) < share {
                let Some(next) = rest.pop_first() else { break };
                target.insert(next);
            }
        }
    }

    fn reconcile(&mut self, now: Moment, id: &str, owned: Option<&BTreeSet<i32>>) {
        let taken: BTreeSet<i32> = self
            .members
            .iter()
            .filter(|(other, _)| *other != id)
            .flat_map(|(_, member)| member.assigned.union(&member.pending_revocation))
            .copied()
            .collect();
        let (target, target_epoch) = (self.target.get(id).cloned().unwrap_or_default(), self.epoch);
        let Some(member) = self.members.get_mut(id) else { return };
        let owns = |revoked: &BTreeSet<i32>| owned.is_none_or(|owned| !owned.is_disjoint(revoked));
        match member.phase {
            ModelPhase::Stable if member.epoch == target_epoch => {}
            ModelPhase::Unrevoked if owns(&member.pending_revocation) => {}
            phase => {
                let next = member.epoch + i32::from(phase == ModelPhase::Unrevoked);
                member.next(next.min(target_epoch), &target, target_epoch, &taken, owns);
                member.barrier_ends =
                    (member.phase == ModelPhase::Unrevoked).then_some(now + member.rebalance_timeout);
            }
        }
    }
}

impl ModelMember {
    fn next(
        &mut self,
        epoch: i32,
        target: &BTreeSet<i32>,
        target_epoch: i32,
        taken: &BTreeSet<i32>,
        owns: impl Fn(&BTreeSet<i32>) -> bool,
    ) {
        let revoked: BTreeSet<i32> = self.assigned.difference(target).copied().collect();
        let kept: BTreeSet<i32> = self.assigned.intersection(target).copied().collect();
        self.previous_epoch = self.epoch;
        if !revoked.is_empty() && owns(&revoked) {
            (self.phase, self.epoch) = (ModelPhase::Unrevoked, epoch);
            (self.assigned, self.pending_revocation) = (kept, revoked);
            return;
        }
        let waits = target.iter().any(|partition| !kept.contains(partition) && taken.contains(partition));
        self.phase = if waits { ModelPhase::Unreleased } else { ModelPhase::Stable };
        self.epoch = target_epoch;
        self.pending_revocation.clear();
        self.assigned = target.iter().filter(|p| kept.contains(p) || !taken.contains(p)).copied().collect();
    }
}
