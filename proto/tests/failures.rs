//! Failure messages against AWS's published examples, byte for byte, with `serde_json` as their reader.
//!
//! Fixtures: the examples of AWS's pages on failure destinations for Kafka, with three changes. AWS's offsets have
//! more digits than a Kafka offset can have. AWS's comments and trailing commas are not JSON. The `payloadSize` of
//! AWS's topic example does not match its payload.

use std::sync::Arc;

use lighterman_proto::failure::{
    FailedPartition, FailureCondition, FailureDetails, FunctionError, RecordPoint, RecordSource,
    ResponseContext, iso_8601, object_record, queue_record, topic_record,
};
use lighterman_proto::ids::Offset;
use lighterman_proto::units::TimestampMs;
use proptest::prelude::*;
use serde_json::{Value, json};

const QUEUE: &str = include_str!("../fixtures/aws-on-failure-queue.json");
const OBJECT: &str = include_str!("../fixtures/aws-on-failure-object.json");
const TOPIC: &str = include_str!("../fixtures/aws-on-failure-topic.json");

/// Removes white space between JSON tokens; order and spelling stay.
fn tight(json: &str) -> String {
    let (mut within, mut escaped) = (false, false);
    let mut keep = |c: char| {
        if within {
            (within, escaped) = (c != '"' || escaped, c == '\\' && !escaped);
            return true;
        }
        within = c == '"';
        !c.is_whitespace()
    };
    json.chars().filter(|c| keep(*c)).collect()
}

fn point(offset: i64, timestamp: i64) -> RecordPoint {
    RecordPoint { offset: Offset(offset), timestamp: TimestampMs(timestamp) }
}

fn unhandled() -> ResponseContext {
    ResponseContext {
        status_code: 200,
        executed_version: "$LATEST".to_owned(),
        function_error: Some("Unhandled".to_owned()),
    }
}

/// Failure of the examples for SQS, SNS and S3.
fn batch() -> FailureDetails {
    let partition = |partition| FailedPartition {
        partition,
        first: point(4_960_118_965_842_235_937, 1_573_691_884_835),
        last: point(4_960_118_965_842_236_186, 1_573_691_885_580),
    };
    FailureDetails {
        request_id: "316aa6d0-8154-xmpl-9af7-85d5f4a6bc81".to_owned(),
        function_arn: Arc::from("arn:aws:lambda:us-east-1:123456789012:function:myfunction"),
        condition: FailureCondition::RetryAttemptsExhausted,
        approximate_invoke_count: 1,
        response: Some(unhandled()),
        error: None,
        timestamp: TimestampMs(1_573_691_886_021),
        source: RecordSource {
            arn: Some(Arc::from(
                "arn:aws:kafka:us-east-1:123456789012:cluster/vpc-2priv-2pub/751d2973-a626-431c-9d4e-d7975eb44dd7-2",
            )),
            bootstrap_servers: Arc::from("..."),
        },
        topic: Arc::from("Topic"),
        batch_size: 500,
        payload_bytes: 2_039_086,
        partitions: vec![partition(0), partition(1)],
    }
}

/// Failure of the example for a Kafka topic.
fn single() -> FailureDetails {
    FailureDetails {
        request_id: "e4b46cbf-b738-xmpl-8880-a18cdf61200e".to_owned(),
        function_arn: Arc::from("arn:aws:lambda:us-east-1:123456789012:function:my-function"),
        approximate_invoke_count: 3,
        timestamp: TimestampMs(1_573_755_365_568),
        source: RecordSource {
            arn: Some(Arc::from("arn:aws:kafka:us-east-1:123456789012:cluster/my-cluster/abc123")),
            bootstrap_servers: Arc::from("b-1.mycluster.abc123.kafka.us-east-1.amazonaws.com:9098"),
        },
        topic: Arc::from("my-topic"),
        ..batch()
    }
}

const RECORD: RecordPoint =
    RecordPoint { offset: Offset(4_960_118_965_842_235_937), timestamp: TimestampMs(1_573_755_364_835) };

fn read(text: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(text.as_ref()).expect("JSON")
}

#[test]
fn queue_message_equals_published_example() {
    assert_eq!(queue_record(&batch()), tight(QUEUE));
}

#[test]
fn s3_object_equals_published_example() {
    let ours = object_record(&batch(), b"<Whole Event>");
    assert_eq!(String::from_utf8(ours).expect("text"), tight(OBJECT));
}

