//! Rules for giving records up: their attempts or their age are used up, or they are too large.
//! [`is_exhausted`](super::attempt::RecordAttempt::is_exhausted) counts the attempts; the records then go to the
//! on-failure destination, or are dropped if there is none.

use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::Offset;
use lighterman_proto::units::TimestampMs;

use super::PartitionAttempts;
use super::attempt::{FailureHandling, is_expired};
use crate::messages::records::RecordSizer;
use crate::partition::reader::PartitionReader;

impl PartitionAttempts {
    /// Returns the reason not to attempt the current records, if there is one.
    pub(in crate::partition) fn give_up_condition(
        &self,
        policy: &FailureHandling,
    ) -> Option<FailureCondition> {
        let exhausted = self.current.is_exhausted(policy);
        self.current.give_up_reason.or(exhausted.then_some(FailureCondition::RetryAttemptsExhausted))
    }

    /// Gives the current records up.
    pub(in crate::partition) fn give_up(&mut self, condition: FailureCondition) {
        self.current.give_up_reason = Some(condition);
    }

    /// Takes the record at `offset` from the buffer and gives it up, as it alone exceeds the payload limit; returns
    /// false if it is not the next one.
    pub(in crate::partition) fn give_up_oversized(
        &mut self,
        reader: &mut PartitionReader,
        offset: Offset,
        payload_bytes: usize,
    ) -> bool {
        let Some(batch) = reader.take_one(self.current.batch.range.first, offset, payload_bytes) else {
            return false;
        };
        self.current = self.current.with_records(batch);
        self.give_up(FailureCondition::MaximumPayloadSizeExceeded);
        true
    }

    /// Reduces the current batch to records that are all expired or all unexpired; returns true if it changed
    /// anything.
    pub(in crate::partition) fn split_by_age(
        &mut self,
        policy: &FailureHandling,
        wall: TimestampMs,
        sizer: &dyn RecordSizer,
    ) -> bool {
        let Some(age_max) = policy.record_age_max else { return false };
        let mut first_is_expired = None;
        let mut split_at = None;
        for record in self.current.batch.walk() {
            let expired = is_expired(&record, age_max, wall);
            if *first_is_expired.get_or_insert(expired) != expired {
                split_at = Some(record.offset);
                break;
            }
        }
        if let Some(offset) = split_at {
            let (front, back) = self.current.batch.range.split_at(offset);
            let back = self.current.with_records(self.current.batch.select(back, sizer, |_| true));
            self.current = self.current.with_records(self.current.batch.select(front, sizer, |_| true));
            self.remaining.push(back);
        }
        if first_is_expired == Some(true) {
            self.give_up(FailureCondition::RecordAgeExceeded);
            return true;
        }
        false
    }
}
