//! Single invocation: a task on the thread that starts it, which reports its outcome exactly once, whatever
//! happens.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};
use bytes::Bytes;
use lighterman_proto::units::Moment;
use metrics::{Counter, Histogram};
use parking_lot::Mutex;

use super::answer_room::AnswerRoom;
use super::client_context::ClientContext;
use super::facts::FunctionTimeout;
use super::outcome::{DELIVERED, InvocationOutcome, InvokeResponse};
use super::patience::{ReplyWait, UNSENT_MAX, WaitDecision};
use super::permit::SendPermit;
use super::port::{FunctionPort, Invocation};
use super::throttle::ThrottleControl;
use crate::credit::memory_budget::MemoryLease;
use crate::credit::slots::{Slot, Slots};
use crate::kafka::group::OwnershipLease;
use crate::messages::batch::BatchId;
use crate::messages::resolution::InvocationMetadata;
use crate::metrics::{INVOCATIONS, INVOKE_DURATION_SECONDS};
use crate::runtime::clock;
use crate::runtime::outbox::post;

/// Sealed batch with the resources to be released when it is answered.
#[derive(Message)]
#[rtype(result = "()")]
pub struct InvokeRequest {
    /// Event to send.
    pub payload: Bytes,
    /// Memory lease of the payload.
    pub lease: MemoryLease,
    /// Concurrency slot of the invocation.
    pub slot: Slot,
    /// Lease on the partitions. It is checked whenever bytes of the request leave, because waits may follow the
    /// seal (H1).
    pub ownership: OwnershipLease,
    /// Content of the `X-Amz-Client-Context` header.
    pub context: ClientContext,
    /// Memory for the retained part of the response.
    pub answer_room: AnswerRoom,
    /// Batch of the invocation.
    pub batch: BatchId,
    /// Recipient of the outcome.
    pub reply: Recipient<InvocationFinished>,
}

/// Outcome of a batch on the wire. Sent exactly once for each [`InvokeRequest`].
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct InvocationFinished {
    /// Batch of the invocation.
    pub batch: BatchId,
    /// Classified outcome.
    pub verdict: InvocationOutcome,
    /// Facts from Lambda's response, if there was one.
    pub facts: Option<InvocationMetadata>,
    /// Send time of the first byte. If the request did not leave as a whole, the time at which the invocation
    /// started.
    pub sent_at: Moment,
    /// Time at which the outcome was known.
    pub answered_at: Moment,
    /// Payload, returned for reuse of its memory.
    pub payload_back: Option<Bytes>,
    /// Lease of the response bytes in the outcome, if they exceed the unleased part.
    pub answer_lease: Option<MemoryLease>,
}

/// Adaptive limit of a mapping's concurrent invocations. Clones share it across all threads that invoke.
#[derive(Clone)]
pub struct ConcurrencyLimit {
    control: Arc<Mutex<ThrottleControl>>,
    slots: Slots,
}

impl ConcurrencyLimit {
    /// Creates a limit that adjusts `slots`.
    pub fn new(slots: Slots) -> Self {
        Self { control: Arc::new(Mutex::new(ThrottleControl::new(slots.limit(), clock::now()))), slots }
    }

    /// Sets the upper bound: five for each consumer.
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

/// Function of an invoker.
#[derive(Clone)]
pub struct InvokedFunction {
    /// Name or ARN with its qualifier, as configured in the mapping.
    pub name: Arc<str>,
    /// Timeout of the function.
    pub timeout: FunctionTimeout,
    /// Callback for a timeout that may be wrong.
    pub doubt: Arc<dyn Fn() + Send + Sync>,
}

/// Invoker of one mapping's function.
#[derive(Clone)]
pub struct Invoker {
    port: Arc<dyn FunctionPort>,
    function: InvokedFunction,
    concurrency: ConcurrencyLimit,
    meters: InvocationMeters,
}

/// Metrics of each invocation, looked up once.
#[derive(Clone)]
struct InvocationMeters {
    delivered: Counter,
    duration_seconds: Histogram,
}

impl InvocationMeters {
    fn new() -> Self {
        Self {
            delivered: metrics::counter!(INVOCATIONS, "outcome" => DELIVERED),
            duration_seconds: metrics::histogram!(INVOKE_DURATION_SECONDS),
        }
    }

    fn answered(&self, verdict: &InvocationOutcome, took: Duration) {
        self.duration_seconds.record(took.as_secs_f64());
        match verdict.label() {
            DELIVERED => self.delivered.increment(1),
            failed => metrics::counter!(INVOCATIONS, "outcome" => failed).increment(1),
        }
    }
}

impl Invoker {
    /// Creates an invoker of `function` through `port`.
    pub fn new(
        port: Arc<dyn FunctionPort>,
        function: InvokedFunction,
        concurrency: ConcurrencyLimit,
    ) -> Self {
        Self { port, function, concurrency, meters: InvocationMeters::new() }
    }

