//! Life of an offer: it grows as records arrive, is withdrawn when one of its records becomes too old, and is sealed
//! as a batch. A seal may cross an update of the offer: the batch holds only the sealed records.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::{Moment, TimestampMs};

use super::attempt::{FailureHandling, RecordAttempt, until_expired};
use super::{AttemptState, PartitionAttempts};
use crate::messages::batch::BatchId;
use crate::messages::records::RecordSizer;
use crate::partition::effects::{PartitionEffect, PartitionEffects};

impl PartitionAttempts {
    /// True if records that arrive may be added to the offer. A retry never grows: it sends the same records under the
    /// same key.
    pub(in crate::partition) fn may_grow_offer(&self) -> bool {
        self.current.may_grow() && self.skips_wanted.is_empty()
    }

    /// Time at which the first of the offered records becomes too old.
    pub(in crate::partition) fn offer_expiry(&self) -> Option<Moment> {
        match self.state {
            AttemptState::Offered { expires, .. } => expires,
            _ => None,
        }
    }

    /// Returns the time at which the first of the current records becomes too old.
    pub(in crate::partition) fn first_expiry(
        &self,
        policy: &FailureHandling,
        now: Moment,
        wall: TimestampMs,
    ) -> Option<Moment> {
        let age_max = policy.record_age_max?;
        let records = self.current.batch.walk();
        let left = records.filter_map(|record| until_expired(&record, age_max, wall)).min();
        left.map(|left| now + left)
    }

    /// Offers the current records, or replaces their offer; returns its sequence number.
    pub(in crate::partition) fn offer(&mut self, expires: Option<Moment>) -> u64 {
        if !self.is_offered() {
            self.offer_seq += 1;
        }
        self.state = AttemptState::Offered { seq: self.offer_seq, expires };
        self.offer_seq
    }

    /// Schedules a wake-up, at most one at a time: an earlier one checks again and schedules the next.
    pub(in crate::partition) fn schedule_wake(
        &mut self,
        expires: Option<Moment>,
        now: Moment,
        out: &mut PartitionEffects,
    ) {
        let Some(at) = expires else { return };
        if self.expiry_wake.is_none_or(|arranged| arranged <= now || at < arranged) {
            self.expiry_wake = Some(at);
            wake_at_expiry(at, out);
        }
    }

    /// Seals offer `seq` up to `end` as `batch`; returns false if that offer is not the current one.
    pub(in crate::partition) fn seal(
        &mut self,
        seq: u64,
        end: Offset,
        batch: BatchId,
        sizer: &dyn RecordSizer,
    ) -> bool {
        let is_ours = self.is_offered_as(seq);
        if is_ours {
            self.state = AttemptState::Sealed { batch };
            self.split_unsealed(end, sizer);
        }
        is_ours
    }

    /// Ends offer `seq`, which the batcher has withdrawn.
    pub(in crate::partition) fn end_offer(&mut self, seq: u64) {
        if self.is_offered_as(seq) {
            self.state = AttemptState::Idle;
        }
    }

    fn is_offered_as(&self, seq: u64) -> bool {
        matches!(self.state, AttemptState::Offered { seq: offered, .. } if offered == seq)
    }

    /// Splits off the records that were offered only after the batch was sealed; they form the next attempt.
    fn split_unsealed(&mut self, end: Offset, sizer: &dyn RecordSizer) {
        let range = self.current.batch.range;
        if is_wholly_sealed(range, end) {
            return;
        }
        let (front, back) = range.split_at(end);
        let back = self.current.batch.select(back, sizer, |_| true);
        if !back.is_empty() {
            self.remaining.push(RecordAttempt { is_retry: false, ..self.current.with_records(back) });
            self.current = self.current.with_records(self.current.batch.select(front, sizer, |_| true));
        }
    }
}

/// Asks for a wake-up when an offered record becomes too old to be attempted; the offer is withdrawn then.
fn wake_at_expiry(at: Moment, out: &mut PartitionEffects) {
    mutant!("grown-too-old-in-an-offer", out.push(PartitionEffect::WakeAt(at)), {});
}

/// True if a batch that is sealed up to `end` holds all records of the `offered` range.
fn is_wholly_sealed(offered: OffsetRange, end: Offset) -> bool {
    mutant!("seal-takes-in-what-came-later", end >= offered.end, true)
}
