//! Work that the member does once per mailbox turn. Thousands of partitions are revoked, drained and assigned at
//! once. Each step goes over all of them, so one step per partition would be quadratic.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::{AsyncContext, Context, Handler, Message};

use super::MappingActor;
use crate::runtime::clock;

/// Work deferred to the end of the turn.
#[derive(Default)]
pub(super) struct ResolveLock {
    /// Partitions that have ended here and that the group awaits.
    pub released: BTreeSet<i32>,
    /// Set while partitions are free to be placed.
    pub is_unbalanced: bool,
    is_ending: bool,
}

/// Message handled after all messages queued before it.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct TurnEnds;

impl ResolveLock {
    fn has_work(&self) -> bool {
        self.is_unbalanced || !self.released.is_empty()
    }
}

impl MappingActor {
    /// Schedules the end of the turn. Every handler that may have deferred work calls it.
    pub(super) fn end_turn(&mut self, ctx: &mut Context<Self>) {
        if self.turn.has_work() && !std::mem::replace(&mut self.turn.is_ending, true) {
            ctx.notify(TurnEnds);
        }
    }

    /// Releases the partitions over which no invocation of this member can still run. A partition that ended without
    /// a drain may have left an invocation behind. Its next owner must not start while that invocation runs (OWN-1).
    fn release_ended(&mut self, gone: BTreeSet<i32>) {
        let running = self.node.in_flight.running_over(self.run.id, clock::now());
        let (held_back, ended): (BTreeSet<i32>, BTreeSet<i32>) =
            gone.into_iter().partition(|partition| running.contains(partition));
        self.held_back.extend(held_back);
        if !ended.is_empty() {
            self.release(ended.into_iter().collect());
        }
    }

    /// True while an invocation may still run over a partition that the group counts as this member's.
    pub(super) fn may_run_yet(&self) -> bool {
        let running = self.node.in_flight.running_over(self.run.id, clock::now());
        let ours = [&self.owned, &self.held_back, &self.turn.released];
        running.iter().any(|partition| ours.iter().any(|ours| ours.contains(partition)))
    }

    /// Releases partitions, waiting first for a start offset that is being committed. The commit must precede the
    /// handover.
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
