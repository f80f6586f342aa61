//! Byte budget of a node. Fetched frames, decompressed batches and payloads are held under leases (MEM-1). Each
//! mapping has a share of the budget, with a floor that the others cannot take. `memory_limit.rs` decides who gets how many bytes;
//! this file locks it and wakes those who wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;
use metrics::Gauge;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::memory_limit::{
    ByteShares, LeaseGrant, LeaseRequest, OverdraftLoan, ServedRequests, ShareId, TicketId,
};
pub use super::overdraft::Overdraft;
use crate::runtime::clock;

/// Bytes below which a fetch is not worth its round trip.
const FETCH_BYTES_MIN: usize = 64 * 1024;

/// Share of the bytes that a node may hold at once. Clones refer to the same share, which closes when all clones
/// and all of its leases are dropped.
#[derive(Clone)]
pub struct MemoryBudget {
    share: Arc<ByteShare>,
}

struct ByteShare {
    id: ShareId,
    name: Arc<str>,
    pool: Arc<Mutex<BudgetState>>,
}

struct BudgetState {
    shares: ByteShares,
    names: HashMap<ShareId, Arc<str>>,
    waiting: HashMap<TicketId, (Arc<ByteShare>, oneshot::Sender<MemoryLease>)>,
    leased_bytes: Gauge,
}

/// Right to hold some bytes, which are returned when it is dropped.
#[must_use = "a lease that is dropped lends nothing"]
pub struct MemoryLease {
    share: Arc<ByteShare>,
    /// Bytes within the limit.
    bytes: usize,
    loan: Option<OverdraftLoan>,
}

/// State of a mapping that waits for bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteShortage {
    /// Time since the oldest pending request.
    pub waited: Duration,
    /// Bytes that the mapping holds.
    pub held: usize,
    /// `memory_budget` of the node in bytes.
    pub limit: usize,
    /// Mapping that holds most.
    pub largest: Arc<str>,
    /// Bytes that the largest mapping holds.
    pub largest_held: usize,
}

impl std::fmt::Display for ByteShortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { waited, held, limit, largest, largest_held } = self;
        let (held, limit) = (bytesize::ByteSize(*held as u64), bytesize::ByteSize(*limit as u64));
        let largest_held = bytesize::ByteSize(*largest_held as u64);
        write!(
            f,
            "has waited {} s for memory: it holds {held}, and the node's memory_budget of {limit} is used up; most of it, \
             {largest_held}, by {largest}. Raise memory_budget, or see why that mapping does not get on",
            waited.as_secs()
        )
    }
}

impl MemoryBudget {
    /// Creates a budget of `limit` bytes. The returned share is the node's own and has no floor.
    pub fn new(limit: usize) -> Self {
        let shares = ByteShares::new(limit);
        let pool = Arc::new(Mutex::new(BudgetState {
            shares,
            names: HashMap::new(),
            waiting: HashMap::new(),
            leased_bytes: metrics::gauge!(crate::metrics::BYTES_LEASED),
        }));
        Self::open(pool, Arc::from("this node"), false)
    }

    /// Opens another share of the same budget for the mapping `name`.
    #[must_use]
    pub fn share_for(&self, name: &str) -> Self {
        Self::open(Arc::clone(&self.share.pool), Arc::from(name), true)
    }

    fn open(pool: Arc<Mutex<BudgetState>>, name: Arc<str>, has_floor: bool) -> Self {
        let (id, granted) = {
            let mut open = pool.lock();
            let (id, served) = open.shares.open(has_floor);
            open.names.insert(id, Arc::clone(&name));
            (id, open.take_granted(served))
        };
        hand_over(granted);
        Self { share: Arc::new(ByteShare { id, name, pool }) }
    }

    /// Total budget in bytes.
    pub fn limit(&self) -> usize {
        self.share.pool.lock().shares.limit()
    }

    /// Bytes leased from all shares.
    pub fn leased(&self) -> usize {
        self.share.pool.lock().shares.leased()
    }

    /// Bytes leased from this share.
    pub fn held(&self) -> usize {
        self.share.pool.lock().shares.held_by(self.share.id)
    }

