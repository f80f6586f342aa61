//! Life of an offer: it grows as records arrive, is withdrawn when one of its records becomes too old, and is sealed
//! as a batch. A seal may cross an update of the offer: the batch holds only the sealed records.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::{Moment, TimestampMs};

use crate::messages::batch::BatchId;
use crate::messages::offer::Offer;
use crate::partition::attempts::AttemptState;
use crate::partition::attempts::attempt::{RecordAttempt, until_expired};
use crate::partition::core::PartitionCore;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionIdentity};

impl PartitionCore {
    /// Handles the sealing of offer `seq` up to `end` as `batch`; returns false if that offer is not the current one.
    pub fn sealed(&mut self, seq: u64, end: Offset, batch: BatchId, context: &CoreContext<'_>) -> bool {
        let ours =
            matches!(self.attempts.state, AttemptState::Offered { seq: offered, .. } if offered == seq);
        if ours {
            self.attempts.state = AttemptState::Sealed { batch };
            self.split_unsealed(end, context);
        }
        ours
    }

    /// Handles the withdrawal of offer `seq`.
    pub fn withdrawn(&mut self, now: Moment, seq: u64, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if matches!(self.attempts.state, AttemptState::Offered { seq: offered, .. } if offered == seq) {
            self.attempts.state = AttemptState::Idle;
        }
        self.advance(now, context, &mut out);
        out
    }

    /// Adds records that have arrived to an unsealed offer. A retry never grows: it sends the same records under the
    /// same key.
    pub(in crate::partition) fn grow_offer(
        &mut self,
        expires: Option<Moment>,
        now: Moment,
        context: &mut CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        let before = self.attempts.current.batch.records;
        if self.attempts.current.may_grow() && self.attempts.skips_wanted.is_empty() {
            let _goes_on = self.fill(now, context, out);
        }
        let is_time = expires.is_some_and(|until| until <= now);
        if self.attempts.current.batch.records > before || is_time {
            self.publish_offer(now, context, out);
        } else {
            // The scheduled wake-up may have been for an earlier offer.
            self.schedule_wake(expires, now, out);
        }
    }

    /// Offers the current batch. If a record has become too old while offered, the offer is withdrawn instead, and
    /// its age is judged after that.
    pub(in crate::partition) fn publish_offer(
        &mut self,
        now: Moment,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        let expires = self.first_expiry(now, context.wall);
        if let AttemptState::Offered { seq, .. } = self.attempts.state {
            if expires.is_some_and(|at| at <= now) {
                out.push(PartitionEffect::Withdraw { seq });
                return;
            }
        } else {
            self.attempts.offer_seq += 1;
        }
        let seq = self.attempts.offer_seq;
        self.attempts.state = AttemptState::Offered { seq, expires };
        let (cut, attempt, alone) = (
            self.attempts.current.batch.clone(),
            self.attempts.current.attempt(),
            self.attempts.current.exclusive,
        );
        let (PartitionIdentity { partition, epoch, .. }, key_bytes) =
            (self.start.identity, self.start.key_bytes);
        out.push(PartitionEffect::Offer(Offer {
            partition,
            epoch,
            seq,
            cut,
            attempt,
            alone,
            key_bytes,
            expires,
        }));
        self.schedule_wake(expires, now, out);
    }

    /// Schedules a wake-up, at most one at a time: an earlier one checks again and schedules the next.
    fn schedule_wake(&mut self, expires: Option<Moment>, now: Moment, out: &mut PartitionEffects) {
        let Some(at) = expires else { return };
        if self.attempts.expiry_wake.is_none_or(|arranged| arranged <= now || at < arranged) {
            self.attempts.expiry_wake = Some(at);
            wake_at_expiry(at, out);
        }
    }

    /// Returns the time at which the first of the current records becomes too old.
    fn first_expiry(&self, now: Moment, wall: TimestampMs) -> Option<Moment> {
        let age_max = self.start.policy.record_age_max?;
        let left = self
            .attempts
            .current
            .batch
            .walk()
            .filter_map(|record| until_expired(&record, age_max, wall))
            .min();
        left.map(|left| now + left)
    }

    /// Splits off the records that were offered only after the batch was sealed; they form the next attempt.
    fn split_unsealed(&mut self, end: Offset, context: &CoreContext<'_>) {
        let range = self.attempts.current.batch.range;
        if is_wholly_sealed(range, end) {
            return;
        }
        let (front, back) = range.split_at(end);
        let back = self.attempts.current.batch.select(back, context.sizer, |_| true);
        if !back.is_empty() {
            self.attempts
                .remaining
                .push(RecordAttempt { held_up: false, ..self.attempts.current.with_records(back) });
            self.attempts.current = self.attempts.current.with_records(self.attempts.current.batch.select(
                front,
                context.sizer,
                |_| true,
            ));
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
