//! Random patterns on random records: the filters agree with the naive evaluator.

use std::fmt::Write as _;

use lighterman_proto::filter::{FilterSet, FilterSubject, FilterVerdict};
use lighterman_proto::records::Header;
use lighterman_proto::units::TimestampMs;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::naive::{self, NaiveRecord};

const NAMES: [&str; 3] = ["a", "b", "é"];
const TEXTS: [&str; 8] = ["", "a", "ab", "AB", "x\"\\\n", "Ä", "😀", "1"];
const NUMBERS: [&str; 11] = ["0", "-0.0", "1", "1.0", "10e-1", "1E+1", "-2.5", "100", "0.05", "0.5", "5e-2"];

/// Texts for these tests.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => prop::sample::select(&TEXTS[..]).prop_map(ToOwned::to_owned),
        1 => "[abAB1äÄ€😀\\\\\" ]{0,12}",
    ]
}

fn number() -> impl Strategy<Value = Value> {
    // The pattern holds the numbers in serde_json's spelling.
    prop::sample::select(&NUMBERS[..]).prop_map(|number| serde_json::from_str(number).expect("a number"))
}

fn operator() -> impl Strategy<Value = Value> {
    let affix = || prop::sample::select(vec!["prefix", "suffix"]);
    let range =
        (prop::sample::select(vec![">", ">="]), prop::sample::select(vec!["<", "<="]), -3i32..12, 1i32..90);
    let one_or_many = |one: BoxedStrategy<Value>| {
        prop_oneof![one.clone(), prop::collection::vec(one, 1..3).prop_map(Value::from)]
    };
    let filled = || "[abAB1ä]{1,2}".prop_map(Value::from).boxed();
    prop_oneof![
        any::<bool>().prop_map(|exists| json!({ "exists": exists })),
        text().prop_map(|text| json!({ "equals-ignore-case": text })),
        (affix(), text()).prop_map(|(name, text)| json!({ name: text })),
        (affix(), text()).prop_map(|(name, text)| json!({ name: { "equals-ignore-case": text } })),
        (prop::sample::select(vec!["=", "<", "<=", ">", ">="]), number())
            .prop_map(|(sign, number)| json!({ "numeric": [sign, number] })),
        range.prop_map(|(low, high, from, width)| json!({ "numeric": [low, from, high, from + width] })),
        one_or_many(text().prop_map(Value::from).boxed()).prop_map(|not| json!({ "anything-but": not })),
        one_or_many(number().boxed()).prop_map(|not| json!({ "anything-but": not })),
        (prop::sample::select(vec!["prefix", "suffix", "equals-ignore-case"]), one_or_many(filled()))
            .prop_map(|(name, not)| json!({ "anything-but": { name: not } })),
    ]
}

fn list() -> impl Strategy<Value = Value> {
    let literal = prop_oneof![
        4 => text().prop_map(Value::from),
        2 => number(),
        1 => prop::sample::select(vec![Value::Null, json!(true), json!(false)]),
    ];
    prop::collection::vec(prop_oneof![literal, operator()], 1..3).prop_map(Value::from)
}

/// Object of a pattern with members from `member`, some of them under `$or`.
fn object(member: BoxedStrategy<(String, Value)>) -> BoxedStrategy<Value> {
    let plain =
        prop::collection::vec(member, 1..3).prop_map(|members| Value::Object(members.into_iter().collect()));
    prop_oneof![
        3 => plain.clone(),
        1 => (prop::collection::vec(plain.clone(), 2..4), prop::option::of(plain)).prop_map(|(alternatives, beside)| {
            let mut object = beside.unwrap_or_else(|| json!({}));
            object["$or"] = Value::from(alternatives);
            object
        }),
    ]
    .boxed()
}

/// Object of a pattern for JSON fields.
fn data() -> BoxedStrategy<Value> {
    let name = || prop::sample::select(&NAMES[..]).prop_map(ToOwned::to_owned);
    let flat = object((name(), list()).boxed());
    flat.prop_recursive(3, 8, 2, move |inner| {
        object((name(), prop_oneof![2 => list().boxed(), 3 => inner]).boxed())
    })
    .boxed()
}

fn pattern() -> BoxedStrategy<Value> {
    let named = |name: &'static str, wanted: BoxedStrategy<Value>| {
        wanted.prop_map(move |wanted| (name.to_owned(), wanted)).boxed()
    };
    let header = (prop::sample::select(&NAMES[..]).prop_map(ToOwned::to_owned), list()).boxed();
    object(
        prop_oneof![
            8 => named("value", data()),
            2 => named("value", list().boxed()),
            2 => named("key", prop_oneof![data(), list().boxed()].boxed()),
            2 => named("headers", object(header)),
            1 => named("topic", list().boxed()),
            1 => named("partition", list().boxed()),
            1 => named("timestamp", list().boxed()),
        ]
        .boxed(),
    )
}

