//! Neighbour mapping of the node. It takes all the bytes it can get and returns none: its function fails for ever.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman::credit::memory_budget::{MemoryBudget, MemoryLease};

use super::super::environment::SimulatedEnvironment;

const AGAIN: Duration = Duration::from_millis(700);
/// More than a limited budget can grant.
const LEASES_MAX: usize = 200;

/// Leases held, and the one that is pending.
#[derive(Default)]
pub(super) struct NeighbourMapping {
    budget: Option<MemoryBudget>,
    held: Vec<MemoryLease>,
    asked: Option<BoxFuture<'static, MemoryLease>>,
}

impl NeighbourMapping {
    /// Returns the simulated mapping's share, and the neighbour if the plan has one.
    pub(super) fn beside(env: &SimulatedEnvironment) -> (MemoryBudget, Self) {
        let node = MemoryBudget::new(env.plan.budget);
        if !env.plan.has_neighbour {
            return (node, Self::default());
        }
        let budget = Some(node.share_for("the neighbour"));
        (node.share_for("the mapping"), Self { budget, ..Self::default() })
    }

    pub(super) fn is_there(&self) -> bool {
        self.budget.is_some()
    }

    /// Takes all available bytes and queues for more. Returns the delay until the next attempt.
    pub(super) fn grab(&mut self) -> Duration {
        let Some(budget) = &self.budget else { return AGAIN };
        while self.held.len() < LEASES_MAX {
            let asked = self.asked.get_or_insert_with(|| {
                let budget = budget.clone();
                async move { budget.lease_for_records(1_000, 20_000).await }.boxed()
            });
            let Some(lease) = asked.now_or_never() else { return AGAIN };
            self.asked = None;
            self.held.push(lease);
        }
        AGAIN
    }

    /// Drops its leases before the node ends.
    pub(super) fn let_go(&mut self) {
        *self = Self::default();
    }
}
