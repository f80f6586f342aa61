//! The thread that a consumer, its invocations and its mapping's committer live on: where there is least, over the whole node.

use std::sync::Arc;

use actix_rt::{Arbiter, ArbiterHandle};
use parking_lot::Mutex;

/// The node's arbiters: data (fetch, partitions, batchers, committers) and invokers. `SigV4` hashes a full payload for
/// milliseconds inside a poll, so invokers never share a thread with what must not wait.
pub struct Placement {
    data: Vec<Arbiter>,
    invokers: Vec<Arbiter>,
    loads: Arc<Mutex<LoadTable>>,
}

/// The kinds of work that take a place on a data arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatKind {
    /// A consumer: fetching, inflating, cutting, writing payloads, signing the small ones.
    Consumer,
    /// The committer of a mapping: one request and its answer for many batches.
    Committer,
}

impl SeatKind {
    /// The load on its thread, against the others. Of the processor time of an invocation of one record about a quarter
    /// goes into its commit; the larger the batches, the less.
    const fn weight(self) -> u64 {
        match self {
            Self::Consumer => 4,
            Self::Committer => 1,
        }
    }
}

/// A place on a data arbiter, free again when this is dropped.
#[must_use = "a seat that is dropped is free again"]
pub struct ArbiterSeat {
    arbiter: usize,
    kind: SeatKind,
    loads: Arc<Mutex<LoadTable>>,
}

impl ArbiterSeat {
    /// On which data arbiter.
    pub fn arbiter(&self) -> usize {
        self.arbiter
    }
}

impl Drop for ArbiterSeat {
    fn drop(&mut self) {
        self.loads.lock().leave(self.arbiter, self.kind);
    }
}

impl Placement {
    /// Threads for `cores` cores: half and half, at least one each.
    pub fn new(cores: usize) -> Self {
        let each = (cores / 2).max(1);
        let start = |_| Arbiter::new();
        Self {
            data: (0..each).map(start).collect(),
            invokers: (0..each).map(start).collect(),
            loads: Arc::new(Mutex::new(LoadTable::new(each))),
        }
    }

    /// A place on the data arbiter that carries least.
    pub fn seat(&self, kind: SeatKind) -> ArbiterSeat {
        let arbiter = self.loads.lock().enter_lightest(kind);
        ArbiterSeat { arbiter, kind, loads: Arc::clone(&self.loads) }
    }

    /// A place on data arbiter `arbiter`, whatever that carries.
    pub fn seat_at(&self, arbiter: usize, kind: SeatKind) -> ArbiterSeat {
        self.loads.lock().enter(arbiter, kind);
        ArbiterSeat { arbiter, kind, loads: Arc::clone(&self.loads) }
    }

    /// The data arbiter number `index`, modulo their count.
    pub fn data(&self, index: usize) -> ArbiterHandle {
        self.data[index % self.data.len()].handle()
    }

    /// The invoker arbiter beside data arbiter `index`.
    pub fn invoker(&self, index: usize) -> ArbiterHandle {
        self.invokers[index % self.invokers.len()].handle()
    }
}

impl Drop for Placement {
    /// Whoever has something on the arbiters holds this.
    fn drop(&mut self) {
        for arbiter in self.data.iter().chain(&self.invokers) {
            arbiter.stop();
        }
    }
}

/// The weights on each data arbiter.
#[derive(Clone, Debug)]
struct LoadTable {
    weights: Vec<u64>,
}

impl LoadTable {
    fn new(arbiters: usize) -> Self {
        Self { weights: vec![0; arbiters] }
    }

    fn enter_lightest(&mut self, kind: SeatKind) -> usize {
        let lightest = self.weights.iter().enumerate().min_by_key(|(_, weight)| **weight);
        let arbiter = lightest.map_or(0, |(arbiter, _)| arbiter);
        self.enter(arbiter, kind);
        arbiter
    }

    fn enter(&mut self, arbiter: usize, kind: SeatKind) {
        self.weights[arbiter] += kind.weight();
    }

