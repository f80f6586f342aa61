//! Allocation count from cursor to payload, which is the same for 1,000 records as for one.

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use lighterman_proto::event::{EventEnvelope, EventSource, EventWriter};
use lighterman_proto::records::{batches, records};

fn frame(count: i64) -> Bytes {
    let header = (StrBytes::from_static_str("h"), Some(Bytes::from_static(&[1, 200])));
    let one = |offset| Record {
        transactional: false,
        control: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        delete_horizon: false,
        timestamp_type: TimestampType::Creation,
        offset,
        sequence: offset as i32,
        timestamp: 1,
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(&[7; 300])),
        headers: IndexMap::from([header.clone()]),
    };
    let all: Vec<Record> = (0..count).map(one).collect();
    let mut into = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut into, &all, &options).expect("encodes");
    into.freeze()
}

fn allocations(count: i64) -> u64 {
    let frame = frame(count);
    let envelope = EventEnvelope::new(&EventSource::SelfManaged, "b:9092", "t");
    let buffer = BytesMut::with_capacity(4 << 20);
    let counted = allocation_counter::measure(move || {
        let mut size = envelope.base_bytes();
        let mut writer = EventWriter::new(&envelope, buffer);
        writer.begin_partition(0);
        for batch in batches(&frame) {
            let batch = batch.expect("a batch");
            batch.verify_crc().expect("whole");
            for record in records(&batch.header, batch.body) {
                let record = record.expect("a record");
                size += envelope.record_bytes(0, &record, false);
                writer.record(&record);
            }
        }
        assert!(writer.finish().len() > size / 2);
    });
    counted.count_total
}

#[test]
fn thousand_records_allocate_no_more_than_one() {
    allocations(1);
    assert_eq!(allocations(1_000), allocations(1));
}
