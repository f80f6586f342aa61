//! The invoker's shell: each invocation is a task of its own that posts its answer back, exactly once, whatever happens.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};
use bytes::Bytes;
use lighterman_proto::units::Moment;

use super::context::ClientContext;
use super::port::{FunctionPort, Invocation};
use super::throttle::ThrottleControl;
use super::verdict::{AnswerFacts, Reply, Verdict};
use crate::batcher::BatchId;
use crate::credit::bytes::Lease;
use crate::credit::slots::{Slot, Slots};
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};

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

/// The most invocations there may be at once: five for each consumer.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SetCeiling(pub u32);

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Observed {
    throttled: bool,
    took: Duration,
}

/// The actor; one for each mapping, on an invoker arbiter.
pub struct InvokerActor {
    port: Arc<dyn FunctionPort>,
    function: Arc<str>,
    function_timeout: Duration,
    slots: Slots,
    throttle: ThrottleControl,
    _watch: DeathWatch,
}

impl InvokerActor {
    /// An invoker of `function`, which answers within `function_timeout`.
    pub fn new(
        port: Arc<dyn FunctionPort>,
        function: Arc<str>,
        function_timeout: Duration,
        slots: Slots,
        watch: DeathWatch,
    ) -> Self {
        let throttle = ThrottleControl::new(slots.limit(), clock::now());
        Self { port, function, function_timeout, slots, throttle, _watch: watch }
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

impl Actor for InvokerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
    }
}

impl Handler<Invoke> for InvokerActor {
    type Result = ();

    fn handle(&mut self, invoke: Invoke, ctx: &mut Self::Context) {
        let sent_at = clock::now();
        let answer = Answer { batch: invoke.batch, sent_at, reply: Some(invoke.reply) };
        let sent = self.port.invoke(Invocation {
            function: Arc::clone(&self.function),
            payload: invoke.payload.clone(),
            context: invoke.context,
            read_timeout: self.function_timeout + READ_MARGIN,
        });
        let deadline = self.function_timeout + READ_MARGIN + READ_MARGIN;
        let (payload, slot, lease, me) = (invoke.payload, invoke.slot, invoke.lease, ctx.address());
        actix_rt::spawn(async move {
            let reply = tokio::time::timeout(deadline, sent).await;
            let reply =
                reply.unwrap_or_else(|_| Reply::Lost("no reply within the function's timeout".to_owned()));
            let facts = reply.facts();
            let verdict = Verdict::of(reply);
            let took = clock::now().since(sent_at);
            metrics::counter!(crate::metrics::INVOCATIONS, "outcome" => verdict.label()).increment(1);
            metrics::histogram!(crate::metrics::INVOKE_DURATION_SECONDS).record(took.as_secs_f64());
            me.do_send(Observed { throttled: matches!(verdict, Verdict::Throttled { .. }), took });
            answer.give(verdict, facts, Some(payload));
            drop((slot, lease));
        });
    }
}

impl Handler<Observed> for InvokerActor {
    type Result = ();

    fn handle(&mut self, observed: Observed, _: &mut Self::Context) {
        let limit = self.throttle.answered(clock::now(), observed.throttled, observed.took);
        if limit != self.slots.limit() {
            self.slots.set_limit(limit);
        }
    }
}

impl Handler<SetCeiling> for InvokerActor {
    type Result = ();

    fn handle(&mut self, SetCeiling(ceiling): SetCeiling, _: &mut Self::Context) {
        self.throttle.set_ceiling(ceiling);
        self.slots.set_limit(self.throttle.limit());
    }
}
