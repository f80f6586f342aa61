//! Group coordinator of the consumer protocol (KIP-848), after Kafka's, that members are tested against. It has a
//! target assignment for each group epoch and moves the members to it one by one. No partition is assigned before its
//! owner has stopped reporting it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::units::Moment;

/// Heartbeat as received by the coordinator.
#[derive(Clone, Debug)]
pub struct ReceivedHeartbeat {
    /// Id of the member.
    pub member: String,
    /// Epoch of the member: 0 to join, −1 to leave.
    pub epoch: i32,
    /// True if all fields of the request are set, which asks for the whole assignment.
    pub everything: bool,
    /// Time that the member has to release revoked partitions.
    pub rebalance_timeout: Duration,
    /// Partitions that the member owns, `None` if unchanged.
    pub owned: Option<BTreeSet<i32>>,
}

/// Successful response to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// Epoch of the member from here on.
    pub epoch: i32,
    /// Assigned partitions, `None` if unchanged.
    pub assignment: Option<BTreeSet<i32>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberPhase {
    Stable,
    Unrevoked,
    Unreleased,
}

/// Member as the coordinator knows it.
#[derive(Debug)]
pub struct ConsumerGroupMember {
    epoch: i32,
    previous_epoch: i32,
    phase: MemberPhase,
    /// Partitions that the member was told to own.
    pub assigned: BTreeSet<i32>,
    /// Partitions that the member was told to release and still reports.
    pub pending_revocation: BTreeSet<i32>,
    rebalance_timeout: Duration,
    /// Moment at which the member is expelled unless it sends a heartbeat.
    pub session_ends: Moment,
    /// Moment at which it is expelled for not having released its partitions.
    barrier_ends: Option<Moment>,
}

/// Coordinator of one group that reads one topic.
#[derive(Debug)]
pub struct ConsumerCoordinator {
    /// Members by id.
    pub members: BTreeMap<String, ConsumerGroupMember>,
    partitions: i32,
    session: Duration,
    epoch: i32,
    target: BTreeMap<String, BTreeSet<i32>>,
    /// Set if a known member may rejoin with epoch 0 at any time; brokers differ.
    pub lenient: bool,
}

impl ConsumerCoordinator {
    /// Creates the coordinator of an empty group that reads a topic with `partitions` partitions. `session` is the
    /// session timeout.
    pub fn new(partitions: i32, session: Duration, lenient: bool) -> Self {
        Self { members: BTreeMap::new(), partitions, session, epoch: 0, target: BTreeMap::new(), lenient }
    }

    /// Applies a heartbeat, after removing the members whose session or barrier has ended.
    pub fn heartbeat(&mut self, now: Moment, said: &ReceivedHeartbeat) -> Result<HeartbeatResponse, Code> {
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
    pub fn may_commit(&self, member: &str, epoch: i32) -> Option<Code> {
        match self.members.get(member) {
            None => Some(Code::UnknownMemberId),
            Some(member) => (member.epoch != epoch).then_some(Code::StaleMemberEpoch),
        }
    }

    /// Sets the partition count of the topic.
    pub fn set_partitions(&mut self, partitions: i32) {
        if partitions != self.partitions {
            self.partitions = partitions;
            self.assign();
        }
    }

    /// Removes the members whose session or barrier has ended.
    pub fn tick(&mut self, now: Moment) {
        let over = |member: &ConsumerGroupMember| {
            now >= member.session_ends || member.barrier_ends.is_some_and(|barrier| now >= barrier)
        };
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| over(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.remove(&id);
        }
    }

    /// Moves the coordinator to another broker, which restarts all timers.
    pub fn fail_over(&mut self, now: Moment) {
        for member in self.members.values_mut() {
            member.session_ends = now + self.session;
            member.barrier_ends =
                (member.phase == MemberPhase::Unrevoked).then_some(now + member.rebalance_timeout);
        }
    }

    fn check_epoch(&self, known: &ConsumerGroupMember, said: &ReceivedHeartbeat) -> Result<(), Code> {
        if said.epoch == known.epoch || (said.epoch == 0 && self.lenient) {
            return Ok(());
        }
        // The response with the next epoch may have been lost.
        let subset = said.owned.as_ref().is_some_and(|owned| owned.is_subset(&known.assigned));
        let behind = said.epoch == known.previous_epoch && said.epoch < known.epoch && subset;
        if behind { Ok(()) } else { Err(Code::FencedMemberEpoch) }
    }

    fn add(&mut self, now: Moment, said: &ReceivedHeartbeat) {
        let member = ConsumerGroupMember {
            epoch: 0,
            previous_epoch: 0,
            phase: MemberPhase::Stable,
            assigned: BTreeSet::new(),
            pending_revocation: BTreeSet::new(),
            rebalance_timeout: said.rebalance_timeout,
            session_ends: now + self.session,
            barrier_ends: None,
        };
        self.members.insert(said.member.clone(), member);
        self.assign();
    }

    fn remove(&mut self, id: &str) -> Option<ConsumerGroupMember> {
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
            MemberPhase::Stable if member.epoch == target_epoch => {}
            MemberPhase::Unrevoked if owns(&member.pending_revocation) => {}
            phase => {
                let next = member.epoch + i32::from(phase == MemberPhase::Unrevoked);
                member.next(next.min(target_epoch), &target, target_epoch, &taken, owns);
                member.barrier_ends =
                    (member.phase == MemberPhase::Unrevoked).then_some(now + member.rebalance_timeout);
            }
        }
    }
}

impl ConsumerGroupMember {
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
            (self.phase, self.epoch) = (MemberPhase::Unrevoked, epoch);
            (self.assigned, self.pending_revocation) = (kept, revoked);
            return;
        }
        let waits = target.iter().any(|partition| !kept.contains(partition) && taken.contains(partition));
        self.phase = if waits { MemberPhase::Unreleased } else { MemberPhase::Stable };
        self.epoch = target_epoch;
        self.pending_revocation.clear();
        self.assigned = target.iter().filter(|p| kept.contains(p) || !taken.contains(p)).copied().collect();
    }
}
