//! The loop: what is due happens, one thing at a time, until everything is committed and everybody has left.

use std::fmt::Write as _;
use std::time::Duration;

use lighterman_proto::units::Moment;

use super::node::{Inside, Node, State};
use super::outside::{Event, Outside, WALL_MS, owner};
use super::plan::{Kind, Plan};
use super::registry_store::RegistryStore;
use crate::history::{Checker, Event as Happened, Invariant, Rules, Violation};

/// How long after the faults everything must be committed, and everybody gone.
const QUIET_MAX: Duration = Duration::from_secs(120);
/// A schedule that makes more events than this goes in circles.
const EVENTS_MAX: u64 = 300_000;
const COORDINATOR_TICK: Duration = Duration::from_millis(100);

/// What became of a schedule.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is wrong; empty when nothing is.
    pub violations: Vec<Violation>,
    /// Events.
    pub events: u64,
    /// Invocations.
    pub invocations: u64,
    /// Simulated time.
    pub took: Duration,
    /// Every event, when it was asked for.
    pub trace: String,
    /// What happened, in a form for people, when it was asked for.
    pub story: String,
}

enum Stage {
    Working,
    Leaving,
}

pub(super) struct World {
    pub outside: Outside,
    pub nodes: Vec<Node>,
    pub registry: RegistryStore,
    stage: Stage,
    leased_max: Vec<usize>,
    events: u64,
    trace: Option<String>,
}

/// Runs one schedule.
pub fn run(plan: &Plan, with_trace: bool) -> Outcome {
    let mut world = World::new(plan, with_trace);
    let unfinished = world.run();
    world.judge(unfinished)
}

impl World {
    fn new(plan: &Plan, with_trace: bool) -> Self {
        let mut outside = Outside::new(plan.clone());
        let nodes: Vec<Node> = (0..plan.nodes).map(|id| Node::new(id, 0, &mut outside)).collect();
        let mut world = Self {
            outside,
            leased_max: vec![0; nodes.len()],
            nodes,
            registry: RegistryStore::default(),
            stage: Stage::Working,
            events: 0,
            trace: with_trace.then(String::new),
        };
        world.plan_events();
        world
    }

    fn plan_events(&mut self) {
        let outside = &mut self.outside;
        for (index, happening) in outside.plan.happenings.clone().iter().enumerate() {
            outside.after(happening.at, Event::Fault(index));
        }
        for partition in 0..outside.plan.partitions {
            outside.plan_appends(partition);
        }
        let until = outside.plan.faults_until;
        outside.after(until, Event::Quiet);
        outside.after(COORDINATOR_TICK, Event::CoordinatorTick);
        if outside.plan.has(Kind::Skips) {
            outside.after(Duration::from_millis(700), Event::PersonLooks);
        }
        if outside.plan.has(Kind::StoreCrash) {
            outside.after(Duration::from_millis(500), Event::RegistryWrite);
        }
    }

