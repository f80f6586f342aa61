//! Skips of failing records and of unreadable offsets on an operator's request.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::PartitionCore;
use crate::messages::outcome::Outcome;
use crate::messages::skip::SkipAnswer;
use crate::partition::attempts::skip::FailingRecords;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionEvent};

impl PartitionCore {
    /// Returns the failing records, if there are any.
    pub fn failing(&self) -> Option<FailingRecords> {
        self.attempts.failing()
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
        let passed = self.is_active().then(|| self.request_pass(offset, end, &mut out)).flatten();
        if let Some(answer) = passed {
            self.advance(now, context, &mut out);
            return (answer, out);
        }
        if end.is_some_and(|end| end != offset.next()) {
            return (SkipAnswer::NotUnreadable, out);
        }
        if self.failing().is_none() || self.has_ended() {
            return (SkipAnswer::NotFailing, out);
        }
        let current = self.attempts.current();
        if !current.holds(offset) {
            return (SkipAnswer::NotAmong(current.batch.range), out);
        }
        self.attempts.request_skip(offset);
        out.extend(self.attempts.call_back());
        self.advance(now, context, &mut out);
        let waits = self.attempts.is_skip_requested(offset);
        (if waits { SkipAnswer::AfterThisAttempt } else { SkipAnswer::Skipped }, out)
    }

    /// Skips the requested records once no attempt is being made. Records that the attempt has resolved are left as
    /// they are.
    pub(super) fn skip_requested(&mut self, context: &CoreContext<'_>, out: &mut PartitionEffects) {
        let offsets = self.attempts.take_requested_skips();
        if offsets.is_empty() {
            return;
        }
        for offset in offsets {
            self.skip_record(offset, context, out);
        }
        self.commit_at_rest_if_moved(out);
    }

    fn skip_record(&mut self, offset: Offset, context: &CoreContext<'_>, out: &mut PartitionEffects) {
        let Some(range) = self.attempts.range_with(offset) else { return };
        self.resolve(OffsetRange { first: offset, end: offset.next() }, Outcome::Skipped, out);
        out.push(PartitionEffect::Log(PartitionEvent::Skipped { offset }));
        if !self.attempts.skip(offset, self.progress.frontier(), context.sizer) {
            self.resolve(range, Outcome::NoRecord, out);
        }
    }
}
