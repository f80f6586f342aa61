//! Foreign member of the group: another program that consumes the same topic with the same assignor and ignores its
//! records. It once pauses for longer than its session. It then rejoins under a new id and claims the partitions of
//! the generation it remembers. Clients do so that have not noticed their expulsion (KIP-792).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use lighterman::kafka::group::assignor::{self, PROTOCOL};
use lighterman::kafka::group::wire;
use lighterman::local::broker::group_messages::{DeferredResponse, JoinAnswer, JoinRequest};
use lighterman_proto::units::Moment;

use super::super::environment::{EnvironmentEvent, SimulatedEnvironment};
use super::{ReplyReceiver, group};

/// Node number of the foreign member, higher than any node's.
pub(crate) const STRANGER: usize = 9;
const BEAT: Duration = Duration::from_millis(700);
const REBALANCE: Duration = Duration::from_secs(12);

#[derive(Debug, Default, PartialEq, Eq)]
enum ForeignState {
    #[default]
    Absent,
    Out,
    Joining,
    Member,
}

/// State of the foreign member.
#[derive(Debug, Default)]
pub(crate) struct ForeignMember {
    state: ForeignState,
    sorts_first: bool,
    member: String,
    generation: i32,
    owned: Vec<i32>,
    /// Generation that assigned `owned`.
    since: i32,
    lets_go: bool,
    asleep_until: Moment,
}

impl SimulatedEnvironment {
    /// Lets the foreign member join the group, once in a schedule, and pause after a while.
    pub(crate) fn stranger_comes(&mut self) {
        if self.cluster.stranger.state != ForeignState::Absent || self.quiet {
            return;
        }
        let sorts_first = self.random.chance(500);
        let begins = self.now + self.random.millis(1_500, 5_000);
        let asleep_until = begins + self.plan.session + self.random.millis(500, 5_000);
        self.cluster.stranger = ForeignMember {
            state: ForeignState::Out,
            sorts_first,
            generation: -1,
            since: -1,
            ..ForeignMember::default()
        };
        self.queue.push(begins, EnvironmentEvent::StrangerSleeps { until: asleep_until });
        self.after(Duration::ZERO, EnvironmentEvent::StrangerBeats);
    }

    pub(crate) fn stranger_sleeps(&mut self, until: Moment) {
        self.cluster.stranger.asleep_until = until;
    }

    pub(crate) fn stranger_beats(&mut self) {
        let now = self.now;
        if self.quiet {
            let member = std::mem::take(&mut self.cluster.stranger).member;
            let (_, given) = self.cluster.group.leave(now, &member);
            return self.hand_out(given);
        }
        self.after(BEAT, EnvironmentEvent::StrangerBeats);
        let ForeignMember { state, member, generation, lets_go, asleep_until, .. } = &self.cluster.stranger;
        if now < *asleep_until || now < self.cluster.loading_until {
            return;
        }
        match state {
            ForeignState::Absent | ForeignState::Joining => {}
            ForeignState::Out => self.stranger_joins(),
            ForeignState::Member => {
                let lets_go = *lets_go;
                match self.cluster.group.heartbeat(now, member, *generation) {
                    None if !lets_go => {}
                    Some(Code::UnknownMemberId) => {
                        self.cluster.stranger.member.clear();
                        self.stranger_joins();
                    }
                    _ => self.stranger_joins(),
                }
            }
        }
    }

    fn stranger_joins(&mut self) {
        let stranger = &mut self.cluster.stranger;
        stranger.state = ForeignState::Joining;
        stranger.lets_go = false;
        let subscription = wire::subscription(&self.topic, &stranger.owned, stranger.since);
        let sign = if stranger.sorts_first { "+" } else { "" };
        let joining = JoinRequest {
            member: stranger.member.clone(),
            instance: None,
            client: format!("{sign}{}", group::client_of(STRANGER, 0)),
            session: self.plan.session,
            rebalance: REBALANCE,
            protocols: vec![(PROTOCOL.to_owned(), subscription)],
            can_come_back: false,
        };
        let ticket = self.stranger_waits();
        let now = self.now;
        let given = self.cluster.group.join(now, ticket, joining);
        self.hand_out(given);
    }

    fn stranger_waits(&mut self) -> u64 {
        let ticket = self.next_id();
        let from = ReplyReceiver { ask: None, node: STRANGER, life: 0, gives_up: self.now };
        self.cluster.waiting.insert(ticket, from);
        ticket
    }

    pub(super) fn stranger_gets(&mut self, given: DeferredResponse) {
        if self.cluster.stranger.state != ForeignState::Joining {
            return;
        }
        match given {
            DeferredResponse::Join(answer) if answer.code.is_none() => self.stranger_syncs(&answer),
            DeferredResponse::Join(answer) => {
                let stranger = &mut self.cluster.stranger;
                stranger.state = ForeignState::Out;
                if answer.code == Some(Code::UnknownMemberId) {
                    stranger.member.clear();
                }
            }
            DeferredResponse::Sync(Ok(share)) => {
                let share = wire::read_assignment(&self.topic, &share).unwrap_or_default();
                let stranger = &mut self.cluster.stranger;
                stranger.state = ForeignState::Member;
                stranger.lets_go = stranger.owned.iter().any(|partition| !share.contains(partition));
                (stranger.owned, stranger.since) = (share, stranger.generation);
            }
            DeferredResponse::Sync(Err(_)) => self.cluster.stranger.state = ForeignState::Out,
        }
    }

    fn stranger_syncs(&mut self, answer: &JoinAnswer) {
        let stranger = &mut self.cluster.stranger;
        stranger.member.clone_from(&answer.member);
        stranger.generation = answer.generation;
        let shares = if answer.leader == answer.member { self.shares(answer) } else { Vec::new() };
        let ticket = self.stranger_waits();
        self.sync_as(ticket, &answer.member, answer.generation, shares);
    }

    /// Computes every member's share, as the leader does.
    fn shares(&self, answer: &JoinAnswer) -> Vec<(String, Bytes)> {
        let read =
            |(id, _, metadata): &(String, Option<String>, Bytes)| wire::read_subscription(id, metadata).ok();
        let members: Vec<assignor::MemberSubscription> = answer.members.iter().filter_map(read).collect();
        let counts = BTreeMap::from([(self.topic.to_string(), self.cluster.logs.len() as i32)]);
        let plan = assignor::assign(&members, &counts);
        plan.into_iter().map(|(id, share)| (id, wire::assignment(&share))).collect()
    }

    /// Returns to `Out` when the coordinator that has its request moves.
    pub(super) fn stranger_is_dropped(&mut self) {
        if self.cluster.stranger.state == ForeignState::Joining {
            self.cluster.stranger.state = ForeignState::Out;
        }
    }
}
