//! Naive evaluator of the filter language, written after the documentation as simply as possible. It works on
//! trees of `serde_json` text, merges and borrows nothing, and evaluates each filter on its own.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// JSON tree whose numbers keep their spelling.
#[derive(Debug)]
enum JsonTree {
    Object(BTreeMap<String, JsonTree>),
    List(Vec<JsonTree>),
    Text(String),
    Token(String),
}

/// Bytes of a header's value, of a key or of a value; `None` is null.
pub(crate) type RecordPart<'a> = Option<&'a [u8]>;

/// Record as a filter sees it.
pub(crate) struct NaiveRecord<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) timestamp: i64,
    pub(crate) key: RecordPart<'a>,
    pub(crate) value: RecordPart<'a>,
    pub(crate) headers: &'a [(Vec<u8>, Option<Vec<u8>>)],
}

/// Returns the first filter that matches, counted from 0.
pub(crate) fn first_match(patterns: &[Value], sample: &NaiveRecord<'_>) -> Option<usize> {
    patterns.iter().position(|pattern| all(pattern, &|name, wanted| record(name, wanted, sample)))
}

/// Returns true if all members of a pattern's object match; `$or` matches if one of its objects does.
fn all(pattern: &Value, holds: &dyn Fn(&str, &Value) -> bool) -> bool {
    pattern.as_object().expect("an object").iter().all(|(name, wanted)| match name.as_str() {
        "$or" => wanted.as_array().expect("a list").iter().any(|one| all(one, holds)),
        _ => holds(name, wanted),
    })
}

fn record(name: &str, wanted: &Value, sample: &NaiveRecord<'_>) -> bool {
    match name {
        "topic" => scalar(wanted, Some(sample.topic), None),
        "partition" => scalar(wanted, None, Some(&sample.partition.to_string())),
        "timestamp" => scalar(wanted, None, Some(&sample.timestamp.to_string())),
        "headers" => all(wanted, &|name, list| header(name, list, sample.headers)),
        "key" => data(wanted, sample.key),
        "value" => data(wanted, sample.value),
        other => panic!("no field {other}"),
    }
}

fn header(name: &str, list: &Value, headers: &[(Vec<u8>, Option<Vec<u8>>)]) -> bool {
    let named: Vec<_> = headers.iter().filter(|(known, _)| known == name.as_bytes()).collect();
    if named.is_empty() {
        return absent_list(list);
    }
    named.iter().any(|(_, value)| match value {
        None => scalar(list, None, Some("null")),
        Some(bytes) => {
            let text = str::from_utf8(bytes).expect("the headers of these tests are UTF-8");
            let token = match read(text) {
                Some(JsonTree::Token(token)) => Some(token),
                _ => None,
            };
            scalar(list, Some(text), token.as_deref())
        }
    })
}

/// Implements AWS's table of message and pattern formats.
fn data(wanted: &Value, bytes: RecordPart<'_>) -> bool {
    let presence_only = |list: &[Value]| list.iter().all(|one| one.is_null() || one.get("exists").is_some());
    let unread = |list: &[Value]| !presence_only(list) || list.iter().any(|one| one["exists"] == true);
    let Some(bytes) = bytes else {
        return match wanted {
            Value::Array(list) => list.iter().any(|one| one.is_null() || one["exists"] == false),
            object => absent(object),
        };
    };
    let text = str::from_utf8(bytes).ok();
    match (wanted, text, text.and_then(read)) {
        (Value::Array(list), None, _) => unread(list),
        (Value::Array(list), _, Some(JsonTree::Object(_) | JsonTree::List(_))) => unread(list),
        (list @ Value::Array(_), _, Some(JsonTree::Text(text))) => scalar(list, Some(&text), None),
        (list @ Value::Array(_), text, Some(JsonTree::Token(token))) => scalar(list, text, Some(&token)),
        (list @ Value::Array(_), text, None) => scalar(list, text, None),
        (_, None, _) | (_, _, None) => true,
        (object, _, Some(tree)) => fits(object, &tree),
    }
}

/// Matches a field's value, or one element of it as a whole, against an object of the pattern.
fn fits(object: &Value, tree: &JsonTree) -> bool {
    match tree {
        JsonTree::Object(members) => all(object, &|name, wanted| match (wanted, members.get(name)) {
            (Value::Array(_), None) => absent_list(wanted),
            (_, None) => absent(wanted),
            (Value::Array(_), Some(found)) => list_fits(wanted, found),
            (_, Some(found)) => fits(wanted, found),
        }),
        JsonTree::List(_) => {
            let elements = flat(tree);
            let mut objects = elements.iter().filter(|one| matches!(one, JsonTree::Object(_))).peekable();
            if objects.peek().is_none() { absent(object) } else { objects.any(|one| fits(object, one)) }
        }
        JsonTree::Text(_) | JsonTree::Token(_) => absent(object),
    }
}

