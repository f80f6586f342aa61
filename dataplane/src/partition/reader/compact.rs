//! Copying of a few records out of a large batch.

use bytes::BytesMut;

use crate::messages::records::{RecordRun, SharedLease};
use crate::partition::reader::fetch_buffer::BatchOpener;

/// Divisor of the batch size: slices smaller than this fraction of their batch are copied.
const SPARSE: usize = 8;

/// Copies slices of one batch of `batch_bytes` out of it if they are a small part of it. As views they would keep the
/// whole batch on the budget until they are resolved, which can take long with a long batching window. The copy is
/// one allocation. If memory for it is not available, the slices stay views.
pub(super) fn copy_out(runs: &mut [RecordRun], batch_bytes: usize, batch_opener: &mut dyn BatchOpener) {
    let bytes: usize = runs.iter().map(|slice| slice.end - slice.at).sum();
    if bytes == 0 || bytes.saturating_mul(SPARSE) > batch_bytes {
        return;
    }
    let Some(hold) = batch_opener.lend(bytes) else { return };
    copy_to(&hold, bytes, runs);
}

/// Copies slices into one allocation of `bytes`, their total size, on the lease `hold`.
pub(super) fn copy_to<'s>(
    hold: &SharedLease,
    bytes: usize,
    runs: impl IntoIterator<Item = &'s mut RecordRun>,
) {
    let mut copy = BytesMut::with_capacity(bytes);
    for slice in runs {
        copy.extend_from_slice(&slice.plain[slice.at..slice.end]);
        slice.plain = copy.split().freeze();
        (slice.at, slice.end) = (0, slice.plain.len());
        slice.hold = SharedLease::clone(hold);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use bytes::Bytes;
    use lighterman_proto::ids::Offset;
    use lighterman_proto::records::{AbortedTransactions, BatchHeader, RecordError};
    use lighterman_proto::units::Moment;

    use super::*;
    use crate::credit::memory_budget::Overdraft;
    use crate::messages::records::{PartitionBatch, PartitionBatchLimits};
    use crate::partition::model_tests::{PlainTools, RefusingFilter, batch, hold};
    use crate::partition::reader::fetch_buffer::{
        CreditShortage, FetchBuffer, FillLimits, FillStop, OpenedBatch, PlainSize,
    };
    use crate::partition::reader::pieces::{NextPiece, PiecedBatch};

    /// Opener without memory to lend.
    struct CreditlessOpener;

    impl BatchOpener for CreditlessOpener {
        fn open(
            &mut self,
            _: &BatchHeader,
            packed: &Bytes,
            _: Option<PlainSize>,
            _: &SharedLease,
        ) -> Result<OpenedBatch, RecordError> {
            let shortage = CreditShortage { bytes: packed.len(), purpose: Overdraft::Inflated };
            Ok(OpenedBatch::NoCredit(shortage, PlainSize::Bytes(packed.len())))
        }

        fn next_piece(&mut self, _: &mut PiecedBatch) -> Result<NextPiece, RecordError> {
            Ok(NextPiece::Later)
        }

        fn has_waiters(&self) -> bool {
            false
        }

        fn lend(&mut self, _: usize) -> Option<SharedLease> {
            None
        }
    }

    /// Takes a batch from a frame of 64 records of which only `passing` pass the filter. Also returns how many slices
    /// still hold the frame.
    fn cut_of(passing: &[i64], batch_opener: &mut dyn BatchOpener) -> (PartitionBatch, usize) {
        let deltas: Vec<(i64, usize)> = (0..64).map(|delta| (delta, 20)).collect();
        let (frame, frame_hold) = (batch(0, &deltas, 63, false), hold());
        let mut buffer = FetchBuffer::default();
        let aborted = AbortedTransactions::default();
        buffer.receive(&frame, Offset(0), aborted, &frame_hold, Moment::from_micros(1));
        let refusing =
            RefusingFilter((0..64).filter(|offset| !passing.contains(offset)).collect::<BTreeSet<i64>>());
        let limits = PartitionBatchLimits { records_max: 1_000, payload_bytes_max: 1 << 20 };
        let fill_limits =
            FillLimits { limits, end_max: None, frontier: Offset(0), known: &[], remembered: None };
        let mut partition_batch = PartitionBatch::empty(Offset(0));
        assert!(matches!(
            buffer.grow(&mut partition_batch, fill_limits, &PlainTools, &refusing, batch_opener),
            FillStop::Done
        ));
        assert!(buffer.is_empty());
        let offsets: Vec<i64> = partition_batch.walk().map(|record| record.offset.0).collect();
        assert_eq!(offsets, passing, "the same records, copied or not");
        (partition_batch, Arc::strong_count(&frame_hold) - 1)
    }

    /// With a small batch size, the records still to be taken keep the frame in memory anyway.
    #[test]
    fn slices_not_copied_while_frame_has_more_records() {
        let deltas: Vec<(i64, usize)> = (0..64).map(|delta| (delta, 20)).collect();
        let (frame, frame_hold) = (batch(0, &deltas, 63, false), hold());
        let mut buffer = FetchBuffer::default();
        let aborted = AbortedTransactions::default();
        buffer.receive(&frame, Offset(0), aborted, &frame_hold, Moment::from_micros(1));
        let limits = PartitionBatchLimits { records_max: 4, payload_bytes_max: 1 << 20 };
        for first in (0..64).step_by(4).map(Offset) {
            let fill_limits =
                FillLimits { limits, end_max: None, frontier: first, known: &[], remembered: None };
            let mut partition_batch = PartitionBatch::empty(first);
            buffer.grow(&mut partition_batch, fill_limits, &PlainTools, &PlainTools, &mut PlainTools);
            assert_eq!((partition_batch.records, partition_batch.runs.len()), (4, 1));
            let is_view = Arc::ptr_eq(&partition_batch.runs[0].hold, &frame_hold);
            assert_eq!(
                is_view,
                !buffer.is_empty(),
                "from {first} on: only the last record would keep the frame"
            );
        }
        assert_eq!(Arc::strong_count(&frame_hold), 1);
    }

    #[test]
    fn mem_1_sparse_records_release_their_frame() {
        let (partition_batch, holders) = cut_of(&[3, 4, 40, 63], &mut PlainTools);
        assert_eq!((partition_batch.runs.len(), holders), (3, 0));
        let halves = partition_batch.halves(&PlainTools).expect("four records");
        assert_eq!(halves.1.walk().map(|record| record.offset.0).collect::<Vec<_>>(), [40, 63]);
    }

    #[test]
    fn dense_or_creditless_slices_stay_views() {
        let most: Vec<i64> = (0..60).collect();
        assert!(cut_of(&most, &mut PlainTools).1 > 0);
        assert!(cut_of(&[3, 40], &mut CreditlessOpener).1 > 0);
    }
}