#[test]
fn topic_message_equals_published_example() {
    let golden = tight(TOPIC);
    let (_, payload) = golden.split_once("\"payload\":").expect("payload");
    let payload = payload.strip_suffix('}').expect("the end of the message");
    let ours = topic_record(&single(), 0, RECORD, Some(payload.as_bytes()));
    assert_eq!(String::from_utf8(ours).expect("text"), golden);
    let aliased =
        FailureDetails { function_arn: Arc::from("arn:aws:lambda:us-east-1:1:function:f:live"), ..single() };
    let shown = read(topic_record(&aliased, 0, RECORD, None));
    assert_eq!(shown["requestContext"]["functionArn"], "arn:aws:lambda:us-east-1:1:function:f:live");
}

#[test]
fn condition_determines_response_context() {
    let with = |condition, response| read(queue_record(&FailureDetails { condition, response, ..batch() }));
    let exhausted = with(FailureCondition::RetryAttemptsExhausted, None);
    assert_eq!(exhausted.get("responseContext"), Some(&Value::Null));
    let large = with(FailureCondition::MaximumPayloadSizeExceeded, Some(unhandled()));
    assert_eq!(large["requestContext"]["condition"], "MaximumPayloadSizeExceeded");
    assert_eq!(large.get("responseContext"), Some(&Value::Null));
    // Recorded from AWS with Kinesis: no such member, although the function was invoked.
    let old = with(FailureCondition::RecordAgeExceeded, Some(unhandled()));
    assert_eq!(old["requestContext"]["condition"], "RecordAgeExceeded");
    assert_eq!(old.get("responseContext"), None);
    // Recorded from AWS with Kinesis: a partial response is a response without an error.
    let reported = ResponseContext { function_error: None, ..unhandled() };
    let partial = with(FailureCondition::RetryAttemptsExhausted, Some(reported));
    let expected = json!({ "statusCode": 200, "executedVersion": "$LATEST", "functionError": null });
    assert_eq!(partial["responseContext"], expected);
    for (condition, name) in [
        (FailureCondition::RetryAttemptsExhausted, "RetriesExhausted"),
        (FailureCondition::RecordAgeExceeded, "RecordAgeExceeded"),
        (FailureCondition::MaximumPayloadSizeExceeded, "MaximumPayloadSizeExceeded"),
        (FailureCondition::BatchUnreadable, "BatchUnreadable"),
    ] {
        let shown = read(topic_record(&FailureDetails { condition, ..single() }, 0, RECORD, None));
        assert_eq!(shown["requestContext"]["condition"], name);
    }
}

#[test]
fn self_managed_clusters_have_no_arn() {
    let source = RecordSource { arn: None, bootstrap_servers: Arc::from("a:1,b:2") };
    let info = &read(queue_record(&FailureDetails { source, ..batch() }))["KafkaBatchInfo"];
    assert_eq!((info.get("eventSourceArn"), &info["bootstrapServers"]), (None, &json!("a:1,b:2")));
}

#[test]
fn function_error_is_appended_after_aws_members() {
    let error = FunctionError { kind: "E\"rror".to_owned(), message: "é".repeat(1000) };
    let failure = FailureDetails { error: Some(error), ..batch() };
    for text in [
        queue_record(&failure).into_bytes(),
        object_record(&failure, b"{}"),
        topic_record(&failure, 7, RECORD, Some(b"{}")),
    ] {
        let theirs = read(&text)["lighterman"].clone();
        assert_eq!(theirs, json!({ "errorType": "E\"rror", "errorMessage": "é".repeat(512) }));
        assert!(String::from_utf8(text).expect("text").ends_with("é\"}}"));
    }
    let bare = read(topic_record(&failure, 7, RECORD, None));
    assert_eq!(bare["lighterman"]["partition"], "Topic-7");
    assert_eq!((bare.get("payload"), &bare["KafkaBatchInfo"]["payloadSize"]), (None, &json!(2_039_086)));
}

