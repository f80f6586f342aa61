//! Event loop: handles scheduled events one at a time, until everything is committed and every node has left.

use std::fmt::Write as _;
use std::time::Duration;

use lighterman_proto::units::Moment;

use super::environment::{EnvironmentEvent, SimulatedEnvironment, WALL_MS, owner};
use super::node::{NodeState, SimulatedNode};
use super::registry_store::RegistryStore;
use super::schedule::{FaultKind, FaultSchedule};
use crate::history::{HistoryChecker, HistoryEvent as Happened, HistoryRules, Invariant, Violation};
use crate::node::messages::NodeMessage;

/// Maximum time after the faults until everything is committed and every node has left.
const QUIET_MAX: Duration = Duration::from_secs(120);
/// Event limit, to detect schedules that loop.
const EVENTS_MAX: u64 = 300_000;
const COORDINATOR_TICK: Duration = Duration::from_millis(100);

/// Result of a schedule.
#[derive(Debug, Default)]
pub struct RunOutcome {
    /// Violations found.
    pub violations: Vec<Violation>,
    /// Number of events.
    pub events: u64,
    /// Number of invocations.
    pub invocations: u64,
    /// Simulated time.
    pub took: Duration,
    /// Every event, if a trace was requested.
    pub trace: String,
    /// History in readable form, if a trace was requested.
    pub timeline: String,
}

enum RunStage {
    Working,
    Leaving,
}

pub(super) struct SimulatedRun {
    pub env: SimulatedEnvironment,
    pub nodes: Vec<SimulatedNode>,
    pub registry: RegistryStore,
    stage: RunStage,
    leased_max: Vec<usize>,
    events: u64,
    trace: Option<String>,
}

/// Runs one schedule.
pub fn run(plan: &FaultSchedule, with_trace: bool) -> RunOutcome {
    let mut world = SimulatedRun::new(plan, with_trace);
    let unfinished = world.run();
    world.check_history(unfinished)
}

impl SimulatedRun {
    fn new(plan: &FaultSchedule, with_trace: bool) -> Self {
        let mut env = SimulatedEnvironment::new(plan.clone());
        let nodes: Vec<SimulatedNode> =
            (0..plan.nodes).map(|id| SimulatedNode::new(id, 0, &mut env)).collect();
        let mut world = Self {
            env,
            leased_max: vec![0; nodes.len()],
            nodes,
            registry: RegistryStore::default(),
            stage: RunStage::Working,
            events: 0,
            trace: with_trace.then(String::new),
        };
        world.plan_events();
        world
    }

    fn plan_events(&mut self) {
        let env = &mut self.env;
        for (index, happening) in env.plan.happenings.clone().iter().enumerate() {
            env.after(happening.at, EnvironmentEvent::Fault(index));
        }
        for partition in 0..env.plan.partitions {
            env.plan_appends(partition);
        }
        let until = env.plan.faults_until;
        env.after(until, EnvironmentEvent::Quiet);
        env.after(COORDINATOR_TICK, EnvironmentEvent::CoordinatorTick);
        if env.plan.has(FaultKind::Skips) {
            env.after(Duration::from_millis(700), EnvironmentEvent::PersonLooks);
        }
        if env.plan.has(FaultKind::StoreCrash) {
            env.after(Duration::from_millis(500), EnvironmentEvent::RegistryWrite);
        }
    }

    /// Runs to the end. Returns a description of the unfinished work if the run does not end.
    fn run(&mut self) -> Option<String> {
        let end = self.env.now + self.env.plan.faults_until + QUIET_MAX;
        while let Some((when, event)) = self.env.queue.pop() {
            self.env.now = when.max(self.env.now);
            self.events += 1;
            if let Some(trace) = &mut self.trace {
                let _ = writeln!(trace, "{} {event:?}", when.as_micros());
            }
            let looks = self.env.quiet && matches!(event, EnvironmentEvent::CoordinatorTick);
            self.happen(event);
            if looks && self.is_over() {
                return None;
            }
            if when > end || self.events > EVENTS_MAX {
                return Some(self.waits_for());
            }
        }
        Some("nothing happens any more".to_owned())
    }

