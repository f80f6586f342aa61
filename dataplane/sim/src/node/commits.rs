//! Committer, modelled on `commits/actor.rs` and `mapping/commit_port.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use lighterman::commits::coalescing::{CommitOutcome, CommitterCore, offsets_of};
use lighterman::commits::verify::mismatched_partitions;
use lighterman::kafka::group::effects::MemberIdentity;
use lighterman::mapping::commit_port::outcome_of;
use lighterman::messages::commit::CommitRequest;
use lighterman_proto::ids::Epoch;

use super::super::cluster::{BrokerReply, RequestKind};
use super::super::environment::SimulatedEnvironment;
use super::SimulatedNode;
use super::connections::{DEADLINE, LinePurpose, SimulatedConnection};
use crate::history::HistoryEvent as Happened;
use crate::node::messages::{MessageMailbox, NodeMessage};

pub(super) const READ_BACK_TICK: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct SimulatedCommitter {
    core: CommitterCore,
    partitions: BTreeMap<i32, Epoch>,
    resting: bool,
}

impl SimulatedNode {
    pub(super) fn follow(&mut self, beginning: CommitRequest) {
        self.committer.partitions.insert(beginning.partition, beginning.epoch);
        self.committer.core.register(beginning);
    }

    pub(super) fn committer_gets(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::Frontier(frontier) => {
                if self.committer.partitions.get(&frontier.partition) == Some(&frontier.epoch) {
                    self.committer.core.request(*frontier);
                    self.pump_commits(env);
                }
            }
            NodeMessage::Unfollow(key) => {
                if self.committer.partitions.get(&key.0) == Some(&key.1) {
                    self.committer.partitions.remove(&key.0);
                    self.committer.core.unregister(key.0);
                }
            }
            NodeMessage::CommitterRested => {
                self.committer.resting = false;
                self.pump_commits(env);
            }
            NodeMessage::ReadBackTick => self.read_back(env),
            _ => {}
        }
    }

    fn pump_commits(&mut self, env: &mut SimulatedEnvironment) {
        if self.committer.resting {
            return;
        }
        let requests = self.committer.core.start();
        if requests.is_empty() {
            return;
        }
        // The audit log has the outcomes before the commit is sent.
        for frontier in &requests {
            for passed in &frontier.passed {
                let (first, end) = (passed.range.first.0, passed.range.end.0);
                let (partition, outcome) = (frontier.partition, passed.outcome);
                let leader_epoch = frontier.leader_epoch;
                env.record(Happened::Accounted { partition, first, end, outcome, leader_epoch });
            }
        }
        let Some(who) = self.group.core.standing().map(|standing| standing.identity()) else {
            let nobody = MemberIdentity { member: String::new(), generation: -1 };
            return self.commits_answered(env, &nobody, None);
        };
        let partitions_at_activation = self.member.activated;
        let commits = offsets_of(requests, partitions_at_activation);
        let request = RequestKind::Commit { member: who.member.clone(), generation: who.generation, commits };
        self.on_line(env, SimulatedConnection::Commit, LinePurpose::Commits { who }, request, DEADLINE);
    }

    fn read_back(&mut self, env: &mut SimulatedEnvironment) {
        self.later(env, READ_BACK_TICK, NodeMessage::ReadBackTick);
        let requests = self.committer.core.start_read_back(env.now);
        if requests.is_empty() {
            return;
        }
        let partitions = requests.iter().map(|frontier| frontier.partition).collect();
        let request = RequestKind::Committed { partitions };
        self.on_line(env, SimulatedConnection::Commit, LinePurpose::ReadBack { requests }, request, DEADLINE);
    }

    pub(super) fn has_read_back(
        &mut self,
        env: &mut SimulatedEnvironment,
        ours: Vec<CommitRequest>,
        reply: Option<BrokerReply>,
    ) {
        let differing = match &reply {
            Some(BrokerReply::Committed(Ok(theirs))) => {
                Some(mismatched_partitions(ours, self.member.activated, theirs))
            }
            _ => None,
        };
        if self.committer.core.read_back(env.now, differing.as_deref()) > 0 {
            self.pump_commits(env);
        }
    }

    pub(super) fn commits_answered(
        &mut self,
        env: &mut SimulatedEnvironment,
        who: &MemberIdentity,
        reply: Option<BrokerReply>,
    ) {
        let codes = if let Some(BrokerReply::Commit(codes)) = reply { Some(codes) } else { None };
        if let Some(code) = codes.iter().flat_map(BTreeMap::values).flatten().next().copied() {
            self.refused(code);
            self.group_step(env, |core, now, random| core.commit_refused(now, who, code, random));
        }
        let outcome = |code: Option<Code>| outcome_of(code);
        let outcome_of = |partition: i32| match &codes {
            Some(codes) => codes.get(&partition).map_or(CommitOutcome::Again, |code| outcome(*code)),
            // Without a generation nothing was sent.
            None if who.member.is_empty() => CommitOutcome::Again,
            None => CommitOutcome::Unknown,
        };
        let done = self.committer.core.answered(env.now, outcome_of);
        let again = codes
            .as_ref()
            .is_none_or(|codes| codes.values().any(|code| outcome(*code) != CommitOutcome::Done));
        for frontier in done {
            if self.committer.partitions.contains_key(&frontier.partition) {
                let key = (frontier.partition, frontier.epoch);
                let committed = NodeMessage::Committed { key, offset: frontier.offset, seq: frontier.seq };
                self.post(env, MessageMailbox::Partition(key.0, key.1.0), committed);
            }
        }
        let random = env.random.draw();
        if let Some(rest) = self.committer.core.rest(again, random) {
            self.committer.resting = true;
            self.later(env, rest, NodeMessage::CommitterRested);
        }
        self.pump_commits(env);
    }
}
