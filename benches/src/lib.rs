//! Workloads of the hot path, for criterion and for the instruction counter.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use lighterman::commits::start_plan::{self, GroupCommit, KnownCommit};
use lighterman::messages::outcome::Outcome;
use lighterman::partition::progress::commit_ledger::Ledger;
use lighterman_proto::event::{EventEnvelope, EventSource, EventWriter};
use lighterman_proto::filter::FilterSet;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{BatchInflater, batches, records};

pub mod usual;
pub mod whole_batch;

/// Creates a frame of `batch_count` batches of `records_each` records with `value_bytes` of JSON-like text.
pub fn frame(batch_count: usize, records_each: usize, value_bytes: usize, compression: Compression) -> Bytes {
    let text = br#"{"order":123456,"item":"crate of oranges","quay":"east","weight":12.5}, "#;
    let value: Bytes = text.iter().copied().cycle().take(value_bytes).collect();
    frame_of(batch_count, records_each, compression, |_| value.clone())
}

/// Creates an uncompressed frame whose records are JSON orders of 1 KiB; one in a hundred is for the west quay.
pub fn json_frame(batch_count: usize, records_each: usize) -> Bytes {
    frame_of(batch_count, records_each, Compression::None, |offset| {
        let quay = if offset % 100 == 7 { "west" } else { "east" };
        Bytes::from(order(offset, quay))
    })
}

/// Creates 1 KiB of typical JSON: numbers and flags, longer strings, a list of lines, a nested object.
fn order(number: i64, quay: &str) -> String {
    let line = |index: i64| {
        format!(
            r#"{{"sku":"SKU-{:08}","title":"crate of oranges, class {index}","quantity":{index},"price":{}.25,"gift":false}}"#,
            number * 10 + index,
            10 + index
        )
    };
    let lines: Vec<String> = (1..=4).map(line).collect();
    let mut order = format!(
        r#"{{"order":{number},"id":"0b9c7f2e-5d35-4eb5-b481-{number:012}","created":"2026-11-24T20:50:35.123Z","channel":"web","currency":"EUR","total":{}.75,"customer":{{"id":{},"name":"Ada \"the\" Lighter","email":"ada@example.org","tags":["new","newsletter"],"address":{{"street":"Quay Street 12","city":"Hamburg","zip":"20457","country":"DE"}}}},"lines":[{}],"delivery":{{"carrier":"lighter","quay":"{quay}","window":{{"from":8,"to":12}},"express":null}},"note":""#,
        number % 500,
        number * 7,
        lines.join(",")
    );
    let left = 1024 - order.len() - 2;
    order.extend("please ring twice ".chars().cycle().take(left));
    order.push_str("\"}");
    order
}

/// Filter on a field near the end of an order.
pub const FILTER_TOP: &str = r#"{"value":{"order":[{"numeric":[">=",0]}],"delivery":{"quay":["west"]}}}"#;
/// Filter on many nested fields, with alternatives and ignored case.
pub const FILTER_NESTED: &str = r#"{"value":{"$or":[{"customer":{"address":{"country":["AT","CH"]}}},{"delivery":{"quay":["west","north"],"window":{"from":[{"numeric":[">=",6,"<",12]}]}}}],"lines":{"price":[{"numeric":[">",10,"<=",12]}],"title":[{"prefix":"crate"}]},"customer":{"email":[{"suffix":{"equals-ignore-case":"@Example.org"}}],"tags":["new"]},"channel":[{"anything-but":["phone","fax"]}]}}"#;

/// Compiles one filter, or none if `pattern` is empty.
pub fn filters(pattern: &str) -> FilterSet {
    let patterns = if pattern.is_empty() { Vec::new() } else { vec![pattern] };
    FilterSet::compile(&patterns).expect("the pattern is valid")
}

/// Walks an uncompressed frame as a partition does and filters every record. Returns the number that pass, which
/// must be one in a hundred.
pub fn sift(frame: &Bytes, filters: &FilterSet) -> usize {
    let (mut all, mut passed) = (0, 0);
    for batch in batches(frame).flatten() {
        for record in records(&batch.header, batch.body).flatten() {
            all += 1;
            passed += usize::from(filters.passes("orders", 0, &record));
        }
    }
    assert!(filters.is_empty() || passed * 100 == all, "{passed} of {all}");
    black_box(passed)
}

/// Filters by the criteria of [`FILTER_TOP`], written by hand with `serde_json`'s tree.
pub fn usual_sift(frame: &Bytes) -> usize {
    let mut passed = 0;
    for batch in batches(frame).flatten() {
        for record in records(&batch.header, batch.body).flatten() {
            let order: serde_json::Value =
                serde_json::from_slice(record.value.unwrap_or_default()).expect("the record is JSON");
            let wanted = order["order"].as_f64().is_some_and(|number| number >= 0.0);
            passed += usize::from(wanted && order["delivery"]["quay"] == "west");
        }
    }
    black_box(passed)
}

