//! Lookup of the start offsets of assigned partitions: one lookup for all partitions that are due, and the handling
//! of its result.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::MappingActor;
use super::start_offsets::{StartError, StartOffsets, StartResolver};
use crate::commits::start_plan::still_holds;
use crate::runtime::backoff::random;
use crate::runtime::clock;
use crate::runtime::task::outcome;
use crate::status::standing::StandingCause;

/// Placeholder generation until the next one is known. No result applies under it.
pub(super) const UNDECIDED: i32 = -1;
/// Delay before retrying after the assignment was found to have changed.
const PLACE_CHANGES: Duration = Duration::from_millis(100);

#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StartsFound {
    wanted: Vec<i32>,
    generation: i32,
    starts: Result<Option<StartOffsets>, StartError>,
}

impl MappingActor {
    pub(super) fn resolve_starts(&self, wanted: Vec<i32>, wait: Duration, ctx: &mut Context<Self>) {
        let Some((membership, _)) = &self.joined else { return };
        let generation = self.generation;
        let resolver = StartResolver {
            membership: membership.clone(),
            generation,
            cluster: self.cluster.clone(),
            topic: self.run.topic.to_string(),
            has_run: self.activated.load(Ordering::Relaxed) > 0,
            mapping: self.run.id,
            audit: self.node.audit.clone(),
            at: self.run.start,
            owes_all: Arc::clone(&self.owes_all),
            isolation: self.node.fetch.isolation,
            turn: Arc::clone(&self.resolving),
        };
        let me = ctx.address();
        actix_rt::spawn(async move {
            tokio::time::sleep(wait).await;
            let starts = outcome("search for the starts of partitions", resolver.resolve(&wanted)).await;
            let starts = starts.unwrap_or(Err(StartError::Panicked));
            me.do_send(StartsFound { wanted, generation, starts });
        });
    }

    /// Schedules a lookup of the partitions after `wait`, at the earliest with the next tick. Partitions due at the
    /// same time share one lookup.
    pub(super) fn resolve_again(&mut self, partitions: impl IntoIterator<Item = i32>, wait: Duration) {
        self.waiting.again(partitions, clock::now() + wait);
    }

    /// Looks up the partitions that are due, and updates the shown reasons.
    pub(super) fn resolve_waiting(&mut self, ctx: &mut Context<Self>) {
        let (owned, table) = (&self.owned, &self.table);
        self.waiting.retain(|partition| owned.contains(&partition) && !table.holds(partition));
        self.show_waiting();
        let due: Vec<i32> = self.waiting.due(clock::now()).into_iter().collect();
        if !due.is_empty() {
            self.resolve_starts(due, Duration::ZERO, ctx);
        }
    }

    fn show_waiting(&self) {
        let text = self.waiting.text();
        let is_ours = !self.table.is_empty() || self.waiting.is_ours();
        let (partitions, cluster) = if is_ours { (text, None) } else { (None, text) };
        self.status.stand(StandingCause::Partitions, partitions);
        self.status.stand(StandingCause::Cluster, cluster);
    }

    fn take_starts(
        &mut self,
        wanted: &[i32],
        generation: i32,
        starts: Result<Option<StartOffsets>, StartError>,
        ctx: &mut Context<Self>,
    ) {
        let still: BTreeSet<i32> =
            wanted.iter().copied().filter(|partition| self.owned.contains(partition)).collect();
        let again = || still.iter().copied().collect();
        if !still_holds(generation, self.generation) {
            // The partition was lost and assigned again; its offset may have moved.
            if !still.is_empty() {
                self.resolve_starts(again(), Duration::ZERO, ctx);
            }
            return;
        }
        match starts {
            // The assignment has changed; a group event will follow.
            Ok(None) if still.is_empty() => {}
            Ok(None) => self.resolve_starts(again(), PLACE_CHANGES, ctx),
            Ok(Some(starts)) => self.take_found(still, starts),
            Err(error) => {
                let why: Arc<str> = error.to_string().into();
                self.status.poll_failed(&why);
                if error.may_still_apply() {
                    self.restart_group();
                }
                let reasons = still.into_iter().map(|partition| (partition, Arc::clone(&why))).collect();
                self.waiting.wait(reasons, clock::now(), random());
                self.waiting.blame(error.is_ours());
                self.show_waiting();
            }
        }
    }

    fn take_found(&mut self, still: BTreeSet<i32>, starts: StartOffsets) {
        self.waiting.blame(false);
        self.activated.store(starts.activated, Ordering::Relaxed);
        if !starts.positions.is_empty() {
            // Records written before the topic was found are covered by the committed starts.
            self.owes_all.store(false, Ordering::Relaxed);
        }
        let StartOffsets { mut positions, mut waiting, remarks, .. } = starts;
        waiting.retain(|partition, _| still.contains(partition));
        for partition in still {
            if let Some(position) = positions.remove(&partition)
                && !self.table.holds(partition)
            {
                self.tell(partition, &position, remarks.get(&partition).copied());
                self.positions.insert(partition, position);
                self.table.add(partition);
            }
        }
        if !waiting.is_empty() {
            tracing::warn!(mapping = %self.run.id, partitions = ?waiting.keys(), why = ?waiting.values().next(), "partitions cannot start; retrying");
        }
        self.waiting.wait(waiting, clock::now(), random());
        self.turn.is_unbalanced = true;
    }

    /// Rejoins the group after a start offset was committed without a response. The broker may apply it after other
    /// members have started by it; committing it again would take back what they delivered. It is decided again in a
    /// generation in which the first commit is rejected.
    fn restart_group(&mut self) {
        let Some((membership, _)) = self.joined.as_ref().filter(|_| self.table.is_empty()) else { return };
        membership.force_rejoin(self.generation);
        self.generation = UNDECIDED;
    }
}

impl Handler<StartsFound> for MappingActor {
    type Result = ();

    fn handle(&mut self, found: StartsFound, ctx: &mut Self::Context) {
        if self.stopping.is_none() {
            self.take_starts(&found.wanted, found.generation, found.starts, ctx);
            self.end_turn(ctx);
        }
    }
}
