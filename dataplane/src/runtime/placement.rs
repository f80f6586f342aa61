//! Assignment of consumers, their invocations and their mapping's committer to the node's least loaded threads.

use std::sync::Arc;

use actix_rt::{Arbiter, ArbiterHandle};
use parking_lot::Mutex;

/// Arbiters of the node: data (fetch, partitions, batchers, committers) and invokers. `SigV4` hashes a full payload
/// for milliseconds within a poll, so invokers never share a thread with latency-sensitive work.
pub struct Placement {
    data: Vec<Arbiter>,
    invokers: Vec<Arbiter>,
    loads: Arc<Mutex<LoadTable>>,
}

/// Kind of work that occupies a seat on a data arbiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatKind {
    /// Consumer: fetches, decompresses, forms partition batches, writes payloads and signs the small ones.
    Consumer,
    /// Committer of a mapping: one request and one response for many batches.
    Committer,
}

impl SeatKind {
    /// Returns the relative load on the thread. About a quarter of the processor time of an invocation with one
    /// record is spent on its commit. The larger the batches, the less.
    const fn weight(self) -> u64 {
        match self {
            Self::Consumer => 4,
            Self::Committer => 1,
        }
    }
}

/// Seat on a data arbiter, vacated when dropped.
#[must_use = "a seat that is dropped is free again"]
pub struct ArbiterSeat {
    arbiter: usize,
    kind: SeatKind,
    loads: Arc<Mutex<LoadTable>>,
}

impl ArbiterSeat {
    /// Index of the data arbiter.
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
    /// Starts the threads for `cores` cores: half for data and half for invokers, at least one each.
    pub fn new(cores: usize) -> Self {
        let each = (cores / 2).max(1);
        let start = |_| Arbiter::new();
        Self {
            data: (0..each).map(start).collect(),
            invokers: (0..each).map(start).collect(),
            loads: Arc::new(Mutex::new(LoadTable::new(each))),
        }
    }

    /// Takes a seat on the least loaded data arbiter.
    pub fn seat(&self, kind: SeatKind) -> ArbiterSeat {
        let arbiter = self.loads.lock().enter_lightest(kind);
        ArbiterSeat { arbiter, kind, loads: Arc::clone(&self.loads) }
    }

    /// Takes a seat on data arbiter `arbiter`, whatever its load.
    pub fn seat_at(&self, arbiter: usize, kind: SeatKind) -> ArbiterSeat {
        self.loads.lock().enter(arbiter, kind);
        ArbiterSeat { arbiter, kind, loads: Arc::clone(&self.loads) }
    }

    /// Returns data arbiter `index`, modulo their number.
    pub fn data(&self, index: usize) -> ArbiterHandle {
        self.data[index % self.data.len()].handle()
    }

    /// Returns the invoker arbiter paired with data arbiter `index`.
    pub fn invoker(&self, index: usize) -> ArbiterHandle {
        self.invokers[index % self.invokers.len()].handle()
    }
}

impl Drop for Placement {
    /// Stops the arbiters: everything that runs on them holds a reference to the placement.
    fn drop(&mut self) {
        for arbiter in self.data.iter().chain(&self.invokers) {
            arbiter.stop();
        }
    }
}

/// Weights on each data arbiter.
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

    /// Seats as `MappingActors` takes them: a committer and its first consumer on the least loaded arbiter, each
    /// further consumer on the least loaded one.
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
    fn thousand_mappings_stay_evenly_spread_after_replacement() {
        let mut table = LoadTable::new(ARBITERS);
        let mut seated: Vec<SeatedActors> = (0..1_000).map(|_| SeatedActors::enter(&mut table, 1)).collect();
        let judge = |seated: &[SeatedActors]| {
            assert!(spread(&counts(seated.iter().flat_map(|seated| seated.consumers.clone()))) <= 1);
            assert!(spread(&counts(seated.iter().map(|seated| seated.committer))) <= 1);
        };
        judge(&seated);
        // The worst half: everything on four of the arbiters.
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
        /// While mappings are only added, the loads of two arbiters differ by at most a consumer and a committer.
        /// In the end every seat is vacated.
        #[test]
        fn arbiters_stay_within_two_seats(sizes in prop::collection::vec(1usize..40, 1..60)) {
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
    async fn dropped_seat_is_vacated() {
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