fn frame_of(
    batch_count: usize,
    records_each: usize,
    compression: Compression,
    value: impl Fn(i64) -> Bytes,
) -> Bytes {
    let mut into = BytesMut::new();
    for batch in 0..batch_count {
        let base = (batch * records_each) as i64;
        let all: Vec<Record> = (0..records_each as i64)
            .map(|index| Record {
                transactional: false,
                control: false,
                partition_leader_epoch: 0,
                producer_id: -1,
                producer_epoch: -1,
                delete_horizon: false,
                timestamp_type: TimestampType::Creation,
                offset: base + index,
                sequence: index as i32,
                timestamp: 1_700_000_000_000 + index,
                key: Some(Bytes::from(format!("key-{index:010}"))),
                value: Some(value(base + index)),
                headers: IndexMap::new(),
            })
            .collect();
        let options = RecordEncodeOptions { version: 2, compression };
        RecordBatchEncoder::encode(&mut into, &all, &options).expect("the records encode");
    }
    into.freeze()
}

/// Returns the envelope of all workloads.
pub fn envelope() -> EventEnvelope {
    EventEnvelope::new(&EventSource::SelfManaged, "b-1:9092,b-2:9092", "orders")
}

/// Buffers that a partition reuses between batches.
pub struct PartitionScratch {
    inflater: BatchInflater,
    plain: Vec<u8>,
    payload: BytesMut,
}

impl Default for PartitionScratch {
    fn default() -> Self {
        Self {
            inflater: BatchInflater::default(),
            plain: Vec::new(),
            payload: BytesMut::with_capacity(16 << 20),
        }
    }
}

/// Walks every record of a frame: CRC, decompression, cursor. Returns value bytes.
pub fn walk(frame: &Bytes, scratch: &mut PartitionScratch) -> usize {
    let mut bytes = 0;
    for batch in batches(frame).flatten() {
        batch.verify_crc().expect("the checksum matches");
        scratch.plain.clear();
        let (compression, limit) = (batch.header.compression, 64 << 20);
        let plain = if compression == lighterman_proto::records::Compression::None {
            batch.body
        } else {
            scratch.inflater.inflate(compression, batch.body, limit, &mut scratch.plain).expect("inflates");
            &scratch.plain
        };
        bytes += records(&batch.header, plain)
            .flatten()
            .map(|record| record.value.map_or(0, <[u8]>::len))
            .sum::<usize>();
    }
    black_box(bytes)
}

/// Builds a payload from a frame as a partition and its batcher do: CRC, decompression, exact size, one pass.
/// Returns payload bytes.
pub fn payload(frame: &Bytes, envelope: &EventEnvelope, scratch: &mut PartitionScratch) -> usize {
    let PartitionScratch { inflater, plain, payload } = scratch;
    payload.clear();
    let mut writer = EventWriter::new(envelope, std::mem::take(payload));
    writer.begin_partition(0);
    let mut size = envelope.base_bytes() + envelope.partition_bytes(0, true);
    let mut first = true;
    for batch in batches(frame).flatten() {
        batch.verify_crc().expect("the checksum matches");
        plain.clear();
        let compression = batch.header.compression;
        let body = if compression == lighterman_proto::records::Compression::None {
            batch.body
        } else {
            inflater.inflate(compression, batch.body, 64 << 20, plain).expect("inflates");
            plain.as_slice()
        };
        for record in records(&batch.header, body).flatten() {
            size += envelope.record_bytes(0, &record, first);
            first = false;
        }
        for record in records(&batch.header, body).flatten() {
            writer.record(&record);
        }
    }
    *payload = writer.finish();
    assert_eq!(payload.len(), size);
    black_box(payload.len())
}

/// Resolves `batches` ranges in order, with one in eight out of order. Returns the frontier.
pub fn ledger(batches: i64) -> i64 {
    let mut ledger = Ledger::new(Offset(0));
    let range = |index: i64| OffsetRange { first: Offset(index * 100), end: Offset(index * 100 + 100) };
    for index in (0..batches).step_by(8) {
        for ahead in [1, 0, 2, 3, 4, 5, 7, 6] {
            let _ = ledger.resolve(range(index + ahead), Outcome::Delivered);
        }
    }
    black_box(ledger.frontier().0)
}

/// Returns the group's commits of `partitions`, all made by an activation of this topic.
pub fn committed(partitions: i32) -> Vec<KnownCommit> {
    let known =
        |partition| KnownCommit { partition, committed: GroupCommit::Here(Some(partitions)), open: None };
    (0..partitions).map(known).collect()
}

/// Decides the starting positions of all of `known`. Returns their number.
pub fn start_plan(known: &[KnownCommit], owned: &[i32]) -> usize {
    black_box(start_plan::plan(known, owned));
    owned.len()
}