    /// Returns the smallest worthwhile fetch in bytes: 64 KiB, or a quarter of the mapping's own bytes if that is
    /// less.
    pub fn fetch_bytes_min(&self) -> usize {
        let pool = self.share.pool.lock();
        let own = match pool.shares.floor_of(self.share.id) {
            0 => pool.shares.limit(),
            floor => floor,
        };
        (own / 4).clamp(1, FETCH_BYTES_MIN)
    }

    /// True if more than half of the budget is leased, so that holders should keep no more than they need.
    pub fn is_half_used(&self) -> bool {
        let pool = self.share.pool.lock();
        pool.shares.leased() > pool.shares.limit() / 2
    }

    /// True while any request waits for bytes.
    pub fn has_waiters(&self) -> bool {
        self.share.pool.lock().shares.has_waiters()
    }

    /// True if this share should return the bytes that it can do without. Either it holds more than its floor, and
    /// another request waits whose share holds no more; or a request waits for an overdraft that this share has.
    pub fn is_asked_back(&self) -> bool {
        self.share.pool.lock().shares.is_asked_back(self.share.id)
    }

    /// Returns the shortage of the share, if a request of it has waited for `patience`.
    pub fn shortage(&self, patience: Duration, now: Moment) -> Option<ByteShortage> {
        let pool = self.share.pool.lock();
        let waited = now.since(pool.shares.waits_since(self.share.id)?);
        let largest = pool.shares.largest()?;
        (waited >= patience).then(|| ByteShortage {
            waited,
            held: pool.shares.held_by(self.share.id),
            limit: pool.shares.limit(),
            largest: pool.names.get(&largest).cloned().unwrap_or_default(),
            largest_held: pool.shares.held_by(largest),
        })
    }

    /// Leases `bytes` immediately, or not at all. Never overtakes a request with precedence.
    pub fn try_lease(&self, bytes: usize) -> Option<MemoryLease> {
        self.try_ask(LeaseRequest { least: bytes, most: bytes, is_new: false, purpose: None })
    }

    /// Leases `bytes` immediately, over the limit if necessary; each overdraft has one holder at a time. It keeps a
    /// node moving when all bytes are held by holders that wait for each other (the "plus one oversized record" of
    /// MEM-1).
    pub fn try_lease_or_overdraft(&self, bytes: usize, purpose: Overdraft) -> Option<MemoryLease> {
        self.try_ask(LeaseRequest { least: bytes, most: bytes, is_new: false, purpose: Some(purpose) })
    }

    /// Leases `bytes` as soon as they are free. Dropping the future cancels the request.
    pub async fn lease(&self, bytes: usize) -> MemoryLease {
        self.wait_for_lease(LeaseRequest { least: bytes, most: bytes, is_new: false, purpose: None }).await
    }

    /// Leases bytes for new records as soon as `least` are free: as many as are free, at most `most`.
    pub async fn lease_for_records(&self, least: usize, most: usize) -> MemoryLease {
        self.wait_for_lease(LeaseRequest { least, most, is_new: true, purpose: None }).await
    }

    /// Leases `bytes` as soon as they or the overdraft for `purpose` are free, whichever comes first. An overdraft
    /// goes to the mappings in turn.
    pub async fn lease_or_overdraft(&self, bytes: usize, purpose: Overdraft) -> MemoryLease {
        self.wait_for_lease(LeaseRequest { least: bytes, most: bytes, is_new: false, purpose: Some(purpose) })
            .await
    }

    fn try_ask(&self, ask: LeaseRequest) -> Option<MemoryLease> {
        let (grant, granted) = {
            let mut pool = self.share.pool.lock();
            let (ticket, mut served) = pool.shares.ask(self.share.id, ask, clock::now());
            let ours = served.extract_if(.., |(to, _)| *to == ticket).next().map(|(_, grant)| grant);
            if ours.is_none() {
                served.extend(pool.shares.leave(ticket));
            }
            (ours, pool.take_granted(served))
        };
        hand_over(granted);
        Some(self.lease_of(grant?))
    }

