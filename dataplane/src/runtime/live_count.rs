//! Gauges of live actors and tasks. Each one that starts must end, and a gauge that only grows reveals a leak.

use metrics::Gauge;

/// Count of one live actor or task, which holds it.
#[must_use = "it counts for as long as it is held"]
pub struct LiveCount(Gauge);

impl LiveCount {
    /// Counts one more actor of this kind.
    pub fn of_actor(kind: &'static str) -> Self {
        Self::one_of(metrics::gauge!(crate::metrics::ACTORS, "actor" => kind))
    }

    /// Counts one more task of this kind, for tasks that outlive a single exchange.
    pub fn of_task(kind: &'static str) -> Self {
        Self::one_of(metrics::gauge!(crate::metrics::TASKS, "task" => kind))
    }

    fn one_of(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for LiveCount {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
