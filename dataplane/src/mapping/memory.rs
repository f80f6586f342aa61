//! The mapping's share of the node's memory: a lack of it is shown, and what is of no use now is given back when others lack it.

use std::time::Duration;

use super::MappingActor;
use crate::partition::messages::GiveBack;
use crate::runtime::clock;

/// After how long it is told that a mapping waits for memory.
const PATIENCE: Duration = Duration::from_secs(5);

impl MappingActor {
    /// Shows a lack of memory, and has given back what is of no use now when others lack it.
    pub(super) fn mind_memory(&self) {
        let shortage = self.budget.shortage(PATIENCE, clock::now());
        self.status.remembered(self.budget.held(), shortage.as_ref());
        let Some((_, floor)) = self.joined.as_ref().filter(|_| self.budget.is_asked_back()) else { return };
        for consumer in floor.consumers().into_iter().filter_map(|id| floor.consumer(id)) {
            consumer.do_send(GiveBack);
        }
    }
}
