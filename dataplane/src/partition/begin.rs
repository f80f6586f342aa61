//! How an attempt begins: the next records are cut, what is too old or given up is set apart, the attempt is put on record,
//! and the records are offered.

use lighterman_proto::failure::Condition;
use lighterman_proto::ids::OffsetRange;
use lighterman_proto::units::Moment;

use super::core::{Flight, PartitionCore, Phase};
use super::cut::Cut;
use super::effects::{Effect, Effects, Note, Tools};
use super::fetch_buffer::{Reach, Stop};
use super::ledger::Outcome;
use super::work::{Work, is_expired};

impl PartitionCore {
    /// Takes the next step towards an attempt, if one can be taken now.
    pub(super) fn go_on(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        match self.flight {
            Flight::Sealed { .. } | Flight::Burying { .. } => {}
            Flight::Offered { .. } => self.extend(now, tools, out),
            Flight::Idle | Flight::Recording | Flight::Waiting { .. } => {
                self.skip_wanted(tools, out);
                let waits = matches!(self.flight, Flight::Waiting { until } if until > now);
                if !waits && self.is_acknowledged() {
                    self.flight = Flight::Idle;
                    self.begin(now, tools, out);
                }
            }
        }
    }

    fn begin(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        // Each round sets something apart or gives it an outcome; nothing begins over a commit that is under way.
        while self.phase != Phase::Ended && self.is_acknowledged() {
            if self.work.cut.is_empty() || self.is_regrowing() {
                self.take_up_next(now, tools, out);
            }
            if self.work.cut.is_empty() || self.is_regrowing() || !self.is_acknowledged() {
                return;
            }
            if let Some(condition) = self.doom() {
                self.give_up(condition, out);
                if !matches!(self.flight, Flight::Idle) {
                    return;
                }
                continue;
            }
            if self.set_apart_by_age(tools) {
                continue;
            }
            let wanted = self.progress_for_attempt();
            if wanted.is_some() && !self.is_on_record(wanted.as_ref()) {
                self.flight = Flight::Recording;
                self.commit(wanted, out);
                return;
            }
            self.show(now, tools, out);
            return;
        }
    }

    /// Pieces of a failed batch first, then what an owner before us cut, then new records.
    fn take_up_next(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        if let Some(next) = mutant!(
            "retry-reorders",
            self.later.pop(),
            (!self.later.is_empty()).then(|| self.later.remove(0))
        ) {
            self.work = next;
            return;
        }
        let goes_on = self.fill(now, tools, out);
        let cut = &self.work.cut;
        let Some(piece) = self.inherited.pieces.front_mut().filter(|_| !cut.is_empty()) else { return };
        piece.records_left = piece.records_left.saturating_sub(cut.records);
        let reached = piece.end.map_or(piece.records_left == 0, |end| cut.range.end >= end);
        let rest_is_gone = self.lost_before.is_some() || self.unread.now.is_some();
        let is_whole = reached || piece.end.is_none() || cut.full || rest_is_gone;
        if !is_whole && goes_on {
            return;
        }
        // What is here may be what keeps the rest from being fetched.
        if !is_whole && !mutant!("regrowing-starves-others", tools.opener.is_short(), false) {
            out.push(Effect::LookAgain);
            return;
        }
        let piece = *piece;
        if reached {
            self.inherited.pieces.pop_front();
        }
        self.work.used = piece.used;
        self.work.failed_alone = piece.failed_alone;
        self.work.first_failure_ms = piece.first_failure_ms;
        self.work.alone = true;
        if let Some(known) = self.start.failures.as_ref().filter(|_| piece.first_failure_ms.is_some()) {
            self.work.remember(known);
        }
    }

    /// True while the records of an earlier owner's piece are not all here.
    pub(super) fn is_regrowing(&self) -> bool {
        let bounded = self.inherited.pieces.front().is_some_and(|piece| piece.end.is_some());
        bounded && self.later.is_empty() && self.work.may_grow()
    }

    /// Why the records in work are not to be tried any more.
    fn doom(&self) -> Option<Condition> {
        let exhausted = self.work.is_exhausted(&self.start.policy);
        self.work.fate.or(exhausted.then_some(Condition::RetryAttemptsExhausted))
    }

    /// Leaves in work only records that are all too old, or all young enough; true when it changed something.
    fn set_apart_by_age(&mut self, tools: &Tools<'_>) -> bool {
        let Some(age_max) = self.start.policy.record_age_max else { return false };
        let mut first_is_expired = None;
        let mut split_at = None;
        for record in self.work.cut.walk() {
            let expired = is_expired(&record, age_max, tools.wall);
            if *first_is_expired.get_or_insert(expired) != expired {
                split_at = Some(record.offset);
                break;
            }
        }
        if let Some(offset) = split_at {
            let (front, back) = self.work.cut.range.split_at(offset);
            let back = self.work.over(self.work.cut.select(back, tools.sizer, |_| true));
            self.work = self.work.over(self.work.cut.select(front, tools.sizer, |_| true));
            self.later.push(back);
        }
        if first_is_expired == Some(true) {
            self.work.fate = Some(Condition::RecordAgeExceeded);
            return true;
        }
        false
    }

