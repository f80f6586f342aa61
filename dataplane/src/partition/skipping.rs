//! What fails, for a person to see; and the record that a person gives up by hand.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::core::{Flight, PartitionCore, Phase};
use super::effects::{Effect, Effects, Note, SkipAnswer, Tools};
use super::ledger::Outcome;
use super::work::Work;

/// The record that is being tried again and again, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The first record of what fails.
    pub offset: Offset,
    /// How many records fail together.
    pub records: u32,
    /// Attempts used up.
    pub attempts: u32,
    /// When the next one begins, if that is decided.
    pub next_attempt: Option<Moment>,
}

impl PartitionCore {
    /// What fails, while something does.
    pub fn failing(&self) -> Option<Failing> {
        if !self.work.has_failed() && !matches!(self.flight, Flight::Burying { .. }) {
            return None;
        }
        let next_attempt = match self.flight {
            Flight::Waiting { until } => Some(until),
            Flight::Idle
            | Flight::Recording
            | Flight::Offered { .. }
            | Flight::Sealed { .. }
            | Flight::Burying { .. } => None,
        };
        let offset = self.work.cut.walk().next()?.offset;
        Some(Failing { offset, records: self.work.cut.records, attempts: self.work.used, next_attempt })
    }

    /// A person wants the record at `offset` resolved as skipped, or, up to `end`, what cannot be read.
    pub fn skip(
        &mut self,
        now: Moment,
        offset: Offset,
        end: Option<Offset>,
        tools: &mut Tools<'_>,
    ) -> (SkipAnswer, Effects) {
        let mut out = Effects::new();
        let runs = matches!(self.phase, Phase::Running | Phase::Resting { .. });
        if let Some(answer) = runs.then(|| self.want_passed(offset, end, &mut out)).flatten() {
            self.advance(now, tools, &mut out);
            return (answer, out);
        }
        if end.is_some_and(|end| end != offset.next()) {
            return (SkipAnswer::NotUnreadable, out);
        }
        let ends = matches!(self.phase, Phase::Drained | Phase::Ended);
        if self.failing().is_none() || ends {
            return (SkipAnswer::NotFailing, out);
        }
        if !self.work.holds(offset) {
            return (SkipAnswer::NotAmong(self.work.cut.range), out);
        }
        self.skips_wanted.insert(offset);
        self.call_back(&mut out);
        self.advance(now, tools, &mut out);
        let waits = self.skips_wanted.contains(&offset);
        (if waits { SkipAnswer::AfterThisAttempt } else { SkipAnswer::Skipped }, out)
    }

    /// Resolves the records that a person wants skipped, now that no attempt is under way. What the attempt has resolved needs
    /// nothing more.
    pub(super) fn skip_wanted(&mut self, tools: &Tools<'_>, out: &mut Effects) {
        if self.skips_wanted.is_empty() {
            return;
        }
        for offset in std::mem::take(&mut self.skips_wanted) {
            self.skip_record(offset, tools, out);
        }
        self.commit_at_rest_if_moved(out);
    }

    /// Since it was accepted, the batch may have been cut in two.
    fn skip_record(&mut self, offset: Offset, tools: &Tools<'_>, out: &mut Effects) {
        if self.work.holds(offset) {
            let work = std::mem::replace(&mut self.work, Work::none(self.ledger.frontier()));
            let end = work.cut.range.end;
            match self.skip_in(work, offset, tools, out) {
                Some(rest) => self.work = rest,
                None => (self.work, self.flight) = (Work::none(end), Flight::Idle),
            }
        } else if let Some(index) = self.later.iter().position(|work| work.holds(offset)) {
            let work = self.later.remove(index);
            if let Some(rest) = self.skip_in(work, offset, tools, out) {
                self.later.insert(index, rest);
            }
        }
    }

    /// What is left of `work` without the record at `offset`, if anything is.
    fn skip_in(&mut self, work: Work, offset: Offset, tools: &Tools<'_>, out: &mut Effects) -> Option<Work> {
        let range = work.cut.range;
        let rest = work.cut.select(range, tools.sizer, |record| record.offset != offset);
        self.resolve(OffsetRange { first: offset, end: offset.next() }, Outcome::Skipped, out);
        out.push(Effect::Note(Note::Skipped { offset }));
        if rest.is_empty() {
            self.resolve(range, Outcome::Absent, out);
            return None;
        }
        let mut work = work.over(rest);
        work.cut.range.first = self.ledger.frontier().max(range.first).min(range.end);
        Some(work)
    }
}
