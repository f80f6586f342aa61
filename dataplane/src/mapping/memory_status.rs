//! Memory share of the mapping: a shortage is shown, and unused memory is given back when other mappings are short.

use std::time::Duration;

use super::MappingActor;
use crate::partition::messages::GiveBack;
use crate::runtime::clock;

/// Delay after which a mapping that waits for memory is shown.
const PATIENCE: Duration = Duration::from_secs(5);

impl MappingActor {
    /// Shows a shortage of memory, and asks consumers to give back unused memory when other mappings are short.
    pub(super) fn mind_memory(&self) {
        let shortage = self.budget.shortage(PATIENCE, clock::now());
        self.status.remembered(self.budget.held(), shortage.as_ref());
        let Some((_, actors)) = self.joined.as_ref().filter(|_| self.budget.is_asked_back()) else { return };
        for consumer in actors.consumers().into_iter().filter_map(|id| actors.consumer(id)) {
            consumer.do_send(GiveBack);
        }
    }
}
