//! Group thread, modelled on `kafka/group/membership.rs`: responses before commands, a tick after each.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::units::Moment;

use super::super::cluster::{BrokerReply, RequestKind};
use super::super::environment::{EnvironmentEvent, SimulatedEnvironment, owner};
use super::super::schedule::FaultTrigger;
use super::connections::{DEADLINE, LinePurpose, RequestPurpose, SimulatedConnection};
use super::{NodeState, SimulatedNode};
use crate::history::{HistoryEvent as Happened, Invariant};
use crate::kafka::group::assignor::{self, MemberSubscription};
use crate::kafka::group::effects::{GroupEffect, JoinResult, MemberIdentity, MemberTiming, RequestError};
use crate::kafka::group::kip848::session::SessionBounds;
use crate::kafka::group::lease::margin;
use crate::kafka::group::member::{GroupMember, MemberEvent as Answer};
use crate::kafka::group::{GroupEvent, OwnershipLease, wire};
use crate::sim::node::messages::{MessageMailbox, NodeMessage};

/// A tenth of the real interval, as schedules are short.
const METADATA_AGE_MAX: Duration = Duration::from_secs(3);

pub(super) struct SimulatedGroupThread {
    pub core: GroupMember,
    pub lease: OwnershipLease,
    pub coordinator: Option<usize>,
    timing: MemberTiming,
    /// End of the last lease, even if it was ended early.
    lease_until: Moment,
    timer: Option<Moment>,
    counted: Option<usize>,
    next_count: Moment,
}

impl SimulatedGroupThread {
    pub(super) fn new((node, life): (usize, u32), outside: &SimulatedEnvironment) -> Self {
        let plan = &outside.plan;
        let timing = MemberTiming::new(plan.session, plan.function_timeout + Duration::from_secs(10));
        Self {
            core: GroupMember::new(plan.protocol, timing, format!("{node}.{life}-c"), outside.now),
            lease: OwnershipLease::default(),
            coordinator: None,
            timing,
            lease_until: Moment::default(),
            timer: None,
            counted: None,
            next_count: outside.now + METADATA_AGE_MAX,
        }
    }
}

