//! Aborted transactions, as in Java's `CompletedFetch`, and types of control batches.

use lighterman_proto::ids::Offset;
use lighterman_proto::records::{AbortedTransactions, ControlType, batches};

use super::forge::{BatchForge, CONTROL, RecordForge, TRANSACTIONAL};

const ABORT: u8 = 0;
const COMMIT: u8 = 1;

/// Returns the base offsets of the data batches that a `read_committed` consumer sees.
fn seen(log: &[BatchForge], aborted: &[(i64, i64)]) -> Vec<i64> {
    let frame: Vec<u8> = log.iter().flat_map(BatchForge::bytes).collect();
    let list = aborted.iter().map(|(producer, first)| (*producer, Offset(*first))).collect();
    let mut aborted = AbortedTransactions::new(list);
    batches(&frame)
        .map(|batch| batch.expect("a batch"))
        .filter(|batch| !aborted.is_aborted(batch) && !batch.header.is_control)
        .map(|batch| batch.header.base_offset.0)
        .collect()
}

#[test]
fn aborted_transaction_ends_at_its_producers_marker() {
    let log = [
        BatchForge::in_transaction(0, 7),
        BatchForge::in_transaction(1, 8),
        BatchForge::marker(2, 7, ABORT),
        BatchForge::in_transaction(3, 7),
        BatchForge::in_transaction(4, 8),
        BatchForge::marker(5, 8, COMMIT),
        BatchForge::marker(6, 7, COMMIT),
    ];
    assert_eq!(seen(&log, &[(7, 0)]), [1, 3, 4]);
    assert_eq!(seen(&log, &[]), [0, 1, 3, 4], "the list decides, not the marker");
}

#[test]
fn aborted_transactions_apply_in_any_order() {
    let log = [
        BatchForge::in_transaction(0, 7),
        BatchForge::marker(1, 7, ABORT),
        BatchForge::in_transaction(2, 7),
        BatchForge::marker(3, 7, COMMIT),
        BatchForge::in_transaction(4, 7),
        BatchForge::marker(5, 7, ABORT),
    ];
    assert_eq!(seen(&log, &[(7, 0), (7, 4)]), [2]);
    assert_eq!(seen(&log, &[(7, 4), (7, 0)]), [2]);
}

#[test]
fn transaction_started_before_fetch_dropped_from_first_batch() {
    let log = [
        BatchForge::in_transaction(50, 7),
        BatchForge::marker(51, 7, ABORT),
        BatchForge::in_transaction(52, 7),
    ];
    assert_eq!(seen(&log, &[(7, 3)]), [52]);
}

#[test]
fn batches_outside_aborted_transaction_are_delivered() {
    // The batch has the producer id of an aborted transaction but not the transactional bit.
    let plain = BatchForge { producer_id: 7, ..BatchForge::new(1, &[RecordForge::value(0, b"v")]) };
    let log = [BatchForge::in_transaction(0, 7), plain, BatchForge::in_transaction(2, 9)];
    assert_eq!(seen(&log, &[(7, 0)]), [1, 2]);
}

#[test]
fn batch_reaching_first_offset_belongs_to_transaction() {
    // Java compares with the batch's last offset.
    let recs: Vec<RecordForge<'_>> = (0..4).map(|delta| RecordForge::value(delta, b"v")).collect();
    let log = [
        BatchForge { attributes: TRANSACTIONAL, producer_id: 7, ..BatchForge::new(10, &recs) },
        BatchForge::in_transaction(14, 7),
    ];
    assert_eq!(seen(&log, &[(7, 13)]), [] as [i64; 0]);
    assert_eq!(seen(&log, &[(7, 14)]), [10]);
}

#[test]
fn control_batch_type_is_parsed() {
    let kind = |batch: BatchForge| {
        let bytes = batch.bytes();
        let found = batches(&bytes).next().expect("one").expect("a batch");
        found.control_type()
    };
    assert_eq!(kind(BatchForge::marker(0, 7, ABORT)), Some(ControlType::Abort));
    assert_eq!(kind(BatchForge::marker(0, 7, COMMIT)), Some(ControlType::Commit));
    assert_eq!(kind(BatchForge::marker(0, 7, 3)), Some(ControlType::Other));
    assert_eq!(kind(BatchForge::in_transaction(0, 7)), None);
    // A control batch without a key or without a record is ignored, not an error.
    let keyless = BatchForge { attributes: CONTROL, ..BatchForge::new(0, &[RecordForge::value(0, b"v")]) };
    assert_eq!(kind(keyless), Some(ControlType::Other));
    assert_eq!(kind(BatchForge { attributes: CONTROL, ..BatchForge::new(0, &[]) }), Some(ControlType::Other));
}
