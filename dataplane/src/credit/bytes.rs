//! The byte budget of a node: fetched frames, inflated batches and payloads are held under leases (MEM-1).

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How many bytes the node may hold at once, and who waits for some.
#[derive(Clone)]
pub struct ByteBudget {
    shared: Arc<Mutex<Ledger>>,
}

struct Ledger {
    limit: usize,
    leased: usize,
    overdrafts_out: [bool; 4],
    waiters: VecDeque<Waiter>,
    /// How many of them can take each overdraft.
    takers: [usize; 4],
}

struct Waiter {
    bytes: usize,
    /// What may also be lent to it over the limit.
    purpose: Option<Overdraft>,
    grant: oneshot::Sender<Lease>,
}

/// What bytes over the limit are for; each has one holder at a time. They are apart because a batch needs them one after the
/// other: whoever holds inflated records over the limit must not wait for a payload that another holder's keeps away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdraft {
    /// What a decoder holds between the pieces of a batch.
    Decoder,
    /// Records of a batch, inflated.
    Inflated,
    /// The payload of an invocation.
    Payload,
    /// Records on their way to a destination.
    Letter,
}

const OVERDRAFTS: [Overdraft; 4] =
    [Overdraft::Decoder, Overdraft::Inflated, Overdraft::Payload, Overdraft::Letter];

/// The right to hold some bytes; dropping it gives them back.
#[must_use = "a lease that is dropped lends nothing"]
pub struct Lease {
    budget: ByteBudget,
    bytes: usize,
    overdraft: Option<Overdraft>,
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let ledger =
            Ledger { limit, leased: 0, overdrafts_out: [false; 4], waiters: VecDeque::new(), takers: [0; 4] };
        Self { shared: Arc::new(Mutex::new(ledger)) }
    }

    /// The whole budget, in bytes.
    pub fn limit(&self) -> usize {
        self.shared.lock().limit
    }

    /// Bytes leased now.
    pub fn leased(&self) -> usize {
        self.shared.lock().leased
    }

    /// True when more than half is leased: the time to hold no more than needed.
    pub fn is_pressed(&self) -> bool {
        let ledger = self.shared.lock();
        ledger.leased > ledger.limit / 2
    }

    /// True while somebody waits for bytes.
    pub fn is_short(&self) -> bool {
        self.shared.lock().waiters.iter().any(|waiter| !waiter.grant.is_closed())
    }

    /// `bytes` now, or nothing. Never overtakes someone who waits.
    pub fn try_lease(&self, bytes: usize) -> Option<Lease> {
        let mut ledger = self.shared.lock();
        if !ledger.waiters.is_empty() || !ledger.has_room(bytes) {
            return None;
        }
        Some(self.lend(&mut ledger, bytes))
    }

    /// `bytes` now, over the limit if need be, but to one holder of each purpose at a time: what keeps a node moving when
    /// every byte is held by those who wait for each other (the "plus one oversized record" of MEM-1).
    pub fn try_lease_or_overdraft(&self, bytes: usize, purpose: Overdraft) -> Option<Lease> {
        if let Some(lease) = self.try_lease(bytes) {
            return Some(lease);
        }
        let mut ledger = self.shared.lock();
        if ledger.overdrafts_out[purpose as usize] {
            return None;
        }
        Some(self.lend_over(&mut ledger, bytes, purpose))
    }

    /// `bytes` as soon as they are free, first come first served. Dropping the future leaves the line.
    pub async fn lease(&self, bytes: usize) -> Lease {
        self.stand_in_line(bytes, None).await
    }

    /// `bytes` as soon as they are free or the overdraft for `purpose` is, whichever comes first. One line for all who wait:
    /// who waits for room waits for all before it, an overdraft goes to the first who can take it.
    pub async fn lease_or_overdraft(&self, bytes: usize, purpose: Overdraft) -> Lease {
        self.stand_in_line(bytes, Some(purpose)).await
    }

    async fn stand_in_line(&self, bytes: usize, purpose: Option<Overdraft>) -> Lease {
        loop {
            let mut place = {
                let mut ledger = self.shared.lock();
                if ledger.waiters.is_empty() && ledger.has_room(bytes) {
                    return self.lend(&mut ledger, bytes);
                }
                if let Some(purpose) = purpose.filter(|purpose| !ledger.overdrafts_out[*purpose as usize]) {
                    return self.lend_over(&mut ledger, bytes, purpose);
                }
                let (grant, granted) = oneshot::channel();
                ledger.join_line(Waiter { bytes, purpose, grant });
                Place { budget: self, granted, served: false }
            };
            if let Ok(lease) = (&mut place.granted).await {
                place.served = true;
                return lease;
            }
        }
    }

    fn lend(&self, ledger: &mut Ledger, bytes: usize) -> Lease {
        ledger.leased += bytes;
        metrics::gauge!(crate::metrics::BYTES_LEASED).set(ledger.leased as f64);
        Lease { budget: self.clone(), bytes, overdraft: None }
    }

    fn lend_over(&self, ledger: &mut Ledger, bytes: usize, purpose: Overdraft) -> Lease {
        ledger.overdrafts_out[purpose as usize] = true;
        let mut lease = self.lend(ledger, bytes);
        lease.overdraft = Some(purpose);
        lease
    }

    fn give_back(&self, bytes: usize, overdraft: Option<Overdraft>) {
        {
            let mut ledger = self.shared.lock();
            ledger.leased -= mutant!("budget-leak", bytes, bytes / 2);
            if let Some(purpose) = overdraft {
                ledger.overdrafts_out[purpose as usize] = false;
            }
            metrics::gauge!(crate::metrics::BYTES_LEASED).set(ledger.leased as f64);
        }
        self.serve();
    }

    fn serve(&self) {
        let mut granted = Vec::new();
        {
            let mut ledger = self.shared.lock();
            while let Some((waiter, over)) = ledger.next_served() {
                let lease = match over {
                    None => self.lend(&mut ledger, waiter.bytes),
                    Some(purpose) => self.lend_over(&mut ledger, waiter.bytes, purpose),
                };
                granted.push((waiter.grant, lease));
            }
        }
        // A waiter that has gone drops its lease, which takes the lock again: so only after it is free.
        for (grant, lease) in granted {
            let _ = grant.send(lease);
        }
    }
}

