//! Readiness of the node, as reported by `/readyz`. A mapping whose cluster or function is unreachable does not make
//! a node unready: no other node would do better, and its `LastProcessingResult` shows the problem.

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

/// Lifecycle phase of the node. Clones share it.
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
    /// Enters the serving phase: the store is applied, and the mappings that should run have been started.
    pub fn serving(&self) {
        *self.phase.lock() = LifecyclePhase::Serving;
    }

    /// Enters the draining phase.
    pub fn draining(&self) {
        *self.phase.lock() = LifecyclePhase::Draining;
    }

    /// Returns the check behind `/readyz`. `Err` names the first thing that is missing.
    pub fn readiness(&self, dataplane: &Arc<Dataplane>) -> ReadinessCheck {
        let (phase, dataplane) = (self.clone(), Arc::clone(dataplane));
        Arc::new(move || {
            let phase = *phase.phase.lock();
            match phase {
                LifecyclePhase::Starting => Err("starting: the store is being applied".to_owned()),
                LifecyclePhase::Draining => Err("draining: no new work is started".to_owned()),
                LifecyclePhase::Serving => match dataplane.not_ready_reason() {
                    Some((mapping, what)) => Err(format!("mapping {mapping} {what}")),
                    None => Ok(()),
                },
            }
        })
    }
}
