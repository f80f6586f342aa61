//! Release of the memory around records that are kept while other partitions are short of it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::messages::records::{RecordRun, SharedLease};
use crate::partition::reader::compact::copy_to;
use crate::partition::reader::fetch_buffer::BatchOpener;

/// Copies slices that are less than half of the memory they keep on the budget, so that the rest can be released.
pub(in crate::partition) fn keep_only<'s>(
    slices: impl Iterator<Item = &'s mut RecordRun>,
    opener: &mut dyn BatchOpener,
) {
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
