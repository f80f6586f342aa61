//! The member of the group, as `consumer/member` runs it: what is ours, who has it, how many consumers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::control::{PartitionSample, Sample};
use lighterman_proto::ids::{Epoch, Offset, TopicPartition};
use lighterman_scaler::assignment::Assignments;
use lighterman_scaler::policy::{Bounds, Scaler};

use super::super::outside::Outside;
use super::{Inside, Mailbox, Node};
use crate::consumer::messages::Position;

const TICK: Duration = Duration::from_secs(1);

/// What is ours.
pub(in crate::sim) struct Member {
    scaler: Scaler,
    pub bounds: Bounds,
    pub table: Assignments,
    pub positions: BTreeMap<i32, Position>,
    pub owned: BTreeSet<i32>,
    pub revoking: BTreeSet<i32>,
    /// Drained, and not released before what is being begun is committed.
    pub lets_go: Vec<i32>,
    pub desired: u32,
    pub lost_something: bool,
    pub stopping: bool,
    pub leaving: bool,
    pub next_consumer: u32,
    pub activated: i32,
    /// The last generation that gave us a share.
    pub generation: i32,
    /// Log ends and frontiers, as gauges show them.
    pub log_end: BTreeMap<i32, Offset>,
    pub committed: BTreeMap<i32, Offset>,
    pub resolved: BTreeMap<i32, u64>,
    pub throttled: u64,
    pub answered: u64,
}

impl Member {
    pub(super) fn new(outside: &Outside) -> Self {
        let bounds = Bounds { minimum: 1, maximum: outside.plan.consumers_max };
        Self {
            scaler: Scaler::new(bounds),
            bounds,
            table: Assignments::default(),
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

impl Node {
    pub(super) fn member_gets(&mut self, outside: &mut Outside, what: Inside) {
        match what {
            Inside::MemberTick => {
                self.later(outside, TICK, Inside::MemberTick);
                self.member_tick(outside);
            }
            Inside::Group(event) => self.take_event(outside, event),
            Inside::StartAgain { wanted, generation } => self.resolve_under(outside, wanted, generation),
            Inside::Report(report) => {
                self.take_report(outside, *report);
                if self.member.stopping {
                    self.finish_stop(outside);
                }
            }
            _ => {}
        }
    }

    fn member_tick(&mut self, outside: &mut Outside) {
        if self.member.lost_something && self.in_flight.is_mapping_clear(outside.mapping, outside.now) {
            self.post(outside, Mailbox::Group, Inside::Quiesced);
            self.member.lost_something = false;
        }
        if self.member.stopping {
            self.finish_stop(outside);
            return;
        }
        let sample = self.sample(outside);
        self.member.desired = self.member.scaler.decide(&sample).desired;
        // The policy reacts in seconds; schedules are too short for it to move often.
        if outside.strikes(super::super::plan::Kind::Storm, 60) {
            self.member.desired = outside.random.between(1, u64::from(self.member.bounds.maximum)) as u32;
        }
        self.balance(outside);
        if self.budget.is_asked_back() {
            let keys: Vec<_> = self.partitions.keys().copied().collect();
            for key in keys {
                self.post(outside, Mailbox::Partition(key.0, key.1.0), Inside::GiveBack(key));
            }
        }
    }

    fn sample(&mut self, outside: &Outside) -> Sample {
        let member = &mut self.member;
        let partition = |index: i32| {
            let lag = member.committed.get(&index).zip(member.log_end.get(&index));
            PartitionSample {
                partition: TopicPartition::new(Arc::clone(&outside.topic), index),
                lag: lag.map(|(committed, end)| committed.distance_to(*end)),
                arrived: None,
                resolved: member.resolved.get(&index).copied().unwrap_or_default(),
            }
        };
        let sample = Sample {
            at: outside.now,
            partitions: member.table.partitions().map(partition).collect(),
            slots_in_use: self.invoker.slots.in_use(),
            slots_limit: self.invoker.slots.limit(),
            throttled: std::mem::take(&mut member.throttled),
            answered: std::mem::take(&mut member.answered),
        };
        member.resolved.clear();
        sample
    }

    /// Somebody wants the node to drain and go.
    pub(in crate::sim) fn stop(&mut self, outside: &mut Outside) {
        if std::mem::replace(&mut self.member.stopping, true) {
            return;
        }
        let partitions: Vec<i32> = self.member.table.partitions().collect();
        self.give_up(outside, &partitions);
        self.finish_stop(outside);
    }

    pub(super) fn finish_stop(&mut self, outside: &mut Outside) {
        if !self.member.table.is_empty() || self.member.leaving {
            return;
        }
        self.member.leaving = true;
        self.clear_floor(outside);
        self.post(outside, Mailbox::Group, Inside::Leave);
    }

    /// What a partition shows of itself.
    pub(super) fn show(&mut self, partition: i32, epoch: Epoch) {
        if let Some(running) = self.partitions.get(&(partition, epoch)) {
            if let Some(end) = running.log_end {
                self.member.log_end.insert(partition, end);
            }
            self.member.committed.insert(partition, running.committed);
        }
    }
}
