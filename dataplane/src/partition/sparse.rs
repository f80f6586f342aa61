//! Few records of a large batch, copied out of it.

use bytes::BytesMut;

use super::cut::{Hold, Slice};
use super::fetch_buffer::Opener;

/// Slices that are less than this share of their batch are copied.
const SPARSE: usize = 8;

/// Copies slices of one batch of `batch_bytes` out of it, when they are a small part of it: as views they would keep all that
/// was left out between them on the budget until they are answered for, which under a long window is long. One allocation,
/// when there is credit for it; without credit they stay views.
pub(super) fn copy_out(slices: &mut [Slice], batch_bytes: usize, opener: &mut dyn Opener) {
    let bytes: usize = slices.iter().map(|slice| slice.end - slice.at).sum();
    if bytes == 0 || bytes.saturating_mul(SPARSE) > batch_bytes {
        return;
    }
    let Some(hold) = opener.lend(bytes) else { return };
    copy_to(&hold, bytes, slices);
}

/// Copies slices into one allocation of `bytes`, all that they have, which stands on `hold`.
pub(super) fn copy_to<'s>(hold: &Hold, bytes: usize, slices: impl IntoIterator<Item = &'s mut Slice>) {
    let mut copy = BytesMut::with_capacity(bytes);
    for slice in slices {
        copy.extend_from_slice(&slice.plain[slice.at..slice.end]);
        slice.plain = copy.split().freeze();
        (slice.at, slice.end) = (0, slice.plain.len());
        slice.hold = Hold::clone(hold);
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
    use crate::credit::bytes::Overdraft;
    use crate::partition::cut::{Cut, CutLimits};
    use crate::partition::fetch_buffer::{FetchBuffer, Opening, PlainSize, Reach, Shortage, Stop};
    use crate::partition::model_tests::{Plain, Refusing, batch, hold};
    use crate::partition::pieces::{NextPiece, PiecedBatch};

    /// Lends nothing.
    struct Broke;

    impl Opener for Broke {
        fn open(
            &mut self,
            _: &BatchHeader,
            packed: &Bytes,
            _: Option<PlainSize>,
            _: &Hold,
        ) -> Result<Opening, RecordError> {
            let shortage = Shortage { bytes: packed.len(), purpose: Overdraft::Inflated };
            Ok(Opening::NoCredit(shortage, PlainSize::Bytes(packed.len())))
        }

        fn next_piece(&mut self, _: &mut PiecedBatch) -> Result<NextPiece, RecordError> {
            Ok(NextPiece::Later)
        }

        fn is_short(&self) -> bool {
            false
        }

        fn lend(&mut self, _: usize) -> Option<Hold> {
            None
        }
    }

    /// What is left of 64 records when all but `passing` are refused, and how many still hold the frame.
    fn cut_of(passing: &[i64], opener: &mut dyn Opener) -> (Cut, usize) {
        let deltas: Vec<(i64, usize)> = (0..64).map(|delta| (delta, 20)).collect();
        let (frame, frame_hold) = (batch(0, &deltas, 63, false), hold());
        let mut buffer = FetchBuffer::default();
        let aborted = AbortedTransactions::default();
        buffer.receive(&frame, Offset(0), aborted, &frame_hold, Moment::from_micros(1));
        let refusing =
            Refusing((0..64).filter(|offset| !passing.contains(offset)).collect::<BTreeSet<i64>>());
        let limits = CutLimits { records_max: 1_000, payload_bytes_max: 1 << 20 };
        let reach = Reach { limits, end_max: None, frontier: Offset(0), known: &[], remembered: None };
        let mut cut = Cut::empty(Offset(0));
        assert!(matches!(buffer.grow(&mut cut, reach, &Plain, &refusing, opener), Stop::Done));
        assert!(buffer.is_empty());
        let offsets: Vec<i64> = cut.walk().map(|record| record.offset.0).collect();
        assert_eq!(offsets, passing, "the same records, copied or not");
        (cut, Arc::strong_count(&frame_hold) - 1)
    }

    /// A small batch size: what is still to be cut keeps the frame here anyway.
    #[test]
    fn records_are_not_copied_while_more_of_their_frame_is_to_be_cut() {
        let deltas: Vec<(i64, usize)> = (0..64).map(|delta| (delta, 20)).collect();
        let (frame, frame_hold) = (batch(0, &deltas, 63, false), hold());
        let mut buffer = FetchBuffer::default();
        let aborted = AbortedTransactions::default();
        buffer.receive(&frame, Offset(0), aborted, &frame_hold, Moment::from_micros(1));
        let limits = CutLimits { records_max: 4, payload_bytes_max: 1 << 20 };
        for first in (0..64).step_by(4).map(Offset) {
            let reach = Reach { limits, end_max: None, frontier: first, known: &[], remembered: None };
            let mut cut = Cut::empty(first);
            buffer.grow(&mut cut, reach, &Plain, &Plain, &mut Plain);
            assert_eq!((cut.records, cut.slices.len()), (4, 1));
            let is_view = Arc::ptr_eq(&cut.slices[0].hold, &frame_hold);
            assert_eq!(
                is_view,
                !buffer.is_empty(),
                "from {first} on: only the last would keep the frame alone"
            );
        }
        assert_eq!(Arc::strong_count(&frame_hold), 1);
    }

    #[test]
    fn mem_1_a_few_records_do_not_hold_their_frame() {
        let (cut, holders) = cut_of(&[3, 4, 40, 63], &mut Plain);
        assert_eq!((cut.slices.len(), holders), (3, 0));
        let halves = cut.halves(&Plain).expect("four records");
        assert_eq!(halves.1.walk().map(|record| record.offset.0).collect::<Vec<_>>(), [40, 63]);
    }

    #[test]
    fn what_is_most_of_its_frame_and_what_there_is_no_credit_for_is_not_copied() {
        let most: Vec<i64> = (0..60).collect();
        assert!(cut_of(&most, &mut Plain).1 > 0);
        assert!(cut_of(&[3, 40], &mut Broke).1 > 0);
    }
}
