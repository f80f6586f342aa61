//! Handling of failing records by the partition actor: sends them to the destination, shows them to operators, and
//! skips one on an operator's request.

use std::sync::Arc;

use actix::{AsyncContext, Context, Handler, Message};
use futures::future::BoxFuture;
use lighterman_proto::failure::FailureCondition;
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::units::Moment;
use tokio::sync::oneshot;

use super::actor::PartitionActor;
use super::attempt::{AttemptFailure, RecordAttempt};
use super::effects::{DeadLetterResult, SkipAnswer};
use super::messages::SkipRecord;
use super::unreadable::RawBatch;
use crate::runtime::clock;
use crate::runtime::outbox::post;

/// Content of a dead letter.
#[derive(Debug)]
pub enum DeadLetterLoad {
    /// Records that failed.
    Records {
        /// The records and their attempts.
        work: Box<RecordAttempt>,
        /// Reason that they are not retried.
        condition: FailureCondition,
    },
    /// Bytes that cannot be read.
    Raw(RawBatch),
}

/// Request to send a dead letter.
#[derive(Debug)]
pub struct DeadLetterRequest {
    /// Partition of the records.
    pub partition: TopicPartition,
    /// Content of the dead letter.
    pub load: DeadLetterLoad,
    /// Resolves, or loses its sender, when sending must stop.
    pub stop: oneshot::Receiver<()>,
}

/// Sender of dead letters to a mapping's on-failure destination.
pub trait DeadLetterSink: Send + Sync {
    /// Sends until the destination has acknowledged all records, the mapping's policy drops them, or the request is
    /// stopped.
    fn bury(&self, errand: DeadLetterRequest) -> BoxFuture<'static, DeadLetterResult>;
}

/// Failing records, as shown to operators.
#[derive(Clone, Debug)]
pub struct FailingView {
    /// Offset of the first failing record.
    pub offset: Offset,
    /// Number of records that fail together.
    pub records: u32,
    /// Number of attempts used up.
    pub attempts: u32,
    /// The first failure that this owner has seen.
    pub first: Option<Arc<AttemptFailure>>,
    /// The last failure that this owner has seen.
    pub last: Option<Arc<AttemptFailure>>,
    /// Time of the next attempt, if it is known.
    pub next_attempt: Option<Moment>,
    /// Reason that the records are sent to the destination; `None` while they are retried.
    pub condition: Option<FailureCondition>,
}

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
