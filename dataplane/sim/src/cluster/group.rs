//! Group coordinator: expulsions, assignments and the requests of members.

use std::collections::BTreeSet;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use lighterman::kafka::group::wire;
use lighterman::kafka::offsets::OffsetAndMetadata;
use lighterman::local::broker::coordinator::{GroupPhase, StoredOffset};
use lighterman::local::broker::group_messages::{DeferredResponse, JoinAnswer, JoinRequest, ResponseId};
use lighterman_proto::units::Moment;

use super::super::environment::{SimulatedEnvironment, owner};
use super::super::schedule::FaultKind;
use super::foreign_member::STRANGER;
use super::{BrokerReply, BrokerRequest, RequestKind};
use crate::history::{HistoryEvent as Happened, OwnerProcess};

/// Returns the client id of a process, which its member ids start with.
pub(crate) fn client_of(node: usize, life: u32) -> String {
    format!("{node}.{life}")
}

pub(super) fn owner_of(member: &str) -> Option<OwnerProcess> {
    let (node, life) = member.split('-').next()?.split_once('.')?;
    Some(owner(node.parse().ok()?, life.parse().ok()?))
}

const LEAST: &[Code] =
    &[Code::CoordinatorLoadInProgress, Code::NotCoordinator, Code::CoordinatorNotAvailable];

impl SimulatedEnvironment {
    /// Returns an error code that the coordinator responds with instead of serving the request, if any.
    pub(super) fn group_trouble(&mut self, broker: usize) -> Option<Code> {
        if broker != self.cluster.coordinator {
            return Some(Code::NotCoordinator);
        }
        if self.now < self.cluster.loading_until {
            return Some(Code::CoordinatorLoadInProgress);
        }
        self.draws_fault(FaultKind::ErrorCodes, 12).then(|| self.random.pick(LEAST))
    }

    pub(super) fn join(&mut self, ask: &BrokerRequest) {
        let RequestKind::Join { member, session, rebalance, subscription } = &ask.request else { return };
        if let Some(code) = self.group_trouble(ask.broker) {
            let answer = JoinAnswer::refused(code, member.clone());
            self.reply(ask.from, BrokerReply::Joined(Box::new(answer)));
            return;
        }
        let joining = JoinRequest {
            member: member.clone(),
            instance: None,
            client: client_of(ask.from.node, ask.from.life),
            session: *session,
            rebalance: *rebalance,
            protocols: vec![("cooperative-sticky".to_owned(), subscription.clone())],
            can_come_back: true,
        };
        self.cluster.waiting.insert(ask.id, ask.from);
        let before = self.members();
        let now = self.now;
        let given = self.cluster.group.join(now, ask.id, joining);
        self.note_members(&before);
        self.hand_out(given);
    }

    pub(super) fn sync(&mut self, ask: &BrokerRequest) {
        let RequestKind::Sync { member, generation, shares } = &ask.request else { return };
        if let Some(code) = self.group_trouble(ask.broker) {
            self.reply(ask.from, BrokerReply::Synced(Err(code)));
            return;
        }
        self.cluster.waiting.insert(ask.id, ask.from);
        self.sync_as(ask.id, member, *generation, shares.clone());
    }

    pub(super) fn sync_as(
        &mut self,
        ticket: ResponseId,
        member: &str,
        generation: i32,
        shares: Vec<(String, Bytes)>,
    ) {
        let was_completing = self.cluster.group.phase == GroupPhase::Completing;
        let now = self.now;
        let given = self.cluster.group.sync(now, ticket, member, generation, shares);
        if was_completing && self.cluster.group.phase == GroupPhase::Stable {
            self.note_grants();
        }
        self.hand_out(given);
    }

    fn note_grants(&mut self) {
        let shares: Vec<(Option<OwnerProcess>, Vec<i32>)> = self
            .cluster
            .group
            .members
            .iter()
            .map(|(id, member)| {
                (owner_of(id), wire::read_assignment(&self.topic, &member.assignment).unwrap_or_default())
            })
            .collect();
        for (owner, partitions) in shares {
            let Some(owner) = owner else { continue };
            for partition in partitions {
                self.record(Happened::Granted { partition, owner });
            }
        }
    }

    pub(super) fn heartbeat(&mut self, ask: &BrokerRequest) {
        let RequestKind::Heartbeat { member, generation } = &ask.request else { return };
        let now = self.now;
        let code = match self.group_trouble(ask.broker) {
            Some(code) => Some(code),
            None => self.cluster.group.heartbeat(now, member, *generation),
        };
        self.reply(ask.from, BrokerReply::Heartbeat(code));
    }

