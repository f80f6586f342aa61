//! Group thread, modelled on `kafka/group/driver.rs`: responses before commands, a tick after each.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use lighterman::kafka::group::assignor::{self, MemberSubscription};
use lighterman::kafka::group::effects::{
    GroupEffect, JoinResult, MemberIdentity, MemberTiming, RequestError,
};
use lighterman::kafka::group::kip848::session_bounds::SessionBounds;
use lighterman::kafka::group::member::{GroupMember, MemberEvent as Answer};
use lighterman::kafka::group::ownership_lease::margin;
use lighterman::kafka::group::{GroupEvent, OwnershipLease, wire};
use lighterman_proto::units::Moment;

use super::super::cluster::{BrokerReply, RequestKind};
use super::super::environment::{EnvironmentEvent, SimulatedEnvironment, owner};
use super::super::schedule::FaultTrigger;
use super::connections::{DEADLINE, LinePurpose, RequestPurpose, SimulatedConnection};
use super::{NodeState, SimulatedNode};
use crate::history::{HistoryEvent as Happened, Invariant};
use crate::node::messages::{MessageMailbox, NodeMessage};

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
    pub(super) fn new((node, life): (usize, u32), env: &SimulatedEnvironment) -> Self {
        let plan = &env.plan;
        let timing = MemberTiming::new(plan.session, plan.function_timeout + Duration::from_secs(10));
        Self {
            core: GroupMember::new(plan.protocol, timing, format!("{node}.{life}-c"), env.now),
            lease: OwnershipLease::default(),
            coordinator: None,
            timing,
            lease_until: Moment::default(),
            timer: None,
            counted: None,
            next_count: env.now + METADATA_AGE_MAX,
        }
    }
}

