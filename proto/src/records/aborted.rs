//! Aborted transactions of a fetch response, whose batches a `read_committed` consumer skips.

use std::collections::BTreeSet;

use super::batch::{ControlType, RecordBatch};
use crate::ids::Offset;

/// Aborted transactions of one partition in one fetch response, applied as in Java's `CompletedFetch`. A
/// transaction becomes active when a batch reaches its first offset, and ends at its producer's abort marker.
#[derive(Clone, Debug, Default)]
pub struct AbortedTransactions {
    /// Transactions not yet active, sorted by first offset, the lowest last.
    to_come: Vec<(i64, Offset)>,
    active: BTreeSet<i64>,
}

impl AbortedTransactions {
    /// Creates the set from the response's list of (producer id, first offset).
    pub fn new(mut aborted: Vec<(i64, Offset)>) -> Self {
        aborted.sort_by_key(|(_, first)| std::cmp::Reverse(*first));
        Self { to_come: aborted, active: BTreeSet::new() }
    }

    /// Returns true if the records of `batch` were aborted. Pass every batch in offset order, control batches
    /// included.
    pub fn is_aborted(&mut self, batch: &RecordBatch<'_>) -> bool {
        let header = &batch.header;
        let last = header.next_offset();
        while let Some((producer, first)) = self.to_come.last().copied() {
            if first >= last {
                break;
            }
            self.active.insert(producer);
            self.to_come.pop();
        }
        if header.is_control {
            if batch.control_type() == Some(ControlType::Abort) {
                self.active.remove(&header.producer_id);
            }
            return false;
        }
        header.is_transactional && self.active.contains(&header.producer_id)
    }
}