/// Writes a JSON string with some characters as escapes.
fn quoted(text: &str, escape: u32) -> String {
    let mut json = String::from('"');
    for (index, character) in text.chars().enumerate() {
        if escape >> (index % 32) & 1 == 1 || character.is_control() {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(json, "\\u{unit:04X}").expect("a string takes all");
            }
        } else if matches!(character, '"' | '\\') {
            json.extend(['\\', character]);
        } else {
            json.push(character);
        }
    }
    json.push('"');
    json
}

/// JSON text: nested, duplicate names, numbers in every spelling, white space in odd places.
fn json_text() -> BoxedStrategy<String> {
    let space = || prop::sample::select(vec!["", "", "", " ", "\n\t"]);
    let string =
        (text(), prop_oneof![Just(0u32), any::<u32>()]).prop_map(|(text, escape)| quoted(&text, escape));
    let name = (prop::sample::select(&NAMES[..]), prop_oneof![3 => Just(0u32), 1 => any::<u32>()])
        .prop_map(|(name, escape)| quoted(name, escape));
    let leaf = prop_oneof![
        4 => string,
        4 => prop::sample::select(&NUMBERS[..]).prop_map(ToOwned::to_owned),
        1 => prop::sample::select(vec!["null", "true", "false", "[]", "{}"]).prop_map(ToOwned::to_owned),
    ];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        let member = (name.clone(), space(), inner.clone())
            .prop_map(|(name, space, value)| format!("{space}{name}{space}:{space}{value}{space}"));
        prop_oneof![
            2 => prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(","))),
            1 => (prop::collection::vec(inner, 0..5), space())
                .prop_map(|(elements, space)| format!("[{space}{}]", elements.join(&format!("{space},{space}")))),
        ]
    })
    .boxed()
}

/// Bytes of a key or value: mostly JSON; also truncated or corrupt JSON, text, invalid UTF-8 and null.
fn bytes() -> BoxedStrategy<Option<Vec<u8>>> {
    prop_oneof![
        12 => json_text().prop_map(|text| Some(text.into_bytes())),
        2 => (json_text(), any::<prop::sample::Index>(), prop::sample::select(vec![b'}', b',', b'"', b'0', 0xff, 0]))
            .prop_map(|(text, at, byte)| {
                let mut bytes = text.into_bytes();
                bytes.insert(at.index(bytes.len() + 1), byte);
                Some(bytes)
            }),
        1 => (json_text(), any::<prop::sample::Index>()).prop_map(|(text, at)| {
            Some(text.as_bytes()[..at.index(text.len() + 1)].to_vec())
        }),
        2 => text().prop_map(|text| Some(text.into_bytes())),
        1 => prop::sample::select(&NUMBERS[..]).prop_map(|text| Some(format!(" {text}").into_bytes())),
        1 => prop::sample::select(vec![None, Some(vec![0xff]), Some(Vec::new())]),
    ]
    .boxed()
}

/// Returns true for half a surrogate pair, on which JSON parsers legitimately differ. The escapes in these tests
/// are complete, but corrupt text can contain half of one.
fn has_half_a_pair(bytes: Option<&[u8]>) -> bool {
    const ESCAPE_LEN: usize = "\\uD83D".len();
    let text = String::from_utf8_lossy(bytes.unwrap_or_default()).to_uppercase();
    let is_half = |at: usize, kinds: &[char]| {
        text.get(at..)
            .is_some_and(|rest| rest.strip_prefix("\\UD").is_some_and(|rest| rest.starts_with(kinds)))
    };
    let is_high = |at: usize| is_half(at, &['8', '9', 'A', 'B']);
    let is_low = |at: usize| is_half(at, &['C', 'D', 'E', 'F']);
    let alone = |at: usize| {
        let before = at.checked_sub(ESCAPE_LEN).is_some_and(is_high);
        (is_high(at) && !is_low(at + ESCAPE_LEN)) || (is_low(at) && !before)
    };
    text.match_indices("\\UD").any(|(at, _)| alone(at))
}

