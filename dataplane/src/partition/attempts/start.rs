//! Start of an attempt: takes the next records into a batch, commits the attempt's progress, and offers the records.

use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::OffsetRange;
use lighterman_proto::units::Moment;

use crate::messages::outcome::Outcome;
use crate::messages::records::PartitionBatch;
use crate::partition::attempts::AttemptState;
use crate::partition::attempts::attempt::RecordAttempt;
use crate::partition::core::{PartitionCore, PartitionPhase};
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects};
use crate::partition::reader::fetch_buffer::{BatchOpener, FillLimits, FillStop};

impl PartitionCore {
    /// Takes the next step towards an attempt, if one is possible.
    pub(in crate::partition) fn advance_attempt(
        &mut self,
        now: Moment,
        context: &mut CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        match self.attempts.state {
            AttemptState::Sealed { .. } | AttemptState::DeadLettering { .. } => {}
            AttemptState::Offered { expires, .. } => self.grow_offer(expires, now, context, out),
            AttemptState::Idle | AttemptState::AwaitingCommit | AttemptState::BackingOff { .. } => {
                self.skip_wanted(context, out);
                let waits = matches!(self.attempts.state, AttemptState::BackingOff { until } if until > now);
                if !waits && self.is_acknowledged() {
                    self.attempts.state = AttemptState::Idle;
                    self.start_attempt(now, context, out);
                }
            }
        }
    }

    fn start_attempt(&mut self, now: Moment, context: &mut CoreContext<'_>, out: &mut PartitionEffects) {
        // Each iteration separates some records or resolves them. No attempt starts while a commit is unacknowledged.
        while self.phase != PartitionPhase::Stopped && self.is_acknowledged() {
            if self.attempts.current.batch.is_empty() || self.is_refilling() {
                self.next_attempt(now, context, out);
            }
            if self.attempts.current.batch.is_empty() || self.is_refilling() || !self.is_acknowledged() {
                return;
            }
            if let Some(condition) = self.give_up_condition() {
                self.dead_letter_or_drop(condition, out);
                if !matches!(self.attempts.state, AttemptState::Idle) {
                    return;
                }
                continue;
            }
            if self.split_by_age(context) {
                continue;
            }
            let wanted = self.progress_for_attempt();
            if wanted.is_some() && !self.is_on_record(wanted.as_ref()) {
                self.attempts.state = AttemptState::AwaitingCommit;
                self.commit(wanted, out);
                return;
            }
            self.publish_offer(now, context, out);
            return;
        }
    }

    /// Takes the remaining pieces of a failed batch first, then the pieces of an earlier owner, then new records.
    fn next_attempt(&mut self, now: Moment, context: &mut CoreContext<'_>, out: &mut PartitionEffects) {
        if let Some(next) = self.attempts.take_next() {
            self.attempts.current = next;
            return;
        }
        let goes_on = self.fill(now, context, out);
        let cut = &self.attempts.current.batch;
        let Some(piece) = self.progress.inherited.pieces.front_mut().filter(|_| !cut.is_empty()) else {
            return;
        };
        piece.records_left = piece.records_left.saturating_sub(cut.records);
        let reached = piece.end.map_or(piece.records_left == 0, |end| cut.range.end >= end);
        let rest_is_gone = self.reader.lost_before.is_some() || self.reader.unread.now.is_some();
        let is_whole = reached || piece.end.is_none() || cut.full || rest_is_gone;
        if !is_whole && goes_on {
            return;
        }
        // The records held here may occupy the memory that fetching the rest needs.
        if !is_whole && !is_memory_short(context.opener) {
            out.push(PartitionEffect::PollSoon);
            return;
        }
        let piece = *piece;
        if reached {
            self.progress.inherited.pieces.pop_front();
        }
        self.attempts.current.attempts_used = piece.attempts_used;
        self.attempts.current.failed_alone = piece.failed_alone;
        self.attempts.current.first_failure_ms = piece.first_failure_ms;
        self.attempts.current.exclusive = true;
        if let Some(known) = self.start.failures.as_ref().filter(|_| piece.first_failure_ms.is_some()) {
            self.attempts.current.remember(known);
        }
    }