    /// Starts an invocation on the current thread.
    pub fn start(&self, invoke: InvokeRequest) {
        let started = clock::now();
        let permit = SendPermit::new(invoke.ownership);
        let answer = ReplyGuard {
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
        let Self { function, concurrency, meters, .. } = self.clone();
        actix_rt::spawn(async move {
            let mut wait = ReplyWait::new(started);
            let reply = reply_within(sent, &mut wait, &permit, &function).await;
            let facts = reply.facts();
            let verdict = InvocationOutcome::of(reply);
            let now = clock::now();
            let took = now.since(permit.sent_at().unwrap_or(started));
            meters.answered(&verdict, took);
            concurrency.answered(now, matches!(verdict, InvocationOutcome::Throttled { .. }), took);
            let mut payload = Some((payload, lease));
            if matches!(verdict, InvocationOutcome::Unknown { .. }) {
                payload = None;
                know_its_end(wait, permit.sent_at().unwrap_or(started), &function).await;
            }
            let (payload, _lease) = payload.unzip();
            answer.give(verdict, facts, payload);
            drop(slot);
        });
    }
}

/// Returns the reply, or the reason for its absence. A request that has sent no byte is dropped when the lease
/// ends.
pub(super) async fn reply_within(
    sent: impl Future<Output = InvokeResponse>,
    wait: &mut ReplyWait,
    permit: &SendPermit,
    function: &InvokedFunction,
) -> InvokeResponse {
    let mut sent = pin!(sent);
    loop {
        let now = clock::now();
        let until = match wait.look(now, permit.sent_at(), permit.is_good(now), &function.timeout) {
            WaitDecision::Until(until) => until,
            WaitDecision::Doubt => {
                (function.doubt)();
                continue;
            }
            WaitDecision::Withhold if permit.revoke() => return InvokeResponse::Withheld,
            WaitDecision::Unsent if permit.revoke() => {
                let seconds = UNSENT_MAX.as_secs();
                return InvokeResponse::NotSent(format!(
                    "neither credentials nor a connection within {seconds} s"
                ));
            }
            // The first byte has just left.
            WaitDecision::Withhold | WaitDecision::Unsent => continue,
            WaitDecision::GiveUp => {
                return InvokeResponse::Lost("no reply within the function's timeout".to_owned());
            }
        };
        if let Ok(reply) = tokio::time::timeout(until.since(now), &mut sent).await {
            return reply;
        }
    }
}

/// Waits until the function has certainly ended. Its timeout may have been raised, so it is queried before anything
/// is retried.
async fn know_its_end(mut wait: ReplyWait, sent_at: Moment, function: &InvokedFunction) {
    loop {
        let now = clock::now();
        match wait.look_after_loss(now, sent_at, &function.timeout) {
            WaitDecision::Doubt => (function.doubt)(),
            WaitDecision::Until(until) => tokio::time::sleep(until.since(now)).await,
            WaitDecision::Withhold | WaitDecision::Unsent | WaitDecision::GiveUp => return,
        }
    }
}

/// Reports an outcome even if the task panics. The outcome is then unknown.
struct ReplyGuard {
    batch: BatchId,
    started: Moment,
    permit: SendPermit,
    room: AnswerRoom,
    reply: Option<Recipient<InvocationFinished>>,
}

impl ReplyGuard {
    fn give(
        mut self,
        verdict: InvocationOutcome,
        facts: Option<InvocationMetadata>,
        payload_back: Option<Bytes>,
    ) {
        self.report(verdict, facts, payload_back);
    }

    /// Reports once: a second call finds no recipient.
    fn report(
        &mut self,
        verdict: InvocationOutcome,
        facts: Option<InvocationMetadata>,
        payload_back: Option<Bytes>,
    ) {
        let Some(reply) = self.reply.take() else { return };
        let finished = InvocationFinished {
            batch: self.batch,
            verdict,
            facts,
            sent_at: self.permit.sent_at().unwrap_or(self.started),
            answered_at: clock::now(),
            payload_back,
            answer_lease: self.room.take_lease(),
        };
        let _ = post(&reply, finished);
    }
}

impl Drop for ReplyGuard {
    fn drop(&mut self) {
        let message = "the invocation's task ended without an answer".to_owned();
        self.report(InvocationOutcome::Unknown { message }, None, None);
    }
}
