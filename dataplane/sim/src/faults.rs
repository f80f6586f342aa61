//! Execution of scheduled faults.

use std::time::Duration;

use super::environment::{EnvironmentEvent, owner};
use super::node::NodeState;
use super::schedule::{FaultKind, ScheduledFault};
use super::simulation::SimulatedRun;
use crate::history::HistoryEvent as Happened;

impl SimulatedRun {
    /// Applies a fault that is due, or arms it if it waits for a trigger.
    pub(super) fn fault(&mut self, index: usize) {
        let Some(happening) = self.env.plan.happenings.get(index).copied() else { return };
        match happening.cue {
            Some(cue) => self.env.armed.push((cue, index)),
            None => self.apply_fault(index, (happening.target % self.nodes.len() as u64) as usize),
        }
    }

    pub(super) fn apply_fault(&mut self, index: usize, node: usize) {
        let Some(happening) = self.env.plan.happenings.get(index).copied() else { return };
        let partition = ((happening.target >> 8) % self.env.cluster.logs.len() as u64) as i32;
        match happening.kind {
            FaultKind::Crash => self.crash(node, happening.lasts),
            FaultKind::Freeze => {
                self.freeze(node, happening.lasts);
                self.env.cut_after(node, happening);
            }
            FaultKind::Cut => self.env.cut_until[node] = self.env.now + happening.lasts,
            FaultKind::Stall => self.env.stall(node, happening),
            FaultKind::Stranger => self.env.stranger_comes(),
            FaultKind::ClockJump => {
                let jump = (happening.target >> 16) % 120_000;
                self.nodes[node].wall_jump_ms = jump as i64 - 60_000;
            }
            FaultKind::Storm => self.leave_and_come_back(node, happening.lasts),
            FaultKind::Failover => self.env.fail_over(happening.lasts),
            FaultKind::LeaderMove => self.env.move_leader(partition),
            FaultKind::Truncation => self.env.truncate(partition, happening),
            FaultKind::Retention => self.env.delete(partition, happening),
            FaultKind::PartitionsAdded => self.env.add_partition(),
            FaultKind::StoreCrash => self.registry.crash(&mut self.env),
            _ => {}
        }
    }

    fn crash(&mut self, index: usize, lasts: Duration) {
        let node = &mut self.nodes[index];
        if matches!(node.state, NodeState::Running | NodeState::Frozen { .. }) {
            node.state = NodeState::Dead;
            let gone = owner(index, node.incarnation);
            self.env.record(Happened::Gone { owner: gone });
            self.env.after(lasts, EnvironmentEvent::Restart { node: index });
        }
    }

    fn freeze(&mut self, index: usize, lasts: Duration) {
        let node = &mut self.nodes[index];
        if node.state == NodeState::Running {
            let until = self.env.now + lasts;
            node.state = NodeState::Frozen { until };
            let life = node.incarnation;
            self.env.queue.push(until, EnvironmentEvent::Thaw { node: index, life });
        }
    }

    fn leave_and_come_back(&mut self, index: usize, lasts: Duration) {
        let node = &mut self.nodes[index];
        if node.state == NodeState::Running {
            node.stop(&mut self.env);
            self.env.after(lasts, EnvironmentEvent::ComeBack { node: index });
        }
    }
}

impl super::environment::SimulatedEnvironment {
    fn fail_over(&mut self, lasts: Duration) {
        self.cluster.coordinator = (self.cluster.coordinator + 1) % super::cluster::BROKERS;
        self.cluster.loading_until = self.now + lasts;
        let loaded = self.cluster.loading_until;
        self.cluster.consumers.fail_over(loaded);
        self.drop_waiting();
    }

    fn move_leader(&mut self, partition: i32) {
        let log = &mut self.cluster.logs[partition as usize];
        log.leader = (log.leader + 1) % super::cluster::BROKERS;
        log.epoch += 1;
        self.wake_fetches();
    }

    /// Truncates a log as an unclean election does: the new leader lacks the last records.
    fn truncate(&mut self, partition: i32, happening: ScheduledFault) {
        let log = &mut self.cluster.logs[partition as usize];
        let back = ((happening.target >> 24) % 8) as i64;
        let from = log.truncate((log.end - back).max(log.start));
        let leader_epoch = log.epoch + 1;
        self.function.poison.retain(|(of, offset), _| *of != partition || *offset < from);
        self.record(Happened::Truncated { partition, from, leader_epoch });
        self.move_leader(partition);
        let left = self.plan.faults_until.saturating_sub(self.elapsed());
        self.after(happening.lasts.min(left), EnvironmentEvent::Append { partition });
    }

    fn delete(&mut self, partition: i32, happening: ScheduledFault) {
        let log = &mut self.cluster.logs[partition as usize];
        let stretch = (log.end - log.start).max(1) as u64;
        let before = log.delete(log.start + ((happening.target >> 24) % stretch) as i64);
        self.record(Happened::Deleted { partition, before });
    }

    fn add_partition(&mut self) {
        let partition = self.cluster.logs.len() as i32;
        self.cluster.add_log();
        self.plan_appends(partition);
    }
}
