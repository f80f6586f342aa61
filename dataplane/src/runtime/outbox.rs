//! How actors send: an address that is never cloned into a queue, and a full mailbox that is a bug, not a state.
//! Credits bound what is under way (§5 of the design), so a mailbox of this size never fills in a correct node.

use actix::dev::{MessageResponse, ToEnvelope};
use actix::prelude::SendError;
use actix::{Actor, Addr, Handler, Message, Recipient};

/// Mailbox capacity of every actor of the dataplane.
pub const MAILBOX_MESSAGES_MAX: usize = 4096;

/// One edge of the actor graph.
pub struct Outbox<A: Actor> {
    to: Addr<A>,
}

impl<A: Actor> Outbox<A> {
    /// An edge to `to`.
    pub fn new(to: Addr<A>) -> Self {
        Self { to }
    }

    /// Sends, or says that the receiver has ended. A full mailbox is counted and the message still goes: losing an
    /// outcome would be worse than an overlong queue.
    pub fn send<M>(&self, message: M) -> Result<(), Gone>
    where
        M: Message + Send + 'static,
        M::Result: Send + MessageResponse<A, M>,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        settle(self.to.try_send(message), |message| self.to.do_send(message))
    }

    /// The address, for those who must be given one.
    pub fn address(&self) -> &Addr<A> {
        &self.to
    }
}

/// The receiver has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

/// [`Outbox::send`] for a receiver known by its message alone.
pub fn post<M>(to: &Recipient<M>, message: M) -> Result<(), Gone>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    settle(to.try_send(message), |message| to.do_send(message))
}

fn settle<M>(sent: Result<(), SendError<M>>, force: impl FnOnce(M)) -> Result<(), Gone> {
    match sent {
        Ok(()) => Ok(()),
        Err(SendError::Closed(_)) => Err(Gone),
        Err(SendError::Full(message)) => {
            metrics::counter!(crate::metrics::MAILBOX_FULL).increment(1);
            tracing::error!(message = std::any::type_name::<M>(), "mailbox full");
            force(message);
            Ok(())
        }
    }
}
