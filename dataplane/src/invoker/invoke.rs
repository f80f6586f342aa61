//! One invocation: a task of its own on the thread that starts it, which posts its answer back exactly once, whatever
//! happens.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};
use bytes::Bytes;
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use super::answer_room::AnswerRoom;
use super::context::ClientContext;
use super::facts::FunctionTimeout;
use super::patience::{Patience, ReplyWait, UNSENT_MAX};
use super::permit::SendPermit;
use super::port::{FunctionPort, Invocation};
use super::throttle::ThrottleControl;
use super::verdict::{AnswerFacts, Reply, Verdict};
use crate::batcher::BatchId;
use crate::credit::bytes::Lease;
use crate::credit::slots::{Slot, Slots};
use crate::kafka::group::OwnershipLease;
use crate::runtime::clock;
use crate::runtime::outbox::post;

/// A sealed batch, with everything that must be given back when it is answered.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Invoke {
    /// The event.
    pub payload: Bytes,
    /// Credit for the payload.
    pub lease: Lease,
    /// Credit for the invocation.
    pub slot: Slot,
    /// The right to start it, looked at whenever bytes of it leave: much may have been waited for since it was sealed (H1).
    pub ownership: OwnershipLease,
    /// What it says of itself.
    pub context: ClientContext,
    /// What of the answer is kept.
    pub answer_room: AnswerRoom,
    /// Which batch.
    pub batch: BatchId,
    /// Where the answer goes.
    pub reply: Recipient<Answered>,
}

/// What became of a batch on the wire. Posted exactly once for each [`Invoke`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Answered {
    /// Which batch.
    pub batch: BatchId,
    /// What it means.
    pub verdict: Verdict,
    /// What Lambda said of the invocation, if it said anything.
    pub facts: Option<AnswerFacts>,
    /// When its first byte left; when it was begun, if the rest did not follow.
    pub sent_at: Moment,
    /// When the answer came.
    pub answered_at: Moment,
    /// The payload, to be written into again.
    pub payload_back: Option<Bytes>,
    /// Credit for what the verdict has of the answer, where that is much.
    pub answer_lease: Option<Lease>,
}

/// How many invocations of a mapping there may be at once; clones share it, on whatever threads they invoke.
#[derive(Clone)]
pub struct Concurrency {
    control: Arc<Mutex<ThrottleControl>>,
    slots: Slots,
}

impl Concurrency {
    /// Moves the limit of `slots`.
    pub fn new(slots: Slots) -> Self {
        Self { control: Arc::new(Mutex::new(ThrottleControl::new(slots.limit(), clock::now()))), slots }
    }

    /// The most there may be: five for each consumer.
    pub fn set_ceiling(&self, ceiling: u32) {
        let limit = {
            let mut control = self.control.lock();
            control.set_ceiling(ceiling);
            control.limit()
        };
        self.slots.set_limit(limit);
    }

    fn answered(&self, now: Moment, throttled: bool, took: Duration) {
        let limit = self.control.lock().answered(now, throttled, took);
        if limit != self.slots.limit() {
            self.slots.set_limit(limit);
        }
    }
}

/// A function as its invoker knows it.
#[derive(Clone)]
pub struct InvokedFunction {
    /// Name or ARN, with its qualifier, as the mapping has it.
    pub name: Arc<str>,
    /// How long it may run.
    pub timeout: FunctionTimeout,
    /// Called when that may be wrong.
    pub doubt: Arc<dyn Fn() + Send + Sync>,
}

/// Invokes one mapping's function.
#[derive(Clone)]
pub struct Invoker {
    port: Arc<dyn FunctionPort>,
    function: InvokedFunction,
    concurrency: Concurrency,
}

impl Invoker {
    /// An invoker of `function` through `port`.
    pub fn new(port: Arc<dyn FunctionPort>, function: InvokedFunction, concurrency: Concurrency) -> Self {
        Self { port, function, concurrency }
    }

