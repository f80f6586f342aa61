//! State machine of one function: assigns invocations to instances, tracks deadlines, starts instances. Without I/O.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use lighterman_proto::units::Moment;
use uuid::Uuid;

/// Lambda's limit for the init phase; a function with a longer timeout may take that long.
const INIT_MAX: Duration = Duration::from_secs(10);
/// Maximum time from a response to the next poll; a healthy runtime needs microseconds.
const FINISH_MAX: Duration = Duration::from_secs(2);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Number of a process, from 0; never reused.
pub(super) type InstanceId = u64;

/// Input of the state machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HostEvent {
    /// An instance is wanted before the first invocation.
    Provisioned,
    /// A caller invokes the function.
    Invoked(Uuid),
    /// An instance polls for its next invocation.
    Polled(InstanceId),
    /// An instance posted a response or an error, whose bytes stay with the host.
    Answered(InstanceId, Uuid),
    /// A process ended, with a description of its exit.
    Exited(InstanceId, String),
    /// A deadline may have passed.
    Tick,
}

/// Output of the state machine.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HostEffect {
    /// Start a process.
    Start(InstanceId),
    /// Answer the instance's poll with this invocation and its deadline.
    Deliver(InstanceId, Uuid, Moment),
    /// Fail the invocation, which has no response of the function.
    Fail(Uuid, HostFailure),
    /// Throttle the invocation: the concurrency limit is reached.
    Throttle(Uuid),
    /// Kill this process.
    Kill(InstanceId),
}

/// Reason that an invocation has no response.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HostFailure {
    /// Took longer than this timeout.
    TimedOut(Duration),
    /// Process ended during the invocation.
    Exited(String),
    /// Process ended, or timed out, before its first poll.
    NotStarted(String),
}

#[derive(Clone, Debug, PartialEq)]
enum InstanceState {
    Starting { until: Moment },
    Idle,
    Busy { request: Uuid, until: Moment },
    Finishing { until: Moment },
}

/// Instances and invocation queue of one function.
#[derive(Debug)]
pub(super) struct HostCore {
    timeout: Duration,
    max_concurrency: usize,
    queue: VecDeque<Uuid>,
    instances: BTreeMap<InstanceId, InstanceState>,
    next_instance: InstanceId,
    start_failures: u32,
    start_not_before: Moment,
}

impl HostCore {
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

    pub(super) fn step(&mut self, now: Moment, event: HostEvent) -> Vec<HostEffect> {
        let mut effects = Vec::new();
        match event {
            HostEvent::Provisioned => self.provision(now, &mut effects),
            HostEvent::Invoked(request) => self.invoked(request, &mut effects),
            HostEvent::Polled(instance) => self.polled(instance),
            HostEvent::Answered(instance, request) => self.answered(now, instance, request),
            HostEvent::Exited(instance, how) => self.exited(now, instance, how, &mut effects),
            HostEvent::Tick => self.expire(now, &mut effects),
        }
        self.dispatch(now, &mut effects);
        effects
    }

    /// Returns true if `request` is the current invocation of `instance`.
    pub(super) fn is_working_on(&self, instance: InstanceId, request: Uuid) -> bool {
        matches!(self.instances.get(&instance), Some(InstanceState::Busy { request: own, .. }) if *own == request)
    }

    /// Returns the moment of the next tick, if no other event comes first.
    pub(super) fn next_wake(&self) -> Option<Moment> {
        let deadlines = self.instances.values().filter_map(|state| match state {
            InstanceState::Starting { until }
            | InstanceState::Busy { until, .. }
            | InstanceState::Finishing { until } => Some(*until),
            InstanceState::Idle => None,
        });
        let restart = (self.wants_start()).then_some(self.start_not_before);
        deadlines.chain(restart).min()
    }

    fn in_flight(&self) -> usize {
        let busy =
            self.instances.values().filter(|state| matches!(state, InstanceState::Busy { .. })).count();
        busy + self.queue.len()
    }

    fn invoked(&mut self, request: Uuid, effects: &mut Vec<HostEffect>) {
        if self.in_flight() >= self.max_concurrency {
            effects.push(HostEffect::Throttle(request));
        } else {
            self.queue.push_back(request);
        }
    }

