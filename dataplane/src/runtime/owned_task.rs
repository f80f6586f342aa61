//! Task that ends with its owner. `actix_rt::spawn` detaches its task. A detached task that waits for an event that
//! never occurs outlives its creator, with everything it holds.

use tokio::task::JoinHandle;

/// Task on the current thread, aborted when this is dropped.
#[must_use = "a task that nobody owns is broken off at once"]
pub struct OwnedTask(JoinHandle<()>);

impl OwnedTask {
    /// Runs `task` on the current arbiter until it completes or the owner is dropped.
    pub fn spawn(task: impl Future<Output = ()> + 'static) -> Self {
        Self(actix_rt::spawn(task))
    }
}

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
