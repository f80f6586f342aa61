//! Start offsets of partitions, modelled on `mapping/start_offsets.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use lighterman::commits::start_plan::{self, StartPlan};
use lighterman::kafka::group::effects::MemberIdentity;
use lighterman::kafka::offsets::{OffsetAndMetadata, OffsetSpec};
use lighterman::messages::resume::ResumePoint;
use lighterman_proto::ids::Offset;
use lighterman_proto::topic_id::TopicId;

use super::super::cluster::{BrokerReply, RequestKind};
use super::super::environment::SimulatedEnvironment;
use super::SimulatedNode;
use super::connections::{DEADLINE, LinePurpose, RequestPurpose, SimulatedConnection};
use crate::node::messages::{MessageMailbox, NodeMessage};

const START_AGAIN: Duration = Duration::from_secs(2);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Start resolution of one assignment.
#[derive(Debug)]
pub(super) struct StartResolution {
    /// Generation that assigned the partitions.
    generation: i32,
    wanted: Vec<i32>,
    topic: Option<TopicId>,
    partitions: usize,
    /// Partition count at the activation, for the metadata of a first commit.
    activates: i32,
    committed: BTreeMap<i32, Option<OffsetAndMetadata>>,
    positions: BTreeMap<i32, ResumePoint>,
}

impl SimulatedNode {
    pub(super) fn resolve_starts(
        &mut self,
        env: &mut SimulatedEnvironment,
        wanted: Vec<i32>,
        wait: Duration,
    ) {
        let generation = self.member.generation;
        if wait.is_zero() {
            self.resolve_under(env, wanted, generation);
        } else {
            self.later(env, wait, NodeMessage::StartAgain { wanted, generation });
        }
    }

    /// Resolves starts under `generation`, which a queued resolution keeps.
    pub(super) fn resolve_under(
        &mut self,
        env: &mut SimulatedEnvironment,
        wanted: Vec<i32>,
        generation: i32,
    ) {
        let id = env.next_id();
        let resolve = StartResolution {
            generation,
            wanted,
            topic: None,
            partitions: 0,
            activates: 0,
            committed: BTreeMap::new(),
            positions: BTreeMap::new(),
        };
        self.resolves.insert(id, resolve);
        self.resolve_step(env, id);
    }

    pub(super) fn is_resolving(&self) -> bool {
        self.turn.is_some()
    }

    /// Starts the next queued resolution.
    fn next_turn(&mut self, env: &mut SimulatedEnvironment) {
        self.turn = None;
        // Partitions that waited for these starts to be committed are released.
        for partition in std::mem::take(&mut self.member.lets_go) {
            self.post(env, MessageMailbox::Group, NodeMessage::Released(vec![partition]));
        }
        if let Some(next) = self.turns.pop_front() {
            self.resolve_step(env, next);
        }
    }

    pub(super) fn resolve_step(&mut self, env: &mut SimulatedEnvironment, resolve: u64) {
        if !self.resolves.contains_key(&resolve) {
            return self.next_turn(env);
        }
        if *self.turn.get_or_insert(resolve) == resolve {
            if !self.is_still_ours(resolve) {
                return self.resolve_failed(env, resolve);
            }
            let broker = env.random.below(2) as usize;
            self.ask(env, broker, RequestKind::Metadata, RequestPurpose::View { resolve });
        } else {
            self.turns.push_back(resolve);
        }
    }

    fn is_still_ours(&self, resolve: u64) -> bool {
        let (Some(state), Some(standing)) = (self.resolves.get(&resolve), self.group.core.standing()) else {
            return false;
        };
        start_plan::still_holds(state.generation, standing.generation)
            && state.wanted.iter().all(|partition| standing.kept.contains(partition))
    }

    fn resolve_failed(&mut self, env: &mut SimulatedEnvironment, resolve: u64) {
        let Some(StartResolution { wanted, generation, .. }) = self.resolves.remove(&resolve) else { return };
        self.next_turn(env);
        let is_current = generation == self.member.generation;
        self.resolve_anew(env, wanted, if is_current { START_AGAIN } else { Duration::ZERO });
    }

    fn resolve_anew(&mut self, env: &mut SimulatedEnvironment, wanted: Vec<i32>, wait: Duration) {
        let still: Vec<i32> =
            wanted.into_iter().filter(|partition| self.member.owned.contains(partition)).collect();
        if !still.is_empty() && !self.member.stopping {
            self.resolve_starts(env, still, wait);
        }
    }