    /// Starts an invocation on this thread.
    pub fn start(&self, invoke: Invoke) {
        let started = clock::now();
        let permit = SendPermit::new(invoke.ownership);
        let answer = Answer {
            batch: invoke.batch,
            started,
            permit: permit.clone(),
            room: invoke.answer_room.clone(),
            reply: Some(invoke.reply),
        };
        let sent = self.port.invoke(Invocation {
            function: Arc::clone(&self.function.name),
            payload: invoke.payload.clone(),
            context: invoke.context,
            answer_room: invoke.answer_room.clone(),
            permit: permit.clone(),
        });
        let (payload, slot, lease) = (invoke.payload, invoke.slot, invoke.lease);
        let (concurrency, function) = (self.concurrency.clone(), self.function.clone());
        actix_rt::spawn(async move {
            let mut wait = ReplyWait::new(started);
            let reply = reply_within(sent, &mut wait, &permit, &function).await;
            let facts = reply.facts();
            let verdict = Verdict::of(reply);
            let now = clock::now();
            let took = now.since(permit.sent_at().unwrap_or(started));
            metrics::counter!(crate::metrics::INVOCATIONS, "outcome" => verdict.label()).increment(1);
            metrics::histogram!(crate::metrics::INVOKE_DURATION_SECONDS).record(took.as_secs_f64());
            concurrency.answered(now, matches!(verdict, Verdict::Throttled { .. }), took);
            let mut payload = Some((payload, lease));
            if matches!(verdict, Verdict::Unknown { .. }) {
                payload = None;
                know_its_end(wait, permit.sent_at().unwrap_or(started), &function).await;
            }
            let (payload, _lease) = payload.unzip();
            answer.give(verdict, facts, payload);
            drop(slot);
        });
    }
}

/// The reply, or why there is none. What waits before the first byte is dropped when the lease ends.
pub(super) async fn reply_within(
    sent: impl Future<Output = Reply>,
    wait: &mut ReplyWait,
    permit: &SendPermit,
    function: &InvokedFunction,
) -> Reply {
    let mut sent = pin!(sent);
    loop {
        let now = clock::now();
        let until = match wait.look(now, permit.sent_at(), permit.is_good(now), &function.timeout) {
            Patience::Until(until) => until,
            Patience::Doubt => {
                (function.doubt)();
                continue;
            }
            Patience::Withhold if permit.revoke() => return Reply::Withheld,
            Patience::Unsent if permit.revoke() => {
                let seconds = UNSENT_MAX.as_secs();
                return Reply::NotSent(format!("neither credentials nor a connection within {seconds} s"));
            }
            // The first byte has left at this very moment.
            Patience::Withhold | Patience::Unsent => continue,
            Patience::GiveUp => return Reply::Lost("no reply within the function's timeout".to_owned()),
        };
        if let Ok(reply) = tokio::time::timeout(until.since(now), &mut sent).await {
            return reply;
        }
    }
}

/// Nobody starts over a function whose timeout may have been raised: it is asked for first.
async fn know_its_end(mut wait: ReplyWait, sent_at: Moment, function: &InvokedFunction) {
    loop {
        let now = clock::now();
        match wait.look_after_loss(now, sent_at, &function.timeout) {
            Patience::Doubt => (function.doubt)(),
            Patience::Until(until) => tokio::time::sleep(until.since(now)).await,
            Patience::Withhold | Patience::Unsent | Patience::GiveUp => return,
        }
    }
}

/// Answers for a batch even when its task dies: the outcome is unknown then.
struct Answer {
    batch: BatchId,
    started: Moment,
    permit: SendPermit,
    room: AnswerRoom,
    reply: Option<Recipient<Answered>>,
}

impl Answer {
    fn sent_at(&self) -> Moment {
        self.permit.sent_at().unwrap_or(self.started)
    }

    fn give(mut self, verdict: Verdict, facts: Option<AnswerFacts>, payload_back: Option<Bytes>) {
        if let Some(reply) = self.reply.take() {
            let (batch, sent_at) = (self.batch, self.sent_at());
            let (answered_at, answer_lease) = (clock::now(), self.room.take_lease());
            let _ = post(
                &reply,
                Answered { batch, verdict, facts, sent_at, answered_at, payload_back, answer_lease },
            );
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let verdict =
                Verdict::Unknown { message: "the invocation's task ended without an answer".to_owned() };
            let (batch, sent_at, answered_at) = (self.batch, self.sent_at(), clock::now());
            let (facts, payload_back, answer_lease) = (None, None, None);
            let _ = post(
                &reply,
                Answered { batch, verdict, facts, sent_at, answered_at, payload_back, answer_lease },
            );
        }
    }
}
