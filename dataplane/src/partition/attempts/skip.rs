//! View of failing records for operators, and the skipping of a record on an operator's request.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use crate::messages::outcome::Outcome;
use crate::messages::skip::SkipAnswer;
use crate::partition::attempts::AttemptState;
use crate::partition::attempts::attempt::RecordAttempt;
use crate::partition::core::{PartitionCore, PartitionPhase};
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionEvent};

/// Records that are being retried, as shown to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailingRecords {
    /// Offset of the first failing record.
    pub offset: Offset,
    /// Number of records that fail together.
    pub records: u32,
    /// Number of attempts used up.
    pub attempts: u32,
    /// Time of the next attempt, if it is known.
    pub next_attempt: Option<Moment>,
}

impl PartitionCore {
    /// Returns the failing records, if there are any.
    pub fn failing(&self) -> Option<FailingRecords> {
        if !self.attempts.current.has_failed()
            && !matches!(self.attempts.state, AttemptState::DeadLettering { .. })
        {
            return None;
        }
        let next_attempt = match self.attempts.state {
            AttemptState::BackingOff { until } => Some(until),
            AttemptState::Idle
            | AttemptState::AwaitingCommit
            | AttemptState::Offered { .. }
            | AttemptState::Sealed { .. }
            | AttemptState::DeadLettering { .. } => None,
        };
        let offset = self.attempts.current.batch.walk().next()?.offset;
        Some(FailingRecords {
            offset,
            records: self.attempts.current.batch.records,
            attempts: self.attempts.current.attempts_used,
            next_attempt,
        })
    }

    /// Handles an operator's request to skip the record at `offset`, or the unreadable offsets from there to `end`.
    pub fn skip(
        &mut self,
        now: Moment,
        offset: Offset,
        end: Option<Offset>,
        context: &mut CoreContext<'_>,
    ) -> (SkipAnswer, PartitionEffects) {
        let mut out = PartitionEffects::new();
        let runs = matches!(self.phase, PartitionPhase::Running | PartitionPhase::Paused { .. });
        if let Some(answer) = runs.then(|| self.want_passed(offset, end, &mut out)).flatten() {
            self.advance(now, context, &mut out);
            return (answer, out);
        }
        if end.is_some_and(|end| end != offset.next()) {
            return (SkipAnswer::NotUnreadable, out);
        }
        let ends = matches!(self.phase, PartitionPhase::Drained | PartitionPhase::Stopped);
        if self.failing().is_none() || ends {
            return (SkipAnswer::NotFailing, out);
        }
        if !self.attempts.current.holds(offset) {
            return (SkipAnswer::NotAmong(self.attempts.current.batch.range), out);
        }
        self.attempts.skips_wanted.insert(offset);
        self.call_back(&mut out);
        self.advance(now, context, &mut out);
        let waits = self.attempts.skips_wanted.contains(&offset);
        (if waits { SkipAnswer::AfterThisAttempt } else { SkipAnswer::Skipped }, out)
    }

    /// Skips the requested records once no attempt is being made. Records that the attempt has resolved are left as
    /// they are.
    pub(in crate::partition) fn skip_wanted(
        &mut self,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        if self.attempts.skips_wanted.is_empty() {
            return;
        }
        for offset in std::mem::take(&mut self.attempts.skips_wanted) {
            self.skip_record(offset, context, out);
        }
        self.commit_at_rest_if_moved(out);
    }

    /// Skips the record at `offset`, whose batch may have been split since the request was accepted.
    fn skip_record(&mut self, offset: Offset, context: &CoreContext<'_>, out: &mut PartitionEffects) {
        if self.attempts.current.holds(offset) {
            let work = std::mem::replace(
                &mut self.attempts.current,
                RecordAttempt::none(self.progress.ledger.frontier()),
            );
            let end = work.batch.range.end;
            match self.skip_in(work, offset, context, out) {
                Some(rest) => self.attempts.current = rest,
                None => {
                    (self.attempts.current, self.attempts.state) =
                        (RecordAttempt::none(end), AttemptState::Idle);
                }
            }
        } else if let Some(index) = self.attempts.remaining.iter().position(|work| work.holds(offset)) {
            let work = self.attempts.remaining.remove(index);
            if let Some(rest) = self.skip_in(work, offset, context, out) {
                self.attempts.remaining.insert(index, rest);
            }
        }
    }

    /// Returns `work` without the record at `offset`, or `None` if no record is left.
    fn skip_in(
        &mut self,
        work: RecordAttempt,
        offset: Offset,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) -> Option<RecordAttempt> {
        let range = work.batch.range;
        let rest = work.batch.select(range, context.sizer, |record| record.offset != offset);
        self.resolve(OffsetRange { first: offset, end: offset.next() }, Outcome::Skipped, out);
        out.push(PartitionEffect::Log(PartitionEvent::Skipped { offset }));
        if rest.is_empty() {
            self.resolve(range, Outcome::NoRecord, out);
            return None;
        }
        let mut work = work.with_records(rest);
        work.batch.range.first = self.progress.ledger.frontier().max(range.first).min(range.end);
        Some(work)
    }
}
