//! Release of memory when other partitions are short of it. Records after those that are being retried cannot be used
//! before these are resolved, so they are released and fetched again then. Records that are offered or in flight are
//! never released.

use super::PartitionCore;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects};

impl PartitionCore {
    /// Releases records because other partitions are short of memory.
    pub fn give_back(&mut self, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !self.is_running() || !self.attempts.is_held_up() || self.reader.is_missing_records() {
            return out;
        }
        if self.reader.give_back(self.attempts.end()) {
            out.push(PartitionEffect::Pause);
        }
        self.attempts.release_memory(context.batch_opener);
        out
    }
}
