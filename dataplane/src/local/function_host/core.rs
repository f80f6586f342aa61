//! One function: which invocation runs in which instance, what is late, when to start another. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lighterman_proto::units::Moment;
use uuid::Uuid;

/// Lambda's limit for the init phase; a function with a longer timeout may use that.
const INIT_MAX: Duration = Duration::from_secs(10);
/// Between an answer and the next poll a healthy runtime needs microseconds.
const FINISH_MAX: Duration = Duration::from_secs(2);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// A process, counted from 0; never used twice.
pub(super) type InstanceId = u64;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// An instance is wanted before anybody invokes the function.
    Provisioned,
    /// Somebody invokes the function.
    Invoked(Uuid),
    /// An instance asks for work.
    Polled(InstanceId),
    /// An instance answered, well or not; the shell has the bytes.
    Answered(InstanceId, Uuid),
    /// A process ended; how, in words.
    Exited(InstanceId, String),
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// Start a process.
    Start(InstanceId),
    /// Answer the instance's poll with this invocation, to be done by the moment.
    Deliver(InstanceId, Uuid, Moment),
    /// The invocation is over without an answer of the function.
    Fail(Uuid, Failure),
    /// Too many at once.
    Throttle(Uuid),
    /// End this process.
    Kill(InstanceId),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Failure {
    /// It took longer than this.
    TimedOut(Duration),
    /// The process ended while it worked.
    Exited(String),
    /// The process ended, or said nothing, before it asked for work.
    NotStarted(String),
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    Starting { until: Moment },
    Idle,
    Busy { request: Uuid, until: Moment },
    Finishing { until: Moment },
}

/// The instances and the queue of one function.
#[derive(Debug)]
pub(super) struct Core {
    timeout: Duration,
    max_concurrency: usize,
    queue: VecDeque<Uuid>,
    instances: BTreeMap<InstanceId, State>,
    next_instance: InstanceId,
    start_failures: u32,
    start_not_before: Moment,
}

impl Core {
    pub(super) fn new(timeout: Duration, max_concurrency: u32) -> Self {
        Self {
            timeout,
            max_concurrency: max_concurrency as usize,
            queue: VecDeque::new(),
            instances: BTreeMap::new(),
            next_instance: 0,
            start_failures: 0,
            start_not_before: Moment::default(),
        }
    }

    pub(super) fn step(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Provisioned => self.provision(now, &mut effects),
            Event::Invoked(request) => self.invoked(request, &mut effects),
            Event::Polled(instance) => self.polled(instance),
            Event::Answered(instance, request) => self.answered(now, instance, request),
            Event::Exited(instance, how) => self.exited(now, instance, how, &mut effects),
            Event::Tick => self.expire(now, &mut effects),
        }
        self.dispatch(now, &mut effects);
        effects
    }

    /// True when `instance` may answer `request` now.
    pub(super) fn is_working_on(&self, instance: InstanceId, request: Uuid) -> bool {
        matches!(self.instances.get(&instance), Some(State::Busy { request: own, .. }) if *own == request)
    }

    /// When to come back with a tick, if nothing happens before.
    pub(super) fn next_wake(&self) -> Option<Moment> {
        let deadlines = self.instances.values().filter_map(|state| match state {
            State::Starting { until } | State::Busy { until, .. } | State::Finishing { until } => {
                Some(*until)
            }
            State::Idle => None,
        });
        let restart = (self.wants_start()).then_some(self.start_not_before);
        deadlines.chain(restart).min()
    }

    fn in_flight(&self) -> usize {
        let busy = self.instances.values().filter(|state| matches!(state, State::Busy { .. })).count();
        busy + self.queue.len()
    }

    fn invoked(&mut self, request: Uuid, effects: &mut Vec<Effect>) {
        if self.in_flight() >= self.max_concurrency {
            effects.push(Effect::Throttle(request));
        } else {
            self.queue.push_back(request);
        }
    }

    fn polled(&mut self, instance: InstanceId) {
        let Some(state) = self.instances.get_mut(&instance) else { return };
        match state {
            State::Starting { .. } => {
                self.start_failures = 0;
                *state = State::Idle;
            }
            State::Finishing { .. } => *state = State::Idle,
            // A runtime that polls again without an answer, after a broken connection, say: its invocation times out.
            State::Idle | State::Busy { .. } => {}
        }
    }

    fn answered(&mut self, now: Moment, instance: InstanceId, request: Uuid) {
        if self.is_working_on(instance, request) {
            self.instances.insert(instance, State::Finishing { until: now + FINISH_MAX });
        }
    }

    fn exited(&mut self, now: Moment, instance: InstanceId, how: String, effects: &mut Vec<Effect>) {
        match self.instances.remove(&instance) {
            Some(State::Busy { request, .. }) => effects.push(Effect::Fail(request, Failure::Exited(how))),
            Some(State::Starting { .. }) => self.not_started(now, how, effects),
            Some(State::Idle | State::Finishing { .. }) | None => {}
        }
    }

    /// The oldest caller is told why, so that a function that cannot start is heard of, and starting again waits.
    fn not_started(&mut self, now: Moment, how: String, effects: &mut Vec<Effect>) {
        let doubled = BACKOFF_FIRST * 2u32.saturating_pow(self.start_failures.min(16));
        self.start_failures += 1;
        self.start_not_before = now + doubled.min(BACKOFF_MAX);
        if let Some(request) = self.queue.pop_front() {
            effects.push(Effect::Fail(request, Failure::NotStarted(how)));
        }
    }

    fn expire(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let late = |state: &State| match state {
            State::Starting { until } | State::Busy { until, .. } | State::Finishing { until } => {
                *until <= now
            }
            State::Idle => false,
        };
        let expired: Vec<_> =
            self.instances.iter().filter(|(_, state)| late(state)).map(|(id, _)| *id).collect();
        for instance in expired {
            effects.push(Effect::Kill(instance));
            match self.instances.remove(&instance) {
                Some(State::Busy { request, .. }) => {
                    effects.push(Effect::Fail(request, Failure::TimedOut(self.timeout)));
                }
                Some(State::Starting { .. }) => {
                    let how = format!("no poll within {} s of its start", self.init_max().as_secs());
                    self.not_started(now, how, effects);
                }
                _ => {}
            }
        }
    }

    fn dispatch(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        while let Some(instance) = self.idle().filter(|_| !self.queue.is_empty()) {
            let Some(request) = self.queue.pop_front() else { break };
            let until = now + self.timeout;
            self.instances.insert(instance, State::Busy { request, until });
            effects.push(Effect::Deliver(instance, request, until));
        }
        while self.wants_start() && self.start_not_before <= now {
            self.start(now, effects);
        }
    }

    fn provision(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.instances.is_empty() {
            self.start(now, effects);
        }
    }

    fn start(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let instance = self.next_instance;
        self.next_instance += 1;
        self.instances.insert(instance, State::Starting { until: now + self.init_max() });
        effects.push(Effect::Start(instance));
    }

    fn wants_start(&self) -> bool {
        let soon_free = self
            .instances
            .values()
            .filter(|state| matches!(state, State::Starting { .. } | State::Finishing { .. }));
        self.queue.len() > soon_free.count() && self.instances.len() < self.max_concurrency
    }

    fn idle(&self) -> Option<InstanceId> {
        self.instances.iter().find(|(_, state)| **state == State::Idle).map(|(id, _)| *id)
    }

    /// How long an instance may take until it asks for work.
    pub(super) fn init_max(&self) -> Duration {
        self.timeout.max(INIT_MAX)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
