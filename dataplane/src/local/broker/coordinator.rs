//! Group coordinator of the classic protocol: join barrier, generations, sessions, offsets. Callers pass the time in;
//! deferred responses are identified by a [`ResponseId`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::units::Moment;

use super::group_messages::{DeferredResponse, DeferredResponses, JoinAnswer, JoinRequest, ResponseId};

/// Maximum number of groups of a broker.
pub(crate) const GROUPS_MAX: usize = 10_000;
/// Maximum number of members of a group.
const MEMBERS_MAX: usize = 1_000;

/// Committed offset of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOffset {
    /// Committed offset.
    pub offset: i64,
    /// Leader epoch of the record before the offset, −1 if unspecified.
    pub leader_epoch: i32,
    /// Metadata of the commit.
    pub metadata: String,
}

/// Phase of a group, as Kafka names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupPhase {
    /// The group has no members.
    Empty,
    /// Members join the next generation.
    Preparing {
        /// End of the join phase, at which members that have not joined are removed.
        until: Moment,
    },
    /// The leader's assignment is awaited.
    Completing,
    /// All members have their assignments.
    Stable,
}

/// Member of a group.
#[derive(Debug)]
pub struct BrokerMember {
    /// Static instance id (KIP-345).
    pub instance: Option<String>,
    /// Client id.
    pub client: String,
    session: Duration,
    rebalance: Duration,
    protocols: Vec<(String, Bytes)>,
    /// Moment of its last request.
    pub seen: Moment,
    joining: Option<ResponseId>,
    syncing: Option<ResponseId>,
    /// Assignment by the leader of the generation.
    pub assignment: Bytes,
}

/// Consumer group with its members and committed offsets.
#[derive(Debug)]
pub struct BrokerGroup {
    /// Phase of the current generation.
    pub phase: GroupPhase,
    /// Number of completed join phases.
    pub generation: i32,
    /// Assignment protocol of the generation.
    pub protocol: String,
    leader: String,
    /// Members by id.
    pub members: BTreeMap<String, BrokerMember>,
    promised: BTreeSet<String>,
    /// Committed offsets by topic and partition.
    pub offsets: HashMap<(String, i32), StoredOffset>,
    next_member: u64,
}

impl Default for BrokerGroup {
    fn default() -> Self {
        Self {
            phase: GroupPhase::Empty,
            generation: 0,
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            promised: BTreeSet::new(),
            offsets: HashMap::new(),
            next_member: 0,
        }
    }
}

impl BrokerGroup {
    /// Applies a JoinGroup request. Returns the responses that are ready, each under the `ticket` of its request.
    pub fn join(&mut self, now: Moment, ticket: ResponseId, mut joining: JoinRequest) -> DeferredResponses {
        let refuse =
            |code, member: String| vec![(ticket, DeferredResponse::Join(JoinAnswer::refused(code, member)))];
        if self.members.len() >= MEMBERS_MAX {
            return refuse(Code::GroupMaxSizeReached, joining.member);
        }
        if joining.member.is_empty() {
            self.replace_static(&joining);
            self.next_member += 1;
            joining.member = format!("{}-{:08x}", joining.client, self.next_member);
            if joining.instance.is_none() && joining.can_come_back {
                self.promised.insert(joining.member.clone());
                return refuse(Code::MemberIdRequired, joining.member);
            }
        } else if !self.members.contains_key(&joining.member) && !self.promised.remove(&joining.member) {
            return refuse(Code::UnknownMemberId, joining.member);
        }
        if !self.speaks_with_all(&joining) {
            return refuse(Code::InconsistentGroupProtocol, joining.member);
        }
        if let Some(answer) = self.unchanged(&joining) {
            return vec![(ticket, DeferredResponse::Join(answer))];
        }
        let mut out = self.enter(now, ticket, joining);
        out.extend(self.prepare(now));
        out.extend(self.complete_if_all_are_here(now));
        out
    }

