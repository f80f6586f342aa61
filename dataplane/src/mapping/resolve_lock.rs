//! Work that the member does once a turn, not once for each partition of it: thousands are revoked, drained and given at once,
//! and each step over all of them costs as much as all of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::{AsyncContext, Context, Handler, Message};

use super::MappingActor;
use crate::runtime::clock;

/// Work that the turn has left to its end.
#[derive(Default)]
pub(super) struct ResolveLock {
    /// Gone from here, and awaited by the group.
    pub released: BTreeSet<i32>,
    /// Partitions are free to be placed.
    pub is_unbalanced: bool,
    is_ending: bool,
}

/// Handled when every message that had come has been.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TurnEnds;

impl ResolveLock {
    fn has_work(&self) -> bool {
        self.is_unbalanced || !self.released.is_empty()
    }
}

impl MappingActor {
    /// To be called by whoever may have left something to the turn's end.
    pub(super) fn end_turn(&mut self, ctx: &mut Context<Self>) {
        if self.turn.has_work() && !std::mem::replace(&mut self.turn.is_ending, true) {
            ctx.notify(TurnEnds);
        }
    }

    /// Releases what nothing of ours can run over any more. A partition that ended otherwise than by its drain may have left an
    /// invocation behind: its next owner must not begin beside that (OWN-1).
    fn release_ended(&mut self, gone: BTreeSet<i32>) {
        let running = self.node.in_flight.running_over(self.run.id, clock::now());
        let (held_back, ended): (BTreeSet<i32>, BTreeSet<i32>) =
            gone.into_iter().partition(|partition| running.contains(partition));
        self.held_back.extend(held_back);
        if !ended.is_empty() {
            self.release(ended.into_iter().collect());
        }
    }

    /// True while an invocation may still run over a partition that the group takes for ours.
    pub(super) fn may_run_yet(&self) -> bool {
        let running = self.node.in_flight.running_over(self.run.id, clock::now());
        let ours = [&self.owned, &self.held_back, &self.turn.released];
        running.iter().any(|partition| ours.iter().any(|ours| ours.contains(partition)))
    }

    /// A beginning that is being committed is committed before its partition goes to anyone else.
    fn release(&self, partitions: Vec<i32>) {
        let Some((membership, _)) = &self.joined else { return };
        if self.resolving.try_lock().is_ok() {
            membership.released(partitions);
            return;
        }
        let (membership, turn) = (membership.clone(), Arc::clone(&self.resolving));
        actix_rt::spawn(async move {
            let _turn = turn.lock().await;
            membership.released(partitions);
        });
    }
}

impl Handler<TurnEnds> for MappingActor {
    type Result = ();

    fn handle(&mut self, _: TurnEnds, _: &mut Self::Context) {
        let turn = std::mem::take(&mut self.turn);
        if !turn.released.is_empty() {
            self.release_ended(turn.released);
        }
        if turn.is_unbalanced {
            self.balance();
        }
    }
}
