//! Scheduled wake-ups of a partition actor that has more to do: when memory is granted, after other tasks on the
//! thread, or after a short delay.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::actor::PartitionActor;
use super::decompress::CreditWait;
use super::messages::CreditGranted;
use crate::partition::reader::fetch_buffer::CreditShortage;
use crate::runtime::clock;
use crate::runtime::outbox::post;

/// Interval of checks for other partitions short of memory, or for the end of an earlier invocation.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Scheduled wake-ups, at most one of each kind.
#[derive(Default)]
pub(super) struct ScheduledTurns {
    looking_again: bool,
    going_on: bool,
}

#[derive(Message)]
#[rtype(result = "()")]
struct NextTurn;

impl PartitionActor {
    /// Waits for memory, with one place in the budget's queue at a time. If the granted lease is too small, the core
    /// asks again.
    pub(super) fn await_credit(&mut self, shortage: CreditShortage, ctx: &mut Context<Self>) {
        let (budget, to) = (&self.context.budget, ctx.address().recipient());
        self.in_line.get_or_insert_with(|| CreditWait::for_credit(shortage, budget, to));
    }

    pub(super) fn look_again(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.turns.looking_again, true) {
            ctx.run_later(LOOK_AGAIN, |actor, ctx| {
                actor.turns.looking_again = false;
                actor.wake(ctx);
            });
        }
    }

    /// Spawns a task that runs after all tasks already ready on the thread. A message to self would be handled before
    /// them.
    pub(super) fn go_on(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.turns.going_on, true) {
            let to = ctx.address().recipient();
            actix_rt::spawn(async move {
                tokio::task::yield_now().await;
                let _ = post(&to, NextTurn);
            });
        }
    }
}

impl Handler<NextTurn> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _: NextTurn, ctx: &mut Self::Context) {
        self.turns.going_on = false;
        self.wake(ctx);
    }
}

impl Handler<CreditGranted> for PartitionActor {
    type Result = ();

    fn handle(&mut self, CreditGranted(lease): CreditGranted, ctx: &mut Self::Context) {
        self.in_line = None;
        self.step_with(Some(lease), ctx, |core, context| core.wake(clock::now(), context));
    }
}
