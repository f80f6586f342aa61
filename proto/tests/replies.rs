//! Partial batch responses: AWS's formats, recorded cases, and a naive parser that must agree on any response.

use std::collections::BTreeSet;

use lighterman_proto::ids::Offset;
use lighterman_proto::response::{FailedItem, ReplyError, failed_items};
use proptest::prelude::*;
use serde_json::{Value, json};

const TOPIC: &str = "orders-eu-1";

fn read(body: &str) -> Result<Vec<(i32, i64)>, ReplyError> {
    let items = failed_items(body.as_bytes(), TOPIC, 10)?;
    Ok(items.into_iter().map(|item| (item.partition, item.offset.0)).collect())
}

#[test]
fn responses_without_failures_count_as_success() {
    for body in [
        "",
        " \n",
        "null",
        "\"\"",
        "[]",
        "{}",
        r#"{"batchItemFailures":[]}"#,
        r#"{"batchItemFailures":null}"#,
        r#"{"statusCode":200,"body":"{\"batchItemFailures\":1}"}"#,
    ] {
        assert_eq!(read(body), Ok(vec![]), "{body}");
    }
}

#[test]
fn items_are_read_from_objects_and_strings() {
    let both = r#"{"batchItemFailures":[
        {"itemIdentifier":{"partition":"orders-eu-1-3","offset":100}},
        {"itemIdentifier":"orders-eu-1-0-7"},
        {"itemIdentifier":{"offset":"100","partition":"orders-eu-1-3","topic":"orders-eu-1"}},
        {"reason":[{}],"itemIdentifier":"\u006frders-eu-1-0-0"}]}"#;
    assert_eq!(read(both), Ok(vec![(0, 0), (0, 7), (3, 100)]));
}

#[test]
fn unknown_record_identifier_fails_whole_batch() {
    for identifier in [
        json!("orders-eu-1-0"),
        json!("orders-eu-0-1"),
        json!("orders-eu-1--1-2"),
        json!("orders-eu-1-0-2-3"),
        json!("orders-eu-1-00-2"),
        json!("orders-eu-1-+0-2"),
        json!("orders-eu-1-2147483648-2"),
        json!("orders-eu-1-0-9223372036854775808"),
        json!("orders-eu-1-0-"),
        json!(""),
        json!({"partition": "orders-eu-1", "offset": 1}),
        json!({"partition": "orders-eu-1-", "offset": 1}),
        json!({"partition": "other-0", "offset": 1}),
    ] {
        let body = json!({"batchItemFailures": [{ "itemIdentifier": identifier }]}).to_string();
        assert!(matches!(read(&body), Err(ReplyError::Identifier { .. })), "{body}: {:?}", read(&body));
    }
}

#[test]
fn malformed_response_fails_whole_batch() {
    for body in [
        "true",
        "7",
        "\"done\"",
        "[1]",
        r#"{"batchItemFailures":{}}"#,
        r#"{"batchItemFailures":"orders-eu-1-0-1"}"#,
        r#"{"batchItemFailures":[null]}"#,
        r#"{"batchItemFailures":["orders-eu-1-0-1"]}"#,
        r#"{"batchItemFailures":[{"foo":"orders-eu-1-0-1"}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":null}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":7}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"orders-eu-1-0"}}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":{"offset":1}}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":{"partition":0,"offset":1}}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"orders-eu-1-0","offset":1.0}}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"orders-eu-1-0","offset":-1}}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"orders-eu-1-0","offset":"0x1"}}]}"#,
        r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"orders-eu-1-0","offset":null}}]}"#,
        r#"{"batchItemFailures":[],"batchItemFailures":[]}"#,
        r#"{"BatchItemFailures":[]}"#,
        r#"{"batch_item_failures":[]}"#,
        r#"{"batchItemFailure":[]}"#,
    ] {
        assert!(matches!(read(body), Err(ReplyError::Shape(_))), "{body}: {:?}", read(body));
    }
    for body in ["{", "nul", "{} {}", r#"{"batchItemFailures":[}"#, "\u{feff}{}"] {
        assert!(matches!(read(body), Err(ReplyError::NotJson(_))), "{body}: {:?}", read(body));
    }
    assert!(matches!(failed_items(b"\"\xff\"", TOPIC, 1), Err(ReplyError::NotJson(_))));
}

#[test]
fn item_limit_counts_distinct_records() {
    let naming = |count: u64, distinct: u64| {
        let items: Vec<Value> =
            (0..count).map(|n| json!({ "itemIdentifier": format!("{TOPIC}-0-{}", n % distinct) })).collect();
        read(&json!({ "batchItemFailures": items }).to_string())
    };
    assert_eq!(naming(10_000, 10).map(|items| items.len()), Ok(10));
    assert_eq!(naming(11, 11), Err(ReplyError::TooMany(10)));
    assert_eq!(naming(10_000, 10_000), Err(ReplyError::TooMany(10)));
}

