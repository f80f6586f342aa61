//! Death watch of actors. An actor that panics is unwound by its arbiter and disappears silently (actix 0.13). A
//! guard in each actor notifies its owner, which rebuilds it from the committed offset.

use super::live_count::LiveCount;

/// Guard that calls `report(panicking)` when the actor holding it ends for any reason.
#[must_use = "the guard must live in the actor it watches"]
pub struct DeathWatch {
    report: Option<Box<dyn FnOnce(bool) + Send>>,
    _count: LiveCount,
}

impl DeathWatch {
    /// Creates a guard for an actor of this kind. The argument of `report` is true if the actor panicked.
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
