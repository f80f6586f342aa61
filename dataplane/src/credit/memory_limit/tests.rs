//! Tests of the shares against a naive model.

use proptest::prelude::*;

use super::*;

const NOW: Moment = Moment::from_micros(1);

fn plain(bytes: usize) -> LeaseRequest {
    LeaseRequest { least: bytes, most: bytes, is_new: false, purpose: None }
}

fn over(bytes: usize, purpose: Overdraft) -> LeaseRequest {
    LeaseRequest { purpose: Some(purpose), ..plain(bytes) }
}

/// Request for new records that takes all available bytes.
fn greedy(least: usize) -> LeaseRequest {
    LeaseRequest { least, most: usize::MAX, is_new: true, purpose: None }
}

/// Shares, with the grants and the pending requests of their users.
struct ShareUsers {
    shares: ByteShares,
    held: Vec<(ShareId, LeaseGrant)>,
    waiting: Vec<(ShareId, TicketId, LeaseRequest)>,
}

impl ShareUsers {
    fn new(limit: usize) -> Self {
        Self { shares: ByteShares::new(limit), held: Vec::new(), waiting: Vec::new() }
    }

    fn open(&mut self) -> ShareId {
        let (id, served) = self.shares.open(true);
        self.take(served);
        id
    }

    fn take(&mut self, served: ServedRequests) {
        for (ticket, grant) in served {
            let at = self.waiting.iter().position(|(_, waits, _)| *waits == ticket).expect("it waits");
            let (share, _, ask) = self.waiting.remove(at);
            let bytes = grant.bytes + grant.over.map_or(0, |loan| loan.bytes);
            assert!((ask.least..=ask.most).contains(&bytes), "{bytes} for {ask:?}");
            self.held.push((share, grant));
        }
    }

    /// Returns true if the request is served at once.
    fn ask(&mut self, share: ShareId, ask: LeaseRequest) -> bool {
        let (ticket, served) = self.shares.ask(share, ask, NOW);
        self.waiting.push((share, ticket, ask));
        self.take(served);
        !self.waiting.iter().any(|(_, waits, _)| *waits == ticket)
    }

    fn give_back(&mut self, at: usize) {
        let (share, grant) = self.held.swap_remove(at);
        let served = self.shares.give_back(share, grant.bytes, grant.over);
        self.take(served);
    }

    fn leave(&mut self, at: usize) {
        let (_, ticket, _) = self.waiting.remove(at);
        let served = self.shares.leave(ticket);
        self.take(served);
    }

    fn is_open_for(&self, share: ShareId) -> bool {
        self.held.iter().any(|(of, _)| *of == share) || self.waiting.iter().any(|(of, ..)| *of == share)
    }

    /// Checks MEM-1, and that no request waits for bytes that are free.
    fn check(&mut self) {
        let shares = &mut self.shares;
        let held: usize =
            self.held.iter().map(|(_, grant)| grant.bytes + grant.over.map_or(0, |loan| loan.bytes)).sum();
        assert_eq!(shares.leased(), held, "every byte is accounted for");
        assert!(shares.held <= shares.limit, "{} of {}", shares.held, shares.limit);
        let unheld: usize = shares.shares.values().map(|share| share.unheld_floor(shares.floor)).sum();
        assert_eq!(shares.unheld_floors, unheld);
        assert_eq!(shares.places.len(), self.waiting.len());
        shares.no_use_below = None;
        assert!(shares.grant_waiting().is_empty(), "a waiting request could be granted");
        for (at, loan) in shares.loans.iter().enumerate() {
            assert!(
                loan.is_some() || shares.turns[at].is_empty(),
                "an overdraft with waiters is not granted"
            );
        }
    }
}

