//! Ownership of partitions, modelled on `mapping/assignments.rs` and `consumer/actor.rs`.

use std::time::Duration;

use lighterman::kafka::group::GroupEvent;
use lighterman::messages::report::{PartitionReport, PartitionState};
use lighterman_proto::ids::{ConsumerId, Epoch};
use lighterman_scaler::assignment::AssignmentMove;

use super::super::environment::{SimulatedEnvironment, owner};
use super::SimulatedNode;
use super::batches::SimulatedConsumer;
use crate::history::HistoryEvent as Happened;
use crate::node::messages::{MessageMailbox, NodeMessage};

const BEGIN_ANEW_TOGETHER: Duration = Duration::from_millis(200);

impl SimulatedNode {
    pub(super) fn balance(&mut self, env: &mut SimulatedEnvironment) {
        if self.member.stopping {
            return;
        }
        let desired = self.member.bounds.clip(self.member.desired, self.member.table.len() as u32) as usize;
        while self.floor.len() < desired {
            self.add_consumer(env);
        }
        let consumers: Vec<ConsumerId> = self.floor.iter().copied().take(desired).collect();
        for step in self.member.table.balance(&consumers) {
            self.carry_out_move(env, step);
        }
        let surplus: Vec<ConsumerId> = self.floor.iter().copied().skip(desired).collect();
        for consumer in surplus {
            if self.member.table.at(consumer) == 0 {
                self.remove_consumer(env, consumer);
            }
        }
    }

    fn add_consumer(&mut self, env: &SimulatedEnvironment) {
        let id = ConsumerId(self.member.next_consumer);
        self.member.next_consumer += 1;
        self.consumers.insert(id, SimulatedConsumer::new(env));
        self.floor.insert(id);
        self.set_ceiling();
    }

    fn remove_consumer(&mut self, env: &mut SimulatedEnvironment, id: ConsumerId) {
        self.floor.remove(&id);
        self.set_ceiling();
        self.post(
            env,
            MessageMailbox::Consumer(id.0),
            NodeMessage::FencePartitions { consumer: id.0, which: None },
        );
    }

    pub(super) fn clear_floor(&mut self, env: &mut SimulatedEnvironment) {
        let all: Vec<ConsumerId> = self.floor.iter().copied().collect();
        for id in all {
            self.remove_consumer(env, id);
        }
    }

    fn carry_out_move(&mut self, env: &mut SimulatedEnvironment, step: AssignmentMove) {
        match step {
            AssignmentMove::Drain { partition, consumer, epoch } => {
                self.post(
                    env,
                    MessageMailbox::Consumer(consumer.0),
                    NodeMessage::DrainPartition { partition, epoch },
                );
            }
            AssignmentMove::Assign { partition, consumer, epoch } => {
                let Some(position) = self.member.positions.get(&partition).cloned() else { return };
                let consumer = consumer.0;
                let position = Box::new(position);
                let start = NodeMessage::StartPartition { consumer, partition, epoch, position };
                self.post(env, MessageMailbox::Consumer(consumer), start);
            }
        }
    }

    pub(super) fn revoke_partitions(&mut self, env: &mut SimulatedEnvironment, partitions: &[i32]) {
        for partition in partitions {
            if let Some(step) = self.member.table.revoke(*partition) {
                self.carry_out_move(env, step);
            }
            self.forget_if_gone(env, *partition);
        }
    }

    fn forget_if_gone(&mut self, env: &mut SimulatedEnvironment, partition: i32) {
        if self.member.table.holds(partition) {
            return;
        }
        self.member.positions.remove(&partition);
        self.member.log_end.remove(&partition);
        self.member.committed.remove(&partition);
        if self.member.revoking.remove(&partition) {
            if self.is_resolving() {
                self.member.lets_go.push(partition);
            } else {
                self.post(env, MessageMailbox::Group, NodeMessage::Released(vec![partition]));
            }
        }
    }