    fn leave(&mut self, arbiter: usize, kind: SeatKind) {
        self.weights[arbiter] -= kind.weight();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARBITERS: usize = 8;

    /// As a floor takes them: a committer where there is least, its first consumer beside it, further ones where there is least.
    struct SeatedActors {
        committer: usize,
        consumers: Vec<usize>,
    }

    impl SeatedActors {
        fn enter(table: &mut LoadTable, consumers: usize) -> Self {
            let committer = table.enter_lightest(SeatKind::Committer);
            table.enter(committer, SeatKind::Consumer);
            let further = (1..consumers).map(|_| table.enter_lightest(SeatKind::Consumer));
            let consumers = std::iter::once(committer).chain(further).collect();
            Self { committer, consumers }
        }

        fn leave(self, table: &mut LoadTable) {
            table.leave(self.committer, SeatKind::Committer);
            for arbiter in self.consumers {
                table.leave(arbiter, SeatKind::Consumer);
            }
        }
    }

    fn leave_all(seated: Vec<SeatedActors>, table: &mut LoadTable) {
        for one in seated {
            one.leave(table);
        }
    }

    fn counts(of: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut counts = vec![0; ARBITERS];
        for arbiter in of {
            counts[arbiter] += 1;
        }
        counts
    }

    fn spread(counts: &[usize]) -> usize {
        counts.iter().max().expect("some") - counts.iter().min().expect("some")
    }

    #[test]
    fn a_thousand_mappings_are_spread_evenly_and_again_after_half_of_them_were_made_anew() {
        let mut table = LoadTable::new(ARBITERS);
        let mut seated: Vec<SeatedActors> = (0..1_000).map(|_| SeatedActors::enter(&mut table, 1)).collect();
        let judge = |seated: &[SeatedActors]| {
            assert!(spread(&counts(seated.iter().flat_map(|seated| seated.consumers.clone()))) <= 1);
            assert!(spread(&counts(seated.iter().map(|seated| seated.committer))) <= 1);
        };
        judge(&seated);
        // The worst half: all that four arbiters have.
        let (gone, kept): (Vec<_>, Vec<_>) = seated.into_iter().partition(|seated| seated.committer < 4);
        leave_all(gone, &mut table);
        seated = kept;
        while seated.len() < 1_000 {
            seated.push(SeatedActors::enter(&mut table, 1));
        }
        judge(&seated);
        leave_all(seated, &mut table);
        assert_eq!(table.weights, [0; ARBITERS]);
    }

    proptest! {
        /// While mappings only come, no arbiter carries more than the largest seat beyond another; and every seat is given back.
        #[test]
        fn no_arbiter_carries_much_more_than_another(sizes in prop::collection::vec(1usize..40, 1..60)) {
            let mut table = LoadTable::new(ARBITERS);
            let mut seated = Vec::new();
            for consumers in sizes {
                seated.push(SeatedActors::enter(&mut table, consumers));
                let (most, least) = (table.weights.iter().max(), table.weights.iter().min());
                let together = SeatKind::Consumer.weight() + SeatKind::Committer.weight();
                prop_assert!(most.expect("some") - least.expect("some") <= together, "{:?}", table.weights);
            }
            leave_all(seated, &mut table);
            prop_assert_eq!(table.weights, vec![0; ARBITERS]);
        }
    }

    #[actix::test]
    async fn a_seat_is_free_again_when_it_is_dropped() {
        let placement = Placement::new(8);
        let first = placement.seat(SeatKind::Consumer);
        let second = placement.seat(SeatKind::Consumer);
        assert_ne!(first.arbiter(), second.arbiter());
        let freed = first.arbiter();
        drop(first);
        let beside = placement.seat_at(second.arbiter(), SeatKind::Committer);
        assert_eq!(placement.seat(SeatKind::Consumer).arbiter(), freed);
        drop((second, beside));
        assert_eq!(placement.loads.lock().weights, [0; 4]);
    }
}
