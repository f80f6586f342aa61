//! Offers of the current records to the batcher.

use lighterman_proto::ids::Offset;
use lighterman_proto::units::Moment;

use super::PartitionCore;
use crate::messages::batch::BatchId;
use crate::messages::offer::Offer;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionIdentity};

impl PartitionCore {
    /// Handles the sealing of offer `seq` up to `end` as `batch`; returns false if that offer is not the current one.
    pub fn sealed(&mut self, seq: u64, end: Offset, batch: BatchId, context: &CoreContext<'_>) -> bool {
        self.attempts.seal(seq, end, batch, context.sizer)
    }

    /// Handles the withdrawal of offer `seq`.
    pub fn withdrawn(&mut self, now: Moment, seq: u64, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.attempts.end_offer(seq);
        self.advance(now, context, &mut out);
        out
    }

    /// Adds records that have arrived to an unsealed offer.
    pub(super) fn grow_offer(
        &mut self,
        now: Moment,
        context: &mut CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        let before = self.attempts.current().batch.records;
        if self.attempts.may_grow_offer() {
            let _goes_on = self.fill(now, context, out);
        }
        let expires = self.attempts.offer_expiry();
        let is_time = expires.is_some_and(|until| until <= now);
        if self.attempts.current().batch.records > before || is_time {
            self.publish_offer(now, context, out);
        } else {
            // The scheduled wake-up may have been for an earlier offer.
            self.attempts.schedule_wake(expires, now, out);
        }
    }

    /// Offers the current batch. If a record has become too old while offered, the offer is withdrawn instead, and
    /// its age is judged after that.
    pub(super) fn publish_offer(
        &mut self,
        now: Moment,
        context: &CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        let expires = self.attempts.first_expiry(&self.config.policy, now, context.wall);
        if self.attempts.is_offered() && expires.is_some_and(|at| at <= now) {
            out.extend(self.attempts.call_back());
            return;
        }
        let seq = self.attempts.offer(expires);
        let current = self.attempts.current();
        let PartitionIdentity { partition, epoch, .. } = self.config.identity;
        out.push(PartitionEffect::Offer(Offer {
            partition,
            epoch,
            seq,
            partition_batch: current.batch.clone(),
            attempt: current.attempt(),
            alone: current.exclusive,
            key_bytes: self.config.key_bytes,
            expires,
        }));
        self.attempts.schedule_wake(expires, now, out);
    }
}
