//! Idle connections, reused last in, first out. A connection is used only by the thread that opened it, because its
//! socket wakes only that thread. Each thread closes its own expired connections even if no request needs them.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;

use super::gate::{GatedBody, SendGate};

/// Shortest interval between two cleanups of a thread's idle connections.
const LOOK_EACH: Duration = Duration::from_secs(1);

/// Idle connection. It closes when dropped.
pub(super) struct IdleConnection {
    pub(super) sender: SendRequest<GatedBody>,
    pub(super) gate: Arc<SendGate>,
    /// Time after which it is not reused.
    pub(super) until: Instant,
}

impl IdleConnection {
    fn is_usable(&self, now: Instant) -> bool {
        now < self.until && !self.sender.is_closed()
    }
}

/// Idle connections of all threads.
#[derive(Default)]
pub(super) struct IdleConnections {
    of_threads: Mutex<HashMap<ThreadId, Vec<IdleConnection>>>,
}

impl IdleConnections {
    /// Takes the most recently used connection of the current thread that is still usable.
    pub(super) fn take(&self) -> Option<IdleConnection> {
        let mut of_threads = self.of_threads.lock();
        let ours = of_threads.get_mut(&thread::current().id())?;
        let now = Instant::now();
        std::iter::from_fn(|| ours.pop()).find(|idle| idle.is_usable(now))
    }

    /// Keeps a connection of the current thread until it is taken or expires. Must be called within a Tokio
    /// runtime.
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

    /// Closes the unusable connections of a thread. Returns the earliest expiry among the rest.
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

/// Cleanup task of one thread with idle connections. It ends with the last of them. If it ends with its thread, it
/// drops them, because their sockets have no reactor.
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
