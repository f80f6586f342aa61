//! When a partition's shell goes on with what it could not finish: when credit is lent, when others have had their turn, or
//! after a moment.

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::actor::PartitionActor;
use super::decompress::CreditWait;
use super::fetch_buffer::CreditShortage;
use super::messages::CreditGranted;
use crate::runtime::clock;
use crate::runtime::outbox::post;

/// How soon to look again whether others are short of credit, or whether an older invocation has ended.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Calls that are arranged; one of each at a time.
#[derive(Default)]
pub(super) struct ScheduledTurns {
    looking_again: bool,
    going_on: bool,
}

#[derive(Message)]
#[rtype(result = "()")]
struct NextTurn;

impl PartitionActor {
    /// One place in the line at a time: who is lent too little asks again.
    pub(super) fn await_credit(&mut self, shortage: CreditShortage, ctx: &mut Context<Self>) {
        let (budget, to) = (&self.tools.budget, ctx.address().recipient());
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

    /// A task of its own, behind all that are ready on the thread now: a message to oneself would be handled before them.
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
        self.step_with(Some(lease), ctx, |core, tools| core.wake(clock::now(), tools));
    }
}