    pub(super) fn leave(&mut self, ask: &BrokerRequest) {
        let RequestKind::Leave { member } = &ask.request else { return };
        match self.group_trouble(ask.broker) {
            Some(_) => {}
            None if self.is_consumer_group() => self.consumer_leaves(member),
            None => {
                let now = self.now;
                let (_, given) = self.cluster.group.leave(now, member);
                self.hand_out(given);
            }
        }
        self.reply(ask.from, BrokerReply::Left);
    }

    pub(super) fn commit(&mut self, ask: &BrokerRequest) {
        let RequestKind::Commit { member, generation, commits } = &ask.request else { return };
        let code = self.may_commit(ask.broker, member, *generation);
        if code.is_none() {
            for (&partition, commit) in commits {
                self.store(partition, commit);
                let (offset, leader_epoch) = (commit.offset.0, commit.leader_epoch);
                self.record(Happened::Committed { partition, offset, leader_epoch });
            }
        }
        let codes = commits.keys().map(|partition| (*partition, code)).collect();
        self.reply(ask.from, BrokerReply::Commit(codes));
    }

    /// Serves a commit whose sender has already timed out.
    pub(crate) fn commit_late(&mut self, ask: &BrokerRequest) {
        self.late -= 1;
        let RequestKind::Commit { member, generation, commits } = &ask.request else { return };
        if self.may_commit(ask.broker, member, *generation).is_some() {
            return;
        }
        for (&partition, commit) in commits {
            self.store(partition, commit);
            let (offset, leader_epoch) = (commit.offset.0, commit.leader_epoch);
            self.record(Happened::CommittedLate { partition, offset, leader_epoch });
        }
    }

    fn may_commit(&mut self, broker: usize, member: &str, generation: i32) -> Option<Code> {
        let now = self.now;
        match self.group_trouble(broker) {
            Some(code) => Some(code),
            None if self.is_consumer_group() => self.cluster.consumers.may_commit(member, generation),
            None => self.cluster.group.may_commit(now, member, generation),
        }
    }

    fn store(&mut self, partition: i32, commit: &OffsetAndMetadata) {
        let stored = StoredOffset {
            offset: commit.offset.0,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata.clone(),
        };
        self.cluster.group.offsets.insert((self.topic.to_string(), partition), stored);
    }

    /// Returns the end of a member's session if the coordinator receives nothing more from it, or `None` if it is no
    /// member.
    pub(crate) fn session_ends(&self, member: &str) -> Option<Moment> {
        if self.is_consumer_group() {
            return Some(self.cluster.consumers.members.get(member)?.session_ends);
        }
        Some(self.cluster.group.members.get(member)?.seen + self.plan.session)
    }

    /// Advances the coordinator's clock: sessions expire and join phases complete.
    pub(crate) fn coordinator_tick(&mut self) {
        if self.now < self.cluster.loading_until {
            return;
        }
        let before = self.members();
        let now = self.now;
        self.cluster.consumers.tick(now);
        let given = self.cluster.group.tick(now);
        self.note_members(&before);
        self.hand_out(given);
    }

    /// Drops the deferred responses of a coordinator that has moved.
    pub(crate) fn drop_waiting(&mut self) {
        for from in std::mem::take(&mut self.cluster.waiting).into_values() {
            let wait = self.random.micros(200, 200_000);
            self.no_reply(from, wait);
        }
        self.stranger_is_dropped();
    }

    pub(super) fn members(&self) -> BTreeSet<String> {
        self.cluster.group.members.keys().chain(self.cluster.consumers.members.keys()).cloned().collect()
    }

    pub(super) fn note_members(&mut self, before: &BTreeSet<String>) {
        let gone: Vec<OwnerProcess> = before
            .iter()
            .filter(|id| !self.cluster.group.members.contains_key(*id))
            .filter(|id| !self.cluster.consumers.members.contains_key(*id))
            .filter_map(|id| owner_of(id))
            .collect();
        for owner in gone {
            self.record(Happened::Expelled { owner });
        }
    }

    pub(super) fn hand_out(&mut self, given: Vec<(ResponseId, DeferredResponse)>) {
        for (ticket, given) in given {
            let Some(from) = self.cluster.waiting.remove(&ticket) else { continue };
            if from.node == STRANGER {
                self.stranger_gets(given);
                continue;
            }
            let reply = match given {
                DeferredResponse::Join(answer) => BrokerReply::Joined(Box::new(answer)),
                DeferredResponse::Sync(answer) => BrokerReply::Synced(answer),
            };
            self.reply(from, reply);
        }
    }
}
