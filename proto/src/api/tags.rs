//! Tags of a mapping, and the ARNs by which the tag operations name their target.
//!
//! Model: `lambda/2017-03-31/tags` of botocore's `service-2.json`; rejections of ARNs: recorded from AWS.

use std::collections::BTreeMap;

use super::constraints::{self, RequestViolations};
use super::error::{ApiError, ErrorKind};
use super::failure_policy::check_our_tags;
use super::mapping::Mapping;

const TAGS_MAX: usize = 50;
const RESOURCE_CHARACTERS_MAX: usize = 10_000;
const KEY_CHARACTERS_MAX: usize = 128;
const VALUE_CHARACTERS_MAX: usize = 256;
const TEXT_PATTERN: &str = "([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)";
const RESOURCE_PATTERN: &str = "arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\\d{1}:\\d{12}:\
     (function:[a-zA-Z0-9-_]+(:(\\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|\
     event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|\
     capacity-provider:[a-zA-Z0-9-_]+)";

/// Checks that `resource` is an ARN of a taggable resource; fails with AWS's error otherwise.
pub fn check_tag_resource(resource: &str) -> Result<(), ApiError> {
    let mut found = RequestViolations::default();
    found.length(resource, "resource", 1, RESOURCE_CHARACTERS_MAX);
    found.pattern(resource, "resource", RESOURCE_PATTERN, is_tag_resource(resource));
    found.into_result()
}

/// Returns AWS's error for a tag target that does not exist.
pub fn tag_resource_not_found(resource: &str) -> ApiError {
    let kind = match resource.split(':').nth(5) {
        Some("function") => "Function",
        Some("layer") => "Layer",
        Some("code-signing-config") => "Code signing config",
        Some("capacity-provider") => "Capacity provider",
        _ => "Event source mapping",
    };
    ApiError::new(ErrorKind::ResourceNotFound, format!("{kind} not found: {resource}"))
}

/// Returns `Tags` of a tag request; fails if missing.
pub fn required_tags(tags: Option<BTreeMap<String, String>>) -> Result<BTreeMap<String, String>, ApiError> {
    required(tags, "tags")
}

/// Returns `tagKeys` of an untag request; fails if missing.
pub fn required_tag_keys(keys: Vec<String>) -> Result<Vec<String>, ApiError> {
    required(Some(keys).filter(|keys| !keys.is_empty()), "tagKeys")
}

fn required<T>(given: Option<T>, at: &str) -> Result<T, ApiError> {
    given.ok_or_else(|| {
        let mut found = RequestViolations::default();
        found.absent(at);
        found.into_error()
    })
}

/// Checks lengths and characters against the model, the number of tags, and Lighterman's own tags.
pub(super) fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let mut found = RequestViolations::default();
    let wrong = |text: &str, range: std::ops::RangeInclusive<usize>| {
        !range.contains(&text.chars().count()) || !text.chars().all(is_tag_character)
    };
    let pairs: Vec<String> = tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let shown = format!("{{{}}}", pairs.join(", "));
    if tags.keys().any(|key| wrong(key, 1..=KEY_CHARACTERS_MAX)) {
        found.add(&shown, "tags", &map_constraint("keys", 1, KEY_CHARACTERS_MAX));
    }
    if tags.values().any(|value| wrong(value, 0..=VALUE_CHARACTERS_MAX)) {
        found.add(&shown, "tags", &map_constraint("value", 0, VALUE_CHARACTERS_MAX));
    }
    found.into_result()?;
    if tags.len() > TAGS_MAX {
        return Err(ApiError::invalid("Number of tags exceeds resource tag limit."));
    }
    check_our_tags(tags)
}

fn map_constraint(side: &str, min: usize, max: usize) -> String {
    format!(
        "Map {side} must satisfy constraint: [Member must have length less than or equal to {max}, \
         Member must have length greater than or equal to {min}, \
         Member must satisfy regular expression pattern: {TEXT_PATTERN}]"
    )
}

/// Returns true for letters, numbers, separators (`\p{Z}`: no tabs, no line ends) and a few signs.
fn is_tag_character(c: char) -> bool {
    let separator = c.is_whitespace() && !c.is_control();
    c.is_alphanumeric() || separator || "_.:/=+-@".contains(c)
}