    /// Applies a SyncGroup request. `shares` are the leader's assignments by member.
    pub fn sync(
        &mut self,
        now: Moment,
        ticket: ResponseId,
        member: &str,
        generation: i32,
        shares: Vec<(String, Bytes)>,
    ) -> DeferredResponses {
        let give = |answer| vec![(ticket, DeferredResponse::Sync(answer))];
        if let Err(code) = self.check(now, member, generation) {
            return give(Err(code));
        }
        match self.phase {
            GroupPhase::Empty => give(Err(Code::UnknownMemberId)),
            GroupPhase::Preparing { .. } => give(Err(Code::RebalanceInProgress)),
            GroupPhase::Stable => give(Ok(self.members[member].assignment.clone())),
            GroupPhase::Completing => {
                if let Some(entry) = self.members.get_mut(member) {
                    entry.syncing = Some(ticket);
                }
                if member == self.leader { self.complete_rebalance(shares) } else { Vec::new() }
            }
        }
    }

    /// Applies a heartbeat. Returns its error code, if any.
    pub fn heartbeat(&mut self, now: Moment, member: &str, generation: i32) -> Option<Code> {
        if let Err(code) = self.check(now, member, generation) {
            return Some(code);
        }
        matches!(self.phase, GroupPhase::Preparing { .. }).then_some(Code::RebalanceInProgress)
    }

    /// Removes a member. Returns the error code, if any, and the responses that its loss makes ready.
    pub fn leave(&mut self, now: Moment, member: &str) -> (Option<Code>, DeferredResponses) {
        if self.members.remove(member).is_none() {
            return (Some(Code::UnknownMemberId), Vec::new());
        }
        (None, self.after_loss(now))
    }

    /// Returns the error of a commit by `member` in `generation`, or `None` if it is accepted. A commit without a
    /// member, in generation −1, is accepted only while the group is empty.
    pub fn may_commit(&mut self, now: Moment, member: &str, generation: i32) -> Option<Code> {
        if generation < 0 && self.members.is_empty() {
            return None;
        }
        if let Err(code) = self.check(now, member, generation) {
            return Some(code);
        }
        (self.phase == GroupPhase::Completing).then_some(Code::RebalanceInProgress)
    }

