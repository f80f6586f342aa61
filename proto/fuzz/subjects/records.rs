//! Fuzz subject: all readers of a fetched frame, on arbitrary bytes. No panic, no endless walk, no memory beyond
//! the limit.

use lighterman_proto::ids::Offset;
use lighterman_proto::records::{
    AbortedTransactions, BatchInflater, BatchStream, RecordBatch, batches, records, records_at,
};

/// Limit that is small, so that a wrong size is soon beyond it.
const INFLATED_BYTES_MAX: usize = 1 << 20;

/// Walks `bytes` as a frame, ignoring checksums. Returns the number of records, so that callers can check that
/// some inputs are valid.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let mut aborted = AbortedTransactions::new(vec![(0, Offset(0)), (7, Offset(3))]);
    let mut inflater = BatchInflater::default();
    let mut found = 0;
    for batch in batches(bytes) {
        let Ok(batch) = batch else { break };
        let _ = batch.verify_crc();
        let _ = batch.control_type();
        let _ = aborted.is_aborted(&batch);
        assert!(batch.header.next_offset() > Offset(0));
        found += walk_in_pieces(&batch).unwrap_or(0) as usize;
        let mut plain = Vec::new();
        if inflater.inflate(batch.header.compression, batch.body, INFLATED_BYTES_MAX, &mut plain).is_err() {
            continue;
        }
        assert!(plain.len() <= INFLATED_BYTES_MAX);
        let mut walked = 0;
        for record in records(&batch.header, &plain) {
            walked += 1;
            let Ok(record) = record else { break };
            for header in record.headers {
                found += usize::from(header.value.is_some_and(<[u8]>::is_empty));
            }
        }
        assert!(walked <= batch.header.record_count.max(1), "a walk ends");
        found += walked as usize;
    }
    found
}

/// Counts the records of `batch` read in pieces, up to the first invalid one. Returns `None` if the stream cannot
/// be created or takes too many steps.
fn walk_in_pieces(batch: &RecordBatch<'_>) -> Option<u32> {
    const PIECE_BYTES: usize = 4 << 10;
    const TURNS_MAX: usize = 2 * INFLATED_BYTES_MAX / PIECE_BYTES;
    let memory = BatchStream::memory_bytes(batch.header.compression, batch.body, INFLATED_BYTES_MAX).ok()?;
    assert!(memory <= 2 * INFLATED_BYTES_MAX);
    let mut stream = BatchStream::new(batch.header, batch.body.to_vec().into(), memory).ok()?;
    let mut found = 0;
    for _ in 0..TURNS_MAX {
        let next = if stream.is_passing() { Ok(Some(usize::MAX)) } else { stream.next_record_bytes() };
        let Ok(Some(bytes)) = next else { return Some(found) };
        if bytes > 16 * PIECE_BYTES {
            match stream.pass_over(PIECE_BYTES) {
                Ok(passed) => found += u32::from(passed.is_some()),
                Err(_) => return Some(found),
            }
            continue;
        }
        let bytes_max = bytes.max(PIECE_BYTES);
        let Ok(piece) = stream.next_piece(bytes_max) else { return Some(found) };
        assert!(piece.plain.len() <= bytes_max && piece.records > 0);
        for record in records_at(&batch.header, &piece.plain, 0, piece.records) {
            if record.is_err() {
                return Some(found);
            }
            found += 1;
        }
    }
    None
}