    async fn wait_for_lease(&self, ask: LeaseRequest) -> MemoryLease {
        loop {
            let (grant, granted, mut place) = {
                let mut pool = self.share.pool.lock();
                let (ticket, mut served) = pool.shares.ask(self.share.id, ask, clock::now());
                let ours = served.extract_if(.., |(to, _)| *to == ticket).next().map(|(_, grant)| grant);
                let (grant, granted) = oneshot::channel();
                if ours.is_none() {
                    pool.waiting.insert(ticket, (Arc::clone(&self.share), grant));
                }
                (ours, pool.take_granted(served), WaitGuard { share: &self.share, ticket, granted })
            };
            hand_over(granted);
            if let Some(grant) = grant {
                return self.lease_of(grant);
            }
            if let Ok(lease) = (&mut place.granted).await {
                return lease;
            }
        }
    }

    fn lease_of(&self, grant: LeaseGrant) -> MemoryLease {
        MemoryLease { share: Arc::clone(&self.share), bytes: grant.bytes, loan: grant.over }
    }
}

/// Leases on their way to waiting requests. A request that was cancelled drops its lease, which takes the lock
/// again, so leases are handed over only after the lock is released.
type GrantedLeases = Vec<(oneshot::Sender<MemoryLease>, MemoryLease)>;

fn hand_over(granted: GrantedLeases) {
    for (grant, lease) in granted {
        let _ = grant.send(lease);
    }
}

impl BudgetState {
    fn take_granted(&mut self, served: ServedRequests) -> GrantedLeases {
        self.leased_bytes.set(self.shares.leased() as f64);
        let lease = |(ticket, grant): (TicketId, LeaseGrant)| {
            let (share, to) = self.waiting.remove(&ticket)?;
            Some((to, MemoryLease { share, bytes: grant.bytes, loan: grant.over }))
        };
        served.into_iter().filter_map(lease).collect()
    }
}

impl ByteShare {
    fn give_back(&self, bytes: usize, loan: Option<OverdraftLoan>) {
        let granted = {
            let mut pool = self.pool.lock();
            let served = pool.shares.give_back(self.id, bytes, loan);
            pool.take_granted(served)
        };
        hand_over(granted);
    }
}

impl Drop for ByteShare {
    fn drop(&mut self) {
        let granted = {
            let mut pool = self.pool.lock();
            pool.names.remove(&self.id);
            let served = pool.shares.close(self.id);
            pool.take_granted(served)
        };
        hand_over(granted);
    }
}

/// Pending request. Leaving the queue may unblock the requests after it.
struct WaitGuard<'a> {
    share: &'a Arc<ByteShare>,
    ticket: TicketId,
    granted: oneshot::Receiver<MemoryLease>,
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        let (gone, granted) = {
            let mut pool = self.share.pool.lock();
            let Some(gone) = pool.waiting.remove(&self.ticket) else { return };
            let served = pool.shares.leave(self.ticket);
            (gone, pool.take_granted(served))
        };
        drop(gone);
        hand_over(granted);
    }
}

impl MemoryLease {
    /// Bytes leased.
    pub fn bytes(&self) -> usize {
        self.bytes + self.loan.map_or(0, |loan| loan.bytes)
    }

    /// Returns true if the lease may be used for `purpose`. Bytes over the limit may only be used for the purpose
    /// of their overdraft.
    pub fn serves(&self, purpose: Overdraft) -> bool {
        self.loan.is_none_or(|loan| loan.purpose == purpose)
    }

    /// Gives the surplus over `bytes` back to the budget, first the part over the limit.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes().saturating_sub(bytes);
        if surplus > 0 {
            let back = self.split(surplus);
            drop(back);
        }
    }

    /// Adds `other`, a lease of the same share.
    pub fn join(&mut self, mut other: Self) {
        debug_assert_eq!(self.share.id, other.share.id, "leases of one share");
        self.bytes += std::mem::take(&mut other.bytes);
        if self.loan.is_none() {
            self.loan = other.loan.take();
        }
    }

    /// Returns an empty lease of the same share.
    pub fn nothing(&self) -> Self {
        Self { share: Arc::clone(&self.share), bytes: 0, loan: None }
    }

    /// Splits off a lease of `bytes`, at most all of them.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes());
        let over = self.loan.map_or(0, |loan| loan.bytes).min(bytes);
        let loan = self.loan.filter(|_| over > 0).map(|loan| OverdraftLoan { bytes: over, ..loan });
        self.loan = self
            .loan
            .map(|loan| OverdraftLoan { bytes: loan.bytes - over, ..loan })
            .filter(|loan| loan.bytes > 0);
        self.bytes -= bytes - over;
        Self { share: Arc::clone(&self.share), bytes: bytes - over, loan }
    }
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        if self.bytes > 0 || self.loan.is_some() {
            self.share.give_back(self.bytes, self.loan);
        }
    }
}

