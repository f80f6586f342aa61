//! One lock for each mapping that runs or is being changed. Changes of one mapping take turns in the order in which
//! they were requested. A lock without visits and without a running mapping is removed.

use std::collections::HashMap;
use std::sync::Arc;

use lighterman_proto::ids::MappingId;
use parking_lot::Mutex;

/// Mapping locks of a node. `R` is the running mapping behind a lock.
pub(super) struct MappingLocks<R> {
    inner: Mutex<LockTable<R>>,
}

struct LockTable<R> {
    lanes: HashMap<MappingId, MappingLockGuard<R>>,
    /// Set while the node drains. No mapping starts then.
    draining: bool,
}

/// Lock and the number of its visits.
struct MappingLockGuard<R> {
    lane: Arc<MappingLock<R>>,
    visits: usize,
}

/// Lock of one mapping.
struct MappingLock<R> {
    turn: tokio::sync::Mutex<()>,
    /// Running mapping. It is read without a turn, since a mapping that is being stopped must still be shown and
    /// queried.
    running: Mutex<Option<R>>,
}

/// Registration for a turn at a lock. The lock exists at least as long.
pub(super) struct LaneVisit<R> {
    lanes: Arc<MappingLocks<R>>,
    id: MappingId,
    lane: Arc<MappingLock<R>>,
}

/// Turn at a lock.
pub(super) struct LaneTurn<'v, R> {
    visit: &'v LaneVisit<R>,
    _turn: tokio::sync::MutexGuard<'v, ()>,
}

impl<R> Default for MappingLocks<R> {
    fn default() -> Self {
        Self { inner: Mutex::new(LockTable { lanes: HashMap::new(), draining: false }) }
    }
}

impl<R> Default for MappingLockGuard<R> {
    fn default() -> Self {
        let lane = MappingLock { turn: tokio::sync::Mutex::new(()), running: Mutex::new(None) };
        Self { lane: Arc::new(lane), visits: 0 }
    }
}

impl<R: Clone> MappingLocks<R> {
    /// Queues for the lock of `id`.
    pub(super) fn visit(self: &Arc<Self>, id: MappingId) -> LaneVisit<R> {
        let mut inner = self.inner.lock();
        self.enter(id, inner.lanes.entry(id).or_default())
    }

    fn enter(self: &Arc<Self>, id: MappingId, held: &mut MappingLockGuard<R>) -> LaneVisit<R> {
        held.visits += 1;
        LaneVisit { lanes: Arc::clone(self), id, lane: Arc::clone(&held.lane) }
    }

    /// Closes all locks, so that no mapping starts. Returns a visit to each existing lock. By that visit's turn, a
    /// mapping that was running or about to start has either started or been refused.
    pub(super) fn close(self: &Arc<Self>) -> Vec<LaneVisit<R>> {
        let mut inner = self.inner.lock();
        inner.draining = true;
        inner.lanes.iter_mut().map(|(id, held)| self.enter(*id, held)).collect()
    }

    /// Returns the running mapping of `id`, which may be stopping.
    pub(super) fn running(&self, id: MappingId) -> Option<R> {
        let inner = self.inner.lock();
        inner.lanes.get(&id)?.lane.running.lock().clone()
    }

    /// Returns the first result of `ask` over the running mappings.
    pub(super) fn find<T>(&self, ask: impl Fn(MappingId, &R) -> Option<T>) -> Option<T> {
        let inner = self.inner.lock();
        inner.lanes.iter().find_map(|(id, held)| ask(*id, held.lane.running.lock().as_ref()?))
    }

    /// Returns the number of locks.
    pub(super) fn count(&self) -> usize {
        self.inner.lock().lanes.len()
    }
}

impl<R: Clone> LaneVisit<R> {
    /// Waits for a turn.
    pub(super) async fn turn(&self) -> LaneTurn<'_, R> {
        LaneTurn { visit: self, _turn: self.lane.turn.lock().await }
    }
}

impl<R: Clone> LaneTurn<'_, R> {
    /// Returns the running mapping.
    pub(super) fn running(&self) -> Option<R> {
        self.visit.lane.running.lock().clone()
    }

    /// Starts a mapping by `begin`, replacing the previous one. Returns false without calling `begin` once the locks
    /// are closed.
    pub(super) fn begin(&self, begin: impl FnOnce() -> R) -> bool {
        // Start under the lock that closing takes: the drain then sees every mapping that has started.
        let inner = self.visit.lanes.inner.lock();
        if inner.draining {
            return false;
        }
        *self.visit.lane.running.lock() = Some(begin());
        true
    }

    /// Records that no mapping runs.
    pub(super) fn end(&self) {
        *self.visit.lane.running.lock() = None;
    }
}

impl<R> Drop for LaneVisit<R> {
    fn drop(&mut self) {
        let mut inner = self.lanes.inner.lock();
        let Some(held) = inner.lanes.get_mut(&self.id) else { return };
        held.visits -= 1;
        if held.visits == 0 && self.lane.running.lock().is_none() {
            inner.lanes.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> MappingId {
        MappingId(uuid::Uuid::from_u128(number))
    }

    #[tokio::test]
    async fn lock_exists_only_while_running_or_visited() {
        let lanes = Arc::new(MappingLocks::<u32>::default());
        for number in 0..100 {
            let visit = lanes.visit(id(number));
            let waits = lanes.visit(id(number));
            assert!(visit.turn().await.begin(|| 7));
            drop(visit);
            assert_eq!(lanes.running(id(number)), Some(7));
            let turn = waits.turn().await;
            turn.end();
            drop(turn);
            assert_eq!(lanes.count(), 1, "a lock in use is kept");
            drop(waits);
            assert_eq!((lanes.count(), lanes.running(id(number))), (0, None));
        }
    }

    #[tokio::test]
    async fn drn_1_waiting_change_starts_nothing_after_close() {
        let lanes = Arc::new(MappingLocks::<u32>::default());
        let (before, waiting) = (lanes.visit(id(1)), lanes.visit(id(1)));
        let turn = before.turn().await;
        assert!(turn.begin(|| 1));
        let drained = lanes.close();
        assert_eq!(drained.len(), 1, "a held lock is drained too");
        assert!(!turn.begin(|| 2), "an update in progress does not start its second half");
        turn.end();
        drop(turn);
        assert!(!waiting.turn().await.begin(|| 3));
        assert!(!lanes.visit(id(2)).turn().await.begin(|| 4));
        assert!(drained[0].turn().await.running().is_none());
    }
}