fn is_tag_resource(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(7, ':').collect();
    let ["arn", partition, "lambda", region, account, kind, name] = parts[..] else { return false };
    let partition = partition.strip_prefix("aws");
    let plain = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let function = |name: &str| match name.split_once(':') {
        None => plain(name),
        Some((name, qualifier)) => plain(name) && (qualifier == "$LATEST" || plain(qualifier)),
    };
    let named = match kind {
        "function" => function(name),
        "layer" | "capacity-provider" => plain(name),
        "code-signing-config" => name.strip_prefix("csc-").is_some_and(|id| {
            id.len() == 17 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        }),
        "event-source-mapping" => constraints::is_uuid(name),
        _ => false,
    };
    partition.is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-'))
        && constraints::is_region(region)
        && constraints::is_account(account)
        && named
}

impl Mapping {
    /// Returns the mapping's tags merged with `added`, which takes precedence.
    pub fn tagged(&self, added: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ApiError> {
        let mut tags = self.tags.clone();
        tags.extend(added);
        check_tags(&tags)?;
        Ok(tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str =
        "arn:aws:lambda:eu-west-1:111111111111:event-source-mapping:01234567-89ab-cdef-0123-456789ABCDEF";

    fn tags(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn tag_target_is_checked_against_arn_pattern() {
        for good in [
            ARN,
            "arn:aws-cn:lambda:cn-north-1:111111111111:function:f_1:$LATEST",
            "arn:aws:lambda:us-gov-west-1:111111111111:layer:l",
            "arn:aws:lambda:us-isob-east-1:111111111111:code-signing-config:csc-0123456789abcdefg",
        ] {
            check_tag_resource(good).expect(good);
        }
        for wrong in [
            format!("{ARN}:alias"),
            ARN.replace("event-source-mapping", "foobar"),
            ARN.replace("eu-west-1", "nowhere"),
            ARN.replace("111111111111", "1111"),
            ARN.replace("arn:aws:", "arn:gcp:"),
            ARN.replace("lambda", "sqs"),
            "01234567-89ab-cdef-0123-456789abcdef".to_owned(),
            "a".to_owned(),
        ] {
            let error = check_tag_resource(&wrong).expect_err(&wrong);
            assert_eq!(error.kind, ErrorKind::Validation);
            let text = format!(
                "1 validation error detected: Value '{wrong}' at 'resource' failed to satisfy constraint: \
                 Member must satisfy regular expression pattern: {RESOURCE_PATTERN}"
            );
            assert_eq!(error.message, text);
        }
        assert_eq!(tag_resource_not_found(ARN).message, format!("Event source mapping not found: {ARN}"));
    }

    #[test]
    fn tags_are_checked_by_the_model() {
        check_tags(&tags("a b\u{a0}é_.:/=+-@7", "")).expect("the model's characters");
        let long = "k".repeat(129);
        for (key, value, side) in [
            ("", "v", "Map keys"),
            (long.as_str(), "v", "Map keys"),
            ("a\tb", "v", "Map keys"),
            ("a&b", "v", "Map keys"),
            ("k", "line\nend", "Map value"),
            ("k", "<script>", "Map value"),
        ] {
            let error = check_tags(&tags(key, value)).expect_err(key);
            assert_eq!(error.kind, ErrorKind::Validation);
            assert!(error.message.contains("at 'tags'") && error.message.contains(side), "{error}");
        }
        let many = (0..51).map(|number| (format!("k{number}"), String::new())).collect();
        let error = check_tags(&many).expect_err("too many");
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::InvalidParameterValue, "Number of tags exceeds resource tag limit.")
        );
    }

    #[test]
    fn missing_tags_are_rejected_with_aws_text() {
        let text = |at: &str| {
            format!(
                "1 validation error detected: Value null at '{at}' failed to satisfy constraint: Member must not be null"
            )
        };
        assert_eq!(required_tags(None).expect_err("missing").message, text("tags"));
        assert_eq!(required_tag_keys(Vec::new()).expect_err("missing").message, text("tagKeys"));
    }
}
