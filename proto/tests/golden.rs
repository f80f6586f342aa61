//! Published events compared by value, and AWS's own Rust types as readers of Lighterman's events. Fixtures: the
//! Kafka events of Powertools for AWS Lambda (Python), MIT-0.

use aws_lambda_events::kafka::KafkaEvent;
use bytes::{Bytes, BytesMut};
use indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use lighterman_proto::event::{EventEnvelope, EventSource, EventWriter};
use lighterman_proto::records::{batches, records};
use serde_json::Value;

const MSK: &str = include_str!("../fixtures/powertools-msk.json");
const SELF_MANAGED: &str = include_str!("../fixtures/powertools-self-managed.json");

/// Encodes the record of both fixtures.
fn frame(headers: IndexMap<StrBytes, Option<Bytes>>) -> Bytes {
    let record = Record {
        transactional: false,
        control: false,
        partition_leader_epoch: 0,
        producer_id: -1,
        producer_epoch: -1,
        delete_horizon: false,
        timestamp_type: TimestampType::Creation,
        offset: 15,
        sequence: -1,
        timestamp: 1_545_084_650_987,
        key: Some(Bytes::from_static(b"recordKey")),
        value: Some(Bytes::from_static(br#"{"key":"value"}"#)),
        headers,
    };
    let mut into = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut into, &[record], &options).expect("encodes");
    into.freeze()
}

fn event(source: &EventSource, servers: &str, header: &'static [u8]) -> Vec<u8> {
    let header = (StrBytes::from_static_str("headerKey"), Some(Bytes::from_static(header)));
    let frame = frame(IndexMap::from([header]));
    let envelope = EventEnvelope::new(source, servers, "mytopic");
    let mut writer = EventWriter::new(&envelope, BytesMut::new());
    writer.begin_partition(0);
    let batch = batches(&frame).next().expect("one").expect("a batch");
    for record in records(&batch.header, batch.body) {
        writer.record(&record.expect("a record"));
    }
    writer.finish().to_vec()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

#[test]
fn msk_event_equals_the_published_one() {
    let golden: Value = serde_json::from_str(MSK).expect("JSON");
    let source = EventSource::Msk { arn: text(&golden, "eventSourceArn").to_owned() };
    let ours = event(&source, text(&golden, "bootstrapServers"), b"headerValue");
    assert_eq!(serde_json::from_slice::<Value>(&ours).expect("JSON"), golden);
}

#[test]
fn self_managed_event_has_current_source_without_arn() {
    let mut golden: Value = serde_json::from_str(SELF_MANAGED).expect("JSON");
    let ours = event(&EventSource::SelfManaged, text(&golden, "bootstrapServers"), b"headerValue");
    let ours: Value = serde_json::from_slice(&ours).expect("JSON");
    // The fixture has an older spelling of the source. Captured payloads and AWS's current documentation have this
    // one.
    golden["eventSource"] = "SelfManagedKafka".into();
    golden["records"]["mytopic-0"].as_array_mut().expect("records").truncate(1);
    assert_eq!(ours, golden);
}

#[test]
fn header_bytes_signed_as_in_java() {
    let ours: Value =
        serde_json::from_slice(&event(&EventSource::SelfManaged, "b:1", &[0, 127, 128, 255])).expect("JSON");
    let bytes = &ours["records"]["mytopic-0"][0]["headers"][0]["headerKey"];
    assert_eq!(*bytes, serde_json::json!([0, 127, -128, -1]));
}

#[test]
fn aws_lambda_events_parses_written_event() {
    let ours = event(&EventSource::SelfManaged, "b-1:9092,b-2:9092", b"headerValue");
    let read: KafkaEvent = serde_json::from_slice(&ours).expect("AWS's types parse it");
    assert_eq!(read.event_source.as_deref(), Some("SelfManagedKafka"));
    let record = &read.records["mytopic-0"][0];
    assert_eq!((record.offset, record.partition, record.key.as_deref()), (15, 0, Some("cmVjb3JkS2V5")));
    assert_eq!(record.value.as_deref(), Some("eyJrZXkiOiJ2YWx1ZSJ9"));
}
