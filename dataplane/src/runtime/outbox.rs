//! How actors send: an address that is never cloned into a queue, and a full mailbox that is a bug, not a state.
//! Credits bound what is under way: of each partition a few messages, whatever its records are.

use actix::dev::{MessageResponse, ToEnvelope};
use actix::prelude::SendError;
use actix::{Actor, Addr, Handler, Message, Recipient};

/// Of one partition, what one actor may have before it at once: start, drain, fence and report; offer, withdrawal, answer and
/// end; want and its revocation. Each is sent once for what was received before.
const MESSAGES_PER_PARTITION_MAX: usize = 8;
/// Partitions of one mapping on one node: five times what a broker is told to hold with all of its topics.
const PARTITIONS_MAX: usize = 20_000;

/// Mailbox capacity of every actor of the dataplane; nothing is allocated for it.
pub const MAILBOX_MESSAGES_MAX: usize = MESSAGES_PER_PARTITION_MAX * PARTITIONS_MAX;

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
    pub fn send<M>(&self, message: M) -> Result<(), ReceiverClosed>
    where
        M: Message + Send + 'static,
        M::Result: Send + MessageResponse<A, M>,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        deliver_or_force(self.to.try_send(message), |message| self.to.do_send(message))
    }

    /// The address, for those who must be given one.
    pub fn address(&self) -> &Addr<A> {
        &self.to
    }
}

/// The receiver has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceiverClosed;

/// [`Outbox::send`] for a receiver known by its message alone.
pub fn post<M>(to: &Recipient<M>, message: M) -> Result<(), ReceiverClosed>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    deliver_or_force(to.try_send(message), |message| to.do_send(message))
}

fn deliver_or_force<M>(sent: Result<(), SendError<M>>, force: impl FnOnce(M)) -> Result<(), ReceiverClosed> {
    match sent {
        Ok(()) => Ok(()),
        Err(SendError::Closed(_)) => Err(ReceiverClosed),
        Err(SendError::Full(message)) => {
            metrics::counter!(crate::metrics::MAILBOX_FULL).increment(1);
            tracing::error!(message = std::any::type_name::<M>(), "mailbox full");
            force(message);
            Ok(())
        }
    }
}
