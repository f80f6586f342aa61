//! An offer while it is out: it takes in what arrives, is taken back when a record in it grows too old, and is fixed as a
//! batch. A seal may cross what was shown after it on its way: only what was sealed is in the batch.

use lighterman_proto::ids::Offset;
use lighterman_proto::units::{Moment, TimestampMs};

use super::attempt::{RecordAttempt, until_expired};
use super::core::{AttemptState, PartitionCore};
use super::effects::{CoreContext, PartitionEffect, PartitionEffects};
use crate::batcher::BatchId;

impl PartitionCore {
    /// The batcher fixed what offer `seq` had up to `end` as `batch`; false when that offer is not out any more.
    pub fn sealed(&mut self, seq: u64, end: Offset, batch: BatchId, tools: &CoreContext<'_>) -> bool {
        let ours = matches!(self.flight, AttemptState::Offered { seq: offered } if offered == seq);
        if ours {
            self.flight = AttemptState::Sealed { batch };
            self.split_unsealed(end, tools);
        }
        ours
    }

    /// The batcher gave offer `seq` back.
    pub fn withdrawn(&mut self, now: Moment, seq: u64, tools: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if matches!(self.flight, AttemptState::Offered { seq: offered } if offered == seq) {
            self.flight = AttemptState::Idle;
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// An offer that nobody has sealed takes in what has arrived since. A retry never does: the same records under the
    /// same key.
    pub(super) fn grow_offer(
        &mut self,
        now: Moment,
        tools: &mut CoreContext<'_>,
        out: &mut PartitionEffects,
    ) {
        let before = self.current.batch.records;
        if self.current.may_grow() && self.skips_wanted.is_empty() {
            let _goes_on = self.fill(now, tools, out);
        }
        let is_time = self.offered_until.is_some_and(|until| until <= now);
        if self.current.batch.records > before || is_time {
            self.publish_offer(now, tools, out);
        } else {
            // The call that was arranged may have been for an offer before this one.
            self.schedule_wake(self.offered_until, now, out);
        }
    }

    /// Offers what is in work. What has grown too old while it was offered is taken back instead, and judged then.
    pub(super) fn publish_offer(&mut self, now: Moment, tools: &CoreContext<'_>, out: &mut PartitionEffects) {
        let expires = self.first_expiry(now, tools.wall);
        if let AttemptState::Offered { seq } = self.flight {
            if expires.is_some_and(|at| at <= now) {
                out.push(PartitionEffect::Withdraw { seq });
                return;
            }
        } else {
            self.offer_seq += 1;
        }
        let seq = self.offer_seq;
        self.flight = AttemptState::Offered { seq };
        self.offered_until = expires;
        let (cut, attempt, alone) =
            (self.current.batch.clone(), self.current.attempt(), self.current.exclusive);
        out.push(PartitionEffect::Offer { seq, cut, attempt, alone, expires });
        self.schedule_wake(expires, now, out);
    }

    /// One call is arranged at a time: an earlier one looks again, and arranges the next.
    fn schedule_wake(&mut self, expires: Option<Moment>, now: Moment, out: &mut PartitionEffects) {
        let Some(at) = expires else { return };
        if self.judged_at.is_none_or(|arranged| arranged <= now || at < arranged) {
            self.judged_at = Some(at);
            mutant!("grown-too-old-in-an-offer", out.push(PartitionEffect::WakeAt(at)), {});
        }
    }

    /// When the first record in work grows too old.
    fn first_expiry(&self, now: Moment, wall: TimestampMs) -> Option<Moment> {
        let age_max = self.start.policy.record_age_max?;
        let left = self.current.batch.walk().filter_map(|record| until_expired(&record, age_max, wall)).min();
        left.map(|left| now + left)
    }

    /// What was shown only after the batch had been fixed is not in it, and comes next.
    fn split_unsealed(&mut self, end: Offset, tools: &CoreContext<'_>) {
        let range = self.current.batch.range;
        if mutant!("seal-takes-in-what-came-later", end >= range.end, true) {
            return;
        }
        let (front, back) = range.split_at(end);
        let back = self.current.batch.select(back, tools.sizer, |_| true);
        if !back.is_empty() {
            self.remaining.push(RecordAttempt { held_up: false, ..self.current.with_records(back) });
            self.current = self.current.with_records(self.current.batch.select(front, tools.sizer, |_| true));
        }
    }
}
