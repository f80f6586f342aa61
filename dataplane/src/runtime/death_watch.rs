//! An actor that panics is unwound by its arbiter and silently gone (actix 0.13). The guard each actor carries is what
//! tells its owner, who rebuilds it from the committed offset.

use super::live_count::LiveCount;

/// Calls `report(panicking)` when the actor that holds it ends, whatever the reason.
#[must_use = "the guard must live in the actor it watches"]
pub struct DeathWatch {
    report: Option<Box<dyn FnOnce(bool) + Send>>,
    _count: LiveCount,
}

impl DeathWatch {
    /// A guard of an actor of this kind that reports to `report`; the argument is true when the end is a panic.
    pub fn new(kind: &'static str, report: impl FnOnce(bool) + Send + 'static) -> Self {
        Self { report: Some(Box::new(report)), _count: LiveCount::of_actor(kind) }
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            report(std::thread::panicking());
        }
    }
}