    /// Sends the records in work to the destination, once it is on record why; without one they end here and now.
    fn give_up(&mut self, condition: Condition, out: &mut Effects) {
        self.work.fate = Some(condition);
        if !self.start.policy.has_destination {
            let outcome = match condition {
                Condition::RecordAgeExceeded => Outcome::Expired,
                Condition::RetryAttemptsExhausted => Outcome::Exhausted,
                Condition::MaximumPayloadSizeExceeded => Outcome::Oversized,
                Condition::BatchUnreadable => Outcome::Dropped,
            };
            out.push(Effect::Note(Note::GivenUp { work: Box::new(self.work.clone()), condition }));
            self.resolve_work(outcome, out);
            return;
        }
        let at_rest = self.progress_at_rest();
        if self.work.has_failed() && !self.is_on_record(at_rest.as_ref()) {
            self.flight = Flight::Recording;
            self.commit(at_rest, out);
            return;
        }
        self.ticket += 1;
        self.flight = Flight::Burying { ticket: self.ticket };
        out.push(Effect::Bury { ticket: self.ticket, work: Box::new(self.work.clone()), condition });
    }

    /// Grows the cut in work from the buffer; true when it goes on growing as soon as others have had their turn.
    pub(super) fn fill(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) -> bool {
        let reach = Reach {
            limits: self.start.limits,
            end_max: self.inherited.pieces.front().and_then(|piece| piece.end),
            frontier: self.ledger.frontier(),
            known: &self.inherited.known,
            remembered: self.inherited.remembered,
        };
        let stop = self.buffer.grow(&mut self.work.cut, reach, tools.sizer, tools.sieve, tools.opener);
        self.account_left_out(out);
        self.unread.forget_before(self.work.cut.range.end);
        let goes_on = stop == Stop::Later;
        match stop {
            Stop::Done => {}
            Stop::NoCredit(shortage) => out.push(Effect::AwaitCredit(shortage)),
            Stop::Later => out.push(Effect::GoOn),
            Stop::Oversized { offset, bytes } => {
                if let Some(cut) = self.buffer.take_one(self.work.cut.range.first, offset, bytes) {
                    self.work = self.work.over(cut);
                    self.work.fate = Some(Condition::MaximumPayloadSizeExceeded);
                    return false;
                }
            }
            Stop::Corrupt(error) => {
                self.reread(now, error, out);
            }
            Stop::Rewritten => {
                self.disinherit(out);
                return self.fill(now, tools, out);
            }
        }
        if self.work.cut.is_empty() {
            self.pass_over(out);
        }
        goes_on
    }

    /// No record in it: all of it was filtered, or nothing stands there. What comes next begins behind it.
    fn pass_over(&mut self, out: &mut Effects) {
        let range = self.work.cut.range;
        self.work.cut = Cut::empty(range.end);
        self.resolve(range, Outcome::Absent, out);
        mutant!("filtered-tail-not-committed", self.commit_if_moved(out), {
            if !range.is_empty() {
                self.commit_if_moved(out);
            }
        });
    }

    fn account_left_out(&mut self, out: &mut Effects) {
        for (range, outcome) in std::mem::take(&mut self.work.cut.left_out) {
            self.resolve(range, outcome, out);
        }
        let first = self.work.cut.range.first.max(self.ledger.frontier());
        self.work.cut.range.first = first.min(self.work.cut.range.end);
    }

    /// Gives what is in work an outcome, and begins behind it.
    pub(super) fn resolve_work(&mut self, outcome: Outcome, out: &mut Effects) {
        let range = self.work.cut.range;
        let done = std::mem::replace(&mut self.work, Work::none(range.end));
        if outcome.is_notable() {
            // What stood between the records has nothing to do with it.
            for run in runs(&done.cut) {
                self.resolve(run, outcome, out);
            }
            self.resolve(range, Outcome::Absent, out);
        } else {
            self.resolve(range, outcome, out);
        }
        self.commit_if_moved(out);
    }
}

/// The offsets of a cut's records, neighbours joined.
fn runs(cut: &Cut) -> Vec<OffsetRange> {
    let mut runs: Vec<OffsetRange> = Vec::new();
    for record in cut.walk() {
        match runs.last_mut() {
            Some(last) if last.end == record.offset => last.end = record.offset.next(),
            _ => runs.push(OffsetRange { first: record.offset, end: record.offset.next() }),
        }
    }
    runs
}