    fn polled(&mut self, instance: InstanceId) {
        let Some(state) = self.instances.get_mut(&instance) else { return };
        match state {
            InstanceState::Starting { .. } => {
                self.start_failures = 0;
                *state = InstanceState::Idle;
            }
            InstanceState::Finishing { .. } => *state = InstanceState::Idle,
            // A runtime polls again without a response after a broken connection, for example. Its invocation times
            // out.
            InstanceState::Idle | InstanceState::Busy { .. } => {}
        }
    }

    fn answered(&mut self, now: Moment, instance: InstanceId, request: Uuid) {
        if self.is_working_on(instance, request) {
            self.instances.insert(instance, InstanceState::Finishing { until: now + FINISH_MAX });
        }
    }

    fn exited(&mut self, now: Moment, instance: InstanceId, how: String, effects: &mut Vec<HostEffect>) {
        match self.instances.remove(&instance) {
            Some(InstanceState::Busy { request, .. }) => {
                effects.push(HostEffect::Fail(request, HostFailure::Exited(how)));
            }
            Some(InstanceState::Starting { .. }) => self.not_started(now, how, effects),
            Some(InstanceState::Idle | InstanceState::Finishing { .. }) | None => {}
        }
    }

    /// Fails the oldest queued invocation with the reason, so that a function that cannot start is noticed, and
    /// delays the next start.
    fn not_started(&mut self, now: Moment, how: String, effects: &mut Vec<HostEffect>) {
        let doubled = BACKOFF_FIRST * 2u32.saturating_pow(self.start_failures.min(16));
        self.start_failures += 1;
        self.start_not_before = now + doubled.min(BACKOFF_MAX);
        if let Some(request) = self.queue.pop_front() {
            effects.push(HostEffect::Fail(request, HostFailure::NotStarted(how)));
        }
    }

    fn expire(&mut self, now: Moment, effects: &mut Vec<HostEffect>) {
        let late = |state: &InstanceState| match state {
            InstanceState::Starting { until }
            | InstanceState::Busy { until, .. }
            | InstanceState::Finishing { until } => *until <= now,
            InstanceState::Idle => false,
        };
        let expired: Vec<_> =
            self.instances.iter().filter(|(_, state)| late(state)).map(|(id, _)| *id).collect();
        for instance in expired {
            effects.push(HostEffect::Kill(instance));
            match self.instances.remove(&instance) {
                Some(InstanceState::Busy { request, .. }) => {
                    effects.push(HostEffect::Fail(request, HostFailure::TimedOut(self.timeout)));
                }
                Some(InstanceState::Starting { .. }) => {
                    let how = format!("no poll within {} s of its start", self.init_max().as_secs());
                    self.not_started(now, how, effects);
                }
                _ => {}
            }
        }
    }

    fn dispatch(&mut self, now: Moment, effects: &mut Vec<HostEffect>) {
        while let Some(instance) = self.idle().filter(|_| !self.queue.is_empty()) {
            let Some(request) = self.queue.pop_front() else { break };
            let until = now + self.timeout;
            self.instances.insert(instance, InstanceState::Busy { request, until });
            effects.push(HostEffect::Deliver(instance, request, until));
        }
        while self.wants_start() && self.start_not_before <= now {
            self.start(now, effects);
        }
    }

    fn provision(&mut self, now: Moment, effects: &mut Vec<HostEffect>) {
        if self.instances.is_empty() {
            self.start(now, effects);
        }
    }

    fn start(&mut self, now: Moment, effects: &mut Vec<HostEffect>) {
        let instance = self.next_instance;
        self.next_instance += 1;
        self.instances.insert(instance, InstanceState::Starting { until: now + self.init_max() });
        effects.push(HostEffect::Start(instance));
    }

    fn wants_start(&self) -> bool {
        let soon_free = self.instances.values().filter(|state| {
            matches!(state, InstanceState::Starting { .. } | InstanceState::Finishing { .. })
        });
        self.queue.len() > soon_free.count() && self.instances.len() < self.max_concurrency
    }

    fn idle(&self) -> Option<InstanceId> {
        self.instances.iter().find(|(_, state)| **state == InstanceState::Idle).map(|(id, _)| *id)
    }

    /// Returns the maximum time from an instance's start to its first poll.
    pub(super) fn init_max(&self) -> Duration {
        self.timeout.max(INIT_MAX)
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
