//! Partitions that a member owns, and those of them that it drains after a revocation.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Owned partitions of one member. A revoked partition stays owned until it is drained and committed (H3).
#[derive(Debug, Default)]
pub(super) struct OwnedPartitions {
    owned: BTreeSet<i32>,
    revoking: BTreeSet<i32>,
    /// `owned` without `revoking`, cached because it is read far more often than it changes.
    kept: Arc<BTreeSet<i32>>,
}

/// Difference between an assignment and the owned partitions.
#[derive(Debug, Default)]
pub(super) struct AssignmentChange {
    pub(super) added: Vec<i32>,
    pub(super) revoked: Vec<i32>,
}

impl OwnedPartitions {
    pub(super) fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    /// Returns all owned partitions, including those being drained.
    pub(super) fn all(&self) -> &BTreeSet<i32> {
        &self.owned
    }

    /// Returns the owned partitions that are not being drained.
    pub(super) fn kept(&self) -> &Arc<BTreeSet<i32>> {
        debug_assert!(self.kept.iter().eq(self.owned.difference(&self.revoking)), "the cache is current");
        &self.kept
    }

    pub(super) fn is_draining(&self) -> bool {
        !self.revoking.is_empty()
    }

    /// Returns the partitions that the member reports as owned: also those being drained, so that nobody else starts
    /// them (H25).
    pub(super) fn claimed(&self) -> BTreeSet<i32> {
        mutant!("revoked-is-let-go-at-once", self.owned.clone(), (*self.kept).clone())
    }

    /// Compares with `assigned`. Partitions that are drained already are not revoked again.
    pub(super) fn compare(&self, assigned: &BTreeSet<i32>) -> AssignmentChange {
        let is_new = |partition: &&i32| !self.revoking.contains(partition);
        AssignmentChange {
            added: assigned.difference(&self.owned).copied().collect(),
            revoked: self.owned.difference(assigned).filter(is_new).copied().collect(),
        }
    }

    pub(super) fn add(&mut self, added: &[i32]) {
        self.owned.extend(added);
        if !added.is_empty() {
            self.update_kept();
        }
    }

    pub(super) fn start_drain(&mut self, revoked: &[i32]) {
        self.revoking.extend(revoked);
        if !revoked.is_empty() {
            self.update_kept();
        }
    }

    /// Releases those of `partitions` that were being drained, and returns them.
    pub(super) fn release(&mut self, partitions: &[i32]) -> Vec<i32> {
        let was_drained = |partition: &i32| self.revoking.remove(partition) && self.owned.remove(partition);
        partitions.iter().copied().filter(was_drained).collect()
    }

    /// Drops all partitions, and returns them.
    pub(super) fn drop_all(&mut self) -> Vec<i32> {
        let dropped = std::mem::take(self);
        dropped.owned.into_iter().collect()
    }

    fn update_kept(&mut self) {
        self.kept = Arc::new(self.owned.difference(&self.revoking).copied().collect());
    }
}
