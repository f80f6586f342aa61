//! Patterns and formats of AWS's documentation, case by case, and rejected patterns with their positions.

use lighterman_proto::filter::{FilterSet, FilterSubject};
use lighterman_proto::records::Header;
use lighterman_proto::units::TimestampMs;

/// Returns true if a record with `value`, and with contents in all its other fields, passes.
pub(crate) fn passes(patterns: &[&str], value: Option<&[u8]>) -> bool {
    let filters = FilterSet::compile(patterns).expect("a pattern");
    let subject = FilterSubject {
        topic: "orders",
        partition: 3,
        timestamp: TimestampMs(1_545_084_650_987),
        key: Some(b"customer-7"),
        value,
        headers: [("trace", "t-1"), ("trace", "t-2"), ("retries", "3")]
            .into_iter()
            .map(|(name, value)| Header { name: name.as_bytes(), value: Some(value.as_bytes()) }),
    };
    filters.verdict(subject).passes()
}

fn json(pattern: &str, value: &str) -> bool {
    passes(&[pattern], Some(value.as_bytes()))
}

#[test]
fn operators_match_as_documented() {
    // Pattern under `value`, a matching value, and one that does not match.
    for (pattern, good, bad) in [
        (r#"{"LastName":[null]}"#, r#"{"LastName":null}"#, r#"{"LastName":"null"}"#),
        (r#"{"LastName":[""]}"#, r#"{"LastName":""}"#, r#"{"LastName":" "}"#),
        (r#"{"Name":["Alice"]}"#, r#"{"Name":"Alice"}"#, r#"{"Name":"alice"}"#),
        (r#"{"Name":[{"equals-ignore-case":"alice"}]}"#, r#"{"Name":"ALICE"}"#, r#"{"Name":"alices"}"#),
        (
            r#"{"Place":["New York"],"Day":["Monday"]}"#,
            r#"{"Day":"Monday","Place":"New York"}"#,
            r#"{"Day":"Monday"}"#,
        ),
        (r#"{"Pay":["Credit","Debit"]}"#, r#"{"Pay":"Debit"}"#, r#"{"Pay":"Cash"}"#),
        (
            r#"{"$or":[{"Place":["New York"]},{"Day":["Monday"]}]}"#,
            r#"{"Day":"Monday"}"#,
            r#"{"Day":"Sunday"}"#,
        ),
        (
            r#"{"Weather":[{"anything-but":["Raining"]}]}"#,
            r#"{"Weather":"Sunny"}"#,
            r#"{"Weather":"Raining"}"#,
        ),
        (r#"{"Weather":[{"anything-but":["Raining"]}]}"#, r#"{"Weather":null}"#, r#"{"Climate":"Sunny"}"#),
        (r#"{"Code":[{"anything-but":[100,101]}]}"#, r#"{"Code":102}"#, r#"{"Code":1.00e2}"#),
        (r#"{"Price":[{"numeric":["=",100]}]}"#, r#"{"Price":1e2}"#, r#"{"Price":"100"}"#),
        (r#"{"Price":[{"numeric":[">",10,"<=",20]}]}"#, r#"{"Price":20.0}"#, r#"{"Price":10}"#),
        (r#"{"Price":[300]}"#, r#"{"Price":300}"#, r#"{"Price":300.0}"#),
        (r#"{"Name":[{"exists":true}]}"#, r#"{"Name":null}"#, r#"{"Name":{"First":"A"}}"#),
        (r#"{"Name":[{"exists":false}]}"#, r#"{"Name":{"First":"A"}}"#, r#"{"Name":""}"#),
        (r#"{"Region":[{"prefix":"us-"}]}"#, r#"{"Region":"us-east-1"}"#, r#"{"Region":"eu-us-"}"#),
        (r#"{"File":[{"suffix":".png"}]}"#, r#"{"File":"a.png"}"#, r#"{"File":"a.PNG"}"#),
        (
            r#"{"File":[{"anything-but":{"suffix":[".png",".jpg"]}}]}"#,
            r#"{"File":"a.gif"}"#,
            r#"{"File":"a.jpg"}"#,
        ),
    ] {
        let pattern = format!(r#"{{"value":{pattern}}}"#);
        assert!(json(&pattern, good), "{pattern} on {good}");
        assert!(!json(&pattern, bad), "{pattern} on {bad}");
    }
}

/// <https://docs.aws.amazon.com/lambda/latest/dg/kafka-filtering.html>: data is not filtered if the formats
/// differ.
#[test]
fn format_combinations_match_as_documented() {
    let (plain, fields) = (r#"{"value":["Hello"]}"#, r#"{"value":{"a":["Hello"]}}"#);
    for (pattern, value, expected) in [
        (plain, &b"Hello"[..], true),
        (plain, b"Bye", false),
        (plain, br#"{"a":"Bye"}"#, true),
        (plain, b"[]", true),
        (plain, b"\xff", true),
        (plain, b"", false),
        (fields, br#"{"a":"Hello"}"#, true),
        (fields, br#"{"a":"Bye"}"#, false),
        (fields, b"Bye", true),
        (fields, br#"{"a":"Bye""#, true),
        (fields, b"{\"a\":\"Bye\xff\"}", true),
        (fields, b"", true),
        // A number or string alone is JSON without fields, and also text.
        (fields, b"5", false),
        (r#"{"value":["5"]}"#, b"5", true),
        (r#"{"value":[{"numeric":["<",6]}]}"#, b"5", true),
    ] {
        assert_eq!(passes(&[pattern], Some(value)), expected, "{pattern} on {}", value.escape_ascii());
    }
    assert!(!passes(&[fields], None) && !passes(&[plain], None), "a tombstone has no fields and no text");
    assert!(passes(&[r#"{"value":[null]}"#], None) && passes(&[r#"{"value":[{"exists":false}]}"#], None));
    assert!(passes(&[r#"{"value":[{"exists":true}]}"#], Some(b"\xff")));
    assert!(!passes(&[r#"{"value":[{"exists":false}]}"#], Some(b"{}")));
}

#[test]
fn fields_that_aws_lacks_can_be_filtered() {
    for (pattern, expected) in [
        (r#"{"key":["customer-7"]}"#, true),
        (r#"{"key":[{"prefix":"customer-"}],"topic":["orders"],"partition":[3]}"#, true),
        (r#"{"topic":["invoices"]}"#, false),
        (r#"{"partition":[{"numeric":["<",3]}]}"#, false),
        (r#"{"timestamp":[{"numeric":[">=",1545084650000]}]}"#, true),
        (r#"{"headers":{"trace":["t-2"]}}"#, true),
        (r#"{"headers":{"retries":[{"numeric":[">",3]}]}}"#, false),
        (r#"{"headers":{"retries":[3]}}"#, true),
        (r#"{"headers":{"absent":[{"exists":false}],"trace":[{"exists":true}]}}"#, true),
        (r#"{"$or":[{"topic":["invoices"]},{"headers":{"trace":["t-1"]}}]}"#, true),
    ] {
        assert_eq!(passes(&[pattern], None), expected, "{pattern}");
    }
    assert!(passes(&[r#"{"topic":["x"]}"#, r#"{"topic":["orders"]}"#], None), "filters are alternatives");
    assert!(passes(&[], None), "without filters nothing is dropped");
}

#[test]
fn invalid_pattern_is_rejected_with_position() {
    for (pattern, expected) in [
        ("", "filter 1, pattern (byte 0): this is not JSON: expected a value"),
        ("\"simple string\"", "filter 1, pattern (byte 0): a pattern is a JSON object"),
        (r#"{"value":["a"]"#, "filter 1, pattern (byte 14): this is not JSON: expected `,` or `}`"),
        (r#"{"value":"a"}"#, "filter 1, value (byte 9): expected a list"),
        (r#"{"value":[]}"#, "filter 1, value (byte 9): an empty list matches nothing"),
        (r#"{"value":{}}"#, "filter 1, value (byte 9): an empty object"),
        (r#"{"offset":[1]}"#, "filter 1, offset (byte 10): a Kafka record has no such field"),
        (
            r#"{"value":{"a":{"b":[1,{"prefx":"x"}]}}}"#,
            "filter 1, value.a.b[1].prefx (byte 22): no operator `prefx`",
        ),
        (
            r#"{"value":{"a":[{"numeric":[">",2,"<",1]}]}}"#,
            "filter 1, value.a[0].numeric (byte 26): the lower bound",
        ),
        (r#"{"value":{"$or":[{"a":[1]}]}}"#, "filter 1, value.$or (byte 16): $or takes two"),
        (r#"{"value":{"a":[{"exists":"yes"}]}}"#, "filter 1, value.a[0].exists (byte 25): exists takes"),
        (r#"{"value":{"a":["x"],"a":["y"]}}"#, "filter 1, pattern (byte 20): `a` stands twice"),
    ] {
        let told = FilterSet::compile(&[pattern]).expect_err(pattern).to_string();
        assert!(told.starts_with(expected), "{pattern}: {told}");
    }
    let second = FilterSet::compile(&[r#"{"value":["a"]}"#, "{"]).expect_err("not JSON");
    assert_eq!((second.filter, second.at), (1, 1));
    let long = format!(r#"{{"value":["{}"]}}"#, "é".repeat(4_096));
    assert!(FilterSet::compile(&[long]).expect_err("long").to_string().contains("4110 characters; 4096"));
    let many = vec![r#"{"value":["a"]}"#; 11];
    assert!(FilterSet::compile(&many).expect_err("many").to_string().contains("more than 10 filters"));
}

#[test]
fn fields_are_found_by_name_among_many() {
    let names = ["i", "aa", "f", "c", "bb", "h", "a", "g", "e", "b", "d", "ab"];
    for wanted in names {
        let members: Vec<String> = names
            .iter()
            .map(|name| {
                format!(r#""{name}":[{}]"#, if *name == wanted { "1" } else { r#"{"exists":false}"# })
            })
            .collect();
        let pattern = format!(r#"{{"value":{{{}}}}}"#, members.join(","));
        for found in names {
            assert_eq!(json(&pattern, &format!(r#"{{"{found}":1}}"#)), found == wanted, "{found} {wanted}");
        }
        assert!(json(
            &pattern,
            &format!(r#"{{"\u{:04x}{}":1,"x":{{}}}}"#, wanted.as_bytes()[0], &wanted[1..])
        ));
    }
}

#[test]
fn pattern_depth_and_width_are_bounded() {
    let deep = |depth: usize| format!("{}[1]{}", "{\"value\":".repeat(depth), "}".repeat(depth));
    assert!(FilterSet::compile(&[deep(126)]).is_ok());
    assert!(FilterSet::compile(&[deep(127)]).is_err(), "as deep as JSON is read");
    let wide = |names: usize| {
        let members: Vec<String> = (0..names).map(|name| format!(r#""{name:x}":[1]"#)).collect();
        format!(r#"{{"value":{{{}}}}}"#, members.join(","))
    };
    assert!(FilterSet::compile(&[wide(300)]).is_ok());
    let text = FilterSet::compile(&[wide(300), wide(300)]).expect_err("too many").to_string();
    assert!(text.starts_with("filter 2, value.") && text.contains("more than 512 conditions"), "{text}");
}