    fn lose_partitions(&mut self, env: &mut SimulatedEnvironment, partitions: &[i32]) {
        self.member.lost_something = true;
        let all: Vec<u32> = self.floor.iter().map(|id| id.0).collect();
        for consumer in all {
            let which = Some(partitions.to_vec());
            self.post(
                env,
                MessageMailbox::Consumer(consumer),
                NodeMessage::FencePartitions { consumer, which },
            );
        }
        for partition in partitions {
            self.member.owned.remove(partition);
            self.member.revoking.remove(partition);
            self.member.table.remove_partition(*partition);
            self.forget_if_gone(env, *partition);
        }
    }

    pub(super) fn take_event(&mut self, env: &mut SimulatedEnvironment, event: GroupEvent) {
        match event {
            GroupEvent::Assigned { generation, owned, added } => {
                self.member.generation = generation;
                self.member.owned = owned.into_iter().chain(added.iter().copied()).collect();
                if !added.is_empty() {
                    self.resolve_starts(env, added, Duration::ZERO);
                }
            }
            GroupEvent::Revoke { partitions } => {
                for partition in &partitions {
                    self.member.owned.remove(partition);
                    self.member.revoking.insert(*partition);
                }
                self.revoke_partitions(env, &partitions);
            }
            GroupEvent::Lost { partitions, .. } => self.lose_partitions(env, &partitions),
            GroupEvent::Trouble(_) | GroupEvent::Healthy | GroupEvent::Ended => {}
        }
    }

    pub(super) fn take_report(&mut self, env: &mut SimulatedEnvironment, report: PartitionReport) {
        let PartitionReport { partition, epoch, state } = report;
        if self.member.table.place(partition).is_none_or(|(_, current)| current != epoch) {
            return;
        }
        match state {
            PartitionState::Drained { position } => {
                let frontier = position.committed.0;
                let owner = owner(self.id, self.incarnation);
                env.record(Happened::Drained { owner, partition, epoch: epoch.0, frontier });
                self.member.positions.insert(partition, position);
            }
            PartitionState::Rebuild { position } => {
                self.member.positions.insert(partition, position);
            }
            PartitionState::BeginAnew => return self.begin_anew(env, partition),
            PartitionState::Exited { .. } => return,
        }
        self.member.table.released(partition, epoch);
        self.forget_if_gone(env, partition);
        self.balance(env);
    }

    fn begin_anew(&mut self, env: &mut SimulatedEnvironment, partition: i32) {
        self.member.table.remove_partition(partition);
        self.forget_if_gone(env, partition);
        if self.member.owned.contains(&partition) && !self.member.stopping {
            self.resolve_starts(env, vec![partition], BEGIN_ANEW_TOGETHER);
        }
    }

    pub(super) fn consumer_gets(&mut self, env: &mut SimulatedEnvironment, what: NodeMessage) {
        match what {
            NodeMessage::StartPartition { consumer, partition, epoch, position } => {
                if self.consumers.contains_key(&ConsumerId(consumer)) {
                    self.start_partition(env, consumer, (partition, epoch), *position);
                }
            }
            NodeMessage::DrainPartition { partition, epoch } => {
                if self.partitions.contains_key(&(partition, epoch)) {
                    let key = (partition, epoch);
                    self.post(env, MessageMailbox::Partition(partition, epoch.0), NodeMessage::Drain(key));
                }
            }
            NodeMessage::FencePartitions { consumer, which } => {
                let gone: Vec<(i32, Epoch)> = self
                    .partitions
                    .iter()
                    .filter(|((partition, _), running)| {
                        running.consumer == consumer
                            && which.as_ref().is_none_or(|which| which.contains(partition))
                    })
                    .map(|(key, _)| *key)
                    .collect();
                for key in gone {
                    self.fence(env, key);
                }
                if which.is_none() {
                    self.end_consumer(ConsumerId(consumer));
                }
            }
            _ => {}
        }
    }
}
