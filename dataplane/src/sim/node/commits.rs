//! The committer, as `offsets/actor.rs` and `consumer/member/commits.rs` are one.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::ids::Epoch;

use super::super::cluster::{Reply, Request};
use super::super::outside::Outside;
use super::lines::{DEADLINE, Line, LinePurpose};
use super::{Inside, Mailbox, Node};
use crate::consumer::member::commits::outcome_of;
use crate::history::Event as Happened;
use crate::kafka::group::effects::Identity;
use crate::offsets::committer::{CommitOutcome, CommitterCore, Frontier, offsets_of};
use crate::offsets::read_back::differing;

pub(super) const READ_BACK_TICK: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Committer {
    core: CommitterCore,
    partitions: BTreeMap<i32, Epoch>,
    resting: bool,
}

impl Node {
    pub(super) fn follow(&mut self, beginning: Frontier) {
        self.committer.partitions.insert(beginning.partition, beginning.epoch);
        self.committer.core.follow(beginning);
    }

    pub(super) fn committer_gets(&mut self, outside: &mut Outside, what: Inside) {
        match what {
            Inside::Frontier(frontier) => {
                if self.committer.partitions.get(&frontier.partition) == Some(&frontier.epoch) {
                    self.committer.core.frontier(*frontier);
                    self.pump_commits(outside);
                }
            }
            Inside::Unfollow(key) => {
                if self.committer.partitions.get(&key.0) == Some(&key.1) {
                    self.committer.partitions.remove(&key.0);
                    self.committer.core.forget(key.0);
                }
            }
            Inside::CommitterRested => {
                self.committer.resting = false;
                self.pump_commits(outside);
            }
            Inside::ReadBackTick => self.read_back(outside),
            _ => {}
        }
    }

    fn pump_commits(&mut self, outside: &mut Outside) {
        if self.committer.resting {
            return;
        }
        let frontiers = self.committer.core.start();
        if frontiers.is_empty() {
            return;
        }
        // The audit has it before the commit is sent.
        for frontier in &frontiers {
            for passed in &frontier.passed {
                let (first, end) = (passed.range.first.0, passed.range.end.0);
                let (partition, outcome) = (frontier.partition, passed.outcome);
                let leader_epoch = frontier.leader_epoch;
                outside.record(Happened::Accounted { partition, first, end, outcome, leader_epoch });
            }
        }
        let Some(who) = self.group.core.standing().map(|standing| standing.identity()) else {
            let nobody = Identity { member: String::new(), generation: -1 };
            return self.commits_answered(outside, &nobody, None);
        };
        let partitions_at_activation = self.member.activated;
        let commits = offsets_of(frontiers, partitions_at_activation);
        let request = Request::Commit { member: who.member.clone(), generation: who.generation, commits };
        self.on_line(outside, Line::Commit, LinePurpose::Commits { who }, request, DEADLINE);
    }

    fn read_back(&mut self, outside: &mut Outside) {
        self.later(outside, READ_BACK_TICK, Inside::ReadBackTick);
        let frontiers = self.committer.core.start_read_back(outside.now);
        if frontiers.is_empty() {
            return;
        }
        let partitions = frontiers.iter().map(|frontier| frontier.partition).collect();
        let request = Request::Committed { partitions };
        self.on_line(outside, Line::Commit, LinePurpose::ReadBack { frontiers }, request, DEADLINE);
    }

    pub(super) fn has_read_back(&mut self, outside: &mut Outside, ours: Vec<Frontier>, reply: Option<Reply>) {
        let differing = match &reply {
            Some(Reply::Committed(Ok(theirs))) => Some(differing(ours, self.member.activated, theirs)),
            _ => None,
        };
        if self.committer.core.read_back(outside.now, differing.as_deref()) > 0 {
            self.pump_commits(outside);
        }
    }

    pub(super) fn commits_answered(&mut self, outside: &mut Outside, who: &Identity, reply: Option<Reply>) {
        let codes = if let Some(Reply::Commit(codes)) = reply { Some(codes) } else { None };
        if let Some(code) = codes.iter().flat_map(BTreeMap::values).flatten().next().copied() {
            self.refused(code);
            self.group_step(outside, |core, now, random| core.commit_refused(now, who, code, random));
        }
        let outcome = |code: Option<Code>| outcome_of(code);
        let outcome_of = |partition: i32| match &codes {
            Some(codes) => codes.get(&partition).map_or(CommitOutcome::Again, |code| outcome(*code)),
            // Nothing was sent by who is in no generation.
            None if who.member.is_empty() => CommitOutcome::Again,
            None => CommitOutcome::Unknown,
        };
        let done = self.committer.core.answered(outside.now, outcome_of);
        let again = codes
            .as_ref()
            .is_none_or(|codes| codes.values().any(|code| outcome(*code) != CommitOutcome::Done));
        for frontier in done {
            if self.committer.partitions.contains_key(&frontier.partition) {
                let key = (frontier.partition, frontier.epoch);
                let committed = Inside::Committed { key, offset: frontier.offset, seq: frontier.seq };
                self.post(outside, Mailbox::Partition(key.0, key.1.0), committed);
            }
        }
        let random = outside.random.draw();
        if let Some(rest) = self.committer.core.rest(again, random) {
            self.committer.resting = true;
            self.later(outside, rest, Inside::CommitterRested);
        }
        self.pump_commits(outside);
    }
}
