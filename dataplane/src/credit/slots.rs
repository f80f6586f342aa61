//! Invocation slots of one mapping: how many invocations may run at once (SLT-1). The limit moves with the consumers and
//! with the function's throttles; slots above a lowered limit are not taken back, they are not lent again.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// Receives a slot that was asked for while none was free. Called without any lock held; must not block.
pub type SlotReceiver = Arc<dyn Fn(Slot) + Send + Sync>;

/// The slots of one mapping on one node.
#[derive(Clone)]
pub struct Slots {
    shared: Arc<Mutex<SlotState>>,
}

struct SlotState {
    limit: u32,
    in_use: u32,
    waiting: VecDeque<(u64, SlotReceiver)>,
}

/// The right to one invocation; dropping it gives it back.
#[must_use = "a slot that is dropped is free again"]
pub struct Slot {
    slots: Slots,
}

impl Slots {
    /// `limit` slots, at least one.
    pub fn new(limit: u32) -> Self {
        let state = SlotState { limit: limit.max(1), in_use: 0, waiting: VecDeque::new() };
        Self { shared: Arc::new(Mutex::new(state)) }
    }

    /// A slot now, or `None`: then `grant` is called with one later. One place in line for each `who`.
    pub fn take(&self, who: u64, grant: &SlotReceiver) -> Option<Slot> {
        let mut state = self.shared.lock();
        if state.waiting.is_empty()
            && mutant!("slot-over-the-limit", state.in_use < state.limit, state.in_use <= state.limit)
        {
            state.in_use += 1;
            return Some(Slot { slots: self.clone() });
        }
        if !state.waiting.iter().any(|(waiting, _)| *waiting == who) {
            state.waiting.push_back((who, Arc::clone(grant)));
        }
        None
    }

    /// Leaves the line.
    pub fn forget(&self, who: u64) {
        self.shared.lock().waiting.retain(|(waiting, _)| *waiting != who);
    }

    /// Moves the limit, at least one.
    pub fn set_limit(&self, limit: u32) {
        self.shared.lock().limit = limit.max(1);
        self.grant_waiting();
    }

    /// Invocations allowed at once.
    pub fn limit(&self) -> u32 {
        self.shared.lock().limit
    }

    /// Invocations now.
    pub fn in_use(&self) -> u32 {
        self.shared.lock().in_use
    }

    fn grant_waiting(&self) {
        loop {
            let grant = {
                let mut state = self.shared.lock();
                if state.in_use >= state.limit {
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
    fn slt_1_never_more_than_the_limit_and_served_in_order() {
        let slots = Slots::new(1);
        let (first, first_got) = inbox();
        let (second, second_got) = inbox();
        let held = slots.take(0, &first).expect("free");
        assert!(slots.take(1, &first).is_none());
        assert!(slots.take(1, &first).is_none(), "asking twice is one place in line");
        assert!(slots.take(2, &second).is_none());
        drop(held);
        assert_eq!((first_got.lock().len(), second_got.lock().len(), slots.in_use()), (1, 0, 1));
        slots.set_limit(2);
        assert_eq!((second_got.lock().len(), slots.in_use()), (1, 2));
    }

    #[test]
    fn slt_1_a_lowered_limit_lends_nothing_until_enough_came_back() {
        let slots = Slots::new(3);
        let (grant, _) = inbox();
        let mut held: Vec<_> = (0..3).map(|who| slots.take(who, &grant).expect("free")).collect();
        slots.set_limit(1);
        held.truncate(1);
        assert!(slots.take(9, &grant).is_none());
        held.clear();
        assert_eq!(slots.in_use(), 1, "the one in line got it");
    }
}