#[test]
fn mem_1_liv_1_floor_is_free_whatever_others_hold() {
    let mut users = ShareUsers::new(16 << 20);
    let (bad, good) = (users.open(), users.open());
    while users.ask(bad, greedy(64 * 1024)) {}
    for _ in 0..100 {
        users.ask(bad, greedy(4 << 20));
        users.ask(bad, plain(8 << 20));
    }
    users.check();
    assert!(users.shares.held_by(bad) > 12 << 20, "a mapping may use bytes beyond the floors of others");
    assert!(users.ask(good, greedy(64 * 1024)), "new records, up to half of the floor");
    assert!(users.ask(good, plain(FLOOR_BYTES_MAX / 2)), "further requests, up to the floor");
    assert!(users.shares.held_by(good) >= FLOOR_BYTES_MAX);
    assert!(users.shares.is_asked_back(bad));
    assert!(!users.shares.is_asked_back(good));
    users.check();
}

#[test]
fn liv_1_new_mapping_has_floor_at_once() {
    let mut users = ShareUsers::new(16 << 20);
    let bad = users.open();
    while users.ask(bad, greedy(1)) {}
    let good = users.open();
    assert!(users.ask(good, plain(FLOOR_BYTES_MAX)), "one floor is reserved");
    let next = users.open();
    assert!(!users.ask(next, plain(FLOOR_BYTES_MAX)), "less than the request is free");
    let at = users.held.iter().position(|(of, _)| *of == bad).expect("it holds a lease");
    users.give_back(at);
    assert!(
        users.waiting.iter().all(|(of, ..)| *of == bad),
        "returned bytes go to mappings below their floor"
    );
    users.check();
}

#[test]
fn liv_1_thousand_mappings_share_a_small_budget() {
    let mut users = ShareUsers::new(16 << 20);
    let all: Vec<ShareId> = (0..1_000).map(|_| users.open()).collect();
    let floor = users.shares.floor_of(all[0]);
    assert!(floor >= 8_000, "{floor}");
    while users.ask(all[0], greedy(1)) {}
    for share in &all[1..] {
        assert!(users.ask(*share, greedy(floor / 4)));
        assert!(users.ask(*share, plain(floor / 2)));
    }
    users.check();
    // Requests larger than a floor use overdrafts in turn.
    for share in &all {
        users.ask(*share, over(1 << 20, Overdraft::Payload));
    }
    let mut served = BTreeSet::new();
    for _ in 0..2_000 {
        let Some(at) = users.held.iter().position(|(_, grant)| grant.over.is_some()) else { break };
        served.insert(users.held[at].0);
        users.give_back(at);
        users.check();
    }
    assert!(served.len() >= 999, "{}", served.len());
}

#[test]
fn liv_1_large_request_neither_blocks_nor_starves() {
    let mut users = ShareUsers::new(100 << 20);
    let (small, large) = (users.open(), users.open());
    while users.ask(small, plain(4 << 20)) {}
    users.leave(0);
    assert_eq!(users.shares.held_by(small), 96 << 20);
    assert!(!users.ask(large, plain(20 << 20)));
    let poorer = users.open();
    assert!(users.ask(poorer, plain(1 << 20)), "a mapping that holds less is served");
    // `small` holds more than `large` would, so returned bytes are kept for `large`.
    for _ in 0..8 {
        assert!(
            users.shares.held_by(large) > 0 || !users.ask(small, plain(1 << 20)),
            "a smaller holder overtakes"
        );
        let at = users.held.iter().position(|(of, _)| *of == small).expect("it holds a lease");
        users.give_back(at);
    }
    assert!(users.shares.held_by(large) >= 20 << 20);
    users.check();
}

#[test]
fn mem_1_fitting_loan_becomes_a_regular_lease() {
    let mut users = ShareUsers::new(1_000);
    let share = users.shares.open(false).0;
    assert!(users.ask(share, plain(900)));
    assert!(users.ask(share, over(500, Overdraft::Inflated)));
    assert!(!users.ask(share, over(500, Overdraft::Inflated)), "one at a time");
    users.leave(0);
    assert_eq!(users.shares.leased(), 1_400);
    users.give_back(0);
    assert!(users.shares.loans.iter().all(Option::is_none), "500 of 1,000");
    assert!(users.ask(share, plain(500)));
    assert!(users.ask(share, over(300, Overdraft::Inflated)), "for the next");
    users.give_back(0);
    users.check();
    assert_eq!(users.shares.leased(), 800);
}

