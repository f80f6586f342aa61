//! Connections that carry nothing at the moment, the youngest used first. A connection is used by the thread that dialled it
//! alone: its socket wakes that thread and no other. Each thread closes its own in time, though nobody comes for them.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;

use super::gate::{GatedBody, SendGate};

/// Between two looks of a thread at its idle connections.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// One, until it is taken or closed. Dropped, it closes.
pub(super) struct IdleConnection {
    pub(super) sender: SendRequest<GatedBody>,
    pub(super) gate: Arc<SendGate>,
    /// Not used any more from then on.
    pub(super) until: Instant,
}

impl IdleConnection {
    fn is_usable(&self, now: Instant) -> bool {
        now < self.until && !self.sender.is_closed()
    }
}

/// Those of all threads.
#[derive(Default)]
pub(super) struct IdleConnections {
    of_threads: Mutex<HashMap<ThreadId, Vec<IdleConnection>>>,
}

impl IdleConnections {
    /// This thread's youngest that may still be used.
    pub(super) fn take(&self) -> Option<IdleConnection> {
        let mut of_threads = self.of_threads.lock();
        let ours = of_threads.get_mut(&thread::current().id())?;
        let now = Instant::now();
        std::iter::from_fn(|| ours.pop()).find(|idle| idle.is_usable(now))
    }

    /// Keeps one of this thread until it is taken, or its time is over. Call inside a runtime.
    pub(super) fn keep(self: &Arc<Self>, connection: IdleConnection) {
        let here = thread::current().id();
        let is_first = {
            let mut of_threads = self.of_threads.lock();
            let is_first = !of_threads.contains_key(&here);
            of_threads.entry(here).or_default().push(connection);
            is_first
        };
        if is_first {
            let closer = IdleCloser { idle: Arc::clone(self), home: here };
            tokio::spawn(closer.close_in_time());
        }
    }

    /// Closes what a thread cannot use any more; the end of what is left, soonest first.
    fn close_unusable(&self, home: ThreadId) -> Option<Instant> {
        let mut of_threads = self.of_threads.lock();
        let ours = of_threads.get_mut(&home)?;
        let now = Instant::now();
        ours.retain(|idle| idle.is_usable(now));
        ours.iter().map(|idle| idle.until).min()
    }

    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.of_threads.lock().values().flatten().filter(|idle| !idle.sender.is_closed()).count()
    }
}

/// The task of one thread that has idle connections. It ends with them, and they end with it: when its thread ends their sockets
/// are nobody's.
struct IdleCloser {
    idle: Arc<IdleConnections>,
    home: ThreadId,
}

impl IdleCloser {
    async fn close_in_time(self) {
        while let Some(next) = self.idle.close_unusable(self.home) {
            let next = next.max(Instant::now() + LOOK_EACH);
            tokio::time::sleep_until(next.into()).await;
        }
    }
}

impl Drop for IdleCloser {
    fn drop(&mut self) {
        self.idle.of_threads.lock().remove(&self.home);
    }
}
