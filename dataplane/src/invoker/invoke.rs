//! One invocation: a task of its own on the thread that starts it, which posts its answer back exactly once, whatever
//! happens.

use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};
use bytes::Bytes;
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use super::context::ClientContext;
use super::port::{FunctionPort, Invocation};
use super::throttle::ThrottleControl;
use super::verdict::{AnswerFacts, Reply, Verdict};
use crate::batcher::BatchId;
use crate::credit::bytes::Lease;
use crate::credit::slots::{Slot, Slots};
use crate::kafka::group::OwnershipLease;
use crate::runtime::clock;
use crate::runtime::outbox::post;

/// How much longer than the function we wait for its reply.
const READ_MARGIN: Duration = Duration::from_secs(30);

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
    /// The right to start it, looked at once more: the process may have stood still since the batch was sealed (H1).
    pub ownership: OwnershipLease,
    /// What it says of itself.
    pub context: ClientContext,
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
    /// When it was sent.
    pub sent_at: Moment,
    /// When the answer came.
    pub answered_at: Moment,
    /// The payload, to be written into again.
    pub payload_back: Option<Bytes>,
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

/// Invokes one mapping's function.
#[derive(Clone)]
pub struct Invoker {
    port: Arc<dyn FunctionPort>,
    function: Arc<str>,
    function_timeout: Duration,
    concurrency: Concurrency,
}

impl Invoker {
    /// An invoker of `function`, which answers within `function_timeout`.
    pub fn new(
        port: Arc<dyn FunctionPort>,
        function: Arc<str>,
        function_timeout: Duration,
        concurrency: Concurrency,
    ) -> Self {
        Self { port, function, function_timeout, concurrency }
    }

    /// Starts an invocation on this thread.
    pub fn start(&self, invoke: Invoke) {
        let sent_at = clock::now();
        let answer = Answer { batch: invoke.batch, sent_at, reply: Some(invoke.reply) };
        if !invoke.ownership.is_good(sent_at) {
            let message = "the consumer group's lease ran out before the invocation was sent".to_owned();
            answer.give(Verdict::of(Reply::NotSent(message)), None, Some(invoke.payload));
            return;
        }
        let sent = self.port.invoke(Invocation {
            function: Arc::clone(&self.function),
            payload: invoke.payload.clone(),
            context: invoke.context,
            read_timeout: self.function_timeout + READ_MARGIN,
        });
        let deadline = self.function_timeout + READ_MARGIN + READ_MARGIN;
        let (payload, slot, lease) = (invoke.payload, invoke.slot, invoke.lease);
        let concurrency = self.concurrency.clone();
        actix_rt::spawn(async move {
            let reply = tokio::time::timeout(deadline, sent).await;
            let reply =
                reply.unwrap_or_else(|_| Reply::Lost("no reply within the function's timeout".to_owned()));
            let facts = reply.facts();
            let verdict = Verdict::of(reply);
            let now = clock::now();
            let took = now.since(sent_at);
            metrics::counter!(crate::metrics::INVOCATIONS, "outcome" => verdict.label()).increment(1);
            metrics::histogram!(crate::metrics::INVOKE_DURATION_SECONDS).record(took.as_secs_f64());
            concurrency.answered(now, matches!(verdict, Verdict::Throttled { .. }), took);
            answer.give(verdict, facts, Some(payload));
            drop((slot, lease));
        });
    }
}

/// Answers for a batch even when its task dies: the outcome is unknown then.
struct Answer {
    batch: BatchId,
    sent_at: Moment,
    reply: Option<Recipient<Answered>>,
}

impl Answer {
    fn give(mut self, verdict: Verdict, facts: Option<AnswerFacts>, payload_back: Option<Bytes>) {
        if let Some(reply) = self.reply.take() {
            let (batch, sent_at) = (self.batch, self.sent_at);
            let answered_at = clock::now();
            let _ = post(&reply, Answered { batch, verdict, facts, sent_at, answered_at, payload_back });
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let verdict =
                Verdict::Unknown { message: "the invocation's task ended without an answer".to_owned() };
            let (batch, sent_at, answered_at) = (self.batch, self.sent_at, clock::now());
            let (facts, payload_back) = (None, None);
            let _ = post(&reply, Answered { batch, verdict, facts, sent_at, answered_at, payload_back });
        }
    }
}
