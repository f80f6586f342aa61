//! Effect of a failure on the current records: retried, split, or excluded from further attempts.

use std::collections::BTreeSet;
use std::sync::Arc;

use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::Record;
use lighterman_proto::units::Moment;

use super::PartitionAttempts;
use super::attempt::FailureHandling;
use crate::messages::records::RecordSizer;
use crate::messages::resolution::AttemptFailure;
use crate::partition::effects::PartitionEffects;

impl PartitionAttempts {
    /// Handles the failure of all records. In a batch with other partitions' records these may not be to blame, so
    /// they are retried alone. Returns true if they were split in half, which uses up no attempt, as for Kinesis.
    pub(in crate::partition) fn on_failure(
        &mut self,
        mixed: bool,
        failure: Arc<AttemptFailure>,
        policy: &FailureHandling,
        sizer: &dyn RecordSizer,
    ) -> bool {
        self.current.failed(failure);
        let is_halved = !mixed && policy.bisect && self.split_in_half(sizer);
        if !is_halved {
            self.current.use_up(mixed);
        }
        is_halved
    }

    /// Handles a payload too large for the endpoint: the records are split in half, down to a single record.
    pub(in crate::partition) fn on_too_large(
        &mut self,
        mixed: bool,
        failure: Arc<AttemptFailure>,
        again_at: Moment,
        sizer: &dyn RecordSizer,
        out: &mut PartitionEffects,
    ) {
        self.current.failed(failure);
        if mixed {
            self.back_off(again_at, out);
        } else if !self.split_in_half(sizer) {
            self.give_up(FailureCondition::MaximumPayloadSizeExceeded);
        }
    }

    /// Keeps the records of `rest` that are retried after the function has reported those in `failed`. Returns true if
    /// they were split in half, which uses up no attempt.
    pub(in crate::partition) fn keep_failed(
        &mut self,
        failed: &BTreeSet<Offset>,
        rest: OffsetRange,
        failure: Arc<AttemptFailure>,
        policy: &FailureHandling,
        sizer: &dyn RecordSizer,
    ) -> bool {
        self.current.failed(failure);
        let named_only = policy.named_only;
        let keep = |record: &Record<'_>| !named_only || failed.contains(&record.offset);
        self.current = self.current.with_records(self.current.batch.select(rest, sizer, keep));
        let is_halved = !named_only && policy.bisect && self.split_in_half(sizer);
        if !is_halved {
            self.current.use_up(false);
        }
        is_halved
    }

    /// Waits until `again_at` for the next attempt, if there is one.
    pub(in crate::partition) fn back_off_unless_exhausted(
        &mut self,
        again_at: Moment,
        policy: &FailureHandling,
        out: &mut PartitionEffects,
    ) {
        if !self.current.is_exhausted(policy) {
            self.back_off(again_at, out);
        }
    }

    fn split_in_half(&mut self, sizer: &dyn RecordSizer) -> bool {
        let Some((front, back)) = self.current.batch.halves(sizer) else { return false };
        self.remaining.push(self.current.second_half(back));
        self.current = self.current.with_records(front);
        true
    }
}
