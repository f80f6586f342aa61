//! Who may hold how many of a node's bytes, decided. Each mapping has a share with a floor that nobody else can take; beyond the
//! floors lies a pool that goes to whoever holds least (max-min fairness). Nobody stands behind a request that is larger than
//! what is there, unless it would still hold less than they do.
//!
//! Leases proper stay within the limit (MEM-1). What one batch needs beyond that is lent over the limit, to one holder of each
//! purpose at a time, in turn by mapping; it counts as a lease proper as soon as it fits.

use std::collections::{BTreeMap, BTreeSet};

use lighterman_proto::units::Moment;

use super::overdraft::{OVERDRAFTS, Overdraft};

/// A floor is not larger than this, however large the budget.
pub(super) const FLOOR_BYTES_MAX: usize = 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ShareId(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TicketId(u64);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseRequest {
    /// Bytes without which nothing can be done.
    pub least: usize,
    /// Bytes that can be used.
    pub most: usize,
    /// They bring new records in: what is here already comes first, since only that gives bytes back.
    pub is_new: bool,
    /// What may also be lent for it over the limit.
    pub purpose: Option<Overdraft>,
}

/// What is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LeaseGrant {
    /// Within the limit.
    pub bytes: usize,
    /// Over it.
    pub over: Option<OverdraftLoan>,
}

/// Bytes over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OverdraftLoan {
    pub purpose: Overdraft,
    pub serial: u64,
    pub bytes: usize,
}

/// Who is served, in order.
pub(super) type ServedRequests = Vec<(TicketId, LeaseGrant)>;

#[derive(Default)]
struct MappingShare {
    has_floor: bool,
    /// Bytes held within the limit.
    held: usize,
    /// What is here already first, then in the order of asking.
    line: BTreeSet<(bool, TicketId)>,
    /// Those of them that can take each overdraft.
    takers: [BTreeSet<TicketId>; OVERDRAFTS.len()],
    /// When it had its last turn with each overdraft.
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
    /// Bytes lent within the limit.
    held: usize,
    /// Bytes of all floors that their mappings do not hold now.
    unheld_floors: usize,
    floor: usize,
    with_floor: usize,
    shares: BTreeMap<ShareId, MappingShare>,
    places: BTreeMap<TicketId, QueuePlace>,
    /// Shares for which somebody waits, by what they hold.
    line: BTreeSet<(usize, ShareId)>,
    /// Shares for which somebody waits who can take the overdraft, by their last turn.
    turns: [BTreeSet<(u64, ShareId)>; OVERDRAFTS.len()],
    loans: [Option<(ShareId, OverdraftLoan)>; OVERDRAFTS.len()],
    serial: u64,
    /// The pool for which the first of those who wait waits: a look down the line before is in vain. `None`: look.
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

    /// Bytes lent, those over the limit included.
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

    /// Bytes that are there for `share` whatever the others hold.
    pub(super) fn floor_of(&self, share: ShareId) -> usize {
        self.shares.get(&share).filter(|share| share.has_floor).map_or(0, |_| self.floor)
    }

    /// Who holds most.
    pub(super) fn largest(&self) -> Option<ShareId> {
        self.shares.keys().copied().max_by_key(|share| self.held_by(*share))
    }

    /// Since when somebody waits for `share`.
    pub(super) fn waits_since(&self, share: ShareId) -> Option<Moment> {
        let line = &self.shares.get(&share)?.line;
        line.iter().filter_map(|(_, ticket)| Some(self.places.get(ticket)?.asked_at)).min()
    }

    /// True when somebody waits who holds no more than `share`, which holds more than its floor; or when somebody waits for a
    /// loan that it has: of each purpose there is one at a time.
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