    pub(super) fn resolve_view(
        &mut self,
        env: &mut SimulatedEnvironment,
        resolve: u64,
        reply: Option<BrokerReply>,
    ) {
        let Some(BrokerReply::Topic(id, leaders)) = reply else {
            return self.resolve_failed(env, resolve);
        };
        let partitions: Vec<i32> = (0..leaders.len() as i32).collect();
        self.leaders = Some(leaders);
        if let Some(state) = self.resolves.get_mut(&resolve) {
            (state.topic, state.partitions) = (id, partitions.len());
        }
        let request = RequestKind::Committed { partitions };
        self.on_line(env, SimulatedConnection::Commit, LinePurpose::Committed { resolve }, request, DEADLINE);
    }

    pub(super) fn resolve_committed(
        &mut self,
        env: &mut SimulatedEnvironment,
        resolve: u64,
        reply: Option<BrokerReply>,
    ) {
        let committed = match reply {
            Some(BrokerReply::Committed(Ok(committed))) => committed,
            Some(BrokerReply::Committed(Err(code))) => {
                self.refused(code);
                return self.resolve_failed(env, resolve);
            }
            _ => return self.resolve_failed(env, resolve),
        };
        let Some(state) = self.resolves.get_mut(&resolve) else { return };
        let known = start_plan::known_of(&committed, state.topic);
        match start_plan::plan(&known, &state.wanted) {
            StartPlan::Resume { alarmed } if alarmed.is_empty() => {
                self.resolve_positions(env, resolve, committed);
            }
            // The simulated mapping starts at TRIM_HORIZON.
            StartPlan::Activate { partitions, .. } => {
                state.activates = state.partitions as i32;
                self.list_earliest(env, resolve, partitions);
            }
            StartPlan::StartNew { partitions, activated } => {
                state.activates = activated;
                self.list_earliest(env, resolve, partitions);
            }
            StartPlan::Wait => {
                self.later(env, ASK_AGAIN, NodeMessage::ResolveAgain { resolve });
                self.next_turn(env);
            }
            // No modelled commit is lost, and a leader always answers for all partitions it is asked about.
            StartPlan::Resume { .. } | StartPlan::Find { .. } => self.resolve_failed(env, resolve),
        }
    }

    fn list_earliest(&mut self, env: &mut SimulatedEnvironment, resolve: u64, partitions: Vec<i32>) {
        let broker = env.random.below(2) as usize;
        let request = RequestKind::ListOffsets { partitions, at: OffsetSpec::Earliest };
        self.ask(env, broker, request, RequestPurpose::Offsets { resolve });
    }

    pub(super) fn resolve_offsets(
        &mut self,
        env: &mut SimulatedEnvironment,
        resolve: u64,
        reply: Option<BrokerReply>,
    ) {
        let Some(BrokerReply::Offsets(Ok(found))) = reply else {
            return self.resolve_failed(env, resolve);
        };
        let Some(state) = self.resolves.get(&resolve) else { return };
        let metadata = start_plan::metadata(state.topic, state.activates);
        let commits = found
            .into_iter()
            .map(|(partition, offset)| {
                (partition, OffsetAndMetadata { offset, leader_epoch: -1, metadata: metadata.clone() })
            })
            .collect();
        let under = state.generation;
        let standing = self.group.core.standing();
        let standing = standing.filter(|now| start_plan::still_holds(under, now.generation));
        let Some(who) = standing.map(|standing| standing.identity()) else {
            return self.resolve_failed(env, resolve);
        };
        let request = RequestKind::Commit { member: who.member.clone(), generation: who.generation, commits };
        self.on_line(
            env,
            SimulatedConnection::Commit,
            LinePurpose::StartCommit { resolve, who },
            request,
            DEADLINE,
        );
    }

    pub(super) fn start_committed(
        &mut self,
        env: &mut SimulatedEnvironment,
        resolve: u64,
        who: &MemberIdentity,
        reply: Option<BrokerReply>,
    ) {
        match reply {
            Some(BrokerReply::Commit(codes)) => match codes.values().flatten().next().copied() {
                None => self.resolve_step(env, resolve),
                Some(code) => {
                    self.refused(code);
                    self.group_step(env, |core, now, random| core.commit_refused(now, who, code, random));
                    self.resolve_failed(env, resolve);
                }
            },
            _ => {
                self.restart_group(env, resolve);
                self.resolve_failed(env, resolve);
            }
        }
    }

    fn restart_group(&mut self, env: &mut SimulatedEnvironment, resolve: u64) {
        let under = self.resolves.get(&resolve).map(|state| state.generation);
        if under == Some(self.member.generation) && self.member.table.is_empty() {
            let under = std::mem::replace(&mut self.member.generation, -1);
            self.group_step(env, |core, now, _| core.force_rejoin(now, under));
        }
    }