impl SimulatedNode {
    pub(super) fn group_gets(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::GroupWake => {
                self.group.timer = self.group.timer.filter(|at| *at > env.now);
                self.group_step(env, |_, _, _| Vec::new());
            }
            NodeMessage::Released(partitions) => {
                self.group_step(env, |core, now, _| core.released(now, &partitions));
            }
            NodeMessage::Quiesced => self.group_step(env, |core, _, _| {
                core.all_invocations_ended();
                Vec::new()
            }),
            NodeMessage::HasLeft => self.has_left(),
            NodeMessage::Leave => {
                let effects = self.group.core.leave();
                let says_so = effects.iter().any(|effect| matches!(effect, GroupEffect::Leave { .. }));
                self.carry_out_group(env, effects);
                if !says_so {
                    self.later(env, Duration::from_secs(1), NodeMessage::HasLeft);
                }
            }
            _ => {}
        }
    }

    /// Applies one event to the core, and the tick that follows.
    pub(super) fn group_step(
        &mut self,
        env: &mut SimulatedEnvironment,
        event: impl FnOnce(&mut GroupMember, Moment, u64) -> Vec<GroupEffect>,
    ) {
        let (now, random) = (env.now, env.random.draw());
        let effects = event(&mut self.group.core, now, random);
        self.carry_out_group(env, effects);
        let effects = self.group.core.tick(now);
        self.carry_out_group(env, effects);
        self.count_topic(env);
        if let Some(at) = self.group.core.wake_at()
            && self.group.timer.is_none_or(|set| at < set)
        {
            let at = at.max(now);
            self.group.timer = Some(at);
            self.later(env, at.since(now), NodeMessage::GroupWake);
        }
    }

    fn carry_out_group(&mut self, env: &mut SimulatedEnvironment, effects: Vec<GroupEffect>) {
        for effect in effects {
            match effect {
                GroupEffect::ExtendLease(until) => {
                    self.judge_lease(env, until);
                    self.group.lease.extend(until);
                    self.group.lease_until = until;
                }
                GroupEffect::EndLease => self.group.lease.end(),
                GroupEffect::Notify(GroupEvent::Trouble(_) | GroupEvent::Healthy) => {}
                GroupEffect::Notify(event) => {
                    if matches!(event, GroupEvent::Lost { .. }) {
                        self.on_ownership_lost(env);
                    }
                    self.tell_member(env, event);
                }
                request => self.request(env, request),
            }
        }
    }

    /// Checks that no lease outlives the coordinator's session.
    fn judge_lease(&self, env: &mut SimulatedEnvironment, until: Moment) {
        let standing = self.group.core.standing();
        if let Some(ends) =
            standing.and_then(|standing| env.session_ends(&standing.member)).filter(|ends| until > *ends)
        {
            let over = until.since(ends).as_micros();
            let text = format!("node {}: a lease that outlives its session by {over} µs", self.id);
            env.violated(Invariant::Own1, text);
        }
    }

    fn tell_member(&mut self, env: &mut SimulatedEnvironment, event: GroupEvent) {
        self.post(env, MessageMailbox::Member, NodeMessage::Group(event));
    }

    fn on_ownership_lost(&self, env: &mut SimulatedEnvironment) {
        env.cue(self.id, FaultTrigger::OwnershipLost);
        env.record(Happened::LetGo { owner: owner(self.id, self.incarnation) });
        let over = self.group.lease_until.max(env.now) + margin(self.group.timing.session_timeout);
        let (node, life) = (self.id, self.incarnation);
        env.queue.push(over, EnvironmentEvent::SessionOver { node, life });
    }

    fn request(&mut self, env: &mut SimulatedEnvironment, effect: GroupEffect) {
        let timing = self.group.timing;
        let blocks_for = timing.rebalance_timeout + DEADLINE;
        match effect {
            GroupEffect::FindCoordinator => {
                let broker = env.random.below(2) as usize;
                self.ask(env, broker, RequestKind::FindCoordinator, RequestPurpose::FindCoordinator);
            }
            GroupEffect::Join { member, generation, owned } => {
                let subscription = wire::subscription(&env.topic, &owned, generation);
                let (session, rebalance) = (timing.session_timeout, timing.rebalance_timeout);
                let who = MemberIdentity { member: member.clone(), generation };
                let request = RequestKind::Join { member, session, rebalance, subscription };
                self.on_line(env, SimulatedConnection::Join, LinePurpose::Join(who), request, blocks_for);
            }
            GroupEffect::AssignAndSync { .. } => {
                let broker = env.random.below(2) as usize;
                self.ask(
                    env,
                    broker,
                    RequestKind::Metadata,
                    RequestPurpose::Shares { effect: Box::new(effect) },
                );
            }
            GroupEffect::Sync { member, generation } => {
                let who = MemberIdentity { member: member.clone(), generation };
                let request = RequestKind::Sync { member, generation, shares: Vec::new() };
                self.on_line(env, SimulatedConnection::Join, LinePurpose::Sync(who), request, blocks_for);
            }
            GroupEffect::Heartbeat { member, generation, seq } => {
                let request = RequestKind::Heartbeat { member, generation };
                let deadline = timing.session_timeout / 3;
                self.on_line(
                    env,
                    SimulatedConnection::Heartbeat,
                    LinePurpose::Heartbeat(seq),
                    request,
                    deadline,
                );
            }
            GroupEffect::Beat(beat) => self.beat(env, beat),
            GroupEffect::Leave { member } => {
                let request = RequestKind::Leave { member };
                self.on_line(
                    env,
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
        env: &mut SimulatedEnvironment,
        effect: GroupEffect,
        reply: Option<BrokerReply>,
    ) {
        let GroupEffect::AssignAndSync { member, generation, members } = effect else { return };
        let who = MemberIdentity { member: member.clone(), generation };
        let Some(BrokerReply::Topic(_, view)) = reply else {
            let failure = Err(RequestError::Transport("metadata".to_owned()));
            self.group_step(env, |core, now, random| core.take(now, Answer::Synced(who, failure), random));
            return;
        };
        let readable: Vec<MemberSubscription> =
            members.iter().filter_map(|(id, metadata)| wire::read_subscription(id, metadata).ok()).collect();
        self.group.counted = Some(view.len());
        let counts = BTreeMap::from([(env.topic.to_string(), view.len() as i32)]);
        let plan = assignor::assign(&readable, &counts);
        let shares: Vec<(String, Bytes)> = members
            .iter()
            .map(|(id, _)| {
                (id.clone(), wire::assignment(plan.get(id).map(Vec::as_slice).unwrap_or_default()))
            })
            .collect();
        let request = RequestKind::Sync { member, generation, shares };
        let deadline = self.group.timing.rebalance_timeout + DEADLINE;
        self.on_line(env, SimulatedConnection::Join, LinePurpose::Sync(who), request, deadline);
    }

    pub(super) fn coordinator_found(&mut self, env: &mut SimulatedEnvironment, reply: Option<BrokerReply>) {
        let found = match reply {
            Some(BrokerReply::Coordinator(Ok(broker))) => {
                self.group.coordinator = Some(broker);
                let session = env.plan.session;
                Ok(Some(SessionBounds { shortest: session, longest: session }))
            }
            _ => Err("no coordinator".to_owned()),
        };
        self.group_step(env, |core, now, random| core.take(now, Answer::CoordinatorFound(found), random));
    }

    pub(super) fn joined(
        &mut self,
        env: &mut SimulatedEnvironment,
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
        self.group_step(env, |core, now, random| core.take(now, Answer::Joined(who, answer), random));
    }

    pub(super) fn synced(
        &mut self,
        env: &mut SimulatedEnvironment,
        who: MemberIdentity,
        reply: Option<BrokerReply>,
    ) {
        let answer = match reply {
            Some(BrokerReply::Synced(Ok(share))) => {
                wire::read_assignment(&env.topic, &share).map_err(RequestError::Transport)
            }
            Some(BrokerReply::Synced(Err(code))) => Err(self.refused(code)),
            _ => Err(RequestError::Transport("no answer".to_owned())),
        };
        self.group_step(env, |core, now, random| core.take(now, Answer::Synced(who, answer), random));
    }

    pub(super) fn heartbeat_answered(
        &mut self,
        env: &mut SimulatedEnvironment,
        seq: u64,
        reply: Option<BrokerReply>,
    ) {
        let answer = match reply {
            Some(BrokerReply::Heartbeat(None)) => Ok(()),
            Some(BrokerReply::Heartbeat(Some(code))) => Err(self.refused(code)),
            _ => Err(RequestError::Transport("no answer".to_owned())),
        };
        self.group_step(env, |core, now, random| {
            core.take(now, Answer::HeartbeatAnswered(seq, answer), random)
        });
    }

    pub(super) fn refused(&mut self, code: Code) -> RequestError {
        if matches!(code, Code::NotCoordinator | Code::CoordinatorNotAvailable) {
            self.group.coordinator = None;
        }
        RequestError::Code(code)
    }

    fn count_topic(&mut self, env: &mut SimulatedEnvironment) {
        if self.group.core.leads() && env.now >= self.group.next_count {
            self.group.next_count = env.now + METADATA_AGE_MAX;
            let broker = env.random.below(2) as usize;
            self.ask(env, broker, RequestKind::Metadata, RequestPurpose::CountTopic);
        }
    }

    pub(super) fn topic_counted(&mut self, env: &mut SimulatedEnvironment, reply: Option<BrokerReply>) {
        let Some(BrokerReply::Topic(_, leaders)) = reply else { return };
        let partitions = leaders.len();
        self.leaders = Some(leaders);
        let grown = self.group.counted.replace(partitions).is_some_and(|before| before != partitions);
        if grown {
            self.group_step(env, |core, now, _| core.topic_changed(now));
        }
    }

    pub(super) fn has_left(&mut self) {
        // A member fenced while it joins sends a leave request too, but rejoins.
        if self.member.leaving {
            self.state = NodeState::Left;
        }
    }
}