    fn happen(&mut self, event: EnvironmentEvent) {
        let env = &mut self.env;
        match event {
            EnvironmentEvent::Inside { node, life, what } => self.inside(node, life, what),
            EnvironmentEvent::Arrives(ask) => env.serve(*ask),
            EnvironmentEvent::ArrivesLate(ask) => env.commit_late(&ask),
            EnvironmentEvent::FetchWaited { ask } => env.fetch_waited(ask),
            EnvironmentEvent::Called(call) => env.called(*call),
            EnvironmentEvent::CallEnds { invocation, act } => env.call_ends(invocation, &act),
            EnvironmentEvent::Append { partition } => env.append(partition),
            EnvironmentEvent::Fault(index) => self.fault(index),
            EnvironmentEvent::Cued { index, node } => self.apply_fault(index, node),
            EnvironmentEvent::CutOff { node, until } => {
                if !env.quiet {
                    env.cut_until[node] = until.max(env.cut_until[node]);
                }
            }
            EnvironmentEvent::StrangerBeats => env.stranger_beats(),
            EnvironmentEvent::StrangerSleeps { until } => env.stranger_sleeps(until),
            EnvironmentEvent::SessionOver { node, life } => {
                env.record(Happened::SessionOver { owner: owner(node, life) });
            }
            EnvironmentEvent::Restart { node } => self.restart(node),
            EnvironmentEvent::ComeBack { node } => self.come_back(node),
            EnvironmentEvent::Thaw { node, life } => {
                let node = &mut self.nodes[node];
                if node.incarnation == life
                    && matches!(node.state, NodeState::Frozen { until } if until <= env.now)
                {
                    node.state = NodeState::Running;
                    node.awake_since = env.now;
                }
            }
            EnvironmentEvent::CoordinatorTick => {
                env.coordinator_tick();
                env.after(COORDINATOR_TICK, EnvironmentEvent::CoordinatorTick);
            }
            EnvironmentEvent::PersonLooks => self.person_looks(),
            EnvironmentEvent::RegistryWrite => {
                if !env.quiet {
                    env.after(Duration::from_millis(900), EnvironmentEvent::RegistryWrite);
                }
                self.registry.write(env);
            }
            EnvironmentEvent::Quiet => self.quiet(),
        }
    }