/// A place in the line; whoever leaves it may have kept away those behind.
struct Place<'a> {
    budget: &'a ByteBudget,
    granted: oneshot::Receiver<Lease>,
    served: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.served {
            self.granted.close();
            self.budget.shared.lock().forget_those_who_left();
            self.budget.serve();
        }
    }
}

impl Ledger {
    /// A lease larger than the whole budget waits until nothing else is out, then goes alone.
    fn has_room(&self, bytes: usize) -> bool {
        mutant!("budget-without-limit", self.leased + bytes <= self.limit, true) || self.leased == 0
    }

    fn join_line(&mut self, waiter: Waiter) {
        if let Some(purpose) = waiter.purpose {
            self.takers[purpose as usize] += 1;
        }
        self.waiters.push_back(waiter);
    }

    fn leave_line(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.waiters.remove(at)?;
        if let Some(purpose) = waiter.purpose {
            self.takers[purpose as usize] -= 1;
        }
        Some(waiter)
    }

    fn forget_those_who_left(&mut self) {
        let takers = &mut self.takers;
        self.waiters.retain(|waiter| {
            let left = waiter.grant.is_closed();
            if let Some(purpose) = waiter.purpose.filter(|_| left) {
                takers[purpose as usize] -= 1;
            }
            !left
        });
    }

    /// Who is served next, and whether over the limit.
    fn next_served(&mut self) -> Option<(Waiter, Option<Overdraft>)> {
        while self.waiters.front().is_some_and(|waiter| waiter.grant.is_closed()) {
            self.leave_line(0);
        }
        if self.waiters.front().is_some_and(|waiter| self.has_room(waiter.bytes)) {
            return Some((self.leave_line(0)?, None));
        }
        // The line is long just when every release matters: it is not searched for who is not in it.
        let is_free = |purpose: Overdraft| !self.overdrafts_out[purpose as usize];
        if !OVERDRAFTS.iter().any(|purpose| is_free(*purpose) && self.takers[*purpose as usize] > 0) {
            return None;
        }
        let mut line = self.waiters.iter().enumerate().filter(|(_, waiter)| !waiter.grant.is_closed());
        let taker = |waiter: &Waiter| waiter.purpose.filter(|purpose| is_free(*purpose));
        let (at, purpose) = line.find_map(|(at, waiter)| Some((at, taker(waiter)?)))?;
        Some((self.leave_line(at)?, Some(purpose)))
    }
}

