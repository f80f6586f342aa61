//! Round trips: batches from kafka-protocol's encoder, parsed here, written as events, and read by `serde_json`
//! and base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression as Codec, Record as TheirRecord, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType as TheirTimestampType,
};
use lighterman_proto::event::{EventEnvelope, EventSource, EventWriter};
use lighterman_proto::records::{BatchInflater, RecordError, batches, records};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct PlainBatch {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    gap: i64,
    timestamp: i64,
}

fn any_record() -> impl Strategy<Value = PlainBatch> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..80));
    let headers = prop::collection::vec(("[a-z\"\\\\\u{e9}\n]{1,6}", bytes()), 0..4);
    (bytes(), bytes(), headers, 0i64..3, 0i64..2_000_000_000_000).prop_map(
        |(key, value, mut headers, gap, timestamp)| {
            // kafka-protocol's map keeps one header per name; order and duplicates have a test of their own.
            let mut seen = std::collections::HashSet::new();
            headers.retain(|(name, _)| seen.insert(name.clone()));
            PlainBatch { key, value, headers, gap, timestamp }
        },
    )
}

fn encode(plain: &[PlainBatch], base: i64, codec: Codec) -> Bytes {
    let mut offset = base;
    let theirs: Vec<TheirRecord> = plain
        .iter()
        .map(|record| {
            offset += record.gap;
            let headers: IndexMap<StrBytes, Option<Bytes>> = record
                .headers
                .iter()
                .map(|(name, value)| (StrBytes::from_string(name.clone()), value.clone().map(Bytes::from)))
                .collect();
            let theirs = TheirRecord {
                transactional: false,
                control: false,
                partition_leader_epoch: 3,
                producer_id: -1,
                producer_epoch: -1,
                timestamp_type: TheirTimestampType::Creation,
                offset,
                sequence: (offset - base) as i32 - 1,
                delete_horizon: false,
                timestamp: record.timestamp,
                key: record.key.clone().map(Bytes::from),
                value: record.value.clone().map(Bytes::from),
                headers,
            };
            offset += 1;
            theirs
        })
        .collect();
    let mut into = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: codec };
    RecordBatchEncoder::encode(&mut into, &theirs, &options).expect("encodes");
    into.freeze()
}

fn event_of(frame: &Bytes, envelope: &EventEnvelope) -> Vec<u8> {
    let mut inflater = BatchInflater::default();
    let plains: Vec<_> = batches(frame)
        .map(|batch| {
            let batch = batch.expect("batch");
            batch.verify_crc().expect("crc");
            let mut plain = Vec::new();
            inflater.inflate(batch.header.compression, batch.body, 1 << 20, &mut plain).expect("inflates");
            (batch.header, plain)
        })
        .collect();
    let mut size = envelope.base_bytes() + envelope.partition_bytes(7, true);
    let mut first = true;
    for (header, plain) in &plains {
        for record in records(header, plain) {
            size += envelope.record_bytes(7, &record.expect("record"), first);
            first = false;
        }
    }
    let buffer = BytesMut::with_capacity(size);
    let mut writer = EventWriter::new(envelope, buffer);
    writer.begin_partition(7);
    for (header, plain) in &plains {
        for record in records(header, plain) {
            writer.record(&record.expect("record"));
        }
    }
    let written = writer.finish();
    assert_eq!(written.len(), size, "the size was known");
    written.to_vec()
}

fn signed(bytes: &[u8]) -> serde_json::Value {
    bytes.iter().map(|byte| byte.cast_signed()).collect()
}