fn any_failure() -> impl Strategy<Value = FailureDetails> {
    let texts = (".{0,20}", ".{0,20}", ".{0,20}", prop::option::of(".{0,20}"), ".{0,300}");
    let at = -1i64..4_000_000_000_000;
    let partition = (any::<i64>(), at.clone(), any::<i64>(), at.clone());
    let partitions = prop::collection::btree_map(0i32..100, partition, 0..4);
    let condition = prop_oneof![
        Just(FailureCondition::RetryAttemptsExhausted),
        Just(FailureCondition::RecordAgeExceeded),
        Just(FailureCondition::MaximumPayloadSizeExceeded),
        Just(FailureCondition::BatchUnreadable),
    ];
    (texts, at, partitions, condition, any::<(u32, u32, u64, bool, u16)>()).prop_map(
        |((request_id, arn, servers, error, message), at, partitions, condition, numbers)| FailureDetails {
            request_id,
            function_arn: Arc::from(arn.as_str()),
            condition,
            approximate_invoke_count: numbers.0,
            response: numbers.3.then(|| ResponseContext {
                status_code: numbers.4,
                executed_version: message.clone(),
                function_error: error.clone(),
            }),
            error: error.clone().map(|kind| FunctionError { kind, message }),
            timestamp: TimestampMs(at),
            source: RecordSource { arn: error.map(Arc::from), bootstrap_servers: Arc::from(servers) },
            topic: Arc::from("orders"),
            batch_size: numbers.1,
            payload_bytes: numbers.2,
            partitions: partitions
                .into_iter()
                .map(|(partition, (first, first_at, last, last_at))| FailedPartition {
                    partition,
                    first: point(first, first_at),
                    last: point(last, last_at),
                })
                .collect(),
        },
    )
}

/// Builds the expected message with `serde_json`.
fn expected(failure: &FailureDetails) -> Value {
    let partitions: serde_json::Map<String, Value> = failure
        .partitions
        .iter()
        .map(|of| {
            let facts = json!({
                "firstRecordOffset": of.first.offset.0.to_string(), "lastRecordOffset": of.last.offset.0.to_string(),
                "firstRecordTimestamp": iso_8601(of.first.timestamp), "lastRecordTimestamp": iso_8601(of.last.timestamp),
            });
            (format!("orders-{}", of.partition), facts)
        })
        .collect();
    let mut expected = json!({
        "requestContext": {
            "requestId": failure.request_id, "functionArn": &*failure.function_arn,
            "condition": format!("{:?}", failure.condition),
            "approximateInvokeCount": failure.approximate_invoke_count,
        },
        "version": "1.0", "timestamp": iso_8601(failure.timestamp),
        "KafkaBatchInfo": {
            "batchSize": failure.batch_size, "bootstrapServers": &*failure.source.bootstrap_servers,
            "payloadSize": failure.payload_bytes, "recordsInfo": partitions,
        },
    });
    if let Some(arn) = &failure.source.arn {
        expected["KafkaBatchInfo"]["eventSourceArn"] = json!(&**arn);
    }
    if let Some(error) = &failure.error {
        expected["lighterman"] = json!({ "errorType": error.kind, "errorMessage": error.message });
    }
    let response = failure.response.as_ref().map(|response| {
        json!({
            "statusCode": response.status_code, "executedVersion": response.executed_version,
            "functionError": response.function_error,
        })
    });
    match failure.condition {
        FailureCondition::RetryAttemptsExhausted => expected["responseContext"] = json!(response),
        FailureCondition::MaximumPayloadSizeExceeded | FailureCondition::BatchUnreadable => {
            expected["responseContext"] = Value::Null;
        }
        FailureCondition::RecordAgeExceeded => {}
    }
    expected
}

proptest! {
    #[test]
    fn serde_json_reads_every_member(failure in any_failure(), payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let facts = expected(&failure);
        prop_assert_eq!(read(queue_record(&failure)), facts.clone());
        let object = object_record(&failure, &payload);
        prop_assert_eq!(object.capacity(), object.len(), "exactly what was reserved");
        let mut with_payload = facts;
        with_payload["payload"] = json!(String::from_utf8_lossy(&payload));
        prop_assert_eq!(read(object), with_payload);
    }

    #[test]
    fn topic_message_holds_its_event_unchanged(failure in any_failure(), number: i64, partition in 0i32..100) {
        let event = json!({ "records": { "orders-0": [{ "offset": number }] } });
        let text = topic_record(&failure, partition, point(number, 0), Some(event.to_string().as_bytes()));
        prop_assert_eq!(text.capacity(), text.len(), "exactly what was reserved");
        let message = read(text);
        prop_assert_eq!(&message["payload"], &event);
        let of_record = json!({ "offset": number.to_string(), "timestamp": "1970-01-01T00:00:00.000Z" });
        prop_assert_eq!(&message["KafkaBatchInfo"]["recordInfo"], &of_record);
        prop_assert_eq!(&message["KafkaBatchInfo"]["batchSize"], &json!(1));
    }
}
