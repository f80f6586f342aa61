//! What an answer makes of the records in work: resolved, tried again, cut smaller, given up. Order is kept: what lies behind
//! waits until what lies before is resolved.

use std::collections::BTreeSet;
use std::sync::Arc;

use lighterman_proto::failure::Condition;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::Record;
use lighterman_proto::units::Moment;

use super::core::{Flight, PartitionCore};
use super::effects::{Effect, Effects, Resolution, Tools};
use super::ledger::Outcome;
use super::work::Failure;

impl PartitionCore {
    pub(super) fn judge(&mut self, resolution: Resolution, tools: &Tools<'_>, out: &mut Effects) {
        match resolution {
            Resolution::Delivered => self.resolve_work(Outcome::Delivered, out),
            Resolution::Partial { failed, failure, again_at } => {
                self.partly_failed(&failed, failure, again_at, tools, out);
            }
            Resolution::Failed { mixed, failure, again_at } => {
                self.failed(mixed, failure, again_at, tools, out);
            }
            Resolution::TooLarge { mixed, failure, again_at } => {
                self.too_large(mixed, failure, again_at, tools, out);
            }
            Resolution::Again { at } => {
                mutant!("unknown-is-success", self.wait(at, out), self.resolve_work(Outcome::Delivered, out));
            }
        }
    }

    pub(super) fn wait(&mut self, until: Moment, out: &mut Effects) {
        self.flight = Flight::Waiting { until };
        self.work.held_up = true;
        out.push(Effect::WakeAt(until));
    }

    /// All of it failed. Beside other partitions' records that says nothing of these: they are tried alone. A batch that is
    /// cut in two uses up no attempt, as for Kinesis.
    fn failed(
        &mut self,
        mixed: bool,
        failure: Arc<Failure>,
        again_at: Moment,
        tools: &Tools<'_>,
        out: &mut Effects,
    ) {
        self.work.failed(failure);
        if !mixed && self.start.policy.bisect && self.halve(tools) {
            return;
        }
        self.work.used = self.work.used.saturating_add(1);
        self.work.failed_alone |= !mixed;
        self.wait_unless_exhausted(again_at, out);
    }

    fn wait_unless_exhausted(&mut self, again_at: Moment, out: &mut Effects) {
        if !self.work.is_exhausted(&self.start.policy) {
            self.wait(again_at, out);
        }
    }

    fn halve(&mut self, tools: &Tools<'_>) -> bool {
        let Some((front, back)) = self.work.cut.halves(tools.sizer) else { return false };
        self.later.push(mutant!(
            "bisecting-loses-a-half",
            self.work.over(back),
            self.work.over(super::cut::Cut::empty(back.range.first))
        ));
        self.work = self.work.over(front);
        true
    }

    /// The endpoint takes less than we may send: half of it, then, down to the single record.
    fn too_large(
        &mut self,
        mixed: bool,
        failure: Arc<Failure>,
        again_at: Moment,
        tools: &Tools<'_>,
        out: &mut Effects,
    ) {
        self.work.failed(failure);
        if mixed {
            self.wait(again_at, out);
        } else if !self.halve(tools) {
            self.work.fate = Some(Condition::MaximumPayloadSizeExceeded);
        }
    }

    /// The function named `failed` of the records. It has answered for the others where only the named ones are tried again.
    /// Where order is kept it may have stopped at its first failure: then nothing behind the lowest is answered for.
    fn partly_failed(
        &mut self,
        failed: &BTreeSet<Offset>,
        failure: Arc<Failure>,
        again_at: Moment,
        tools: &Tools<'_>,
        out: &mut Effects,
    ) {
        let Some(lowest) = failed.first().copied() else {
            self.resolve_work(Outcome::Delivered, out);
            return;
        };
        self.work.failed(failure);
        let (good, rest) =
            self.work.cut.range.split_at(mutant!("named-record-counts-as-good", lowest, lowest.next()));
        self.resolve(good, Outcome::Delivered, out);
        let named_only = self.start.policy.named_only;
        if named_only {
            for range in between(failed, rest) {
                self.resolve(range, Outcome::Delivered, out);
            }
        }
        let keep = |record: &Record<'_>| !named_only || failed.contains(&record.offset);
        self.work = self.work.over(self.work.cut.select(rest, tools.sizer, keep));
        let halved = !named_only && self.start.policy.bisect && self.halve(tools);
        if !halved {
            self.work.used = self.work.used.saturating_add(1);
            self.work.failed_alone = true;
        }
        self.commit_at_rest_if_moved(out);
        if !halved {
            self.wait_unless_exhausted(again_at, out);
        }
    }

    /// The progress beside it names the attempts that are used up, not the next one: nobody has begun it.
    pub(super) fn commit_at_rest_if_moved(&mut self, out: &mut Effects) {
        if self.sent.offset != self.ledger.frontier() {
            let progress = self.progress_at_rest();
            self.commit(progress, out);
        }
    }
}

/// What lies between and behind the named offsets of `range`.
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