    /// True while some records of an earlier owner's piece have not arrived.
    pub(in crate::partition) fn is_refilling(&self) -> bool {
        let bounded = self.progress.inherited.pieces.front().is_some_and(|piece| piece.end.is_some());
        bounded && self.attempts.remaining.is_empty() && self.attempts.current.may_grow()
    }

    /// Fills the current batch from the buffer; returns true if filling continues after other tasks on the thread
    /// have run.
    pub(in crate::partition) fn fill(
        &mut self,
        now: Moment,
        context: &mut CoreContext<'_>,
        out: &mut PartitionEffects,
    ) -> bool {
        let reach = FillLimits {
            limits: self.start.limits,
            end_max: self.progress.inherited.pieces.front().and_then(|piece| piece.end),
            frontier: self.progress.ledger.frontier(),
            known: &self.progress.inherited.known,
            remembered: self.progress.inherited.remembered,
        };
        let stop = self.reader.buffer.grow(
            &mut self.attempts.current.batch,
            reach,
            context.sizer,
            context.sieve,
            context.opener,
        );
        self.resolve_excluded(out);
        self.reader.unread.forget_before(self.attempts.current.batch.range.end);
        let goes_on = stop == FillStop::Later;
        match stop {
            FillStop::Done => {}
            FillStop::NoCredit(shortage) => out.push(PartitionEffect::AwaitCredit(shortage)),
            FillStop::Later => out.push(PartitionEffect::ContinueSoon),
            FillStop::Oversized { offset, bytes } => {
                if let Some(cut) =
                    self.reader.buffer.take_one(self.attempts.current.batch.range.first, offset, bytes)
                {
                    self.attempts.current = self.attempts.current.with_records(cut);
                    self.attempts.current.give_up_reason = Some(FailureCondition::MaximumPayloadSizeExceeded);
                    return false;
                }
            }
            FillStop::Corrupt(error) => {
                self.reread(now, error, out);
            }
            FillStop::Rewritten => {
                self.discard_inherited(out);
                return self.fill(now, context, out);
            }
        }
        if self.attempts.current.batch.is_empty() {
            self.resolve_without_records(out);
        }
        goes_on
    }

    /// Resolves the range of a batch without records (all filtered, or no record at these offsets); the next batch
    /// starts after it.
    fn resolve_without_records(&mut self, out: &mut PartitionEffects) {
        let range = self.attempts.current.batch.range;
        self.attempts.current.batch = PartitionBatch::empty(range.end);
        self.resolve_tail(range, out);
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

    fn resolve_and_commit(&mut self, range: OffsetRange, outcome: Outcome, out: &mut PartitionEffects) {
        self.resolve(range, outcome, out);
        self.commit_if_moved(out);
    }

    fn resolve_excluded(&mut self, out: &mut PartitionEffects) {
        for (range, outcome) in std::mem::take(&mut self.attempts.current.batch.excluded) {
            self.resolve(range, outcome, out);
        }
        let first = self.attempts.current.batch.range.first.max(self.progress.ledger.frontier());
        self.attempts.current.batch.range.first = first.min(self.attempts.current.batch.range.end);
    }

    /// Records `outcome` for the current batch; the next batch starts after it.
    pub(in crate::partition) fn resolve_work(&mut self, outcome: Outcome, out: &mut PartitionEffects) {
        let range = self.attempts.current.batch.range;
        let done = std::mem::replace(&mut self.attempts.current, RecordAttempt::none(range.end));
        if outcome.is_notable() {
            // Offsets between the records do not get their outcome.
            for run in runs(&done.batch) {
                self.resolve(run, outcome, out);
            }
            self.resolve(range, Outcome::NoRecord, out);
        } else {
            self.resolve(range, outcome, out);
        }
        self.commit_if_moved(out);
    }
}

/// Returns the offsets of a batch's records, with adjacent ones joined.
fn runs(cut: &PartitionBatch) -> Vec<OffsetRange> {
    let mut runs: Vec<OffsetRange> = Vec::new();
    for record in cut.walk() {
        match runs.last_mut() {
            Some(last) if last.end == record.offset => last.end = record.offset.next(),
            _ => runs.push(OffsetRange { first: record.offset, end: record.offset.next() }),
        }
    }
    runs
}

/// True if other partitions wait for memory, and perhaps for that of the records held here.
fn is_memory_short(opener: &dyn BatchOpener) -> bool {
    mutant!("regrowing-starves-others", opener.has_waiters(), false)
}
