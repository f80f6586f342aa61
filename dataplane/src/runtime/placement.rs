//! Which thread a consumer and its invocations live on.

use actix_rt::{Arbiter, ArbiterHandle};

/// The node's arbiters: data (fetch, partitions, batchers) and invokers. `SigV4` hashes a full payload for milliseconds
/// inside a poll, so invokers never share a thread with what must not wait.
pub struct Placement {
    data: Vec<Arbiter>,
    invokers: Vec<Arbiter>,
}

impl Placement {
    /// Threads for `cores` cores: half and half, at least one each.
    pub fn new(cores: usize) -> Self {
        let each = (cores / 2).max(1);
        let start = |_| Arbiter::new();
        Self { data: (0..each).map(start).collect(), invokers: (0..each).map(start).collect() }
    }

    /// Data arbiters.
    pub fn data_count(&self) -> usize {
        self.data.len()
    }

    /// The data arbiter number `index`, modulo their count.
    pub fn data(&self, index: usize) -> ArbiterHandle {
        self.data[index % self.data.len()].handle()
    }

    /// The invoker arbiter beside data arbiter `index`.
    pub fn invoker(&self, index: usize) -> ArbiterHandle {
        self.invokers[index % self.invokers.len()].handle()
    }

    /// Stops every arbiter; only after everything on them has drained.
    pub fn stop(self) {
        for arbiter in self.data.into_iter().chain(self.invokers) {
            arbiter.stop();
            let _ = arbiter.join();
        }
    }
}
