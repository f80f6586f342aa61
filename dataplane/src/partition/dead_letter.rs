//! Handling of failing records by the partition actor: sends them to the destination, shows them to operators, and
//! skips one on an operator's request. `core/dead_letter.rs` decides which records are sent.

use actix::{AsyncContext, Context, Handler, Message};
use tokio::sync::oneshot;

use super::actor::PartitionActor;
use crate::messages::dead_letter::{DeadLetterLoad, DeadLetterRequest, DeadLetterResult};
use crate::messages::report::FailingView;
use crate::messages::skip::{SkipAnswer, SkipRecord};
use crate::runtime::clock;
use crate::runtime::outbox::post;

#[derive(Message)]
#[rtype(result = "()")]
struct DeadLetterEnded {
    request_id: u64,
    dead_letter_result: DeadLetterResult,
}

/// Reports the end of a dead letter, even if its task dies.
struct DeadLetterGuard {
    request_id: u64,
    dead_letter_result: DeadLetterResult,
    to: actix::Recipient<DeadLetterEnded>,
}

impl DeadLetterGuard {
    fn give(mut self, dead_letter_result: DeadLetterResult) {
        self.dead_letter_result = dead_letter_result;
    }
}

impl Drop for DeadLetterGuard {
    fn drop(&mut self) {
        let _ = post(
            &self.to,
            DeadLetterEnded { request_id: self.request_id, dead_letter_result: self.dead_letter_result },
        );
    }
}

impl PartitionActor {
    pub(super) fn send_dead_letter(
        &mut self,
        request_id: u64,
        load: DeadLetterLoad,
        ctx: &mut Context<Self>,
    ) {
        let answer = DeadLetterGuard {
            request_id,
            dead_letter_result: DeadLetterResult::Stopped,
            to: ctx.address().recipient(),
        };
        let Some(dead_letters) = self.dead_letters.clone() else { return };
        let (stop, stopped) = oneshot::channel();
        self.dead_letter_request = Some((request_id, stop));
        let sent = dead_letters.send_dead_letter(DeadLetterRequest {
            partition: self.id.clone(),
            load,
            stop: stopped,
        });
        actix_rt::spawn(async move {
            answer.give(sent.await);
        });
    }

    pub(super) fn cancel_dead_letter(&mut self, request_id: u64) {
        self.dead_letter_request.take_if(|(sent, _)| *sent == request_id);
    }

    pub(super) fn show_failing(&self) {
        self.stats.set_unreadable(self.core.unreadable_now());
        let failing = self.core.failing();
        self.stats.set_attempt(failing.map_or(0, |failing| failing.attempts));
        let work = self.core.work();
        self.stats.set_failing(failing.map(|failing| FailingView {
            offset: failing.offset,
            records: failing.records,
            attempts: failing.attempts,
            first: work.first.clone(),
            last: work.last.clone(),
            next_attempt: failing.next_attempt,
            condition: work.give_up_reason,
        }));
    }
}

impl Handler<DeadLetterEnded> for PartitionActor {
    type Result = ();

    fn handle(&mut self, ended: DeadLetterEnded, ctx: &mut Self::Context) {
        let records = u64::from(self.core.work().batch.records);
        match ended.dead_letter_result {
            DeadLetterResult::Acknowledged => self.status.dead_lettered(records),
            DeadLetterResult::Dropped => self.status.dropped(records),
            DeadLetterResult::Stopped => {}
        }
        self.dead_letter_request.take_if(|(sent, _)| *sent == ended.request_id);
        self.step(ctx, |core, context| {
            core.dead_letter_result(clock::now(), ended.request_id, ended.dead_letter_result, context)
        });
    }
}

impl Handler<SkipRecord> for PartitionActor {
    type Result = ();

    fn handle(&mut self, skip: SkipRecord, ctx: &mut Self::Context) {
        let mut answer = SkipAnswer::NotFailing;
        let log_end = self.stats.log_end();
        if let Some(log_end) = log_end.filter(|log_end| skip.end.is_some_and(|end| end > *log_end)) {
            answer = SkipAnswer::BeyondEnd(log_end);
        } else {
            self.step(ctx, |core, context| {
                let (told, effects) = core.skip(clock::now(), skip.offset, skip.end, context);
                answer = told;
                effects
            });
        }
        tracing::warn!(
            partition = %self.id, offset = skip.offset.0, end = skip.end.map(|end| end.0), reason = skip.reason,
            ?answer, "an operator asked to skip offsets"
        );
        let _ = skip.reply.send(answer);
    }
}
