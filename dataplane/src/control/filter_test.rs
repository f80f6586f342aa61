//! Test of filters on sample records, for `POST /lighterman/v1/filters/test` and `lighterman filter test`.

use std::collections::BTreeMap;

use lighterman_proto::api::{ApiError, FilterCriteria, FilterRequest};
use lighterman_proto::filter::{DataFormat, FilterSubject, FilterVerdict};
use lighterman_proto::records::Header;
use lighterman_proto::units::TimestampMs;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

const RECORDS_MAX: usize = 1_000;

/// Body of `POST /lighterman/v1/filters/test`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct TrialRequest {
    /// Filter criteria as in a mapping.
    pub filter_criteria: FilterRequest,
    /// Sample records, at most 1,000.
    pub records: Vec<FilterSample>,
}

/// Sample record, its members named as in a pattern. A string `value` or `key` is that text. An object, list, number,
/// `true` or `false` is that JSON as written. Null or absent is null. Arbitrary bytes are given as base64.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FilterSample {
    value: Option<Box<RawValue>>,
    value_base64: Option<String>,
    key: Option<Box<RawValue>>,
    key_base64: Option<String>,
    headers: SampleHeaders,
    topic: String,
    partition: i32,
    timestamp: i64,
}

/// Headers of a sample: a map, or a list in order as in an event, where a name can repeat. A value is a text, a list
/// of bytes, or null.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SampleHeaders {
    Named(BTreeMap<String, Value>),
    Listed(Vec<BTreeMap<String, Value>>),
}

impl Default for SampleHeaders {
    fn default() -> Self {
        Self::Listed(Vec::new())
    }
}

/// Result of the filters for one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterTest {
    /// Decision whether the record is delivered, with the reason.
    pub verdict: FilterVerdict,
    /// Format of the key as the filters see it.
    pub key: DataFormat,
    /// Format of the value as the filters see it. It explains why a record passes whose value no pattern can match.
    pub value: DataFormat,
}

impl TrialRequest {
    /// Runs the filters and returns one result per record.
    pub fn run(self) -> Result<Value, ApiError> {
        if self.records.len() > RECORDS_MAX {
            return Err(ApiError::invalid(format!("Records must have at most {RECORDS_MAX} records.")));
        }
        let criteria = self.filter_criteria.criteria()?;
        let each = |(index, sample): (usize, &FilterSample)| {
            let trial = sample.trial(&criteria);
            let trial =
                trial.map_err(|wrong| ApiError::invalid(format!("Record {}: {wrong}.", index + 1)))?;
            Ok(trial.shown())
        };
        let results: Vec<Value> =
            self.records.iter().enumerate().map(each).collect::<Result<_, ApiError>>()?;
        Ok(json!({ "Results": results }))
    }
}

impl FilterSample {
    /// Applies `criteria` to the sample. The error names what makes the sample invalid.
    pub fn trial(&self, criteria: &FilterCriteria) -> Result<FilterTest, String> {
        let value = bytes("value", self.value.as_deref(), self.value_base64.as_deref())?;
        let key = bytes("key", self.key.as_deref(), self.key_base64.as_deref())?;
        let headers = self.headers.read()?;
        let subject = FilterSubject {
            topic: self.topic.as_str(),
            partition: self.partition,
            timestamp: TimestampMs(self.timestamp),
            key: key.as_deref(),
            value: value.as_deref(),
            headers: headers
                .iter()
                .map(|(name, value)| Header { name: name.as_bytes(), value: value.as_deref() }),
        };
        Ok(FilterTest::of(subject, criteria))
    }
}

impl FilterTest {
    /// Applies `criteria` to a record that has only a value.
    pub fn of_value(value: &[u8], criteria: &FilterCriteria) -> Self {
        let (topic, partition, timestamp) = ("", 0, TimestampMs(0));
        let headers = std::iter::empty();
        Self::of(
            FilterSubject { topic, partition, timestamp, key: None, value: Some(value), headers },
            criteria,
        )
    }

    fn of<'a>(
        subject: FilterSubject<'a, impl Iterator<Item = Header<'a>>>,
        criteria: &FilterCriteria,
    ) -> Self {
        let (key, value) = (DataFormat::of(subject.key), DataFormat::of(subject.value));
        Self { verdict: criteria.compiled().verdict(subject), key, value }
    }

    /// Returns the number of the filter that matched, from 1.
    pub fn filter(self) -> Option<usize> {
        match self.verdict {
            FilterVerdict::Matched(filter) => Some(filter + 1),
            FilterVerdict::Unfiltered | FilterVerdict::Refused => None,
        }
    }

    /// Returns the result in the API's format.
    pub fn shown(self) -> Value {
        json!({
            "Matched": self.verdict.passes(),
            "Filter": self.filter(),
            "KeyFormat": self.key.label(),
            "ValueFormat": self.value.label(),
        })
    }
}