    fn resolve_positions(
        &mut self,
        env: &mut SimulatedEnvironment,
        resolve: u64,
        committed: BTreeMap<i32, Option<OffsetAndMetadata>>,
    ) {
        let Some(state) = self.resolves.get_mut(&resolve) else { return };
        let position = |partition: &i32| {
            Some((*partition, ResumePoint::of(committed.get(partition)?.as_ref()?, state.topic)))
        };
        state.positions = state.wanted.iter().filter_map(position).collect();
        let leaders = self.leaders.as_deref().unwrap_or_default();
        let epoch = |(partition, position): (&i32, &ResumePoint)| {
            let (_, leader_epoch) = leaders.get(usize::try_from(*partition).ok()?)?;
            Some((*partition, position.leader_epoch_known()?, *leader_epoch))
        };
        let known: Vec<(i32, i32, i32)> = state.positions.iter().filter_map(epoch).collect();
        state.committed = committed;
        if known.is_empty() {
            self.resolve_unread(env, resolve);
        } else {
            let broker = env.random.below(2) as usize;
            self.ask(env, broker, RequestKind::EpochEnds { known }, RequestPurpose::Ends { resolve });
        }
    }

    pub(super) fn resolve_ends(
        &mut self,
        env: &mut SimulatedEnvironment,
        resolve: u64,
        reply: Option<BrokerReply>,
    ) {
        let Some(BrokerReply::EpochEnds(Ok(ends))) = reply else {
            return self.resolve_failed(env, resolve);
        };
        let Some(state) = self.resolves.get_mut(&resolve) else { return };
        for (partition, end) in ends {
            if let Some(position) = state.positions.get_mut(&partition) {
                // A log of this cluster is truncated only under a later leader epoch.
                position.cut_off_at(end);
            }
        }
        self.resolve_unread(env, resolve);
    }

    /// Checks starts without a leader epoch, which may be beyond the log end by now.
    fn resolve_unread(&mut self, env: &mut SimulatedEnvironment, resolve: u64) {
        let Some(state) = self.resolves.get(&resolve) else { return };
        let is_unread = |position: &ResumePoint| {
            position.leader_epoch_known().is_none() && position.committed > Offset(0)
        };
        let unread = state.positions.iter().filter(|(_, position)| is_unread(position));
        let partitions: Vec<i32> = unread.map(|(partition, _)| *partition).collect();
        if partitions.is_empty() {
            return self.take_starts(env, resolve);
        }
        let broker = env.random.below(2) as usize;
        let request = RequestKind::ListOffsets { partitions, at: OffsetSpec::Latest };
        self.ask(env, broker, request, RequestPurpose::LogEnds { resolve });
    }

    pub(super) fn resolve_log_ends(
        &mut self,
        env: &mut SimulatedEnvironment,
        resolve: u64,
        reply: Option<BrokerReply>,
    ) {
        let Some(BrokerReply::Offsets(Ok(ends))) = reply else {
            return self.resolve_failed(env, resolve);
        };
        let Some(state) = self.resolves.get_mut(&resolve) else { return };
        let is_beyond = |(partition, end): &(i32, Offset)| {
            state.positions.get(partition).is_some_and(|position| position.committed > *end)
        };
        let anew: Vec<i32> = ends.into_iter().filter(is_beyond).map(|(partition, _)| partition).collect();
        if anew.is_empty() {
            return self.take_starts(env, resolve);
        }
        let known = start_plan::known_of(&state.committed, state.topic);
        state.activates = start_plan::activated(&known).unwrap_or(state.partitions as i32);
        self.list_earliest(env, resolve, anew);
    }

    fn take_starts(&mut self, env: &mut SimulatedEnvironment, resolve: u64) {
        let Some(state) = self.resolves.remove(&resolve) else { return };
        self.next_turn(env);
        if self.member.stopping {
            return;
        }
        if !start_plan::still_holds(state.generation, self.member.generation) {
            return self.resolve_anew(env, state.wanted, Duration::ZERO);
        }
        let activated = start_plan::activated(&start_plan::known_of(&state.committed, state.topic));
        self.member.activated = activated.unwrap_or(state.partitions as i32);
        for partition in state.wanted {
            if !self.member.owned.contains(&partition) || self.member.table.holds(partition) {
                continue;
            }
            if let Some(position) = state.positions.get(&partition) {
                self.member.positions.insert(partition, position.clone());
                self.member.table.add(partition);
            }
        }
        self.balance(env);
    }

    /// Returns a partition's first offset, for its ledger.
    pub(super) fn first_of(position: &ResumePoint) -> Offset {
        position.committed
    }
}
