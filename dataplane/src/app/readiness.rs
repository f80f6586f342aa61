//! What `/readyz` says: whether this node does what it should. A mapping whose cluster or function is out of reach does not
//! make a node unready: no other node would do better, and its `LastProcessingResult` tells.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Dataplane;
use crate::metrics::Readiness;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting,
    Serving,
    Draining,
}

/// The node's phase; clones share it.
#[derive(Clone)]
pub struct NodePhase {
    phase: Arc<Mutex<Phase>>,
}

impl Default for NodePhase {
    fn default() -> Self {
        Self { phase: Arc::new(Mutex::new(Phase::Starting)) }
    }
}

impl NodePhase {
    /// The store is applied: what should run has been told to run.
    pub fn serving(&self) {
        *self.phase.lock() = Phase::Serving;
    }

    /// From now on it does less and less.
    pub fn draining(&self) {
        *self.phase.lock() = Phase::Draining;
    }

    /// What `/readyz` asks; `Err` names the first thing that is missing.
    pub fn readiness(&self, dataplane: &Arc<Dataplane>) -> Readiness {
        let (phase, dataplane) = (self.clone(), Arc::clone(dataplane));
        Arc::new(move || {
            let phase = *phase.phase.lock();
            match phase {
                Phase::Starting => Err("starting: the store is being applied".to_owned()),
                Phase::Draining => Err("draining: nothing new is begun".to_owned()),
                Phase::Serving => match dataplane.missing() {
                    Some((mapping, what)) => Err(format!("mapping {mapping} {what}")),
                    None => Ok(()),
                },
            }
        })
    }
}