impl std::fmt::Debug for MemoryLease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("for", &self.share.name)
            .field("bytes", &self.bytes)
            .field("loan", &self.loan)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    const PURPOSES: [Overdraft; 5] =
        [Overdraft::Decoder, Overdraft::Inflated, Overdraft::Payload, Overdraft::Letter, Overdraft::Answer];

    fn waiting(budget: &MemoryBudget) -> usize {
        budget.share.pool.lock().waiting.len()
    }

    #[test]
    fn mem_1_leases_stay_within_budget_plus_overdrafts() {
        let budget = MemoryBudget::new(100);
        let most = budget.try_lease(90).expect("room");
        assert!(budget.try_lease(20).is_none());
        let over = budget.try_lease_or_overdraft(20, Overdraft::Inflated).expect("the one overdraft");
        assert!(budget.try_lease_or_overdraft(20, Overdraft::Inflated).is_none(), "one overdraft at a time");
        assert!(budget.try_lease_or_overdraft(20, Overdraft::Payload).is_some(), "for each purpose");
        assert_eq!(budget.leased(), 110);
        drop(over);
        assert!(budget.try_lease_or_overdraft(20, Overdraft::Inflated).is_some());
        drop(most);
        assert_eq!(budget.leased(), 0);
    }

    #[test]
    fn overdraft_serves_only_its_own_purpose() {
        let budget = MemoryBudget::new(10);
        let most = budget.try_lease(10).expect("room");
        let over = budget.try_lease_or_overdraft(5, Overdraft::Decoder).expect("the overdraft");
        assert!(over.serves(Overdraft::Decoder) && !over.serves(Overdraft::Inflated));
        assert!(PURPOSES.into_iter().all(|purpose| most.serves(purpose)));
    }

    #[test]
    fn waiters_are_fifo_and_leave_when_dropped() {
        let budget = MemoryBudget::new(10);
        let all = budget.try_lease(10).expect("room");
        let mut first = Box::pin(budget.lease(8));
        let mut gone = Box::pin(budget.lease(1));
        let mut last = Box::pin(budget.lease(2));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(last.as_mut().now_or_never().is_none());
        assert!(budget.try_lease(1).is_none(), "a later request does not overtake");
        drop(gone);
        drop(all);
        let first = first.now_or_never().expect("served");
        let last = last.now_or_never().expect("served");
        assert_eq!(first.bytes() + last.bytes(), budget.leased());
    }

    #[test]
    fn liv_1_overdraft_goes_to_first_waiter() {
        let budget = MemoryBudget::new(10);
        let most = budget.try_lease(9).expect("room");
        let over = budget.try_lease_or_overdraft(5, Overdraft::Inflated).expect("the overdraft");
        let mut room = Box::pin(budget.lease(8));
        let mut payload = Box::pin(budget.lease_or_overdraft(6, Overdraft::Payload));
        assert!(room.as_mut().now_or_never().is_none());
        assert!(budget.has_waiters());
        let payload = payload.as_mut().now_or_never().expect("the overdraft of another purpose is free");
        let mut first = Box::pin(budget.lease_or_overdraft(7, Overdraft::Inflated));
        let mut second = Box::pin(budget.lease_or_overdraft(4, Overdraft::Inflated));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(over);
        let first = first.now_or_never().expect("served before the waiter for free bytes");
        assert!(
            budget.try_lease_or_overdraft(1, Overdraft::Inflated).is_none(),
            "the overdraft is in use again"
        );
        assert!(second.as_mut().now_or_never().is_none(), "one at a time");
        drop((first, payload));
        let second = second.now_or_never().expect("served in order");
        assert!(room.as_mut().now_or_never().is_none(), "a plain request gets no overdraft");
        drop((second, most));
        assert_eq!(room.now_or_never().expect("room").bytes(), budget.leased());
    }

    #[test]
    fn leaving_the_queue_unblocks_later_requests() {
        let budget = MemoryBudget::new(10);
        let _some = budget.try_lease(5).expect("room");
        let mut large = Box::pin(budget.lease(8));
        let mut small = Box::pin(budget.lease(4));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(small.as_mut().now_or_never().is_none(), "a later request does not overtake");
        drop(large);
        assert!(small.now_or_never().is_some());
        assert!(!budget.has_waiters());
    }

    #[test]
    fn cancelled_requests_block_nothing() {
        let budget = MemoryBudget::new(10);
        let most = budget.try_lease(10).expect("room");
        let over = budget.try_lease_or_overdraft(1, Overdraft::Inflated).expect("the overdraft");
        let mut front = Box::pin(budget.lease(10));
        assert!(front.as_mut().now_or_never().is_none());
        let mut line: Vec<_> =
            (0..3).map(|_| Box::pin(budget.lease_or_overdraft(2, Overdraft::Inflated))).collect();
        for place in &mut line {
            assert!(place.as_mut().now_or_never().is_none());
        }
        let mut last = line.pop().expect("three");
        line.clear();
        assert_eq!(waiting(&budget), 2, "waiting requests");
        drop(over);
        let last = last.as_mut().now_or_never().expect("the remaining waiter is served");
        drop((front, last, most));
        assert_eq!((budget.leased(), waiting(&budget)), (0, 0));
    }

    /// Lease request that is polled by hand.
    type LeaseFuture = std::pin::Pin<Box<dyn Future<Output = MemoryLease>>>;

    fn serve_all(asked: &mut Vec<LeaseFuture>, held: &mut Vec<MemoryLease>) {
        asked.retain_mut(|place| place.now_or_never().map(|lease| held.push(lease)).is_none());
    }

    proptest! {
        /// For any sequence of requests, returns and cancellations, no request waits for bytes that are free, and
        /// in the end all are served.
        #[test]
        fn liv_1_mem_1_no_request_waits_for_free_bytes(
            steps in prop::collection::vec((0u8..4, 1usize..60, 0usize..8), 1..80),
        ) {
            let budget = MemoryBudget::new(100);
            let (mut asked, mut held) = (Vec::<LeaseFuture>::new(), Vec::new());
            for (kind, bytes, at) in steps {
                match kind {
                    0 if at < held.len() => drop(held.swap_remove(at)),
                    1 if at < asked.len() => drop(asked.swap_remove(at)),
                    _ => {
                        let (budget, purpose) = (budget.clone(), PURPOSES.get(at).copied());
                        asked.push(Box::pin(async move {
                            match purpose {
                                None => budget.lease(bytes).await,
                                Some(purpose) => budget.lease_or_overdraft(bytes, purpose).await,
                            }
                        }));
                    }
                }
                serve_all(&mut asked, &mut held);
                prop_assert_eq!(budget.leased(), held.iter().map(MemoryLease::bytes).sum::<usize>());
                prop_assert_eq!(waiting(&budget), asked.len());
            }
            while !held.is_empty() {
                held.clear();
                serve_all(&mut asked, &mut held);
            }
            prop_assert!(asked.is_empty());
            prop_assert_eq!(budget.leased(), 0);
        }

        #[test]
        fn mem_1_every_byte_is_returned(sizes in prop::collection::vec((1usize..50, any::<bool>(), 0usize..60), 1..40)) {
            let budget = MemoryBudget::new(100);
            let mut held = Vec::new();
            for (bytes, release_first, cut) in sizes {
                if release_first && !held.is_empty() {
                    drop(held.remove(0));
                }
                if let Some(mut lease) = budget.try_lease(bytes) {
                    let part = lease.split(cut / 2);
                    lease.shrink_to(cut);
                    held.push(lease);
                    held.push(part);
                }
                prop_assert!(budget.leased() <= 100);
                prop_assert_eq!(budget.leased(), held.iter().map(MemoryLease::bytes).sum::<usize>());
            }
            held.clear();
            prop_assert_eq!(budget.leased(), 0);
        }
    }
}
