//! Effect of a batch result on the current records: resolved, retried, split, or excluded from further attempts.
//! Order is kept: later records wait until the earlier ones are resolved.

use std::collections::BTreeSet;
use std::sync::Arc;

use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::Record;
use lighterman_proto::units::Moment;

use crate::messages::outcome::Outcome;
use crate::messages::resolution::{AttemptFailure, BatchResolution};
use crate::partition::attempts::AttemptState;
use crate::partition::core::PartitionCore;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects};

impl PartitionCore {
    pub(in crate::partition) fn apply_resolution(
        &mut self,
        resolution: BatchResolution,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        match resolution {
            BatchResolution::Delivered => self.resolve_work(Outcome::Delivered, out),
            BatchResolution::Partial { failed, failure, again_at } => {
                self.on_partial_failure(&failed, failure, again_at, context, out);
            }
            BatchResolution::Failed { mixed, failure, again_at } => {
                self.on_failure(mixed, failure, again_at, context, out);
            }
            BatchResolution::TooLarge { mixed, failure, again_at } => {
                self.on_too_large(mixed, failure, again_at, context, out);
            }
            BatchResolution::Again { at } => self.on_unknown_result(at, out),
        }
    }

    /// Handles a batch whose result is unknown: its records are retried, as they may not have been processed.
    fn on_unknown_result(&mut self, again_at: Moment, out: &mut PartitionEffects) {
        mutant!(
            "unknown-is-success",
            self.back_off(again_at, out),
            self.resolve_work(Outcome::Delivered, out)
        );
    }

    pub(in crate::partition) fn back_off(&mut self, until: Moment, out: &mut PartitionEffects) {
        self.attempts.state = AttemptState::BackingOff { until };
        self.attempts.current.held_up = true;
        out.push(PartitionEffect::WakeAt(until));
    }

    /// Handles the failure of all records. In a batch with other partitions' records these may not be to blame, so
    /// they are retried alone. Splitting a batch uses up no attempt, as for Kinesis.
    fn on_failure(
        &mut self,
        mixed: bool,
        failure: Arc<AttemptFailure>,
        again_at: Moment,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        self.attempts.current.failed(failure);
        if !mixed && self.start.policy.bisect && self.split_in_half(context) {
            return;
        }
        self.attempts.current.attempts_used = self.attempts.current.attempts_used.saturating_add(1);
        self.attempts.current.failed_alone |= !mixed;
        self.back_off_unless_exhausted(again_at, out);
    }

    fn back_off_unless_exhausted(&mut self, again_at: Moment, out: &mut PartitionEffects) {
        if !self.attempts.current.is_exhausted(&self.start.policy) {
            self.back_off(again_at, out);
        }
    }

    fn split_in_half(&mut self, context: &CoreContext<'_>) -> bool {
        let Some((front, back)) = self.attempts.current.batch.halves(context.sizer) else { return false };
        self.attempts.remaining.push(self.attempts.current.second_half(back));
        self.attempts.current = self.attempts.current.with_records(front);
        true
    }

    /// Handles a payload too large for the endpoint: the records are split in half, down to a single record.
    fn on_too_large(
        &mut self,
        mixed: bool,
        failure: Arc<AttemptFailure>,
        again_at: Moment,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        self.attempts.current.failed(failure);
        if mixed {
            self.back_off(again_at, out);
        } else if !self.split_in_half(context) {
            self.attempts.current.give_up_reason = Some(FailureCondition::MaximumPayloadSizeExceeded);
        }
    }

    /// Handles a failure of the records in `failed`, as reported by the function. If only reported records are
    /// retried, the function has succeeded for all others. If order is kept, it may have stopped at its first
    /// failure, so no record after the lowest reported one counts as delivered.
    fn on_partial_failure(
        &mut self,
        failed: &BTreeSet<Offset>,
        failure: Arc<AttemptFailure>,
        again_at: Moment,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        let Some(lowest) = failed.first().copied() else {
            self.resolve_work(Outcome::Delivered, out);
            return;
        };
        self.attempts.current.failed(failure);
        let (good, rest) = self.attempts.current.batch.range.split_at(delivered_end(lowest));
        self.resolve(good, Outcome::Delivered, out);
        let named_only = self.start.policy.named_only;
        if named_only {
            for range in between(failed, rest) {
                self.resolve(range, Outcome::Delivered, out);
            }
        }
        let keep = |record: &Record<'_>| !named_only || failed.contains(&record.offset);
        self.attempts.current =
            self.attempts.current.with_records(self.attempts.current.batch.select(rest, context.sizer, keep));
        let halved = !named_only && self.start.policy.bisect && self.split_in_half(context);
        if !halved {
            self.attempts.current.attempts_used = self.attempts.current.attempts_used.saturating_add(1);
            self.attempts.current.failed_alone = true;
        }
        self.commit_at_rest_if_moved(out);
        if !halved {
            self.back_off_unless_exhausted(again_at, out);
        }
    }

    /// Commits the frontier if it has moved. The progress holds the attempts used up, not the next one, which has not
    /// started.
    pub(in crate::partition) fn commit_at_rest_if_moved(&mut self, out: &mut PartitionEffects) {
        if self.progress.sent.offset != self.progress.ledger.frontier() {
            let progress = self.progress_at_rest();
            self.commit(progress, out);
        }
    }
}

/// Returns the end of the records that count as delivered, if `lowest` is the first that the function has reported as
/// failed.
fn delivered_end(lowest: Offset) -> Offset {
    mutant!("named-record-counts-as-good", lowest, lowest.next())
}

/// Returns the ranges between and after the named offsets of `range`.
fn between(named: &BTreeSet<Offset>, range: OffsetRange) -> Vec<OffsetRange> {
    let mut from = range.first;
    let mut ranges = Vec::new();
    for offset in named {
        ranges.push(OffsetRange { first: from, end: *offset });
        from = offset.next();
    }
    ranges.push(OffsetRange { first: from, end: range.end });
    ranges.retain(|range| !range.is_empty());
    ranges
}
