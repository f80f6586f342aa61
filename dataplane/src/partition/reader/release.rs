//! Release of memory when other partitions are short of it. Records after those that are being retried cannot be used
//! before these are resolved, so they are released and fetched again then. Records that are offered or in flight are
//! never released.

use std::collections::HashMap;
use std::sync::Arc;

use crate::messages::records::{RecordRun, SharedLease};
use crate::partition::attempts::AttemptState;
use crate::partition::core::{PartitionCore, PartitionPhase};
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects};
use crate::partition::reader::compact::copy_to;
use crate::partition::reader::fetch_buffer::BatchOpener;

impl PartitionCore {
    /// Releases records because other partitions are short of memory.
    pub fn give_back(&mut self, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !self.is_running() || !self.is_held_up() || self.reader.lost_before.is_some() {
            return out;
        }
        if self.reader.wanted || !self.reader.buffer.is_empty() {
            self.reader.position =
                self.attempts.remaining.first().unwrap_or(&self.attempts.current).batch.range.end;
            self.reader.buffer.clear();
            self.reader.wanted = false;
            out.push(PartitionEffect::Pause);
        }
        self.reader.gave_back = true;
        if matches!(self.attempts.state, AttemptState::BackingOff { .. }) {
            let cuts = std::iter::once(&mut self.attempts.current)
                .chain(&mut self.attempts.remaining)
                .map(|work| &mut work.batch);
            keep_only(cuts.flat_map(|cut| &mut cut.slices), context.opener);
        }
        out
    }

    /// True if the current records have been attempted or are on their way to the destination, and are still
    /// unresolved.
    fn is_held_up(&self) -> bool {
        match self.attempts.state {
            AttemptState::BackingOff { .. } | AttemptState::DeadLettering { .. } => true,
            AttemptState::Idle
            | AttemptState::AwaitingCommit
            | AttemptState::Offered { .. }
            | AttemptState::Sealed { .. } => {
                self.attempts.current.held_up && !self.attempts.current.may_grow()
            }
        }
    }

    /// True if further records could not be used yet: other partitions were short of memory, and the records that
    /// were current at that time are still unresolved.
    pub(in crate::partition) fn holds_back(&mut self) -> bool {
        self.reader.gave_back &=
            !self.attempts.current.batch.is_empty() || !self.attempts.remaining.is_empty();
        self.reader.gave_back && self.phase == PartitionPhase::Running
    }
}

/// Copies slices that are less than half of the memory they keep on the budget, so that the rest can be released.
fn keep_only<'s>(slices: impl Iterator<Item = &'s mut RecordRun>, opener: &mut dyn BatchOpener) {
    // There may be as many leases as records, and the slices of one lease need not be adjacent.
    let (mut groups, mut known) = (Vec::<Vec<&mut RecordRun>>::new(), HashMap::new());
    for slice in slices {
        let at = *known.entry(Arc::as_ptr(&slice.hold)).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(slice),
            None => groups.push(vec![slice]),
        }
    }
    for group in groups.into_iter().rev() {
        keep_of_hold(group, opener);
    }
}

/// Does the same for all slices of one lease.
fn keep_of_hold(mut slices: Vec<&mut RecordRun>, opener: &mut dyn BatchOpener) {
    let Some(hold) = slices.first().map(|slice| SharedLease::clone(&slice.hold)) else { return };
    let bytes: usize = slices.iter().map(|slice| slice.end - slice.at).sum();
    if bytes.saturating_mul(2) > hold.bytes() {
        return;
    }
    let is_all_ours = Arc::strong_count(&hold) == slices.len() + 1;
    let lent = if is_all_ours { None } else { opener.lend(bytes) };
    if !is_all_ours && lent.is_none() {
        return;
    }
    copy_to(&Arc::new(hold.nothing()), bytes, slices.iter_mut().map(|slice| &mut **slice));
    let kept = lent.or_else(|| {
        let mut lease = Arc::into_inner(hold)?;
        lease.shrink_to(bytes);
        Some(Arc::new(lease))
    });
    let Some(kept) = kept else { return };
    for slice in slices {
        slice.hold = SharedLease::clone(&kept);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::credit::memory_budget::MemoryBudget;
    use crate::partition::model_tests::{PlainTools, batch, cut_of};

    /// A frame's two plain batches may have a compressed one between them.
    #[test]
    fn mem_1_nonadjacent_slices_of_one_lease_copied_together() {
        let budget = MemoryBudget::new(10_000);
        let hold_of = |bytes| SharedLease::new(budget.try_lease(bytes).expect("room"));
        let records: Bytes = batch(0, &[(0, 20), (1, 20), (2, 20), (3, 20)], 3, false);
        let mut slices: Vec<RecordRun> = Vec::new();
        {
            let (frame, inflated) = (hold_of(4_000), hold_of(2_000));
            for hold in [&frame, &inflated, &frame, &inflated] {
                let slice = cut_of(&records).slices.remove(0);
                slices.push(RecordRun { hold: SharedLease::clone(hold), ..slice });
            }
        }
        let offsets = |slices: &[RecordRun]| -> Vec<i64> {
            slices.iter().flat_map(RecordRun::walk).map(|record| record.offset.0).collect()
        };
        let before = offsets(&slices);
        let bytes: usize = slices.iter().map(|slice| slice.end - slice.at).sum();
        keep_only(slices.iter_mut(), &mut PlainTools);
        assert_eq!((budget.leased(), offsets(&slices)), (bytes, before));
        drop(slices);
        assert_eq!(budget.leased(), 0);
    }
}
