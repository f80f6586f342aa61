//! Distribution of a node's bytes among its mappings. Each mapping has a share with a floor that no other can take.
//! Beyond the floors there is a pool, which goes to the share that holds least (max-min fairness). A request larger
//! than the available bytes blocks no other, unless its share would still hold less than the other's.
//!
//! Regular leases stay within the limit (MEM-1). Bytes that a batch needs beyond it are lent over the limit, to one
//! holder of each purpose at a time, in turn by mapping. Such a loan becomes a regular lease as soon as it fits.

use std::collections::{BTreeMap, BTreeSet};

use lighterman_proto::units::Moment;

use super::overdraft::{OVERDRAFTS, Overdraft};

/// Maximum floor, however large the budget.
pub(super) const FLOOR_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ShareId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TicketId(u64);

/// Request for bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseRequest {
    /// Minimum number of bytes.
    pub least: usize,
    /// Maximum number of usable bytes.
    pub most: usize,
    /// True if the request admits new records. Requests for records already held go first, since only these lead to
    /// bytes being returned.
    pub is_new: bool,
    /// Overdraft that the request may use instead.
    pub purpose: Option<Overdraft>,
}

/// Granted bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseGrant {
    /// Bytes within the limit.
    pub bytes: usize,
    /// Loan over the limit.
    pub over: Option<OverdraftLoan>,
}

/// Loan of bytes over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverdraftLoan {
    pub purpose: Overdraft,
    pub serial: u64,
    pub bytes: usize,
}

/// Granted requests, in order.
pub(super) type ServedRequests = Vec<(TicketId, LeaseGrant)>;

#[derive(Default)]
struct MappingShare {
    has_floor: bool,
    /// Bytes held within the limit.
    held: usize,
    /// Pending requests: those for records already held first, then in order of arrival.
    line: BTreeSet<(bool, TicketId)>,
    /// Pending requests that can use each overdraft.
    takers: [BTreeSet<TicketId>; OVERDRAFTS.len()],
    /// Serial of the last turn with each overdraft.
    turns: [u64; OVERDRAFTS.len()],
}

struct QueuePlace {
    share: ShareId,
    ask: LeaseRequest,
    asked_at: Moment,
}

/// All shares of a node.
pub(super) struct ByteShares {
    limit: usize,
    /// Bytes leased within the limit.
    held: usize,
    /// Bytes of all floors that their shares do not currently hold.
    unheld_floors: usize,
    floor: usize,
    with_floor: usize,
    shares: BTreeMap<ShareId, MappingShare>,
    places: BTreeMap<TicketId, QueuePlace>,
    /// Shares with pending requests, by bytes held.
    line: BTreeSet<(usize, ShareId)>,
    /// Shares with pending requests for each overdraft, by last turn.
    turns: [BTreeSet<(u64, ShareId)>; OVERDRAFTS.len()],
    loans: [Option<(ShareId, OverdraftLoan)>; OVERDRAFTS.len()],
    serial: u64,
    /// Smallest pool that can serve a pending request. With a smaller one a scan of the queue serves none. `None`
    /// forces a scan.
    no_use_below: Option<i64>,
}

impl ByteShares {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: 0,
            unheld_floors: 0,
            floor: 0,
            with_floor: 0,
            shares: BTreeMap::new(),
            places: BTreeMap::new(),
            line: BTreeSet::new(),
            turns: Default::default(),
            loans: [None; OVERDRAFTS.len()],
            serial: 0,
            no_use_below: None,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes leased, including those over the limit.
    pub(super) fn leased(&self) -> usize {
        let over: usize = self.loans.iter().flatten().map(|(_, loan)| loan.bytes).sum();
        self.held + over
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.places.is_empty()
    }

    pub(super) fn held_by(&self, share: ShareId) -> usize {
        let over = self.loans.iter().flatten().filter(|(of, _)| *of == share).map(|(_, loan)| loan.bytes);
        self.shares.get(&share).map_or(0, |share| share.held) + over.sum::<usize>()
    }

    /// Bytes guaranteed to `share`, whatever the others hold.
    pub(super) fn floor_of(&self, share: ShareId) -> usize {
        self.shares.get(&share).filter(|share| share.has_floor).map_or(0, |_| self.floor)
    }

    /// Share that holds most.
    pub(super) fn largest(&self) -> Option<ShareId> {
        self.shares.keys().copied().max_by_key(|share| self.held_by(*share))
    }

    /// Time of the oldest pending request of `share`.
    pub(super) fn waits_since(&self, share: ShareId) -> Option<Moment> {
        let line = &self.shares.get(&share)?.line;
        line.iter().filter_map(|(_, ticket)| Some(self.places.get(ticket)?.asked_at)).min()
    }

    /// True if `share` should return bytes. Either it holds more than its floor, and a share with a pending request
    /// holds no more than it; or a request waits for an overdraft that it has, as each has one holder at a time.
    pub(super) fn is_asked_back(&self, share: ShareId) -> bool {
        let held = self.shares.get(&share).map_or(0, |share| share.held);
        let is_richer =
            held > self.floor_of(share) && self.line.first().is_some_and(|(least, _)| *least <= held);
        is_richer || self.is_loan_asked_back(share)
    }