    fn inside(&mut self, index: usize, life: u32, what: NodeMessage) {
        let node = &mut self.nodes[index];
        if node.incarnation != life {
            return;
        }
        match node.state {
            NodeState::Dead | NodeState::Left => {}
            NodeState::Frozen { until } => {
                self.env.queue.push(until, EnvironmentEvent::Inside { node: index, life, what });
            }
            NodeState::Running => {
                node.handle(&mut self.env, what);
                let bytes = node.budget.leased();
                if bytes > self.leased_max[index] {
                    self.leased_max[index] = bytes;
                    self.env.record(Happened::Leased { bytes });
                }
                if node.state == NodeState::Left {
                    let bytes = node.empty();
                    self.env.record(Happened::Stopped { bytes });
                }
            }
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        if self.nodes[index].state == NodeState::Dead {
            let life = self.nodes[index].incarnation + 1;
            self.nodes[index] = SimulatedNode::new(index, life, &mut self.env);
        }
    }

    fn come_back(&mut self, index: usize) {
        match self.nodes[index].state {
            NodeState::Left => {
                let life = self.nodes[index].incarnation + 1;
                self.nodes[index] = SimulatedNode::new(index, life, &mut self.env);
            }
            NodeState::Running | NodeState::Frozen { .. } if self.nodes[index].member.stopping => {
                self.env.after(Duration::from_millis(500), EnvironmentEvent::ComeBack { node: index });
            }
            _ => {}
        }
    }

    fn person_looks(&mut self) {
        if self.env.quiet {
            return;
        }
        self.env.after(Duration::from_millis(700), EnvironmentEvent::PersonLooks);
        for node in &mut self.nodes {
            if node.state != NodeState::Running || !self.env.random.chance(300) {
                continue;
            }
            if let Some((key, offset)) = node.failing().first().copied() {
                self.env.record(Happened::SkipWished { partition: key.0, offset: offset.0 });
                node.skip(&mut self.env, key, offset);
            }
        }
    }

    fn quiet(&mut self) {
        self.env.quiet = true;
        self.env.armed.clear();
        self.env.cut_until.fill(Moment::default());
        self.env.stalled_until.fill(Moment::default());
        self.env.record(Happened::Quiet);
    }

    /// Returns true once everything is committed and then every node has left.
    fn is_over(&mut self) -> bool {
        match self.stage {
            RunStage::Working => {
                if self.env.late == 0 && self.env.cluster.is_done(&self.env.topic) {
                    self.stage = RunStage::Leaving;
                    self.leave_all();
                }
                false
            }
            RunStage::Leaving => {
                self.leave_all();
                self.nodes.iter().all(|node| matches!(node.state, NodeState::Left))
            }
        }
    }

    fn leave_all(&mut self) {
        for node in &mut self.nodes {
            if node.state == NodeState::Running {
                node.stop(&mut self.env);
            }
        }
    }

    fn waits_for(&self) -> String {
        let mut text = String::new();
        for (partition, log) in (0..).zip(&self.env.cluster.logs) {
            let committed = self.env.cluster.committed(&self.env.topic, partition);
            if committed != Some(log.end) {
                let _ = write!(
                    text,
                    "partition {partition}: committed {committed:?} of {}..{}; ",
                    log.start, log.end
                );
            }
        }
        for node in &self.nodes {
            let _ = write!(text, "node {} is {:?}; ", node.id, node.state);
        }
        text
    }

    fn check_history(self, unfinished: Option<String>) -> RunOutcome {
        let plan = &self.env.plan;
        let rules = HistoryRules {
            records_max: plan.records_max,
            payload_bytes_max: plan.payload_bytes_max,
            wait_micros_max: plan.window.as_micros() as u64 + 60_000,
            leased_bytes_max: plan.budget + plan.payload_bytes_max + 6_000,
            retries_max: plan.policy.retries_max,
            may_expire: plan.policy.record_age_max.is_some(),
            may_be_too_large: true,
            ordered: !plan.policy.named_only,
            repeats: true,
            unacknowledged_batches_max: plan.commit_window.batches_max,
            quiet_micros_max: QUIET_MAX.as_micros() as u64,
        };
        let mut checker = HistoryChecker::new(rules);
        let mut outcome =
            RunOutcome { events: self.events, took: self.env.elapsed(), ..RunOutcome::default() };
        for entry in &self.env.history {
            outcome.invocations += u64::from(matches!(entry.event, Happened::Started { .. }));
            checker.take(entry.at, &entry.event);
            if self.trace.is_some() {
                let _ = writeln!(outcome.timeline, "{:>9} {:?}", entry.at.as_micros() / 1000, entry.event);
            }
        }
        if let Some(text) = unfinished {
            checker.note_unfinished(text);
        }
        outcome.violations = self.env.direct;
        outcome.violations.extend(checker.finish(self.env.now));
        outcome.trace = self.trace.unwrap_or_default();
        outcome
    }
}

impl SimulatedEnvironment {
    /// Records a violation that a core reported itself.
    pub(super) fn violated(&mut self, invariant: Invariant, what: String) {
        self.direct.push(Violation { invariant, at: self.now, what });
    }

    pub(super) fn plan_appends(&mut self, partition: i32) {
        let until = self.plan.faults_until.saturating_sub(self.elapsed()).as_micros() as u64;
        for _ in 0..self.plan.batches {
            let early = self.random.chance(400);
            let wait = if early { Duration::ZERO } else { self.random.micros(0, until) };
            self.after(wait, EnvironmentEvent::Append { partition });
        }
    }

    fn append(&mut self, partition: i32) {
        let wall = WALL_MS + self.elapsed().as_millis() as i64;
        let size_max = if self.random.chance(100) { 1_000 } else { 60 };
        let Some(log) = self.cluster.logs.get_mut(partition as usize) else { return };
        let visible = log.append(&mut self.random, wall, size_max);
        let poison_per_mille = self.plan.poison_per_mille;
        for offset in visible {
            self.record(Happened::Produced { partition, offset });
            if self.random.chance(poison_per_mille) {
                let times = if self.random.chance(400) { u32::MAX } else { self.random.between(1, 4) as u32 };
                self.function.poison.insert((partition, offset), times);
            }
        }
        self.wake_fetches();
    }
}
