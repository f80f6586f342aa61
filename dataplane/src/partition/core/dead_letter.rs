//! Records that are given up: sent to the on-failure destination, or dropped if there is none. The actor's
//! `dead_letter.rs` sends what is given up here.

use lighterman_proto::failure::FailureCondition;
use lighterman_proto::units::Moment;

use super::PartitionCore;
use crate::messages::dead_letter::DeadLetterResult;
use crate::messages::outcome::Outcome;
use crate::messages::unreadable::READ_RETRY_DELAY;
use crate::partition::attempts::DeadLetterSubject;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionEvent};

impl PartitionCore {
    /// Sends the current records to the destination, once their progress is committed. Without a destination they are
    /// dropped at once.
    pub(super) fn dead_letter_or_drop(&mut self, condition: FailureCondition, out: &mut PartitionEffects) {
        self.attempts.give_up(condition);
        if !self.config.policy.has_destination {
            let records = Box::new(self.attempts.current().abandoned());
            out.push(PartitionEffect::Log(PartitionEvent::GivenUp { records, condition }));
            self.resolve_work(dropped_outcome(condition), out);
            return;
        }
        let at_rest = self.progress_at_rest();
        if self.attempts.current().has_failed() && !self.progress.is_on_record(at_rest.as_ref()) {
            self.attempts.wait_for_commit();
            self.commit(at_rest, out);
            return;
        }
        let request_id = self.attempts.start_dead_letter(DeadLetterSubject::Records);
        let records = Box::new(self.attempts.current().abandoned());
        out.push(PartitionEffect::DeadLetter { request_id, records, condition });
    }

    /// Handles the result of sending the records of `request_id` to the destination.
    pub fn dead_letter_result(
        &mut self,
        now: Moment,
        request_id: u64,
        dead_letter_result: DeadLetterResult,
        context: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        let Some(subject) = self.attempts.end_dead_letter(request_id) else { return out };
        match (subject, dead_letter_result) {
            (DeadLetterSubject::Unreadable(range), result) => {
                self.unreadable_sent(now, range, result, &mut out);
            }
            (DeadLetterSubject::Records, DeadLetterResult::Acknowledged) => {
                self.resolve_work(Outcome::DeadLettered, &mut out);
            }
            (DeadLetterSubject::Records, DeadLetterResult::Dropped) => {
                self.resolve_work(rejected_outcome(), &mut out);
            }
            (DeadLetterSubject::Records, DeadLetterResult::Stopped) => {
                self.attempts.back_off(now + READ_RETRY_DELAY, &mut out);
            }
        }
        self.advance(now, context, &mut out);
        out
    }
}

/// Returns the outcome of records that are dropped because of `condition`.
fn dropped_outcome(condition: FailureCondition) -> Outcome {
    match condition {
        FailureCondition::RecordAgeExceeded => Outcome::Expired,
        FailureCondition::RetryAttemptsExhausted => Outcome::Exhausted,
        FailureCondition::MaximumPayloadSizeExceeded => Outcome::Oversized,
        FailureCondition::BatchUnreadable => Outcome::Dropped,
    }
}

/// Returns the outcome of records that the destination permanently rejects: they are lost, which an operator must
/// learn.
fn rejected_outcome() -> Outcome {
    mutant!("dropped-counts-as-arrived", Outcome::Dropped, Outcome::DeadLettered)
}