    fn is_loan_asked_back(&self, share: ShareId) -> bool {
        let of_share = self.loans.iter().flatten().filter(|(of, _)| *of == share);
        let mut purposes = of_share.map(|(_, loan)| loan.purpose);
        purposes.any(|purpose| purpose.is_for_records() && !self.turns[purpose as usize].is_empty())
    }

    /// Opens a share. Floors divide at most half of the limit, so that requests larger than a floor have a pool to
    /// draw on. One additional floor is kept free, so that the next mapping has its own at once.
    pub(super) fn open(&mut self, has_floor: bool) -> (ShareId, ServedRequests) {
        self.serial += 1;
        let id = ShareId(self.serial);
        let turns = [self.serial; OVERDRAFTS.len()];
        self.shares.insert(id, MappingShare { has_floor, turns, ..MappingShare::default() });
        self.with_floor += usize::from(has_floor);
        self.set_floors();
        (id, self.grant_waiting())
    }

    /// Closes a share without leases or pending requests.
    pub(super) fn close(&mut self, id: ShareId) -> ServedRequests {
        if let Some(gone) = self.shares.remove(&id) {
            self.with_floor -= usize::from(gone.has_floor);
        }
        self.set_floors();
        self.grant_waiting()
    }

    fn set_floors(&mut self) {
        self.floor = floor_of(self.limit, self.with_floor);
        self.unheld_floors = self.shares.values().map(|share| share.unheld_floor(self.floor)).sum();
        self.no_use_below = None;
    }

    /// Requests bytes, at once or later. Never overtakes a request with precedence.
    pub(super) fn ask(
        &mut self,
        share: ShareId,
        ask: LeaseRequest,
        now: Moment,
    ) -> (TicketId, ServedRequests) {
        let ticket = self.join(share, ask, now);
        (ticket, self.grant_waiting())
    }

    fn join(&mut self, id: ShareId, ask: LeaseRequest, asked_at: Moment) -> TicketId {
        self.serial += 1;
        let ticket = TicketId(self.serial);
        self.places.insert(ticket, QueuePlace { share: id, ask, asked_at });
        if let Some(share) = self.shares.get_mut(&id) {
            share.line.insert((ask.is_new, ticket));
            self.line.insert((share.held, id));
            if let Some(purpose) = ask.purpose {
                share.takers[purpose as usize].insert(ticket);
                self.turns[purpose as usize].insert((share.turns[purpose as usize], id));
            }
        }
        self.no_use_below = None;
        ticket
    }

    /// Cancels a request and serves those that it blocked.
    pub(super) fn leave(&mut self, ticket: TicketId) -> ServedRequests {
        if self.take_out(ticket).is_none() {
            return Vec::new();
        }
        self.grant_waiting()
    }

    fn take_out(&mut self, ticket: TicketId) -> Option<QueuePlace> {
        let place = self.places.remove(&ticket)?;
        let share = self.shares.get_mut(&place.share)?;
        share.line.remove(&(place.ask.is_new, ticket));
        if share.line.is_empty() {
            self.line.remove(&(share.held, place.share));
        }
        if let Some(purpose) = place.ask.purpose {
            let takers = &mut share.takers[purpose as usize];
            takers.remove(&ticket);
            if takers.is_empty() {
                self.turns[purpose as usize].remove(&(share.turns[purpose as usize], place.share));
            }
        }
        self.no_use_below = None;
        Some(place)
    }

    /// Takes back `bytes` leased within the limit, and the bytes of `loan`. Returns the requests that are served
    /// with them.
    pub(super) fn give_back(
        &mut self,
        share: ShareId,
        bytes: usize,
        loan: Option<OverdraftLoan>,
    ) -> ServedRequests {
        let settled = loan.map_or(0, |loan| self.repay(loan));
        self.hold(share, -(released(bytes, settled) as i64));
        self.grant_waiting()
    }

    /// Repays a loan. Returns the bytes of it that have become part of a regular lease.
    fn repay(&mut self, back: OverdraftLoan) -> usize {
        let slot = &mut self.loans[back.purpose as usize];
        let Some((_, loan)) = slot.as_mut().filter(|(_, loan)| loan.serial == back.serial) else {
            return back.bytes;
        };
        loan.bytes = loan.bytes.saturating_sub(back.bytes);
        if loan.bytes == 0 {
            *slot = None;
        }
        0
    }

    fn hold(&mut self, id: ShareId, change: i64) {
        let Some(share) = self.shares.get_mut(&id) else { return };
        let (before, unheld) = (share.held, share.unheld_floor(self.floor));
        share.held = before.saturating_add_signed(change as isize);
        self.held = self.held - before + share.held;
        self.unheld_floors = self.unheld_floors - unheld + share.unheld_floor(self.floor);
        if self.line.remove(&(before, id)) {
            self.line.insert((share.held, id));
            self.no_use_below = None;
        }
    }

