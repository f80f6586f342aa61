//! What `/readyz` says: whether this node does what it should. A mapping whose cluster or function is out of reach does not
//! make a node unready: no other node would do better, and its `LastProcessingResult` tells.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Dataplane;
use crate::metrics::ReadinessCheck;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LifecyclePhase {
    Starting,
    Serving,
    Draining,
}

/// The node's phase; clones share it.
#[derive(Clone)]
pub struct NodePhase {
    phase: Arc<Mutex<LifecyclePhase>>,
}

impl Default for NodePhase {
    fn default() -> Self {
        Self { phase: Arc::new(Mutex::new(LifecyclePhase::Starting)) }
    }
}

impl NodePhase {
    /// The store is applied: what should run has been told to run.
    pub fn serving(&self) {
        *self.phase.lock() = LifecyclePhase::Serving;
    }

    /// From now on it does less and less.
    pub fn draining(&self) {
        *self.phase.lock() = LifecyclePhase::Draining;
    }

    /// What `/readyz` asks; `Err` names the first thing that is missing.
    pub fn readiness(&self, dataplane: &Arc<Dataplane>) -> ReadinessCheck {
        let (phase, dataplane) = (self.clone(), Arc::clone(dataplane));
        Arc::new(move || {
            let phase = *phase.phase.lock();
            match phase {
                LifecyclePhase::Starting => Err("starting: the store is being applied".to_owned()),
                LifecyclePhase::Draining => Err("draining: nothing new is begun".to_owned()),
                LifecyclePhase::Serving => match dataplane.not_ready_reason() {
                    Some((mapping, what)) => Err(format!("mapping {mapping} {what}")),
                    None => Ok(()),
                },
            }
        })
    }
}
