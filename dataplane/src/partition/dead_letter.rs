//! Handling of failing records by the partition actor: sends them to the destination, shows them to operators, and
//! skips one on an operator's request.

use crate::messages::dead_letter::{DeadLetterLoad, DeadLetterRequest};
use crate::messages::report::FailingView;

use actix::{AsyncContext, Context, Handler, Message};
use tokio::sync::oneshot;

use super::actor::PartitionActor;
use crate::messages::dead_letter::DeadLetterResult;
use crate::messages::skip::{SkipAnswer, SkipRecord};
use crate::runtime::clock;
use crate::runtime::outbox::post;

#[derive(Message)]
#[rtype(result = "()")]
struct ErrandEnded {
    ticket: u64,
    buried: DeadLetterResult,
}

/// Reports the end of a dead letter, even if its task dies.
struct DeadLetterGuard {
    ticket: u64,
    buried: DeadLetterResult,
    to: actix::Recipient<ErrandEnded>,
}

impl DeadLetterGuard {
    fn give(mut self, buried: DeadLetterResult) {
        self.buried = buried;
    }
}

impl Drop for DeadLetterGuard {
    fn drop(&mut self) {
        let _ = post(&self.to, ErrandEnded { ticket: self.ticket, buried: self.buried });
    }
}

impl PartitionActor {
    pub(super) fn bury(&mut self, ticket: u64, load: DeadLetterLoad, ctx: &mut Context<Self>) {
        let answer =
            DeadLetterGuard { ticket, buried: DeadLetterResult::Stopped, to: ctx.address().recipient() };
        let Some(burial) = self.burial.clone() else { return };
        let (stop, stopped) = oneshot::channel();
        self.errand = Some((ticket, stop));
        let sent = burial.bury(DeadLetterRequest { partition: self.id.clone(), load, stop: stopped });
        actix_rt::spawn(async move {
            answer.give(sent.await);
        });
    }

    pub(super) fn stop_burying(&mut self, ticket: u64) {
        self.errand.take_if(|(sent, _)| *sent == ticket);
    }

    pub(super) fn show_failing(&self) {
        self.gauge.set_unreadable(self.core.unreadable_now());
        let failing = self.core.failing();
        self.gauge.set_attempt(failing.map_or(0, |failing| failing.attempts));
        let work = self.core.work();
        self.gauge.set_failing(failing.map(|failing| FailingView {
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

impl Handler<ErrandEnded> for PartitionActor {
    type Result = ();

    fn handle(&mut self, ended: ErrandEnded, ctx: &mut Self::Context) {
        let records = u64::from(self.core.work().batch.records);
        match ended.buried {
            DeadLetterResult::Acknowledged => self.status.dead_lettered(records),
            DeadLetterResult::Dropped => self.status.dropped(records),
            DeadLetterResult::Stopped => {}
        }
        self.errand.take_if(|(sent, _)| *sent == ended.ticket);
        self.step(ctx, |core, tools| core.buried(clock::now(), ended.ticket, ended.buried, tools));
    }
}

impl Handler<SkipRecord> for PartitionActor {
    type Result = ();

    fn handle(&mut self, skip: SkipRecord, ctx: &mut Self::Context) {
        let mut answer = SkipAnswer::NotFailing;
        let log_end = self.gauge.log_end();
        if let Some(log_end) = log_end.filter(|log_end| skip.end.is_some_and(|end| end > *log_end)) {
            answer = SkipAnswer::BeyondEnd(log_end);
        } else {
            self.step(ctx, |core, tools| {
                let (told, effects) = core.skip(clock::now(), skip.offset, skip.end, tools);
                answer = told;
                effects
            });
        }
        tracing::warn!(
            partition = %self.id, offset = skip.offset.0, end = skip.end.map(|end| end.0), reason = skip.reason,
            ?answer, "a person asked for offsets to be skipped"
        );
        let _ = skip.reply.send(answer);
    }
}
