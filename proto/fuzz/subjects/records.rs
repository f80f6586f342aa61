//! Everything that reads a fetched frame, on any bytes: no panic, no endless walk, no memory beyond the limit.

use lighterman_proto::ids::Offset;
use lighterman_proto::records::{AbortedTransactions, Inflater, batches, records};

/// Small, so that a lie about a size is met soon.
const INFLATED_BYTES_MAX: usize = 1 << 20;

/// Walks `bytes` as a frame, believing no checksum; returns the number of records, for callers that want to know that
/// something was read.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let mut aborted = AbortedTransactions::new(vec![(0, Offset(0)), (7, Offset(3))]);
    let mut inflater = Inflater::default();
    let mut found = 0;
    for batch in batches(bytes) {
        let Ok(batch) = batch else { break };
        let _ = batch.verify_crc();
        let _ = batch.control_type();
        let _ = aborted.is_aborted(&batch);
        assert!(batch.header.next_offset() > Offset(0));
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
