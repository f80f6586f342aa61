//! Invocation slots of one mapping, which limit its concurrent invocations (SLT-1). The limit follows the number of
//! consumers and the function's throttles. Slots above a lowered limit are not revoked, but are not granted again.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// Receiver of a slot that was requested while none was free. Called without any lock held; must not block.
pub type SlotReceiver = Arc<dyn Fn(Slot) + Send + Sync>;

/// Slots of one mapping on one node.
#[derive(Clone)]
pub struct Slots {
    shared: Arc<Mutex<SlotState>>,
}

struct SlotState {
    limit: u32,
    in_use: u32,
    waiting: VecDeque<(u64, SlotReceiver)>,
}

/// Right to one invocation, returned when it is dropped.
#[must_use = "a slot that is dropped is free again"]
pub struct Slot {
    slots: Slots,
}

impl SlotState {
    /// True if another invocation is within the limit.
    fn has_free_slot(&self) -> bool {
        mutant!("slot-over-the-limit", self.in_use < self.limit, self.in_use <= self.limit)
    }
}

impl Slots {
    /// Creates `limit` slots, at least one.
    pub fn new(limit: u32) -> Self {
        let state = SlotState { limit: limit.max(1), in_use: 0, waiting: VecDeque::new() };
        Self { shared: Arc::new(Mutex::new(state)) }
    }

    /// Takes a slot, or returns `None` and later calls `grant` with one. Each `who` has one place in the queue.
    pub fn take(&self, who: u64, grant: &SlotReceiver) -> Option<Slot> {
        let mut state = self.shared.lock();
        if state.waiting.is_empty() && state.has_free_slot() {
            state.in_use += 1;
            return Some(Slot { slots: self.clone() });
        }
        if !state.waiting.iter().any(|(waiting, _)| *waiting == who) {
            state.waiting.push_back((who, Arc::clone(grant)));
        }
        None
    }

    /// Removes `who` from the queue.
    pub fn forget(&self, who: u64) {
        self.shared.lock().waiting.retain(|(waiting, _)| *waiting != who);
    }

    /// Changes the limit, at least one.
    pub fn set_limit(&self, limit: u32) {
        self.shared.lock().limit = limit.max(1);
        self.grant_waiting();
    }

    /// Number of concurrent invocations allowed.
    pub fn limit(&self) -> u32 {
        self.shared.lock().limit
    }

    /// Number of invocations in progress.
    pub fn in_use(&self) -> u32 {
        self.shared.lock().in_use
    }

    fn grant_waiting(&self) {
        loop {
            let grant = {
                let mut state = self.shared.lock();
                if !state.has_free_slot() {
                    return;
                }
                let Some((_, grant)) = state.waiting.pop_front() else { return };
                state.in_use += 1;
                grant
            };
            grant(Slot { slots: self.clone() });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.shared.lock().in_use -= 1;
        self.slots.grant_waiting();
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> (SlotReceiver, Arc<Mutex<Vec<Slot>>>) {
        let got = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&got);
        (Arc::new(move |slot| into.lock().push(slot)), got)
    }

    #[test]
    fn slt_1_slots_stay_within_limit_and_are_fifo() {
        let slots = Slots::new(1);
        let (first, first_got) = inbox();
        let (second, second_got) = inbox();
        let held = slots.take(0, &first).expect("free");
        assert!(slots.take(1, &first).is_none());
        assert!(slots.take(1, &first).is_none(), "a repeated request waits once");
        assert!(slots.take(2, &second).is_none());
        drop(held);
        assert_eq!((first_got.lock().len(), second_got.lock().len(), slots.in_use()), (1, 0, 1));
        slots.set_limit(2);
        assert_eq!((second_got.lock().len(), slots.in_use()), (1, 2));
    }

    #[test]
    fn slt_1_lowered_limit_grants_nothing_until_enough_returned() {
        let slots = Slots::new(3);
        let (grant, _) = inbox();
        let mut held: Vec<_> = (0..3).map(|who| slots.take(who, &grant).expect("free")).collect();
        slots.set_limit(1);
        held.truncate(1);
        assert!(slots.take(9, &grant).is_none());
        held.clear();
        assert_eq!(slots.in_use(), 1, "the waiter was granted the slot");
    }
}
