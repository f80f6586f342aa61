//! Results of invocations. Order is kept: later records wait until the earlier ones are resolved.

use std::collections::BTreeSet;
use std::sync::Arc;

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::PartitionCore;
use crate::messages::batch::BatchId;
use crate::messages::outcome::Outcome;
use crate::messages::records::PartitionBatch;
use crate::messages::resolution::{AttemptFailure, BatchResolution};
use crate::partition::effects::{CoreContext, PartitionEffects};

impl PartitionCore {
    /// Handles the result of `batch`. A batch other than the sealed one is ignored (OWN-1).
    pub fn resolved(
        &mut self,
        now: Moment,
        batch: BatchId,
        resolution: BatchResolution,
        context: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !self.attempts.end_invocation(batch) {
            return out;
        }
        self.apply_resolution(resolution, context, &mut out);
        self.advance(now, context, &mut out);
        out
    }

    fn apply_resolution(
        &mut self,
        resolution: BatchResolution,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        let (policy, sizer) = (&self.config.policy, context.sizer);
        match resolution {
            BatchResolution::Delivered => self.resolve_work(Outcome::Delivered, out),
            BatchResolution::Partial { failed, failure, again_at } => {
                self.on_partial_failure(&failed, failure, again_at, context, out);
            }
            BatchResolution::Failed { mixed, failure, again_at } => {
                if !self.attempts.on_failure(mixed, failure, policy, sizer) {
                    self.attempts.back_off_unless_exhausted(again_at, policy, out);
                }
            }
            BatchResolution::TooLarge { mixed, failure, again_at } => {
                self.attempts.on_too_large(mixed, failure, again_at, sizer, out);
            }
            BatchResolution::Again { at } => self.on_unknown_result(at, out),
        }
    }

    /// Handles a batch whose result is unknown: its records are retried, as they may not have been processed.
    fn on_unknown_result(&mut self, again_at: Moment, out: &mut PartitionEffects) {
        mutant!(
            "unknown-is-success",
            self.attempts.back_off(again_at, out),
            self.resolve_work(Outcome::Delivered, out)
        );
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
        let (good, rest) = self.attempts.current().batch.range.split_at(delivered_end(lowest));
        self.resolve(good, Outcome::Delivered, out);
        if self.config.policy.named_only {
            for range in between(failed, rest) {
                self.resolve(range, Outcome::Delivered, out);
            }
        }
        let policy = &self.config.policy;
        let is_halved = self.attempts.keep_failed(failed, rest, failure, policy, context.sizer);
        self.commit_at_rest_if_moved(out);
        if !is_halved {
            self.attempts.back_off_unless_exhausted(again_at, &self.config.policy, out);
        }
    }

    /// Records `outcome` for the current batch; the next batch starts after it.
    pub(super) fn resolve_work(&mut self, outcome: Outcome, out: &mut PartitionEffects) {
        let range = self.attempts.current().batch.range;
        let done = self.attempts.pass_to(range.end);
        if outcome.is_notable() {
            // Offsets between the records do not get their outcome.
            for run in runs(&done.batch) {
                self.resolve(run, outcome, out);
            }
            self.resolve_and_commit(range, Outcome::NoRecord, out);
        } else {
            self.resolve_and_commit(range, outcome, out);
        }
    }
}

/// Returns the offsets of a batch's records, with adjacent ones joined.
fn runs(partition_batch: &PartitionBatch) -> Vec<OffsetRange> {
    let mut runs: Vec<OffsetRange> = Vec::new();
    for record in partition_batch.walk() {
        match runs.last_mut() {
            Some(last) if last.end == record.offset => last.end = record.offset.next(),
            _ => runs.push(OffsetRange { first: record.offset, end: record.offset.next() }),
        }
    }
    runs
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