impl SimulatedNode {
    pub(super) fn group_gets(&mut self, outside: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::GroupWake => {
                self.group.timer = self.group.timer.filter(|at| *at > outside.now);
                self.group_step(outside, |_, _, _| Vec::new());
            }
            NodeMessage::Released(partitions) => {
                self.group_step(outside, |core, now, _| core.released(now, &partitions));
            }
            NodeMessage::Quiesced => self.group_step(outside, |core, _, _| {
                core.all_invocations_ended();
                Vec::new()
            }),
            NodeMessage::HasLeft => self.has_left(),
            NodeMessage::Leave => {
                let effects = self.group.core.leave();
                let says_so = effects.iter().any(|effect| matches!(effect, GroupEffect::Leave { .. }));
                self.carry_out_group(outside, effects);
                if !says_so {
                    self.later(outside, Duration::from_secs(1), NodeMessage::HasLeft);
                }
            }
            _ => {}
        }
    }

    /// Applies one event to the core, and the tick that follows.
    pub(super) fn group_step(
        &mut self,
        outside: &mut SimulatedEnvironment,
        event: impl FnOnce(&mut GroupMember, Moment, u64) -> Vec<GroupEffect>,
    ) {
        let (now, random) = (outside.now, outside.random.draw());
        let effects = event(&mut self.group.core, now, random);
        self.carry_out_group(outside, effects);
        let effects = self.group.core.tick(now, random);
        self.carry_out_group(outside, effects);
        self.count_topic(outside);
        if let Some(at) = self.group.core.wake_at()
            && self.group.timer.is_none_or(|set| at < set)
        {
            let at = at.max(now);
            self.group.timer = Some(at);
            self.later(outside, at.since(now), NodeMessage::GroupWake);
        }
    }

    fn carry_out_group(&mut self, outside: &mut SimulatedEnvironment, effects: Vec<GroupEffect>) {
        for effect in effects {
            match effect {
                GroupEffect::ExtendLease(until) => {
                    self.judge_lease(outside, until);
                    self.group.lease.extend(until);
                    self.group.lease_until = until;
                }
                GroupEffect::EndLease => self.group.lease.end(),
                GroupEffect::Notify(GroupEvent::Trouble(_) | GroupEvent::Healthy) => {}
                GroupEffect::Notify(event) => {
                    if matches!(event, GroupEvent::Lost { .. }) {
                        self.on_ownership_lost(outside);
                    }
                    self.tell_member(outside, event);
                }
                request => self.request(outside, request),
            }
        }
    }

    /// Checks that no lease outlives the coordinator's session.
    fn judge_lease(&self, outside: &mut SimulatedEnvironment, until: Moment) {
        let standing = self.group.core.standing();
        if let Some(ends) =
            standing.and_then(|standing| outside.session_ends(&standing.member)).filter(|ends| until > *ends)
        {
            let over = until.since(ends).as_micros();
            let text = format!("node {}: a lease that outlives its session by {over} µs", self.id);
            outside.violated(Invariant::Own1, text);
        }
    }

    fn tell_member(&mut self, outside: &mut SimulatedEnvironment, event: GroupEvent) {
        self.post(outside, MessageMailbox::Member, NodeMessage::Group(event));
    }

    fn on_ownership_lost(&self, outside: &mut SimulatedEnvironment) {
        outside.cue(self.id, FaultTrigger::OwnershipLost);
        outside.record(Happened::LetGo { owner: owner(self.id, self.incarnation) });
        let over = self.group.lease_until.max(outside.now) + margin(self.group.timing.session_timeout);
        let (node, life) = (self.id, self.incarnation);
        outside.queue.push(over, EnvironmentEvent::SessionOver { node, life });
    }

    fn request(&mut self, outside: &mut SimulatedEnvironment, effect: GroupEffect) {
        let timing = self.group.timing;
        let blocks_for = timing.rebalance_timeout + DEADLINE;
        match effect {
            GroupEffect::FindCoordinator => {
                let broker = outside.random.below(2) as usize;
                self.ask(outside, broker, RequestKind::FindCoordinator, RequestPurpose::FindCoordinator);
            }
            GroupEffect::Join { member, generation, owned } => {
                let subscription = wire::subscription(&outside.topic, &owned, generation);
                let (session, rebalance) = (timing.session_timeout, timing.rebalance_timeout);
                let who = MemberIdentity { member: member.clone(), generation };
                let request = RequestKind::Join { member, session, rebalance, subscription };
                self.on_line(outside, SimulatedConnection::Join, LinePurpose::Join(who), request, blocks_for);
            }
            GroupEffect::AssignAndSync { .. } => {
                let broker = outside.random.below(2) as usize;
                self.ask(
                    outside,
                    broker,
                    RequestKind::Metadata,
                    RequestPurpose::Shares { effect: Box::new(effect) },
                );
            }
            GroupEffect::Sync { member, generation } => {
                let who = MemberIdentity { member: member.clone(), generation };
                let request = RequestKind::Sync { member, generation, shares: Vec::new() };
                self.on_line(outside, SimulatedConnection::Join, LinePurpose::Sync(who), request, blocks_for);
            }
            GroupEffect::Heartbeat { member, generation, seq } => {
                let request = RequestKind::Heartbeat { member, generation };
                let deadline = timing.session_timeout / 3;
                self.on_line(
                    outside,
                    SimulatedConnection::Heartbeat,
                    LinePurpose::Heartbeat(seq),
                    request,
                    deadline,
                );
            }
            GroupEffect::Beat(beat) => self.beat(outside, beat),
            GroupEffect::Leave { member } => {
                let request = RequestKind::Leave { member };
                self.on_line(
                    outside,
                    SimulatedConnection::Heartbeat,
                    LinePurpose::Leave,
                    request,
                    Duration::from_secs(3),
                );
            }
            _ => {}
        }
    }

    /// Computes every member's share, as the leader, and syncs.
    pub(super) fn share_out(
        &mut self,
        outside: &mut SimulatedEnvironment,
        effect: GroupEffect,
        reply: Option<BrokerReply>,
    ) {
        let GroupEffect::AssignAndSync { member, generation, members } = effect else { return };
        let who = MemberIdentity { member: member.clone(), generation };
        let Some(BrokerReply::Topic(_, view)) = reply else {
            let failure = Err(RequestError::Transport("metadata".to_owned()));
            self.group_step(outside, |core, now, random| {
                core.take(now, Answer::Synced(who, failure), random)
            });
            return;
        };
        let readable: Vec<MemberSubscription> =
            members.iter().filter_map(|(id, metadata)| wire::read_subscription(id, metadata).ok()).collect();
        self.group.counted = Some(view.len());
        let counts = BTreeMap::from([(outside.topic.to_string(), view.len() as i32)]);
        let plan = assignor::assign(&readable, &counts);
        let shares: Vec<(String, Bytes)> = members
            .iter()
            .map(|(id, _)| {
                (id.clone(), wire::assignment(plan.get(id).map(Vec::as_slice).unwrap_or_default()))
            })
            .collect();
        let request = RequestKind::Sync { member, generation, shares };
        let deadline = self.group.timing.rebalance_timeout + DEADLINE;
        self.on_line(outside, SimulatedConnection::Join, LinePurpose::Sync(who), request, deadline);
    }

    pub(super) fn coordinator_found(
        &mut self,
        outside: &mut SimulatedEnvironment,
        reply: Option<BrokerReply>,
    ) {
        let found = match reply {
            Some(BrokerReply::Coordinator(Ok(broker))) => {
                self.group.coordinator = Some(broker);
                let session = outside.plan.session;
                Ok(Some(SessionBounds { shortest: session, longest: session }))
            }
            _ => Err("no coordinator".to_owned()),
        };
        self.group_step(outside, |core, now, random| core.take(now, Answer::CoordinatorFound(found), random));
    }

    pub(super) fn joined(
        &mut self,
        outside: &mut SimulatedEnvironment,
        who: MemberIdentity,
        reply: Option<BrokerReply>,
    ) {
        let answer = match reply {
            Some(BrokerReply::Joined(answer)) => match answer.code {
                None => Ok(JoinResult {
                    generation: answer.generation,
                    member: answer.member,
                    leader: answer.leader,
                    members: answer.members.into_iter().map(|(id, _, metadata)| (id, metadata)).collect(),
                }),
                Some(Code::MemberIdRequired) => Err(RequestError::MemberIdRequired(answer.member)),
                Some(code) => Err(self.refused(code)),
            },
            _ => Err(RequestError::Transport("no answer".to_owned())),
        };
        self.group_step(outside, |core, now, random| core.take(now, Answer::Joined(who, answer), random));
    }

    pub(super) fn synced(
        &mut self,
        outside: &mut SimulatedEnvironment,
        who: MemberIdentity,
        reply: Option<BrokerReply>,
    ) {
        let answer = match reply {
            Some(BrokerReply::Synced(Ok(share))) => {
                wire::read_assignment(&outside.topic, &share).map_err(RequestError::Transport)
            }
            Some(BrokerReply::Synced(Err(code))) => Err(self.refused(code)),
            _ => Err(RequestError::Transport("no answer".to_owned())),
        };
        self.group_step(outside, |core, now, random| core.take(now, Answer::Synced(who, answer), random));
    }

    pub(super) fn heartbeat_answered(
        &mut self,
        outside: &mut SimulatedEnvironment,
        seq: u64,
        reply: Option<BrokerReply>,
    ) {
        let answer = match reply {
            Some(BrokerReply::Heartbeat(None)) => Ok(()),
            Some(BrokerReply::Heartbeat(Some(code))) => Err(self.refused(code)),
            _ => Err(RequestError::Transport("no answer".to_owned())),
        };
        self.group_step(outside, |core, now, random| {
            core.take(now, Answer::HeartbeatAnswered(seq, answer), random)
        });
    }

    pub(super) fn refused(&mut self, code: Code) -> RequestError {
        if matches!(code, Code::NotCoordinator | Code::CoordinatorNotAvailable) {
            self.group.coordinator = None;
        }
        RequestError::Code(code)
    }

    fn count_topic(&mut self, outside: &mut SimulatedEnvironment) {
        if self.group.core.leads() && outside.now >= self.group.next_count {
            self.group.next_count = outside.now + METADATA_AGE_MAX;
            let broker = outside.random.below(2) as usize;
            self.ask(outside, broker, RequestKind::Metadata, RequestPurpose::CountTopic);
        }
    }

    pub(super) fn topic_counted(&mut self, outside: &mut SimulatedEnvironment, reply: Option<BrokerReply>) {
        let Some(BrokerReply::Topic(_, leaders)) = reply else { return };
        let partitions = leaders.len();
        self.leaders = Some(leaders);
        let grown = self.group.counted.replace(partitions).is_some_and(|before| before != partitions);
        if grown {
            self.group_step(outside, |core, now, _| core.topic_changed(now));
        }
    }

    pub(super) fn has_left(&mut self) {
        // A member fenced while it joins sends a leave request too, but rejoins.
        if self.member.leaving {
            self.state = NodeState::Left;
        }
    }
}