    /// What it waits for, when it does not end.
    fn run(&mut self) -> Option<String> {
        let end = self.outside.now + self.outside.plan.faults_until + QUIET_MAX;
        while let Some((when, event)) = self.outside.queue.pop() {
            self.outside.now = when.max(self.outside.now);
            self.events += 1;
            if let Some(trace) = &mut self.trace {
                let _ = writeln!(trace, "{} {event:?}", when.as_micros());
            }
            let looks = self.outside.quiet && matches!(event, Event::CoordinatorTick);
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

    fn happen(&mut self, event: Event) {
        let outside = &mut self.outside;
        match event {
            Event::Inside { node, life, what } => self.inside(node, life, what),
            Event::Arrives(ask) => outside.serve(*ask),
            Event::ArrivesLate(ask) => outside.commit_late(&ask),
            Event::FetchWaited { ask } => outside.fetch_waited(ask),
            Event::Called(call) => outside.called(*call),
            Event::CallEnds { invocation, act } => outside.call_ends(invocation, &act),
            Event::Append { partition } => outside.append(partition),
            Event::Fault(index) => self.fault(index),
            Event::Cued { index, node } => self.befall(index, node),
            Event::CutOff { node, until } => {
                if !outside.quiet {
                    outside.cut_until[node] = until.max(outside.cut_until[node]);
                }
            }
            Event::StrangerBeats => outside.stranger_beats(),
            Event::StrangerSleeps { until } => outside.stranger_sleeps(until),
            Event::SessionOver { node, life } => {
                outside.record(Happened::SessionOver { owner: owner(node, life) });
            }
            Event::Restart { node } => self.restart(node),
            Event::ComeBack { node } => self.come_back(node),
            Event::Thaw { node, life } => {
                let node = &mut self.nodes[node];
                if node.life == life && matches!(node.state, State::Frozen { until } if until <= outside.now)
                {
                    node.state = State::Running;
                    node.awake_since = outside.now;
                }
            }
            Event::CoordinatorTick => {
                outside.coordinator_tick();
                outside.after(COORDINATOR_TICK, Event::CoordinatorTick);
            }
            Event::PersonLooks => self.person_looks(),
            Event::RegistryWrite => {
                if !outside.quiet {
                    outside.after(Duration::from_millis(900), Event::RegistryWrite);
                }
                self.registry.write(outside);
            }
            Event::Quiet => self.quiet(),
        }
    }

    fn inside(&mut self, index: usize, life: u32, what: Inside) {
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        match node.state {
            State::Dead | State::Left => {}
            State::Frozen { until } => {
                self.outside.queue.push(until, Event::Inside { node: index, life, what });
            }
            State::Running => {
                node.handle(&mut self.outside, what);
                let bytes = node.budget.leased();
                if bytes > self.leased_max[index] {
                    self.leased_max[index] = bytes;
                    self.outside.record(Happened::Leased { bytes });
                }
                if node.state == State::Left {
                    let bytes = node.empty();
                    self.outside.record(Happened::Stopped { bytes });
                }
            }
        }
    }

    pub(super) fn restart(&mut self, index: usize) {
        if self.nodes[index].state == State::Dead {
            let life = self.nodes[index].life + 1;
            self.nodes[index] = Node::new(index, life, &mut self.outside);
        }
    }

    fn come_back(&mut self, index: usize) {
        match self.nodes[index].state {
            State::Left => {
                let life = self.nodes[index].life + 1;
                self.nodes[index] = Node::new(index, life, &mut self.outside);
            }
            State::Running | State::Frozen { .. } if self.nodes[index].member.stopping => {
                self.outside.after(Duration::from_millis(500), Event::ComeBack { node: index });
            }
            _ => {}
        }
    }

    fn person_looks(&mut self) {
        if self.outside.quiet {
            return;
        }
        self.outside.after(Duration::from_millis(700), Event::PersonLooks);
        for node in &mut self.nodes {
            if node.state != State::Running || !self.outside.random.chance(300) {
                continue;
            }
            if let Some((key, offset)) = node.failing().first().copied() {
                self.outside.record(Happened::SkipWished { partition: key.0, offset: offset.0 });
                node.skip(&mut self.outside, key, offset);
            }
        }
    }

    fn quiet(&mut self) {
        self.outside.quiet = true;
        self.outside.armed.clear();
        self.outside.cut_until.fill(Moment::default());
        self.outside.stalled_until.fill(Moment::default());
        self.outside.record(Happened::Quiet);
    }

    /// First everything is committed, then everybody leaves.
    fn is_over(&mut self) -> bool {
        match self.stage {
            Stage::Working => {
                if self.outside.late == 0 && self.outside.cluster.is_done(&self.outside.topic) {
                    self.stage = Stage::Leaving;
                    self.leave_all();
                }
                false
            }
            Stage::Leaving => {
                self.leave_all();
                self.nodes.iter().all(|node| matches!(node.state, State::Left))
            }
        }
    }

    fn leave_all(&mut self) {
        for node in &mut self.nodes {
            if node.state == State::Running {
                node.stop(&mut self.outside);
            }
        }
    }

    fn waits_for(&self) -> String {
        let mut text = String::new();
        for (partition, log) in (0..).zip(&self.outside.cluster.logs) {
            let committed = self.outside.cluster.committed(&self.outside.topic, partition);
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

    fn judge(self, unfinished: Option<String>) -> Outcome {
        let plan = &self.outside.plan;
        let rules = Rules {
            records_max: plan.records_max,
            payload_bytes_max: plan.payload_bytes_max,
            wait_micros_max: plan.window.as_micros() as u64 + 60_000,
            leased_bytes_max: plan.budget + plan.payload_bytes_max + 6_000,
            retries_max: plan.policy.retries_max,
            may_expire: plan.policy.record_age_max.is_some(),
            may_be_too_large: true,
            ordered: !plan.policy.named_only,
            repeats: true,
            quiet_micros_max: QUIET_MAX.as_micros() as u64,
        };
        let mut checker = Checker::new(rules);
        let mut outcome = Outcome { events: self.events, took: self.outside.elapsed(), ..Outcome::default() };
        for entry in &self.outside.history {
            outcome.invocations += u64::from(matches!(entry.event, Happened::Started { .. }));
            checker.take(entry.at, &entry.event);
            if self.trace.is_some() {
                let _ = writeln!(outcome.story, "{:>9} {:?}", entry.at.as_micros() / 1000, entry.event);
            }
        }
        if let Some(text) = unfinished {
            checker.note_unfinished(text);
        }
        outcome.violations = self.outside.direct;
        outcome.violations.extend(checker.finish(self.outside.now));
        outcome.trace = self.trace.unwrap_or_default();
        outcome
    }
}

impl Outside {
    /// The core itself says that an invariant is broken.
    pub(super) fn violated(&mut self, invariant: Invariant, what: String) {
        self.direct.push(Violation { invariant, at: self.now, what });
    }

    pub(super) fn plan_appends(&mut self, partition: i32) {
        let until = self.plan.faults_until.saturating_sub(self.elapsed()).as_micros() as u64;
        for _ in 0..self.plan.batches {
            let early = self.random.chance(400);
            let wait = if early { Duration::ZERO } else { self.random.micros(0, until) };
            self.after(wait, Event::Append { partition });
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
