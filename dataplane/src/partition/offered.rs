//! An offer while it is out: it takes in what arrives, is taken back when a record in it grows too old, and is fixed as a
//! batch. A seal may cross what was shown after it on its way: only what was sealed is in the batch.

use lighterman_proto::ids::Offset;
use lighterman_proto::units::{Moment, TimestampMs};

use super::core::{Flight, PartitionCore};
use super::effects::{Effect, Effects, Tools};
use super::work::{Work, until_expired};
use crate::batcher::BatchId;

impl PartitionCore {
    /// The batcher fixed what offer `seq` had up to `end` as `batch`; false when that offer is not out any more.
    pub fn sealed(&mut self, seq: u64, end: Offset, batch: BatchId, tools: &Tools<'_>) -> bool {
        let ours = matches!(self.flight, Flight::Offered { seq: offered } if offered == seq);
        if ours {
            self.flight = Flight::Sealed { batch };
            self.set_unsealed_apart(end, tools);
        }
        ours
    }

    /// The batcher gave offer `seq` back.
    pub fn withdrawn(&mut self, now: Moment, seq: u64, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        if matches!(self.flight, Flight::Offered { seq: offered } if offered == seq) {
            self.flight = Flight::Idle;
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// An offer that nobody has sealed takes in what has arrived since. A retry never does: the same records under the
    /// same key.
    pub(super) fn extend(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        let before = self.work.cut.records;
        if self.work.may_grow() && self.skips_wanted.is_empty() {
            let _goes_on = self.fill(now, tools, out);
        }
        let is_time = self.offered_until.is_some_and(|until| until <= now);
        if self.work.cut.records > before || is_time {
            self.show(now, tools, out);
        } else {
            // The call that was arranged may have been for an offer before this one.
            self.call_me_at(self.offered_until, now, out);
        }
    }

    /// Offers what is in work. What has grown too old while it was offered is taken back instead, and judged then.
    pub(super) fn show(&mut self, now: Moment, tools: &Tools<'_>, out: &mut Effects) {
        let expires = self.first_expiry(now, tools.wall);
        if let Flight::Offered { seq } = self.flight {
            if expires.is_some_and(|at| at <= now) {
                out.push(Effect::Withdraw { seq });
                return;
            }
        } else {
            self.offer_seq += 1;
        }
        let seq = self.offer_seq;
        self.flight = Flight::Offered { seq };
        self.offered_until = expires;
        let (cut, attempt, alone) = (self.work.cut.clone(), self.work.attempt(), self.work.alone);
        out.push(Effect::Offer { seq, cut, attempt, alone, expires });
        self.call_me_at(expires, now, out);
    }

    /// One call is arranged at a time: an earlier one looks again, and arranges the next.
    fn call_me_at(&mut self, expires: Option<Moment>, now: Moment, out: &mut Effects) {
        let Some(at) = expires else { return };
        if self.judged_at.is_none_or(|arranged| arranged <= now || at < arranged) {
            self.judged_at = Some(at);
            mutant!("grown-too-old-in-an-offer", out.push(Effect::WakeAt(at)), {});
        }
    }

    /// When the first record in work grows too old.
    fn first_expiry(&self, now: Moment, wall: TimestampMs) -> Option<Moment> {
        let age_max = self.start.policy.record_age_max?;
        let left = self.work.cut.walk().filter_map(|record| until_expired(&record, age_max, wall)).min();
        left.map(|left| now + left)
    }

    /// What was shown only after the batch had been fixed is not in it, and comes next.
    fn set_unsealed_apart(&mut self, end: Offset, tools: &Tools<'_>) {
        let range = self.work.cut.range;
        if mutant!("seal-takes-in-what-came-later", end >= range.end, true) {
            return;
        }
        let (front, back) = range.split_at(end);
        let back = self.work.cut.select(back, tools.sizer, |_| true);
        if !back.is_empty() {
            self.later.push(Work { held_up: false, ..self.work.over(back) });
            self.work = self.work.over(self.work.cut.select(front, tools.sizer, |_| true));
        }
    }
}