    /// Another share. Those with a floor divide half of the limit at most, so that what is larger than a floor has a pool to
    /// come from; one more floor is kept free for the mapping that comes next, which so has its own at once.
    pub(super) fn open(&mut self, has_floor: bool) -> (ShareId, ServedRequests) {
        self.serial += 1;
        let id = ShareId(self.serial);
        let turns = [self.serial; OVERDRAFTS.len()];
        self.shares.insert(id, MappingShare { has_floor, turns, ..MappingShare::default() });
        self.with_floor += usize::from(has_floor);
        self.set_floors();
        (id, self.grant_waiting())
    }

    /// The share is over: nothing of it is lent any more, and nobody waits for it.
    pub(super) fn close(&mut self, id: ShareId) -> ServedRequests {
        if let Some(gone) = self.shares.remove(&id) {
            self.with_floor -= usize::from(gone.has_floor);
        }
        self.set_floors();
        self.grant_waiting()
    }

    fn set_floors(&mut self) {
        let divided = self.limit / (2 * (self.with_floor + 1));
        self.floor = mutant!("floor-ignored", divided.min(FLOOR_BYTES_MAX), 0);
        self.unheld_floors = self.shares.values().map(|share| share.unheld_floor(self.floor)).sum();
        self.no_use_below = None;
    }

    /// `ask`, now or later; never overtakes who is served before it.
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

    /// Leaves the line. Who it kept away is served.
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

    /// Takes back `bytes` that were lent within the limit, and those of `loan`.
    pub(super) fn give_back(
        &mut self,
        share: ShareId,
        bytes: usize,
        loan: Option<OverdraftLoan>,
    ) -> ServedRequests {
        let settled = loan.map_or(0, |loan| self.repay(loan));
        let back = mutant!("budget-leak", bytes, bytes / 2) + settled;
        self.hold(share, -(back as i64));
        self.grant_waiting()
    }

    /// How much of it was lent within the limit by now.
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

    /// What is left when every floor, and one more, is set aside; less than nothing after a mapping has come.
    fn pool(&self) -> i64 {
        let spare = if self.with_floor > 0 { self.floor } else { 0 };
        self.limit as i64 - self.held as i64 - self.unheld_floors as i64 - spare as i64
    }

    /// Bytes that `share` could have for `ask`, of the pool too or of its own floor alone. New records leave half of the floor to
    /// what is to become of them.
    fn room(&self, share: &MappingShare, ask: LeaseRequest, is_pooled: bool) -> usize {
        let own = share.unheld_floor(if ask.is_new { self.floor / 2 } else { self.floor });
        let pooled = usize::try_from(self.pool() + own as i64).unwrap_or_default();
        let room = own.min(self.limit.saturating_sub(self.held)).max(if is_pooled { pooled } else { 0 });
        mutant!("budget-without-limit", room, usize::MAX)
    }

    fn grant_waiting(&mut self) -> ServedRequests {
        let mut served = Vec::new();
        loop {
            self.convert_fitting_loans();
            let Some(next) = self.serve_from_room().or_else(|| self.serve_over()) else { return served };
            served.push(next);
        }
    }

    /// What is lent over the limit and fits by now is over it no longer.
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
        // While there is less than the floors promise, any byte that comes back may be what a floor waits for.
        let in_vain = |enough: i64| self.held > 0 && (0..enough).contains(&self.pool());
        if self.line.is_empty() || self.no_use_below.is_some_and(in_vain) {
            return None;
        }
        let mut enough = i64::MAX;
        // Who waits and would still hold no more than this is not overtaken.
        let mut bar = usize::MAX;
        for (held, id) in self.line.iter().copied() {
            if held >= bar && held >= self.floor {
                break;
            }
            let Some(share) = self.shares.get(&id) else { continue };
            let Some((_, ticket)) = share.line.first().copied() else { continue };
            let Some(ask) = self.places.get(&ticket).map(|place| place.ask) else { continue };
            let room = self.room(share, ask, held < bar);
            // What is larger than all there is goes when nothing else is out, unless there is another way for it.
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

#[cfg(test)]
mod tests;
