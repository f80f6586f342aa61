//! How many of a kind are alive: what is started ends, and a count that only grows shows what does not.

use metrics::Gauge;

/// One that is alive; held by whom it counts.
#[must_use = "it counts for as long as it is held"]
pub struct LiveCount(Gauge);

impl LiveCount {
    /// One more actor of this kind.
    pub fn of_actor(kind: &'static str) -> Self {
        Self::one_of(metrics::gauge!(crate::metrics::ACTORS, "actor" => kind))
    }

    /// One more task of this kind, of those that live longer than one exchange.
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
