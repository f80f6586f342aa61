//! Event queue ordered by time. Events of the same time keep the order in which they were pushed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use lighterman_proto::units::Moment;

/// Event queue.
pub(super) struct EventQueue<E> {
    heap: BinaryHeap<Reverse<(Moment, u64, usize)>>,
    slab: Vec<Option<E>>,
    free: Vec<usize>,
    next: u64,
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), slab: Vec::new(), free: Vec::new(), next: 0 }
    }
}

impl<E> EventQueue<E> {
    /// Schedules `event` at `when`.
    pub(super) fn push(&mut self, when: Moment, event: E) {
        let at = match self.free.pop() {
            Some(at) => {
                self.slab[at] = Some(event);
                at
            }
            None => {
                self.slab.push(Some(event));
                self.slab.len() - 1
            }
        };
        self.heap.push(Reverse((when, self.next, at)));
        self.next += 1;
    }

    /// Returns the next event with its time.
    pub(super) fn pop(&mut self) -> Option<(Moment, E)> {
        let Reverse((when, _, at)) = self.heap.pop()?;
        self.free.push(at);
        self.slab[at].take().map(|event| (when, event))
    }
}
