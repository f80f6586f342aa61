//! Fuzz subject: a pattern and, after a zero byte, a record's value, of arbitrary bytes. Nothing panics, and a
//! mistake has a position. Each pattern's verdict is independent of other patterns. Data that `serde_json` rejects
//! as JSON is never refused by a pattern for JSON.

use std::iter;

use lighterman_proto::filter::{DataFormat, FilterSet, FilterSubject, FilterVerdict};
use lighterman_proto::records::Header;
use lighterman_proto::units::TimestampMs;
use serde::de::IgnoredAny;

/// Maximum nesting that the filter reads.
const DEPTH_MAX: usize = 127;

/// Splits and filters `bytes`. Returns 1 if the pattern is valid, so that callers can check that some inputs are
/// valid.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (pattern, value) = (String::from_utf8_lossy(&bytes[..at]), bytes.get(at + 1..));
    let filters = match FilterSet::compile(&[&*pattern]) {
        Ok(filters) => filters,
        Err(mistake) => {
            assert!(mistake.at <= pattern.len() && !mistake.path.is_empty() && !mistake.what.is_empty());
            assert!(pattern.is_char_boundary(mistake.at), "a place between characters: {mistake}");
            return 0;
        }
    };
    let verdict = judge(&filters, value);
    assert!(matches!(verdict, FilterVerdict::Refused | FilterVerdict::Matched(0)));
    let other = r#"{"topic":["no such topic"]}"#;
    let beside = FilterSet::compile(&[other, &*pattern, other]).expect("two good patterns beside each other");
    let expected = if verdict.passes() { FilterVerdict::Matched(1) } else { FilterVerdict::Refused };
    assert_eq!(judge(&beside, value), expected, "a pattern's verdict is its own");
    check_format(value);
    if pattern.starts_with(r#"{"value":{"#) && !pattern.contains("$or") && is_value_alone(&pattern) {
        let unread = matches!(DataFormat::of(value), DataFormat::Plain | DataFormat::Binary);
        assert!(!unread || verdict.passes(), "what cannot be judged is delivered");
    }
    1
}

fn judge(filters: &FilterSet, value: Option<&[u8]>) -> FilterVerdict {
    let headers = iter::once(Header { name: b"h", value });
    let (topic, partition, timestamp) = ("orders", 3, TimestampMs(1_545_084_650_987));
    filters.verdict(FilterSubject { topic, partition, timestamp, key: value, value, headers })
}

/// Checks that the scanner and `serde_json` agree on valid JSON, except for data nested deeper than the scanner
/// reads.
fn check_format(value: Option<&[u8]>) {
    let Some(bytes) = value else { return };
    let text = str::from_utf8(bytes);
    assert_eq!(DataFormat::of(value) == DataFormat::Binary, text.is_err());
    let theirs = text.is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let ours = matches!(DataFormat::of(value), DataFormat::Scalar | DataFormat::Json);
    let opened = bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count();
    assert!(ours == theirs || theirs && opened > DEPTH_MAX, "{}", bytes.escape_ascii());
}

/// Returns true if a pattern refers to the value only.
fn is_value_alone(pattern: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(pattern)
        .is_ok_and(|members| members.len() == 1)
}
