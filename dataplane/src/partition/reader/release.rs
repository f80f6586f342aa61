//! Release of the memory around records that are kept while other partitions are short of it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::messages::records::{RecordRun, SharedLease};
use crate::partition::reader::compact::copy_to;
use crate::partition::reader::fetch_buffer::BatchOpener;

/// Copies slices that are less than half of the memory they keep on the budget, so that the rest can be released.
pub(in crate::partition) fn keep_only<'s>(
    runs: impl Iterator<Item = &'s mut RecordRun>,
    batch_opener: &mut dyn BatchOpener,
) {
    // There may be as many leases as records, and the slices of one lease need not be adjacent.
    let (mut groups, mut known) = (Vec::<Vec<&mut RecordRun>>::new(), HashMap::new());
    for slice in runs {
        let at = *known.entry(Arc::as_ptr(&slice.hold)).or_insert(groups.len());
        match groups.get_mut(at) {
            Some(group) => group.push(slice),
            None => groups.push(vec![slice]),
        }
    }
    for group in groups.into_iter().rev() {
        keep_of_hold(group, batch_opener);
    }
}

/// Does the same for all slices of one lease.
fn keep_of_hold(mut runs: Vec<&mut RecordRun>, batch_opener: &mut dyn BatchOpener) {
    let Some(hold) = runs.first().map(|slice| SharedLease::clone(&slice.hold)) else { return };
    let bytes: usize = runs.iter().map(|slice| slice.end - slice.at).sum();
    if bytes.saturating_mul(2) > hold.bytes() {
        return;
    }
    let is_all_ours = Arc::strong_count(&hold) == runs.len() + 1;
    let lent = if is_all_ours { None } else { batch_opener.lend(bytes) };
    if !is_all_ours && lent.is_none() {
        return;
    }
    copy_to(&Arc::new(hold.nothing()), bytes, runs.iter_mut().map(|slice| &mut **slice));
    let kept = lent.or_else(|| {
        let mut lease = Arc::into_inner(hold)?;
        lease.shrink_to(bytes);
        Some(Arc::new(lease))
    });
    let Some(kept) = kept else { return };
    for slice in runs {
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
        let mut runs: Vec<RecordRun> = Vec::new();
        {
            let (frame, inflated) = (hold_of(4_000), hold_of(2_000));
            for hold in [&frame, &inflated, &frame, &inflated] {
                let slice = cut_of(&records).runs.remove(0);
                runs.push(RecordRun { hold: SharedLease::clone(hold), ..slice });
            }
        }
        let offsets = |runs: &[RecordRun]| -> Vec<i64> {
            runs.iter().flat_map(RecordRun::walk).map(|record| record.offset.0).collect()
        };
        let before = offsets(&runs);
        let bytes: usize = runs.iter().map(|slice| slice.end - slice.at).sum();
        keep_only(runs.iter_mut(), &mut PlainTools);
        assert_eq!((budget.leased(), offsets(&runs)), (bytes, before));
        drop(runs);
        assert_eq!(budget.leased(), 0);
    }
}
