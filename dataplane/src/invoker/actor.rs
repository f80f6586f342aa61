//! The invoker's shell: an arbiter of its own for payloads whose signature would keep what must not wait waiting.

use actix::{Actor, Context, Handler};

use super::invocation::{InvokeRequest, Invoker};
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::outbox::MAILBOX_MESSAGES_MAX;

/// The actor; one for each mapping, on an invoker arbiter.
pub struct InvokerActor {
    invoker: Invoker,
    _watch: DeathWatch,
}

impl InvokerActor {
    /// An actor that invokes through `invoker`.
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