/// Matches any leaf of a field's value against a list of the pattern.
fn list_fits(list: &Value, tree: &JsonTree) -> bool {
    let elements = flat(tree);
    let leaves: Vec<_> =
        elements.into_iter().filter(|one| matches!(one, JsonTree::Text(_) | JsonTree::Token(_))).collect();
    if leaves.is_empty() {
        return absent_list(list);
    }
    leaves.into_iter().any(|leaf| match leaf {
        JsonTree::Text(text) => scalar(list, Some(text), None),
        JsonTree::Token(token) => scalar(list, None, Some(token)),
        JsonTree::Object(_) | JsonTree::List(_) => unreachable!("a leaf"),
    })
}

fn flat(tree: &JsonTree) -> Vec<&JsonTree> {
    match tree {
        JsonTree::List(elements) => elements.iter().flat_map(flat).collect(),
        other => vec![other],
    }
}

fn absent(object: &Value) -> bool {
    all(object, &|_, wanted| if wanted.is_array() { absent_list(wanted) } else { absent(wanted) })
}

fn absent_list(list: &Value) -> bool {
    list.as_array().expect("a list").iter().any(|one| one["exists"] == false)
}

/// Matches a leaf against the elements of a list.
fn scalar(list: &Value, text: Option<&str>, token: Option<&str>) -> bool {
    list.as_array().expect("a list").iter().any(|one| part(one, text, token))
}

fn part(one: &Value, text: Option<&str>, token: Option<&str>) -> bool {
    let (name, operand) = match one {
        Value::String(wanted) => return text == Some(wanted),
        Value::Object(members) => members.iter().next().expect("an operator"),
        literal => return token == Some(&literal.to_string()),
    };
    match name.as_str() {
        "exists" => *operand == true,
        "equals-ignore-case" => text.is_some_and(|text| lower(text) == lower_of(operand)),
        "prefix" | "suffix" => text.is_some_and(|text| affix(name, operand, text)),
        "numeric" => token.and_then(number).is_some_and(|ours| {
            operand.as_array().expect("a list").chunks(2).all(|pair| {
                let theirs = number(&pair[1].to_string()).expect("a number");
                match pair[0].as_str().expect("a sign") {
                    "=" => ours == theirs,
                    "<" => ours < theirs,
                    "<=" => ours <= theirs,
                    ">" => ours > theirs,
                    ">=" => ours >= theirs,
                    sign => panic!("{sign}"),
                }
            })
        }),
        "anything-but" => !refused(operand, text, token),
        other => panic!("no operator {other}"),
    }
}

fn refused(operand: &Value, text: Option<&str>, token: Option<&str>) -> bool {
    match operand {
        Value::Array(many) => many.iter().any(|one| refused(one, text, token)),
        Value::Object(members) => members.iter().any(|(name, inner)| {
            let many = inner.as_array().map_or_else(|| std::slice::from_ref(inner), Vec::as_slice);
            many.iter().any(|one| part(&serde_json::json!({ name: one }), text, token))
        }),
        Value::Number(wanted) => {
            token.and_then(number).is_some_and(|ours| Some(ours) == number(&wanted.to_string()))
        }
        other => part(other, text, token),
    }
}

fn affix(name: &str, operand: &Value, text: &str) -> bool {
    let (text, wanted) = match operand.get("equals-ignore-case") {
        Some(inner) => (lower(text), lower_of(inner)),
        None => (text.to_owned(), operand.as_str().expect("a string").to_owned()),
    };
    if name == "prefix" { text.starts_with(&wanted) } else { text.ends_with(&wanted) }
}

fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

fn lower_of(operand: &Value) -> String {
    lower(operand.as_str().expect("a string"))
}

/// Parses a number and multiplies it by 10¹²; `None` if it is not a number. The numbers of these tests have few
/// digits.
fn number(token: &str) -> Option<i128> {
    if !token.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
        return None;
    }
    let (digits, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all: i128 = format!("{whole}{fraction}").parse().expect("few digits");
    let places: i32 = exponent.parse::<i32>().expect("a small exponent") - fraction.len() as i32 + 12;
    let scale = 10i128.pow(places.unsigned_abs());
    assert!(places >= 0 || all % scale == 0, "{token} has too many places for this test");
    Some(if places < 0 { all / scale } else { all * scale })
}

fn read(text: &str) -> Option<JsonTree> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    Some(match raw.get().as_bytes()[0] {
        b'{' => {
            let members: BTreeMap<String, Box<RawValue>> = serde_json::from_str(raw.get()).ok()?;
            let each = |(name, raw): (String, Box<RawValue>)| Some((name, read(raw.get())?));
            JsonTree::Object(members.into_iter().map(each).collect::<Option<_>>()?)
        }
        b'[' => {
            let elements: Vec<Box<RawValue>> = serde_json::from_str(raw.get()).ok()?;
            JsonTree::List(elements.iter().map(|raw| read(raw.get())).collect::<Option<_>>()?)
        }
        b'"' => JsonTree::Text(serde_json::from_str(raw.get()).ok()?),
        _ => JsonTree::Token(raw.get().to_owned()),
    })
}
