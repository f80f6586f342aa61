//! Actor around the [`Invoker`]. It runs on a separate arbiter for payloads whose signing would delay
//! latency-sensitive work.

use actix::{Actor, Context, Handler};

use super::invocation::{InvokeRequest, Invoker};
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::outbox::MAILBOX_MESSAGES_MAX;

/// Invoker actor: one for each mapping, on an invoker arbiter.
pub struct InvokerActor {
    invoker: Invoker,
    _watch: DeathWatch,
}

impl InvokerActor {
    /// Creates an actor that invokes through `invoker`.
    pub fn new(invoker: Invoker, watch: DeathWatch) -> Self {
        Self { invoker, _watch: watch }
    }
}

impl Actor for InvokerActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
    }
}

impl Handler<InvokeRequest> for InvokerActor {
    type Result = ();

    fn handle(&mut self, invoke: InvokeRequest, _: &mut Self::Context) {
        self.invoker.start(invoke);
    }
}