fn headers() -> impl Strategy<Value = Vec<(Vec<u8>, Option<Vec<u8>>)>> {
    let name = prop::sample::select(&NAMES[..2]).prop_map(|name| name.as_bytes().to_vec());
    let number = prop::sample::select(&NUMBERS[..]).prop_map(ToOwned::to_owned);
    let value = prop_oneof![text(), number].prop_map(String::into_bytes);
    prop::collection::vec((name, prop::option::weighted(0.9, value)), 0..4)
}

fn agrees(patterns: &[Value], sample: &NaiveRecord<'_>) -> Result<(), TestCaseError> {
    prop_assume!(!has_half_a_pair(sample.value) && !has_half_a_pair(sample.key));
    let texts: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    let filters =
        FilterSet::compile(&texts).map_err(|error| TestCaseError::fail(format!("{error}: {texts:?}")))?;
    let expected =
        naive::first_match(patterns, sample).map_or(FilterVerdict::Refused, FilterVerdict::Matched);
    let subject = FilterSubject {
        topic: sample.topic,
        partition: sample.partition,
        timestamp: TimestampMs(sample.timestamp),
        key: sample.key,
        value: sample.value,
        headers: sample.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }),
    };
    let value = sample.value.map(String::from_utf8_lossy);
    prop_assert_eq!(filters.verdict(subject), expected, "{:?} on {:?}", texts, value);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6_000))]

    #[test]
    fn filters_agree_with_naive_evaluator(
        patterns in prop::collection::vec(pattern(), 1..4),
        value in bytes(),
        key in bytes(),
        headers in headers(),
        topic in text(),
        partition in 0i32..12,
        timestamp in -2i64..101,
    ) {
        let (key, value) = (key.as_deref(), value.as_deref());
        agrees(&patterns, &NaiveRecord { topic: &topic, partition, timestamp, key, value, headers: &headers })?;
    }

    /// Records of several hundred bytes: long names and values, escapes, duplicate names, some of them corrupt.
    #[test]
    fn long_records_agree_with_naive_evaluator(
        patterns in prop::collection::vec(data(), 1..4),
        members in prop::collection::vec(
            (prop_oneof![2 => "[abé]", 1 => "[a-zé ]{0,80}"], json_text(), "[a-zé ]{0,70}", any::<u32>()),
            1..12,
        ),
        corrupt in prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let member = |(name, value, pad, escape): &(String, String, String, u32)| {
            let name = quoted(name, if escape % 4 == 0 { *escape } else { 0 });
            format!(r#"{name}:{value},"_{pad}": {}"#, quoted(pad, escape & escape >> 7 & escape >> 13))
        };
        let members: Vec<String> = members.iter().map(member).collect();
        let mut value = format!("{{{}}}", members.join(",")).into_bytes();
        if let Some((at, byte)) = corrupt {
            let at = at.index(value.len());
            value[at] = byte;
        }
        let patterns: Vec<Value> = patterns.into_iter().map(|data| json!({ "value": data })).collect();
        let value = Some(&*value);
        agrees(&patterns, &NaiveRecord { topic: "t", partition: 0, timestamp: 0, key: None, value, headers: &[] })?;
    }

    /// With one list on one field, its result determines the verdict.
    #[test]
    fn single_list_agrees_with_naive_evaluator(
        list in list(),
        values in prop::collection::vec(json_text(), 0..3),
        headers in headers(),
    ) {
        let members: Vec<String> = values.iter().map(|value| format!("\"a\":{value}")).collect();
        let value = format!("{{{}}}", members.join(","));
        for pattern in [json!({ "value": { "a": list } }), json!({ "headers": { "a": list } })] {
            let value = Some(value.as_bytes());
            let sample =
                NaiveRecord { topic: "t", partition: 0, timestamp: 0, key: None, value, headers: &headers };
            agrees(&[pattern], &sample)?;
        }
    }

    /// Numbers are compared by their spelling, not after rounding to a float.
    #[test]
    fn numbers_beyond_float_precision_are_compared_exactly(number in 9_007_199_254_740_000u64..9_007_199_254_750_000, by in 1u64..3) {
        let pattern = format!(r#"{{"value":{{"a":[{{"numeric":[">",{number}]}}]}}}}"#);
        let filters = FilterSet::compile(&[pattern]).expect("a pattern");
        for (found, expected) in [(number, false), (number + by, true), (number - by, false)] {
            let value = format!(r#"{{"a":{found}.0}}"#);
            let subject = FilterSubject {
                topic: "t", partition: 0, timestamp: TimestampMs(0), key: None, value: Some(value.as_bytes()),
                headers: std::iter::empty(),
            };
            prop_assert_eq!(filters.verdict(subject).passes(), expected, "{}", value);
        }
    }
}
