//! Start of an attempt: takes the next records into a batch, commits the attempt's progress, and offers the records.

use lighterman_proto::ids::OffsetRange;
use lighterman_proto::units::Moment;

use super::{PartitionCore, PartitionPhase};
use crate::messages::outcome::{Outcome, ResolvedRange};
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects};
use crate::partition::reader::fetch_buffer::{BatchOpener, FillStop};

impl PartitionCore {
    /// Takes the next step towards an attempt, if one is possible.
    pub(super) fn advance_attempt(
        &mut self,
        now: Moment,
        context: &mut CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        if self.attempts.is_offered() {
            self.grow_offer(now, context, out);
        } else if self.attempts.is_at_rest() {
            self.skip_requested(context, out);
            if !self.attempts.is_backing_off(now) && self.may_start(now) {
                self.attempts.end_wait();
                self.start_attempt(now, context, out);
            }
        }
    }

    fn start_attempt(&mut self, now: Moment, context: &mut CoreContext<'_>, out: &mut PartitionEffects) {
        // Each iteration separates some records or resolves them.
        while self.phase != PartitionPhase::Stopped && self.may_start(now) {
            if self.needs_records() {
                self.next_attempt(now, context, out);
            }
            if self.needs_records() || !self.may_start(now) {
                return;
            }
            if let Some(condition) = self.attempts.give_up_condition(&self.config.policy) {
                self.dead_letter_or_drop(condition, out);
                if !self.attempts.is_idle() {
                    return;
                }
                continue;
            }
            if self.attempts.split_by_age(&self.config.policy, context.wall, context.sizer) {
                continue;
            }
            let wanted = self.progress_for_attempt();
            if wanted.is_some() && !self.progress.is_on_record(wanted.as_ref()) {
                self.commit(wanted.clone(), out);
            }
            if wanted.is_some() && !self.progress.is_acknowledged() {
                self.attempts.wait_for_commit();
                return;
            }
            self.publish_offer(now, context, out);
            return;
        }
    }

    /// True if the next attempt may start with the commits that the group has not acknowledged. Anything but the first
    /// attempt at new records depends on them: on the attempts used up, on the pieces of a split batch.
    fn may_start(&self, now: Moment) -> bool {
        let needs_nothing = !self.attempts.is_awaiting_commit()
            && !self.attempts.has_remaining()
            && self.attempts.current().is_untried();
        self.progress.is_acknowledged() || (needs_nothing && self.may_start_unacknowledged(now))
    }

    fn may_start_unacknowledged(&self, now: Moment) -> bool {
        self.config.policy.retries_max.is_none()
            && !self.progress.has_inherited_pieces()
            && self.progress.has_commit_room(now)
    }

    /// True if no record is current, or if some of an earlier owner's piece have not arrived.
    fn needs_records(&self) -> bool {
        self.attempts.current().batch.is_empty() || self.is_refilling()
    }

    /// Takes the remaining pieces of a failed batch first, then the pieces of an earlier owner, then new records.
    fn next_attempt(&mut self, now: Moment, context: &mut CoreContext<'_>, out: &mut PartitionEffects) {
        if self.attempts.continue_with_next() {
            return;
        }
        let goes_on = self.fill(now, context, out);
        let batch = &self.attempts.current().batch;
        if batch.is_empty() {
            return;
        }
        let Some(piece) = self.progress.count_towards_piece(batch.records) else { return };
        let is_reached = piece.is_reached_by(batch.range.end);
        let is_whole = is_reached || piece.end.is_none() || batch.full || self.reader.is_interrupted();
        if !is_whole && goes_on {
            return;
        }
        // The records held here may occupy the memory that fetching the rest needs.
        if !is_whole && !is_memory_short(context.batch_opener) {
            out.push(PartitionEffect::PollSoon);
            return;
        }
        if is_reached {
            self.progress.end_piece();
        }
        self.attempts.resume(&piece, self.config.failures.as_ref());
    }

    /// True while some records of an earlier owner's piece have not arrived.
    pub(super) fn is_refilling(&self) -> bool {
        self.progress.is_next_piece_bounded()
            && !self.attempts.has_remaining()
            && self.attempts.current().may_grow()
    }

    /// Fills the current batch from the buffer; returns true if filling continues after other tasks on the thread
    /// have run.
    pub(super) fn fill(
        &mut self,
        now: Moment,
        context: &mut CoreContext<'_>,
        out: &mut PartitionEffects,
    ) -> bool {
        let limits = self.progress.fill_limits(self.config.limits);
        let stop = self.attempts.fill(&mut self.reader, limits, context);
        self.resolve_excluded(out);
        let goes_on = stop == FillStop::Later;
        match stop {
            FillStop::Done => {}
            FillStop::NoCredit(shortage) => out.push(PartitionEffect::AwaitCredit(shortage)),
            FillStop::Later => out.push(PartitionEffect::ContinueSoon),
            FillStop::Oversized { offset, bytes } => {
                if self.attempts.give_up_oversized(&mut self.reader, offset, bytes) {
                    return false;
                }
            }
            FillStop::Corrupt(error) => self.reread(now, error, out),
            FillStop::Rewritten => {
                self.discard_inherited(out);
                return self.fill(now, context, out);
            }
        }
        if self.attempts.current().batch.is_empty() {
            // All were filtered, or there is no record at these offsets.
            let range = self.attempts.pass_empty_batch();
            self.resolve_tail(range, out);
        }
        goes_on
    }

    fn resolve_excluded(&mut self, out: &mut PartitionEffects) {
        for ResolvedRange { range, outcome } in self.attempts.take_excluded() {
            self.resolve(range, outcome, out);
        }
        self.attempts.move_start_to(self.progress.frontier());
    }

    /// Resolves the offsets after the last record, and commits. The frontier may have moved even if there are none:
    /// filtered records are resolved before.
    fn resolve_tail(&mut self, tail: OffsetRange, out: &mut PartitionEffects) {
        mutant!(
            "filtered-tail-not-committed",
            self.resolve_and_commit(tail, Outcome::NoRecord, out),
            if !tail.is_empty() {
                self.resolve_and_commit(tail, Outcome::NoRecord, out);
            }
        );
    }
}

/// True if other partitions wait for memory, and perhaps for that of the records held here.
fn is_memory_short(batch_opener: &dyn BatchOpener) -> bool {
    mutant!("regrowing-starves-others", batch_opener.has_waiters(), false)
}
