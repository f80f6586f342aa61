//! Events of records that encoders cannot write: duplicate and invalid header names, nulls, several partitions,
//! extreme numbers.

use bytes::BytesMut;
use lighterman_proto::event::{EventEnvelope, EventSource, EventWriter};
use lighterman_proto::records::{batches, records};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::forge::{BatchForge, LOG_APPEND_TIME, RecordForge};

/// Writes one event of these partitions and checks every precomputed size.
fn event(envelope: &EventEnvelope, parts: &[(i32, BatchForge)]) -> Vec<u8> {
    let frames: Vec<(i32, Vec<u8>)> =
        parts.iter().map(|(partition, batch)| (*partition, batch.bytes())).collect();
    let mut size = envelope.base_bytes();
    let mut into = BytesMut::new();
    for writing in [false, true] {
        if writing {
            into = BytesMut::with_capacity(size);
        }
        let mut writer = EventWriter::new(envelope, std::mem::take(&mut into));
        for (index, (partition, frame)) in frames.iter().enumerate() {
            let batch = batches(frame).next().expect("one").expect("a batch");
            writer.begin_partition(*partition);
            size += if writing { 0 } else { envelope.partition_bytes(*partition, index == 0) };
            for (index, record) in records(&batch.header, batch.body).enumerate() {
                let record = record.expect("a record");
                size += if writing { 0 } else { envelope.record_bytes(*partition, &record, index == 0) };
                writer.record(&record);
            }
        }
        into = writer.finish();
    }
    assert_eq!(into.len(), size, "the size was known");
    into.to_vec()
}

fn read(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

#[test]
fn event_equals_specification_byte_for_byte() {
    let envelope = EventEnvelope::new(
        &EventSource::Msk { arn: "arn:aws:kafka:r:1:cluster/n/u".to_owned() },
        "b-2:9092,b-1:9092",
        "t",
    );
    let headers = vec![(&b"h"[..], Some(&b"\x00\x7f\x80\xff"[..])), (b"h", None), (b"e", Some(b""))];
    let recs = [
        RecordForge {
            timestamp_delta: 1,
            key: Some(b"k"),
            value: Some(b"v"),
            headers,
            ..RecordForge::default()
        },
        RecordForge { offset_delta: 4, ..RecordForge::default() },
    ];
    let late = BatchForge {
        attributes: LOG_APPEND_TIME,
        ..BatchForge::new(0, &[RecordForge { key: Some(b""), ..RecordForge::value(0, b"") }])
    };
    let ours = event(&envelope, &[(0, BatchForge::new(15, &recs)), (12, late)]);
    let expected = concat!(
        r#"{"eventSource":"aws:kafka","eventSourceArn":"arn:aws:kafka:r:1:cluster/n/u","#,
        r#""bootstrapServers":"b-2:9092,b-1:9092","records":{"t-0":["#,
        r#"{"topic":"t","partition":0,"offset":15,"timestamp":1001,"timestampType":"CREATE_TIME","#,
        r#""key":"aw==","value":"dg==","headers":[{"h":[0,127,-128,-1]},{"h":[]},{"e":[]}]},"#,
        r#"{"topic":"t","partition":0,"offset":19,"timestamp":1000,"timestampType":"CREATE_TIME","headers":[]}],"#,
        r#""t-12":[{"topic":"t","partition":12,"offset":0,"timestamp":9999,"timestampType":"LOG_APPEND_TIME","#,
        r#""key":"","value":"","headers":[]}]}}"#,
    );
    assert_eq!(String::from_utf8(ours).expect("UTF-8"), expected);
}

#[test]
fn event_without_records_is_valid_json() {
    let envelope = EventEnvelope::new(&EventSource::SelfManaged, "b:1", "t");
    assert_eq!(read(&event(&envelope, &[]))["records"], json!({}));
    let hollow = event(&envelope, &[(0, BatchForge::new(0, &[])), (1, BatchForge::new(0, &[]))]);
    assert_eq!(read(&hollow)["records"], json!({ "t-0": [], "t-1": [] }));
}

#[test]
fn invalid_utf8_header_decodes_as_java() {
    let envelope = EventEnvelope::new(&EventSource::SelfManaged, "b:1", "t");
    let headers = vec![(&b"a\xffb\xc3"[..], None), (b"\xf0\x9f\x9a\xa2\"\\\x00\x1f\x7f", None)];
    let ours =
        event(&envelope, &[(0, BatchForge::new(0, &[RecordForge { headers, ..RecordForge::default() }]))]);
    let headers = &read(&ours)["records"]["t-0"][0]["headers"];
    assert_eq!(*headers, json!([{ "a\u{fffd}b\u{fffd}": [] }, { "\u{1f6a2}\"\\\u{0}\u{1f}\u{7f}": [] }]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Arbitrary names, bytes, numbers and partitions give valid JSON of the precomputed size with the original
    /// contents.
    #[test]
    fn event_size_is_always_exact(
        names in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..8), 0..5),
        value in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        base_offset in 0..i64::MAX - 10,
        base_timestamp in any::<i64>(),
        partitions in prop::collection::btree_set(0..i32::MAX, 0..4),
        topic in "[a-zA-Z0-9._-]{1,20}",
    ) {
        let envelope = EventEnvelope::new(&EventSource::SelfManaged, "b:1", &topic);
        let headers = names.iter().map(|name| (&name[..], Some(&name[..]))).collect();
        let recs = [RecordForge { value: value.as_deref(), headers, ..RecordForge::default() }, RecordForge::value(1, b"x")];
        let batch = BatchForge { base_timestamp, ..BatchForge::new(base_offset, &recs) };
        let parts: Vec<(i32, BatchForge)> = partitions.iter().map(|partition| (*partition, batch.clone())).collect();
        let event = read(&event(&envelope, &parts));
        prop_assert_eq!(event["records"].as_object().map(serde_json::Map::len), Some(partitions.len()));
        for partition in partitions {
            let read = &event["records"][format!("{topic}-{partition}")];
            prop_assert_eq!(&read[1]["offset"], &json!(base_offset + 1));
            prop_assert_eq!(&read[0]["timestamp"], &json!(base_timestamp));
            prop_assert_eq!(&read[0]["partition"], &json!(partition));
            let found = read[0]["headers"].as_array().expect("an array");
            prop_assert_eq!(found.len(), names.len());
            for (header, name) in found.iter().zip(&names) {
                let bytes: Vec<i8> = name.iter().map(|byte| byte.cast_signed()).collect();
                prop_assert_eq!(header, &json!({ String::from_utf8_lossy(name): bytes }));
            }
        }
    }
}
