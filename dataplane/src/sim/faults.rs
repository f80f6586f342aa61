//! Faults of the plan, carried out.

use std::time::Duration;

use super::node::State;
use super::outside::{Event, owner};
use super::plan::{Happening, Kind};
use super::world::World;
use crate::history::Event as Happened;

impl World {
    /// The time of a fault has come: it happens, or waits for its cue.
    pub(super) fn fault(&mut self, index: usize) {
        let Some(happening) = self.outside.plan.happenings.get(index).copied() else { return };
        match happening.cue {
            Some(cue) => self.outside.armed.push((cue, index)),
            None => self.befall(index, (happening.target % self.nodes.len() as u64) as usize),
        }
    }

    pub(super) fn befall(&mut self, index: usize, node: usize) {
        let Some(happening) = self.outside.plan.happenings.get(index).copied() else { return };
        let partition = ((happening.target >> 8) % self.outside.cluster.logs.len() as u64) as i32;
        match happening.kind {
            Kind::Crash => self.crash(node, happening.lasts),
            Kind::Freeze => {
                self.freeze(node, happening.lasts);
                self.outside.cut_after(node, happening);
            }
            Kind::Cut => self.outside.cut_until[node] = self.outside.now + happening.lasts,
            Kind::Stall => self.outside.stall(node, happening),
            Kind::Stranger => self.outside.stranger_comes(),
            Kind::ClockJump => {
                let jump = (happening.target >> 16) % 120_000;
                self.nodes[node].wall_jump_ms = jump as i64 - 60_000;
            }
            Kind::Storm => self.leave_and_come_back(node, happening.lasts),
            Kind::Failover => self.outside.fail_over(happening.lasts),
            Kind::LeaderMove => self.outside.move_leader(partition),
            Kind::Truncation => self.outside.truncate(partition, happening),
            Kind::Retention => self.outside.delete(partition, happening),
            Kind::PartitionsAdded => self.outside.add_partition(),
            Kind::StoreCrash => self.registry.crash(&mut self.outside),
            _ => {}
        }
    }

    fn crash(&mut self, index: usize, lasts: Duration) {
        let node = &mut self.nodes[index];
        if matches!(node.state, State::Running | State::Frozen { .. }) {
            node.state = State::Dead;
            let gone = owner(index, node.life);
            self.outside.record(Happened::Gone { owner: gone });
            self.outside.after(lasts, Event::Restart { node: index });
        }
    }

    fn freeze(&mut self, index: usize, lasts: Duration) {
        let node = &mut self.nodes[index];
        if node.state == State::Running {
            let until = self.outside.now + lasts;
            node.state = State::Frozen { until };
            let life = node.life;
            self.outside.queue.push(until, Event::Thaw { node: index, life });
        }
    }

    fn leave_and_come_back(&mut self, index: usize, lasts: Duration) {
        let node = &mut self.nodes[index];
        if node.state == State::Running {
            node.stop(&mut self.outside);
            self.outside.after(lasts, Event::ComeBack { node: index });
        }
    }
}

impl super::outside::Outside {
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

    /// An unclean election: the new leader lacks what stood at the end.
    fn truncate(&mut self, partition: i32, happening: Happening) {
        let log = &mut self.cluster.logs[partition as usize];
        let back = ((happening.target >> 24) % 8) as i64;
        let from = log.truncate((log.end - back).max(log.start));
        let leader_epoch = log.epoch + 1;
        self.function.poison.retain(|(of, offset), _| *of != partition || *offset < from);
        self.record(Happened::Truncated { partition, from, leader_epoch });
        self.move_leader(partition);
        let left = self.plan.faults_until.saturating_sub(self.elapsed());
        self.after(happening.lasts.min(left), Event::Append { partition });
    }

    fn delete(&mut self, partition: i32, happening: Happening) {
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