    /// Removes members with expired sessions and completes a join phase that is due.
    pub fn tick(&mut self, now: Moment) -> DeferredResponses {
        let gone: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && now.since(member.seen) > member.session)
            .map(|(id, _)| id.clone())
            .collect();
        let mut out = Vec::new();
        for id in &gone {
            self.members.remove(id);
        }
        if !gone.is_empty() {
            out.extend(self.after_loss(now));
        }
        if let GroupPhase::Preparing { until } = self.phase
            && until <= now
        {
            self.members.retain(|_, member| member.joining.is_some());
            out.extend(self.complete_if_all_are_here(now));
        }
        out
    }

    fn check(&mut self, now: Moment, member: &str, generation: i32) -> Result<(), Code> {
        let entry = self.members.get_mut(member).ok_or(Code::UnknownMemberId)?;
        if generation != self.generation {
            return Err(Code::IllegalGeneration);
        }
        entry.seen = now;
        Ok(())
    }

    fn replace_static(&mut self, joining: &JoinRequest) {
        let same = |member: &BrokerMember| member.instance.is_some() && member.instance == joining.instance;
        self.members.retain(|_, member| !same(member));
    }

    fn speaks_with_all(&self, joining: &JoinRequest) -> bool {
        let others = self.members.iter().filter(|(id, _)| **id != joining.member);
        let speaks = |name: &String| {
            others.clone().all(|(_, member)| member.protocols.iter().any(|(known, _)| known == name))
        };
        joining.protocols.iter().any(|(name, _)| speaks(name))
    }

    /// Answers a follower that rejoins a stable group with unchanged protocols from the current generation, without a
    /// rebalance.
    fn unchanged(&self, joining: &JoinRequest) -> Option<JoinAnswer> {
        let member = self.members.get(&joining.member)?;
        let same = self.phase == GroupPhase::Stable
            && member.protocols == joining.protocols
            && self.leader != joining.member;
        same.then(|| JoinAnswer {
            code: None,
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member: joining.member.clone(),
            members: Vec::new(),
        })
    }

    fn enter(&mut self, now: Moment, ticket: ResponseId, joining: JoinRequest) -> DeferredResponses {
        let before = self.members.remove(&joining.member);
        let assignment = before.as_ref().map(|member| member.assignment.clone()).unwrap_or_default();
        let member = BrokerMember {
            instance: joining.instance,
            client: joining.client,
            session: joining.session,
            rebalance: joining.rebalance,
            protocols: joining.protocols,
            seen: now,
            joining: Some(ticket),
            syncing: None,
            assignment,
        };
        let stale = before.and_then(|member| member.joining);
        self.members.insert(joining.member.clone(), member);
        stale
            .map(|old| {
                (old, DeferredResponse::Join(JoinAnswer::refused(Code::UnknownMemberId, joining.member)))
            })
            .into_iter()
            .collect()
    }

    fn prepare(&mut self, now: Moment) -> DeferredResponses {
        if matches!(self.phase, GroupPhase::Preparing { .. }) {
            return Vec::new();
        }
        let longest = self.members.values().map(|member| member.rebalance).max().unwrap_or_default();
        self.phase = GroupPhase::Preparing { until: now + longest };
        let tell = |member: &mut BrokerMember| member.syncing.take();
        let waiting = self.members.values_mut().filter_map(tell);
        waiting.map(|ticket| (ticket, DeferredResponse::Sync(Err(Code::RebalanceInProgress)))).collect()
    }

    fn after_loss(&mut self, now: Moment) -> DeferredResponses {
        if self.members.is_empty() {
            self.phase = GroupPhase::Empty;
            self.generation += 1;
            return Vec::new();
        }
        let mut out = self.prepare(now);
        out.extend(self.complete_if_all_are_here(now));
        out
    }

    fn complete_if_all_are_here(&mut self, now: Moment) -> DeferredResponses {
        let all = self.members.values().all(|member| member.joining.is_some());
        if !all || self.members.is_empty() || !matches!(self.phase, GroupPhase::Preparing { .. }) {
            return Vec::new();
        }
        self.generation += 1;
        self.phase = GroupPhase::Completing;
        if !self.members.contains_key(&self.leader) {
            self.leader = self.members.keys().next().cloned().unwrap_or_default();
        }
        self.protocol = self.choose_protocol();
        let list: Vec<_> = self
            .members
            .iter()
            .map(|(id, member)| {
                let metadata = member.protocols.iter().find(|(name, _)| *name == self.protocol);
                (
                    id.clone(),
                    member.instance.clone(),
                    metadata.map(|(_, bytes)| bytes.clone()).unwrap_or_default(),
                )
            })
            .collect();
        let (generation, protocol, leader) = (self.generation, self.protocol.clone(), self.leader.clone());
        let answer = |(id, member): (&String, &mut BrokerMember)| {
            member.seen = now;
            let ticket = member.joining.take()?;
            let members = if *id == leader { list.clone() } else { Vec::new() };
            let (protocol, leader, member) = (protocol.clone(), leader.clone(), id.clone());
            Some((
                ticket,
                DeferredResponse::Join(JoinAnswer {
                    code: None,
                    generation,
                    protocol,
                    leader,
                    member,
                    members,
                }),
            ))
        };
        self.members.iter_mut().filter_map(answer).collect()
    }

    /// Returns the leader's first protocol that all members support.
    fn choose_protocol(&self) -> String {
        let speaks = |name: &String| {
            self.members.values().all(|member| member.protocols.iter().any(|(known, _)| known == name))
        };
        let preferred =
            self.members.get(&self.leader).map(|member| member.protocols.clone()).unwrap_or_default();
        preferred.into_iter().map(|(name, _)| name).find(speaks).unwrap_or_default()
    }

    fn complete_rebalance(&mut self, shares: Vec<(String, Bytes)>) -> DeferredResponses {
        let shares: BTreeMap<String, Bytes> = shares.into_iter().collect();
        self.phase = GroupPhase::Stable;
        let mut out = Vec::new();
        for (id, member) in &mut self.members {
            member.assignment = shares.get(id).cloned().unwrap_or_default();
            if let Some(ticket) = member.syncing.take() {
                out.push((ticket, DeferredResponse::Sync(Ok(member.assignment.clone()))));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn joining(member: &str) -> JoinRequest {
        JoinRequest {
            member: member.to_owned(),
            instance: None,
            client: "c".to_owned(),
            session: Duration::from_secs(10),
            rebalance: Duration::from_secs(30),
            protocols: vec![("p".to_owned(), Bytes::from_static(b"meta"))],
            can_come_back: member.is_empty(),
        }
    }

    fn enter(group: &mut BrokerGroup, second: u64, ticket: ResponseId) -> (String, DeferredResponses) {
        let DeferredResponse::Join(answer) = group.join(at(second), ticket, joining(""))[0].1.clone() else {
            panic!()
        };
        assert_eq!(answer.code, Some(Code::MemberIdRequired));
        let out = group.join(at(second), ticket, joining(&answer.member));
        (answer.member, out)
    }

    #[test]
    fn second_join_waits_for_first_member() {
        let mut group = BrokerGroup::default();
        let (first, out) = enter(&mut group, 0, 1);
        assert!(
            matches!(&out[..], [(1, DeferredResponse::Join(answer))] if answer.generation == 1 && answer.leader == first)
        );
        let out = group.sync(at(0), 2, &first, 1, vec![(first.clone(), Bytes::from_static(b"all"))]);
        assert_eq!(out, [(2, DeferredResponse::Sync(Ok(Bytes::from_static(b"all"))))]);
        let (_, out) = enter(&mut group, 1, 3);
        assert!(out.is_empty(), "the first has not joined yet");
        assert_eq!(group.heartbeat(at(2), &first, 1), Some(Code::RebalanceInProgress));
        let out = group.join(at(2), 4, joining(&first));
        assert_eq!(out.len(), 2, "both joins are answered together");
        assert_eq!(group.generation, 2);
        assert_eq!(group.heartbeat(at(2), &first, 1), Some(Code::IllegalGeneration));
    }

    #[test]
    fn expired_member_is_removed_and_rebalance_completes() {
        let mut group = BrokerGroup::default();
        let (first, _) = enter(&mut group, 0, 1);
        group.sync(at(0), 2, &first, 1, vec![]);
        enter(&mut group, 1, 3);
        let out = group.tick(at(12));
        assert!(
            matches!(&out[..], [(3, DeferredResponse::Join(answer))] if answer.code.is_none()),
            "{out:?}"
        );
        assert_eq!(group.heartbeat(at(12), &first, 2), Some(Code::UnknownMemberId));
    }

    #[test]
    fn commits_are_checked_by_member_and_generation() {
        let mut group = BrokerGroup::default();
        assert_eq!(group.may_commit(at(0), "", -1), None, "the group is empty");
        let (first, _) = enter(&mut group, 0, 1);
        assert_eq!(group.may_commit(at(0), &first, 1), Some(Code::RebalanceInProgress));
        group.sync(at(0), 2, &first, 1, vec![]);
        assert_eq!(group.may_commit(at(0), &first, 1), None);
        assert_eq!(group.may_commit(at(0), &first, 0), Some(Code::IllegalGeneration));
        assert_eq!(group.may_commit(at(0), "", -1), Some(Code::UnknownMemberId));
    }
}
