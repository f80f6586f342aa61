//! End of the attempts: records whose attempts or age are used up go to the on-failure destination, or are dropped
//! if there is none. [`is_exhausted`](super::attempt::RecordAttempt::is_exhausted) counts the attempts;
//! `dead_letter.rs` sends what is given up here.

use lighterman_proto::failure::FailureCondition;

use crate::messages::outcome::Outcome;
use crate::partition::attempts::attempt::is_expired;
use crate::partition::attempts::{AttemptState, DeadLetterSubject};
use crate::partition::core::PartitionCore;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionEvent};

impl PartitionCore {
    /// Returns the reason not to attempt the current records, if there is one.
    pub(in crate::partition) fn give_up_condition(&self) -> Option<FailureCondition> {
        let exhausted = self.attempts.current.is_exhausted(&self.start.policy);
        self.attempts.current.give_up_reason.or(exhausted.then_some(FailureCondition::RetryAttemptsExhausted))
    }

    /// Reduces the current batch to records that are all expired or all unexpired; returns true if it changed
    /// anything.
    pub(in crate::partition) fn split_by_age(&mut self, context: &CoreContext<'_>) -> bool {
        let Some(age_max) = self.start.policy.record_age_max else { return false };
        let mut first_is_expired = None;
        let mut split_at = None;
        for record in self.attempts.current.batch.walk() {
            let expired = is_expired(&record, age_max, context.wall);
            if *first_is_expired.get_or_insert(expired) != expired {
                split_at = Some(record.offset);
                break;
            }
        }
        if let Some(offset) = split_at {
            let (front, back) = self.attempts.current.batch.range.split_at(offset);
            let back = self.attempts.current.with_records(self.attempts.current.batch.select(
                back,
                context.sizer,
                |_| true,
            ));
            self.attempts.current = self.attempts.current.with_records(self.attempts.current.batch.select(
                front,
                context.sizer,
                |_| true,
            ));
            self.attempts.remaining.push(back);
        }
        if first_is_expired == Some(true) {
            self.attempts.current.give_up_reason = Some(FailureCondition::RecordAgeExceeded);
            return true;
        }
        false
    }

    /// Sends the current records to the destination, once their progress is committed. Without a destination they are
    /// dropped at once.
    pub(in crate::partition) fn dead_letter_or_drop(
        &mut self,
        condition: FailureCondition,
        out: &mut PartitionEffects,
    ) {
        self.attempts.current.give_up_reason = Some(condition);
        if !self.start.policy.has_destination {
            let outcome = match condition {
                FailureCondition::RecordAgeExceeded => Outcome::Expired,
                FailureCondition::RetryAttemptsExhausted => Outcome::Exhausted,
                FailureCondition::MaximumPayloadSizeExceeded => Outcome::Oversized,
                FailureCondition::BatchUnreadable => Outcome::Dropped,
            };
            out.push(PartitionEffect::Log(PartitionEvent::GivenUp {
                records: Box::new(self.attempts.current.abandoned()),
                condition,
            }));
            self.resolve_work(outcome, out);
            return;
        }
        let at_rest = self.progress_at_rest();
        if self.attempts.current.has_failed() && !self.is_on_record(at_rest.as_ref()) {
            self.attempts.state = AttemptState::AwaitingCommit;
            self.commit(at_rest, out);
            return;
        }
        let ticket = self.attempts.start_dead_letter(DeadLetterSubject::Records);
        out.push(PartitionEffect::DeadLetter {
            ticket,
            records: Box::new(self.attempts.current.abandoned()),
            condition,
        });
    }
}
