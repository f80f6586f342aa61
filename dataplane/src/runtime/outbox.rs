//! Message sending between actors. Addresses are never cloned into a queue, and a full mailbox is a bug rather than
//! a state. Credits bound the messages in transit to a few for each partition, whatever its records are.

use actix::dev::{MessageResponse, ToEnvelope};
use actix::prelude::SendError;
use actix::{Actor, Addr, Handler, Message, Recipient};

/// Messages of one partition that an actor may have pending at once: start, drain, fence and report; offer,
/// withdrawal, answer and end; want and its revocation. Each is sent once, in response to an earlier one.
const MESSAGES_PER_PARTITION_MAX: usize = 8;
/// Partitions of one mapping on one node: five times the recommended maximum of a broker with all of its topics.
const PARTITIONS_MAX: usize = 20_000;

/// Mailbox capacity of every actor of the dataplane. No memory is allocated for it in advance.
pub const MAILBOX_MESSAGES_MAX: usize = MESSAGES_PER_PARTITION_MAX * PARTITIONS_MAX;

/// Edge of the actor graph.
pub struct Outbox<A: Actor> {
    to: Addr<A>,
}

impl<A: Actor> Outbox<A> {
    /// Creates an edge to `to`.
    pub fn new(to: Addr<A>) -> Self {
        Self { to }
    }

    /// Sends a message. Returns an error if the receiver has ended. If the mailbox is full, that is counted and the
    /// message is sent anyway: a lost outcome would be worse than an overlong mailbox.
    pub fn send<M>(&self, message: M) -> Result<(), ReceiverClosed>
    where
        M: Message + Send + 'static,
        M::Result: Send + MessageResponse<A, M>,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        deliver_or_force(self.to.try_send(message), |message| self.to.do_send(message))
    }

    /// Address of the receiver, for passing on.
    pub fn address(&self) -> &Addr<A> {
        &self.to
    }
}

/// Error of a send to a receiver that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceiverClosed;

/// Variant of [`Outbox::send`] for a receiver known only by its message type.
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
