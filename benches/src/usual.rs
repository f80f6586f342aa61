//! Usual implementation from frame to payload: a client's owned records, `serde_json` over owned structs, base64.

use std::collections::HashMap;
use std::hint::black_box;
use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kafka_protocol::records::RecordBatchDecoder;
use rskafka::protocol::record::{ControlBatchOrRecords, RecordBatch};
use rskafka::protocol::traits::ReadType;
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsualEvent {
    event_source: &'static str,
    bootstrap_servers: &'static str,
    records: HashMap<String, Vec<EventRecord>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventRecord {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    timestamp_type: &'static str,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<HashMap<String, Vec<i8>>>,
}

impl EventRecord {
    fn new(offset: i64, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        Self {
            topic: "orders".to_owned(),
            partition: 0,
            offset,
            timestamp,
            timestamp_type: "CREATE_TIME",
            key: key.map(|key| STANDARD.encode(key)),
            value: value.map(|value| STANDARD.encode(value)),
            headers: Vec::new(),
        }
    }
}

/// Builds the payload with rskafka's records, which its client exposes only for its fuzzer. Supports uncompressed
/// frames only.
pub fn through_rskafka(frame: &Bytes) -> Vec<u8> {
    let mut reader = Cursor::new(frame.as_ref());
    let mut all = Vec::new();
    while reader.position() < frame.len() as u64 {
        let batch = RecordBatch::read(&mut reader).expect("the batches decode");
        let ControlBatchOrRecords::Records(records) = batch.records else { continue };
        all.extend(records.into_iter().map(|record| {
            let offset = batch.base_offset + i64::from(record.offset_delta);
            let timestamp = batch.first_timestamp + record.timestamp_delta;
            EventRecord::new(offset, timestamp, record.key.as_deref(), record.value.as_deref())
        }));
    }
    written(all)
}

/// Builds the payload with kafka-protocol's decoder, which supports all codecs.
pub fn through_kafka_protocol(frame: &Bytes) -> Vec<u8> {
    let sets = RecordBatchDecoder::decode_all(&mut frame.clone()).expect("the batches decode");
    let all = sets.into_iter().flat_map(|set| set.records).map(|record| {
        EventRecord::new(record.offset, record.timestamp, record.key.as_deref(), record.value.as_deref())
    });
    written(all.collect())
}

fn written(records: Vec<EventRecord>) -> Vec<u8> {
    let event = UsualEvent {
        event_source: "SelfManagedKafka",
        bootstrap_servers: "b-1:9092,b-2:9092",
        records: HashMap::from([("orders-0".to_owned(), records)]),
    };
    black_box(serde_json::to_vec(&event).expect("serialises"))
}
