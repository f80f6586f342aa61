//! A task that ends with its owner. `actix_rt::spawn` leaves a task to itself: one that waits for what never comes outlives
//! everybody who knew of it, with all that it holds.

use tokio::task::JoinHandle;

/// A task of this thread, broken off when this is dropped.
#[must_use = "a task that nobody owns is broken off at once"]
pub struct OwnedTask(JoinHandle<()>);

impl OwnedTask {
    /// Runs `task` on this arbiter for as long as the owner lives, at most.
    pub fn spawn(task: impl Future<Output = ()> + 'static) -> Self {
        Self(actix_rt::spawn(task))
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