impl SampleHeaders {
    fn read(&self) -> Result<Vec<(&str, Option<Vec<u8>>)>, String> {
        let all: Vec<(&String, &Value)> = match self {
            Self::Named(named) => named.iter().collect(),
            Self::Listed(list) => list.iter().flatten().collect(),
        };
        all.into_iter().map(|(name, value)| Ok((name.as_str(), header(name, value)?))).collect()
    }
}

/// Returns the bytes of a header's value, or `None` for null.
fn header(name: &str, value: &Value) -> Result<Option<Vec<u8>>, String> {
    let wrong = || format!("header `{name}` is neither a text nor a list of bytes nor null");
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone().into_bytes())),
        Value::Array(bytes) => {
            bytes.iter().map(byte).collect::<Option<Vec<u8>>>().map(Some).ok_or_else(wrong)
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => Err(wrong()),
    }
}

/// Reads a byte. Events write bytes as signed numbers.
fn byte(value: &Value) -> Option<u8> {
    value.as_i64().filter(|byte| (-128..256).contains(byte)).map(|byte| byte as u8)
}

fn bytes(name: &str, raw: Option<&RawValue>, base64: Option<&str>) -> Result<Option<Vec<u8>>, String> {
    match (raw, base64) {
        (Some(_), Some(_)) => Err(format!("it has {name} and {name}Base64: give one")),
        (None, None) => Ok(None),
        (None, Some(text)) => match aws_smithy_types::base64::decode(text) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("{name}Base64 is no base64: {error}")),
        },
        (Some(raw), None) if raw.get().starts_with('"') => {
            let text: String = serde_json::from_str(raw.get()).map_err(|error| format!("{name}: {error}"))?;
            Ok(Some(text.into_bytes()))
        }
        (Some(raw), None) => Ok(Some(raw.get().as_bytes().to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use lighterman_proto::api::ErrorKind;

    use super::*;

    fn run(body: &str) -> Result<Value, ApiError> {
        serde_json::from_str::<TrialRequest>(body).expect("a request").run()
    }

    #[test]
    fn samples_are_tested_as_written() {
        let reply = run(
            r#"{"FilterCriteria":{"Filters":[
                {"Pattern":"{\"value\":{\"price\":[3.0e2]}}"},
                {"Pattern":"{\"headers\":{\"h\":[\"é\"]},\"partition\":[7]}"},
                {"Pattern":"{\"key\":[\"k\"],\"value\":[{\"exists\":true}]}"}]},
            "Records":[
                {"value":{"price":3.0e2}}, {"value":{"price":300}}, {"value":"plain"}, {"value":"{\"price\":3.0e2}"},
                {"value":null,"headers":{"h":"é"},"partition":7}, {"headers":[{"h":[-61,-87]}],"partition":7},
                {"headers":[{"h":null}],"partition":7}, {"keyBase64":"aw==","valueBase64":"/w=="}, {"key":"k"}]}"#,
        )
        .expect("a reply");
        let filters: Vec<Option<u64>> =
            reply["Results"].as_array().expect("a list").iter().map(|one| one["Filter"].as_u64()).collect();
        assert_eq!(
            filters,
            [Some(1), None, Some(1), Some(1), Some(2), Some(2), None, Some(1), None],
            "{reply:#}"
        );
        let third = json!({ "Matched": true, "Filter": 1, "KeyFormat": "null", "ValueFormat": "text" });
        assert_eq!(reply["Results"][2], third, "not JSON: passes, and the format shows it");
        assert_eq!(reply["Results"][7]["ValueFormat"], "not UTF-8");
        assert_eq!(reply["Results"][8]["Matched"], false);
    }

    #[test]
    fn invalid_requests_are_rejected_with_reason() {
        let told = |body: &str| run(body).expect_err("refused");
        let wrong = told(r#"{"FilterCriteria":{"Filters":[{"Pattern":"{\"value\":1}"}]},"Records":[]}"#);
        assert_eq!(wrong.kind, ErrorKind::InvalidParameterValue);
        assert!(wrong.message.starts_with("Invalid filter pattern definition. See filter 1, value (byte 9)"));
        for (record, expected) in [
            (r#"{"value":1,"valueBase64":"aw=="}"#, "Record 2: it has value and valueBase64: give one."),
            (r#"{"keyBase64":"?"}"#, "Record 2: keyBase64 is no base64"),
            (r#"{"headers":{"h":300}}"#, "Record 2: header `h` is neither"),
            (r#"{"headers":[{"h":[300]}]}"#, "Record 2: header `h` is neither"),
        ] {
            let told = told(&format!(r#"{{"FilterCriteria":{{}},"Records":[{{}},{record}]}}"#));
            assert!(told.message.starts_with(expected), "{told}");
        }
        let many = format!(r#"{{"FilterCriteria":{{}},"Records":[{}]}}"#, vec!["{}"; 1_001].join(","));
        assert!(told(&many).message.contains("at most 1000"));
        let unknown =
            serde_json::from_str::<TrialRequest>(r#"{"FilterCriteria":{},"Records":[{"offset":1}]}"#);
        assert!(unknown.expect_err("unknown").to_string().contains("unknown field `offset`"));
    }
}