#[test]
fn liv_1_loan_is_recalled_only_by_waiters() {
    let mut users = ShareUsers::new(16 << 20);
    let (bad, holder, waits) = (users.open(), users.open(), users.open());
    while users.ask(bad, plain(64 * 1024)) {}
    users.leave(0);
    assert!(users.ask(holder, over(4 << 20, Overdraft::Inflated)), "beyond its floor without a free pool");
    assert_eq!(users.shares.shares[&holder].held, 0);
    assert!(!users.shares.is_asked_back(holder), "no request waits");
    assert!(!users.ask(waits, plain(2 << 20)));
    assert!(!users.shares.is_asked_back(holder), "its return would not serve the waiting request");
    assert!(users.shares.is_asked_back(bad), "its return would serve the waiting request");
    assert!(!users.ask(waits, over(4 << 20, Overdraft::Inflated)));
    assert!(users.shares.is_asked_back(holder), "only its loan blocks the request");
    let at = users.held.iter().position(|(of, _)| *of == holder).expect("it holds a lease");
    users.give_back(at);
    assert!(!users.shares.is_asked_back(holder));
    users.check();
}

#[test]
fn liv_1_overdraft_in_flight_is_not_recalled() {
    for purpose in [Overdraft::Payload, Overdraft::Letter, Overdraft::Answer] {
        let mut users = ShareUsers::new(16 << 20);
        let (bad, holder, waits) = (users.open(), users.open(), users.open());
        while users.ask(bad, plain(64 * 1024)) {}
        assert!(users.ask(holder, over(4 << 20, purpose)));
        assert!(!users.ask(waits, over(4 << 20, purpose)));
        assert!(!users.shares.is_asked_back(holder), "{purpose:?}: it comes back by itself, and not before");
    }
}

proptest! {
    /// Mappings come and go while leases are held. For any sequence of requests, returns and cancellations, leases
    /// stay within the limit and no request waits for bytes that are free. A request within its floor is served as
    /// soon as the other shares hold no more than theirs. In the end all requests are served.
    #[test]
    fn mem_1_liv_1_shares_hold_as_mappings_change(
        limit in 500usize..5_000,
        steps in prop::collection::vec((0u8..8, 1usize..700, 0usize..16, any::<bool>()), 1..120),
    ) {
        let mut users = ShareUsers::new(limit);
        let mut open = vec![users.open()];
        for (kind, bytes, at, is_new) in steps {
            match kind {
                0 if open.len() < 8 => open.push(users.open()),
                1 if !users.is_open_for(open[at % open.len()]) && open.len() > 1 => {
                    let gone = open.swap_remove(at % open.len());
                    let served = users.shares.close(gone);
                    users.take(served);
                }
                2 | 3 if !users.held.is_empty() => users.give_back(at % users.held.len()),
                4 if !users.waiting.is_empty() => users.leave(at % users.waiting.len()),
                _ => {
                    let purpose = OVERDRAFTS.get(at % 8).copied();
                    let most = if is_new && purpose.is_none() { bytes * 3 } else { bytes };
                    // Without an overdraft a request is never larger than the limit.
                    let least = if purpose.is_none() { bytes.min(limit) } else { bytes };
                    users.ask(open[at % open.len()], LeaseRequest { least, most: most.max(least), is_new, purpose });
                }
            }
            users.check();
        }
        let floor = users.shares.floor;
        for share in open.clone() {
            // The other shares return all above their floors. No waiting request may block a floor.
            while let Some(at) = users.held.iter().position(|(of, _)| {
                *of == share || users.shares.shares.get(of).is_some_and(|other| other.held > floor)
            }) {
                users.give_back(at);
            }
            while let Some(at) = users.waiting.iter().position(|(of, ..)| *of == share) {
                users.leave(at);
            }
            while let Some(at) = users.held.iter().position(|(of, _)| *of == share) {
                users.give_back(at);
            }
            prop_assert!(users.ask(share, plain(floor)), "its floor is free");
            users.check();
        }
        while !users.held.is_empty() {
            users.give_back(0);
            users.check();
        }
        prop_assert!(users.waiting.is_empty());
        prop_assert_eq!(users.shares.leased(), 0);
    }
}