fn expected(plain: &[PlainBatch], base: i64) -> serde_json::Value {
    let mut offset = base;
    let records: Vec<serde_json::Value> = plain
        .iter()
        .map(|record| {
            offset += record.gap;
            let headers: Vec<serde_json::Value> = record
                .headers
                .iter()
                .map(|(name, value)| {
                    serde_json::json!({ name.as_str(): signed(value.as_deref().unwrap_or_default()) })
                })
                .collect();
            let mut object = serde_json::json!({
                "topic": "orders\"x", "partition": 7, "offset": offset, "timestamp": record.timestamp,
                "timestampType": "CREATE_TIME", "headers": headers,
            });
            for (name, field) in [("key", &record.key), ("value", &record.value)] {
                if let Some(bytes) = field {
                    object[name] = STANDARD.encode(bytes).into();
                }
            }
            offset += 1;
            object
        })
        .collect();
    serde_json::json!({
        "eventSource": "SelfManagedKafka", "bootstrapServers": "b-2:9092,b-1:9092",
        "records": { "orders\"x-7": records },
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn events_hold_the_produced_records(
        plain in prop::collection::vec(any_record(), 1..12),
        base in 0i64..1_000_000_000,
        codec in prop::sample::select(vec![Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]),
    ) {
        let envelope = EventEnvelope::new(&EventSource::SelfManaged, "b-2:9092,b-1:9092", "orders\"x");
        let event = event_of(&encode(&plain, base, codec), &envelope);
        let read: serde_json::Value = serde_json::from_slice(&event).expect("JSON");
        prop_assert_eq!(read, expected(&plain, base));
    }

    /// Arbitrary damage to a batch gives an error or an end, never a panic or memory beyond the limit.
    #[test]
    fn damaged_batch_gives_typed_errors(
        plain in prop::collection::vec(any_record(), 1..6),
        codec in prop::sample::select(vec![Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encode(&plain, 5, codec).to_vec();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        walk_all(&bytes);
    }

    #[test]
    fn noise_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        walk_all(&bytes);
    }
}

fn walk_all(bytes: &[u8]) {
    const LIMIT: usize = 64 * 1024;
    let mut inflater = BatchInflater::default();
    for batch in batches(bytes).flatten() {
        let _ = (batch.verify_crc(), batch.control_type());
        let mut plain = Vec::new();
        if inflater.inflate(batch.header.compression, batch.body, LIMIT, &mut plain).is_ok() {
            assert!(plain.len() <= LIMIT);
        }
        for record in records(&batch.header, &plain).flatten() {
            assert_eq!(record.headers.len(), record.headers.count());
        }
    }
}

#[test]
fn decompression_bomb_stops_at_limit() {
    let bomb =
        PlainBatch { key: None, value: Some(vec![0; 4 << 20]), headers: Vec::new(), gap: 0, timestamp: 1 };
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let frame = encode(std::slice::from_ref(&bomb), 0, codec);
        let batch = batches(&frame).next().expect("one").expect("batch");
        let mut plain = Vec::new();
        let refused =
            BatchInflater::default().inflate(batch.header.compression, batch.body, 1 << 20, &mut plain);
        assert_eq!(refused, Err(RecordError::TooLarge { bytes_max: 1 << 20 }), "{codec:?}");
        assert!(plain.capacity() <= 4 << 20, "{codec:?} {}", plain.capacity());
    }
}

#[test]
fn partial_tail_accepted_and_flipped_bit_rejected() {
    let one = PlainBatch { key: None, value: Some(b"v".to_vec()), headers: Vec::new(), gap: 0, timestamp: 1 };
    let frame = encode(std::slice::from_ref(&one), 9, Codec::None);
    let mut two = [&frame[..], &frame[..frame.len() - 1]].concat();
    assert_eq!(batches(&two).count(), 1);
    let last = frame.len() - 1;
    two[last] ^= 1;
    let batch = batches(&two).next().expect("one").expect("the header is valid");
    assert!(matches!(batch.verify_crc(), Err(RecordError::Crc { offset: 9, .. })));
}

#[test]
fn record_count_beyond_bytes_is_rejected() {
    let one = PlainBatch { key: None, value: None, headers: Vec::new(), gap: 0, timestamp: 1 };
    let mut frame = encode(std::slice::from_ref(&one), 0, Codec::None).to_vec();
    frame[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
    assert!(batches(&frame).next().expect("one").is_err());
}