    /// Bytes left after setting aside all floors and one more. Negative after a mapping has been added.
    fn pool(&self) -> i64 {
        let spare = if self.with_floor > 0 { self.floor } else { 0 };
        self.limit as i64 - self.held as i64 - self.unheld_floors as i64 - spare as i64
    }

    /// Bytes that `share` could have for `ask`: from the pool if `is_pooled`, otherwise from its own floor alone.
    /// New records leave half of the floor free for their processing.
    fn room(&self, share: &MappingShare, ask: LeaseRequest, is_pooled: bool) -> usize {
        let own = share.unheld_floor(if ask.is_new { self.floor / 2 } else { self.floor });
        let pooled = usize::try_from(self.pool() + own as i64).unwrap_or_default();
        within_limit(own.min(self.limit.saturating_sub(self.held)), if is_pooled { pooled } else { 0 })
    }

    fn grant_waiting(&mut self) -> ServedRequests {
        let mut served = Vec::new();
        loop {
            self.convert_fitting_loans();
            let Some(next) = self.serve_from_room().or_else(|| self.serve_over()) else { return served };
            served.push(next);
        }
    }

    /// Turns loans that fit within the limit into regular leases.
    fn convert_fitting_loans(&mut self) {
        for at in 0..OVERDRAFTS.len() {
            let Some((id, loan)) = self.loans[at] else { continue };
            let own = self.shares.get(&id).map_or(0, |share| share.unheld_floor(self.floor));
            if self.pool() + own as i64 >= loan.bytes as i64 {
                self.loans[at] = None;
                self.hold(id, loan.bytes as i64);
            }
        }
    }

    fn serve_from_room(&mut self) -> Option<(TicketId, LeaseGrant)> {
        // While the pool is below the floors' guarantees, any returned byte may be one that a floor waits for.
        let in_vain = |enough: i64| self.held > 0 && (0..enough).contains(&self.pool());
        if self.line.is_empty() || self.no_use_below.is_some_and(in_vain) {
            return None;
        }
        let mut enough = i64::MAX;
        // A share that holds at least this much must not overtake: a waiting one would still hold no more.
        let mut bar = usize::MAX;
        for (held, id) in self.line.iter().copied() {
            if held >= bar && held >= self.floor {
                break;
            }
            let Some(share) = self.shares.get(&id) else { continue };
            let Some((_, ticket)) = share.line.first().copied() else { continue };
            let Some(ask) = self.places.get(&ticket).map(|place| place.ask) else { continue };
            let room = self.room(share, ask, held < bar);
            // A request larger than all available bytes is granted when nothing is leased, unless it can use an
            // overdraft.
            if room >= ask.least || (self.held == 0 && ask.purpose.is_none()) {
                let grant = LeaseGrant { bytes: room.clamp(ask.least, ask.most.max(ask.least)), over: None };
                self.take_out(ticket);
                self.hold(id, grant.bytes as i64);
                return Some((ticket, grant));
            }
            enough = enough.min(self.pool() + (ask.least - room) as i64);
            bar = bar.min(held + ask.least);
        }
        self.no_use_below = Some(enough);
        None
    }

    fn serve_over(&mut self) -> Option<(TicketId, LeaseGrant)> {
        for purpose in OVERDRAFTS {
            let at = purpose as usize;
            let Some((_, id)) = self.turns[at].first().copied().filter(|_| self.loans[at].is_none()) else {
                continue;
            };
            let ticket = self.shares.get(&id).and_then(|share| share.takers[at].first().copied())?;
            let place = self.take_out(ticket)?;
            self.serial += 1;
            let serial = self.serial;
            if let Some(share) = self.shares.get_mut(&id) {
                let before = std::mem::replace(&mut share.turns[at], serial);
                if self.turns[at].remove(&(before, id)) {
                    self.turns[at].insert((serial, id));
                }
            }
            let loan = OverdraftLoan { purpose, serial, bytes: place.ask.least };
            self.loans[at] = Some((id, loan));
            return Some((ticket, LeaseGrant { bytes: 0, over: Some(loan) }));
        }
        None
    }
}

impl MappingShare {
    fn unheld_floor(&self, floor: usize) -> usize {
        if self.has_floor { floor.saturating_sub(self.held) } else { 0 }
    }
}

/// Returns the floor of each of `shares`. They and one more divide half of the limit.
fn floor_of(limit: usize, shares: usize) -> usize {
    mutant!("floor-ignored", (limit / (2 * (shares + 1))).min(FLOOR_BYTES_MAX), 0)
}

/// Returns the bytes that a lease no longer holds: its own, and those that its loan has become (`settled`).
fn released(bytes: usize, settled: usize) -> usize {
    mutant!("budget-leak", bytes + settled, bytes / 2 + settled)
}

/// Returns the bytes of the limit that a share could have: from its `own` floor, or with those of the pool.
fn within_limit(own: usize, pooled: usize) -> usize {
    mutant!("budget-without-limit", own.max(pooled), usize::MAX)
}

#[cfg(test)]
mod tests;