#[test]
fn mem_1_deep_nesting_takes_no_stack() {
    let deep = "[".repeat(1_000_000);
    assert!(read(&deep).is_err());
    assert!(read(&format!(r#"{{"batchItemFailures":{deep}"#)).is_err());
    assert!(read(&format!(r#"{{"batchItemFailures":[{{"itemIdentifier":{deep}"#)).is_err());
    let closed = format!("{deep}{}", "]".repeat(1_000_000));
    assert!(read(&format!(r#"{{"batchItemFailures":[{{"itemIdentifier":{closed}}}]}}"#)).is_err());
    // An unknown member is skipped without recursion.
    assert_eq!(read(&format!(r#"{{"trace":{closed}}}"#)), Ok(vec![]));
    let error = read(&format!(r#""{}""#, "x".repeat(1_000_000))).expect_err("no report");
    assert!(error.to_string().len() < 1000);
}

/// Independent implementation of the rules, on parsed JSON.
fn naive(reply: &Value) -> Option<BTreeSet<(i32, i64)>> {
    let list = match reply {
        Value::Null => return Some(BTreeSet::new()),
        Value::Object(members) => match members.get("batchItemFailures") {
            None | Some(Value::Null) => return Some(BTreeSet::new()),
            Some(Value::Array(list)) => list,
            Some(_) => return None,
        },
        Value::Array(list) if list.is_empty() => return Some(BTreeSet::new()),
        Value::String(text) if text.is_empty() => return Some(BTreeSet::new()),
        _ => return None,
    };
    let number = |text: &str| text.parse::<i64>().ok().filter(|n| *n >= 0 && n.to_string() == text);
    let partition = |text: &str| {
        let (topic, index) = text.rsplit_once('-')?;
        i32::try_from(number(index)?).ok().filter(|_| topic == TOPIC)
    };
    list.iter()
        .map(|item| match item.get("itemIdentifier")? {
            Value::String(text) => {
                let (place, offset) = text.rsplit_once('-')?;
                Some((partition(place)?, number(offset)?))
            }
            Value::Object(members) => {
                let offset = match members.get("offset")? {
                    Value::Number(n) => n.as_i64().filter(|n| *n >= 0)?,
                    Value::String(text) => number(text)?,
                    _ => return None,
                };
                Some((partition(members.get("partition")?.as_str()?)?, offset))
            }
            _ => None,
        })
        .collect()
}

fn offset_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        8 => (0i64..20).prop_map(|n| json!(n)),
        4 => (0i64..20).prop_map(|n| json!(n.to_string())),
        1 => any::<i64>().prop_map(|n| json!(n)),
        1 => any::<u64>().prop_map(|n| json!(n)),
        1 => any::<f64>().prop_map(|n| json!(n)),
        1 => "[0-9+ -]{0,3}".prop_map(Value::from),
        1 => Just(Value::Null),
    ]
}

fn place() -> impl Strategy<Value = String> {
    prop_oneof![
        12 => (0i32..4).prop_map(|n| format!("{TOPIC}-{n}")),
        1 => "(orders-eu-1|orders-eu|o|)-?[0-9]{0,2}-?[0-9]{0,2}",
    ]
}

fn identifier() -> impl Strategy<Value = Value> {
    prop_oneof![
        10 => (place(), offset_value()).prop_map(|(p, o)| json!({ "partition": p, "offset": o })),
        10 => (place(), 0i64..20).prop_map(|(p, o)| json!(format!("{p}-{o}"))),
        1 => (place(), "[0-9-]{0,4}").prop_map(|(p, o)| json!(format!("{p}-{o}"))),
        1 => any::<u16>().prop_map(|n| json!(n)),
    ]
}

fn reply() -> impl Strategy<Value = Value> {
    let item = prop_oneof![
        20 => identifier().prop_map(|id| json!({ "itemIdentifier": id })),
        3 => identifier().prop_map(|id| json!({ "itemIdentifier": id, "why": { "deep": [1, null] } })),
        1 => Just(json!({ "foo": 1 })),
        1 => Just(Value::Null),
    ];
    prop_oneof![
        20 => prop::collection::vec(item, 0..5).prop_map(|list| json!({ "batchItemFailures": list, "a": [{}] })),
        1 => Just(json!({ "statusCode": 200 })),
        1 => Just(json!({ "batchItemFailures": "none" })),
        1 => Just(json!([0])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn agrees_with_naive_parser(reply in reply()) {
        let ours = failed_items(reply.to_string().as_bytes(), TOPIC, 10).ok();
        let expected = naive(&reply).map(|items| {
            let item = |(partition, offset)| FailedItem { partition, offset: Offset(offset) };
            items.into_iter().map(item).collect::<Vec<_>>()
        });
        prop_assert_eq!(ours, expected, "{}", reply);
    }
}