impl Lease {
    /// Bytes lent.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it may be used for `purpose`: what was lent over the limit is for what it was lent for.
    pub fn serves(&self, purpose: Overdraft) -> bool {
        self.overdraft.is_none_or(|lent_for| lent_for == purpose)
    }

    /// Gives back what is over `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        if surplus > 0 {
            self.bytes -= surplus;
            self.budget.give_back(surplus, None);
        }
    }

    /// Accounts for bytes that are here already and more than was asked for: a first batch larger than the fetch limit.
    pub fn grow_to(&mut self, bytes: usize) {
        let missing = bytes.saturating_sub(self.bytes);
        if missing > 0 {
            self.bytes += missing;
            let mut ledger = self.budget.shared.lock();
            ledger.leased += missing;
        }
    }

    /// Splits `bytes` (at most all) off into a lease of their own.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), bytes, overdraft: None }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.bytes > 0 || self.overdraft.is_some() {
            self.budget.give_back(self.bytes, self.overdraft);
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("bytes", &self.bytes)
            .field("overdraft", &self.overdraft)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mem_1_leases_stay_within_the_budget_plus_one_overdraft() {
        let budget = ByteBudget::new(100);
        let most = budget.try_lease(90).expect("room");
        assert!(budget.try_lease(20).is_none());
        let over = budget.try_lease_or_overdraft(20, Overdraft::Inflated).expect("the one overdraft");
        assert!(budget.try_lease_or_overdraft(20, Overdraft::Inflated).is_none(), "only one at a time");
        assert!(budget.try_lease_or_overdraft(20, Overdraft::Payload).is_some(), "for each purpose");
        assert_eq!(budget.leased(), 110);
        drop(over);
        assert!(budget.try_lease_or_overdraft(20, Overdraft::Inflated).is_some());
        drop(most);
        assert_eq!(budget.leased(), 0);
    }

    #[test]
    fn waiters_are_served_in_order_and_leave_when_dropped() {
        let budget = ByteBudget::new(10);
        let all = budget.try_lease(10).expect("room");
        let mut first = Box::pin(budget.lease(8));
        let mut gone = Box::pin(budget.lease(1));
        let mut last = Box::pin(budget.lease(2));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(gone.as_mut().now_or_never().is_none());
        assert!(last.as_mut().now_or_never().is_none());
        assert!(budget.try_lease(1).is_none(), "nobody overtakes");
        drop(gone);
        drop(all);
        let first = first.now_or_never().expect("served");
        let last = last.now_or_never().expect("served");
        assert_eq!(first.bytes() + last.bytes(), budget.leased());
    }

    #[test]
    fn liv_1_an_overdraft_goes_to_the_first_in_line_who_can_take_it() {
        let budget = ByteBudget::new(10);
        let most = budget.try_lease(9).expect("room");
        let over = budget.try_lease_or_overdraft(5, Overdraft::Inflated).expect("the overdraft");
        let mut room = Box::pin(budget.lease(8));
        let mut payload = Box::pin(budget.lease_or_overdraft(6, Overdraft::Payload));
        assert!(room.as_mut().now_or_never().is_none());
        assert!(budget.is_short());
        let payload = payload.as_mut().now_or_never().expect("another purpose, its overdraft is there");
        let mut first = Box::pin(budget.lease_or_overdraft(7, Overdraft::Inflated));
        let mut second = Box::pin(budget.lease_or_overdraft(4, Overdraft::Inflated));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(over);
        let first = first.now_or_never().expect("past the one who waits for room");
        assert!(budget.try_lease_or_overdraft(1, Overdraft::Inflated).is_none(), "it is out again");
        assert!(second.as_mut().now_or_never().is_none(), "one at a time");
        drop((first, payload));
        let second = second.now_or_never().expect("in its turn");
        assert!(room.as_mut().now_or_never().is_none(), "no overdraft is for it");
        drop((second, most));
        assert_eq!(room.now_or_never().expect("room").bytes(), budget.leased());
    }

    #[test]
    fn who_leaves_the_line_lets_those_behind_pass() {
        let budget = ByteBudget::new(10);
        let _some = budget.try_lease(5).expect("room");
        let mut large = Box::pin(budget.lease(8));
        let mut small = Box::pin(budget.lease(4));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(small.as_mut().now_or_never().is_none(), "nobody overtakes");
        drop(large);
        assert!(small.now_or_never().is_some());
        assert!(!budget.is_short());
    }

    #[test]
    fn who_left_stands_in_nobodys_way() {
        let budget = ByteBudget::new(10);
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
        assert_eq!(budget.shared.lock().waiters.len(), 2, "those who wait");
        drop(over);
        let last = last.as_mut().now_or_never().expect("the only one left who can take it");
        drop((front, last, most));
        assert_eq!((budget.leased(), budget.shared.lock().takers), (0, [0; 4]));
    }

    /// A future that is polled by hand.
    type Asked = std::pin::Pin<Box<dyn Future<Output = Lease>>>;

    fn serve_all(asked: &mut Vec<Asked>, held: &mut Vec<Lease>) {
        asked.retain_mut(|place| place.now_or_never().map(|lease| held.push(lease)).is_none());
    }

    proptest! {
        /// Whatever is asked, given back and given up: nobody waits for what is there, and in the end everybody was served.
        #[test]
        fn liv_1_mem_1_nobody_waits_for_what_is_there(
            steps in prop::collection::vec((0u8..4, 1usize..60, 0usize..8), 1..80),
        ) {
            let budget = ByteBudget::new(100);
            let (mut asked, mut held) = (Vec::<Asked>::new(), Vec::new());
            for (kind, bytes, at) in steps {
                match kind {
                    0 if at < held.len() => drop(held.swap_remove(at)),
                    1 if at < asked.len() => drop(asked.swap_remove(at)),
                    _ => {
                        let (budget, purpose) = (budget.clone(), OVERDRAFTS.get(at).copied());
                        asked.push(Box::pin(async move {
                            match purpose {
                                None => budget.lease(bytes).await,
                                Some(purpose) => budget.lease_or_overdraft(bytes, purpose).await,
                            }
                        }));
                    }
                }
                serve_all(&mut asked, &mut held);
                prop_assert_eq!(budget.leased(), held.iter().map(Lease::bytes).sum::<usize>());
                let over: Vec<&Lease> = held.iter().filter(|lease| lease.overdraft.is_some()).collect();
                let over_bytes: usize = over.iter().map(|lease| lease.bytes()).sum();
                prop_assert!(budget.leased() - over_bytes <= 100 && over.len() <= OVERDRAFTS.len());
                let ledger = budget.shared.lock();
                prop_assert_eq!(ledger.waiters.len(), asked.len());
                prop_assert!(ledger.waiters.front().is_none_or(|first| !ledger.has_room(first.bytes)));
                for purpose in OVERDRAFTS {
                    let out = over.iter().filter(|lease| lease.overdraft == Some(purpose)).count();
                    let wait = ledger.waiters.iter().filter(|waiter| waiter.purpose == Some(purpose)).count();
                    prop_assert_eq!(ledger.takers[purpose as usize], wait);
                    prop_assert_eq!(usize::from(ledger.overdrafts_out[purpose as usize]), out);
                    prop_assert!(wait == 0 || out == 1, "an overdraft that somebody waits for is out");
                }
            }
            while !held.is_empty() {
                held.clear();
                serve_all(&mut asked, &mut held);
            }
            prop_assert!(asked.is_empty());
            prop_assert_eq!(budget.leased(), 0);
        }

        #[test]
        fn mem_1_every_byte_comes_back(sizes in prop::collection::vec((1usize..50, any::<bool>(), 0usize..60), 1..40)) {
            let budget = ByteBudget::new(100);
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
                prop_assert_eq!(budget.leased(), held.iter().map(Lease::bytes).sum::<usize>());
            }
            held.clear();
            prop_assert_eq!(budget.leased(), 0);
        }
    }
}
