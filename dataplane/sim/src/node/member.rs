//! Mapping's view of the group: owned partitions, their consumers, and the number of consumers. Modelled on
//! `mapping`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lighterman::messages::resume::ResumePoint;
use lighterman_proto::control::{MappingSample, PartitionSample};
use lighterman_proto::ids::{Epoch, Offset, TopicPartition};
use lighterman_scaler::assignment::AssignmentTable;
use lighterman_scaler::policy::{PollerBounds, ScalingPolicy};

use super::super::environment::SimulatedEnvironment;
use super::SimulatedNode;
use crate::node::messages::{MessageMailbox, NodeMessage};

const TICK: Duration = Duration::from_secs(1);

/// State of the mapping on this node.
pub(crate) struct SimulatedMember {
    scaler: ScalingPolicy,
    pub bounds: PollerBounds,
    pub table: AssignmentTable,
    pub positions: BTreeMap<i32, ResumePoint>,
    pub owned: BTreeSet<i32>,
    pub revoking: BTreeSet<i32>,
    /// Drained partitions, not released before the starts being resolved are committed.
    pub lets_go: Vec<i32>,
    pub desired: u32,
    pub lost_something: bool,
    pub stopping: bool,
    pub leaving: bool,
    pub next_consumer: u32,
    pub activated: i32,
    /// Last generation that assigned partitions to this member.
    pub generation: i32,
    /// Log ends and frontiers, as gauges show them.
    pub log_end: BTreeMap<i32, Offset>,
    pub committed: BTreeMap<i32, Offset>,
    pub resolved: BTreeMap<i32, u64>,
    pub throttled: u64,
    pub answered: u64,
}

impl SimulatedMember {
    pub(super) fn new(env: &SimulatedEnvironment) -> Self {
        let bounds = PollerBounds { minimum: 1, maximum: env.plan.consumers_max };
        Self {
            scaler: ScalingPolicy::new(bounds),
            bounds,
            table: AssignmentTable::default(),
            positions: BTreeMap::new(),
            owned: BTreeSet::new(),
            revoking: BTreeSet::new(),
            lets_go: Vec::new(),
            desired: 1,
            lost_something: false,
            stopping: false,
            leaving: false,
            next_consumer: 0,
            activated: 0,
            generation: -1,
            log_end: BTreeMap::new(),
            committed: BTreeMap::new(),
            resolved: BTreeMap::new(),
            throttled: 0,
            answered: 0,
        }
    }
}

impl SimulatedNode {
    pub(super) fn member_gets(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::MemberTick => {
                self.later(env, TICK, NodeMessage::MemberTick);
                self.member_tick(env);
            }
            NodeMessage::Group(event) => self.take_event(env, event),
            NodeMessage::StartAgain { wanted, generation } => self.resolve_under(env, wanted, generation),
            NodeMessage::Report(report) => {
                self.take_report(env, *report);
                if self.member.stopping {
                    self.finish_stop(env);
                }
            }
            _ => {}
        }
    }

    fn member_tick(&mut self, env: &mut SimulatedEnvironment) {
        if self.member.lost_something && self.in_flight.is_mapping_clear(env.mapping, env.now) {
            self.post(env, MessageMailbox::Group, NodeMessage::Quiesced);
            self.member.lost_something = false;
        }
        if self.member.stopping {
            self.finish_stop(env);
            return;
        }
        let sample = self.sample(env);
        self.member.desired = self.member.scaler.decide(&sample).desired;
        // The policy reacts in seconds; schedules are too short for it to scale often.
        if env.draws_fault(super::super::schedule::FaultKind::Storm, 60) {
            self.member.desired = env.random.between(1, u64::from(self.member.bounds.maximum)) as u32;
        }
        self.balance(env);
        if self.budget.is_asked_back() {
            let keys: Vec<_> = self.partitions.keys().copied().collect();
            for key in keys {
                self.post(env, MessageMailbox::Partition(key.0, key.1.0), NodeMessage::GiveBack(key));
            }
        }
    }

    fn sample(&mut self, env: &SimulatedEnvironment) -> MappingSample {
        let member = &mut self.member;
        let partition = |index: i32| {
            let lag = member.committed.get(&index).zip(member.log_end.get(&index));
            PartitionSample {
                partition: TopicPartition::new(Arc::clone(&env.topic), index),
                lag: lag.map(|(committed, end)| committed.distance_to(*end)),
                arrived: None,
                resolved: member.resolved.get(&index).copied().unwrap_or_default(),
            }
        };
        let sample = MappingSample {
            at: env.now,
            partitions: member.table.partitions().map(partition).collect(),
            slots_in_use: self.invoker.slots.in_use(),
            slots_limit: self.invoker.slots.limit(),
            throttled: std::mem::take(&mut member.throttled),
            answered: std::mem::take(&mut member.answered),
        };
        member.resolved.clear();
        sample
    }

    /// Stops the node: it drains its partitions and leaves the group.
    pub(crate) fn stop(&mut self, env: &mut SimulatedEnvironment) {
        if std::mem::replace(&mut self.member.stopping, true) {
            return;
        }
        let partitions: Vec<i32> = self.member.table.partitions().collect();
        self.revoke_partitions(env, &partitions);
        self.finish_stop(env);
    }

    pub(super) fn finish_stop(&mut self, env: &mut SimulatedEnvironment) {
        if !self.member.table.is_empty() || self.member.leaving {
            return;
        }
        self.member.leaving = true;
        self.clear_floor(env);
        self.post(env, MessageMailbox::Group, NodeMessage::Leave);
    }

    /// Updates the gauges of a partition.
    pub(super) fn show(&mut self, partition: i32, epoch: Epoch) {
        if let Some(running) = self.partitions.get(&(partition, epoch)) {
            if let Some(end) = running.log_end {
                self.member.log_end.insert(partition, end);
            }
            self.member.committed.insert(partition, running.committed);
        }
    }
}
