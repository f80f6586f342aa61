//! One lane for each mapping that runs or is being changed: changes of one mapping take their turns, in the order in which they
//! were asked for. A lane that nobody is in, and where nothing runs, is taken away.

use std::collections::HashMap;
use std::sync::Arc;

use lighterman_proto::ids::MappingId;
use parking_lot::Mutex;

/// The lanes of a node; `R` is what runs in one.
pub(super) struct MappingLocks<R> {
    inner: Mutex<LockTable<R>>,
}

struct LockTable<R> {
    lanes: HashMap<MappingId, MappingLockGuard<R>>,
    /// The node drains: nothing begins any more.
    draining: bool,
}

/// A lane and who is in it.
struct MappingLockGuard<R> {
    lane: Arc<MappingLock<R>>,
    visits: usize,
}

/// One mapping's lane.
struct MappingLock<R> {
    turn: tokio::sync::Mutex<()>,
    /// Read without a turn: what runs is shown, and asked, while it is being stopped, too.
    running: Mutex<Option<R>>,
}

/// The intention to take a turn in a lane, by which the lane stays.
pub(super) struct LaneVisit<R> {
    lanes: Arc<MappingLocks<R>>,
    id: MappingId,
    lane: Arc<MappingLock<R>>,
}

/// A turn in a lane.
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
    /// Gets in line in the lane of `id`.
    pub(super) fn visit(self: &Arc<Self>, id: MappingId) -> LaneVisit<R> {
        let mut inner = self.inner.lock();
        self.enter(id, inner.lanes.entry(id).or_default())
    }

    fn enter(self: &Arc<Self>, id: MappingId, held: &mut MappingLockGuard<R>) -> LaneVisit<R> {
        held.visits += 1;
        LaneVisit { lanes: Arc::clone(self), id, lane: Arc::clone(&held.lane) }
    }

    /// From now on nothing begins. A visit to each lane that there is: what runs in one, or was about to when this was called,
    /// has begun or has been refused when its turn comes.
    pub(super) fn close(self: &Arc<Self>) -> Vec<LaneVisit<R>> {
        let mut inner = self.inner.lock();
        inner.draining = true;
        inner.lanes.iter_mut().map(|(id, held)| self.enter(*id, held)).collect()
    }

    /// The run in the lane of `id`, or the one that is being stopped.
    pub(super) fn running(&self, id: MappingId) -> Option<R> {
        let inner = self.inner.lock();
        inner.lanes.get(&id)?.lane.running.lock().clone()
    }

    /// The first answer of `ask` to what runs.
    pub(super) fn find<T>(&self, ask: impl Fn(MappingId, &R) -> Option<T>) -> Option<T> {
        let inner = self.inner.lock();
        inner.lanes.iter().find_map(|(id, held)| ask(*id, held.lane.running.lock().as_ref()?))
    }

    /// How many lanes there are.
    pub(super) fn count(&self) -> usize {
        self.inner.lock().lanes.len()
    }
}

impl<R: Clone> LaneVisit<R> {
    /// Waits for the turn.
    pub(super) async fn turn(&self) -> LaneTurn<'_, R> {
        LaneTurn { visit: self, _turn: self.lane.turn.lock().await }
    }
}

impl<R: Clone> LaneTurn<'_, R> {
    /// What runs.
    pub(super) fn running(&self) -> Option<R> {
        self.visit.lane.running.lock().clone()
    }

    /// Begins what `begin` makes, in the place of what ran. False, and `begin` is not called, once the lanes are closed.
    pub(super) fn begin(&self, begin: impl FnOnce() -> R) -> bool {
        // Under the lock that closes them: what has begun is there when the drain looks.
        let inner = self.visit.lanes.inner.lock();
        if inner.draining {
            return false;
        }
        *self.visit.lane.running.lock() = Some(begin());
        true
    }

    /// Nothing runs any more.
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
    async fn a_lane_is_there_while_something_runs_or_somebody_waits_and_no_longer() {
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
            assert_eq!(lanes.count(), 1, "somebody is in it");
            drop(waits);
            assert_eq!((lanes.count(), lanes.running(id(number))), (0, None));
        }
    }

    #[tokio::test]
    async fn drn_1_nothing_begins_once_the_lanes_are_closed_whoever_waited_before() {
        let lanes = Arc::new(MappingLocks::<u32>::default());
        let (before, waiting) = (lanes.visit(id(1)), lanes.visit(id(1)));
        let turn = before.turn().await;
        assert!(turn.begin(|| 1));
        let drained = lanes.close();
        assert_eq!(drained.len(), 1, "also a lane whose turn somebody has");
        assert!(!turn.begin(|| 2), "an update that is under way does not begin its second half");
        turn.end();
        drop(turn);
        assert!(!waiting.turn().await.begin(|| 3));
        assert!(!lanes.visit(id(2)).turn().await.begin(|| 4));
        assert!(drained[0].turn().await.running().is_none());
    }
}
