//! Another mapping of the node, which takes all the bytes that it can have and gives none back: its function fails for ever.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::super::environment::SimulatedEnvironment;
use crate::credit::memory::{MemoryBudget, MemoryLease};

const AGAIN: Duration = Duration::from_millis(700);
/// Far more than there is to take, where a budget has its limit.
const LEASES_MAX: usize = 200;

/// What it holds, and waits for.
#[derive(Default)]
pub(super) struct NeighbourMapping {
    budget: Option<MemoryBudget>,
    held: Vec<MemoryLease>,
    asked: Option<BoxFuture<'static, MemoryLease>>,
}

impl NeighbourMapping {
    /// The share of the simulated mapping, and the neighbour if the plan has one.
    pub(super) fn beside(outside: &SimulatedEnvironment) -> (MemoryBudget, Self) {
        let node = MemoryBudget::new(outside.plan.budget);
        if !outside.plan.has_neighbour {
            return (node, Self::default());
        }
        let budget = Some(node.share_for("the neighbour"));
        (node.share_for("the mapping"), Self { budget, ..Self::default() })
    }

    pub(super) fn is_there(&self) -> bool {
        self.budget.is_some()
    }

    /// Takes what there is, and stands in line for more; how soon it does so again.
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

    /// The node is about to end.
    pub(super) fn let_go(&mut self) {
        *self = Self::default();
    }
}
