//! Constraints of the API model, with the error texts of AWS's front end, and rejections of features that this
//! version lacks.

use super::error::{ApiError, ErrorKind};
use super::request::{ProvisionedPollers, SourceAccess};

/// Constraint violations of one request. AWS reports all of them at once.
#[derive(Default)]
pub(super) struct RequestViolations(Vec<String>);

impl RequestViolations {
    pub(super) fn add(&mut self, value: &str, at: &str, constraint: &str) {
        self.0.push(format!("Value '{value}' at '{at}' failed to satisfy constraint: {constraint}"));
    }

    /// Adds a missing member, without quotes: AWS shows a missing value as a bare null.
    pub(super) fn absent(&mut self, at: &str) {
        self.0.push(format!("Value null at '{at}' failed to satisfy constraint: Member must not be null"));
    }

    pub(super) fn range(&mut self, value: Option<i64>, at: &str, min: i64, max: i64) {
        let Some(value) = value else { return };
        if value < min {
            self.add(
                &value.to_string(),
                at,
                &format!("Member must have value greater than or equal to {min}"),
            );
        } else if value > max {
            self.add(&value.to_string(), at, &format!("Member must have value less than or equal to {max}"));
        }
    }

    pub(super) fn length(&mut self, value: &str, at: &str, min: usize, max: usize) {
        let length = value.chars().count();
        if length < min {
            self.add(value, at, &format!("Member must have length greater than or equal to {min}"));
        } else if length > max {
            self.add(value, at, &format!("Member must have length less than or equal to {max}"));
        }
    }

    pub(super) fn pattern(&mut self, value: &str, at: &str, pattern: &str, fits: bool) {
        if !fits {
            self.add(value, at, &format!("Member must satisfy regular expression pattern: {pattern}"));
        }
    }

    pub(super) fn one_of(&mut self, value: &str, at: &str, values: &[&str]) {
        if !values.contains(&value) {
            self.add(value, at, &format!("Member must satisfy enum value set: [{}]", values.join(", ")));
        }
    }

    pub(super) fn into_result(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    /// Builds the error; at least one violation must have been added.
    pub(super) fn into_error(self) -> ApiError {
        let (count, all) = (self.0.len(), self.0.join("; "));
        let errors = if count == 1 { "error" } else { "errors" };
        ApiError::new(ErrorKind::Validation, format!("{count} validation {errors} detected: {all}"))
    }
}

/// Types of `SourceAccessConfigurations` in the model.
const ACCESS_TYPES: &[&str] = &[
    "BASIC_AUTH",
    "VPC_SUBNET",
    "VPC_SECURITY_GROUP",
    "SASL_SCRAM_512_AUTH",
    "SASL_SCRAM_256_AUTH",
    "VIRTUAL_HOST",
    "CLIENT_CERTIFICATE_TLS_AUTH",
    "SERVER_ROOT_CA_CERTIFICATE",
    "OAUTHBEARER_AUTH",
    "OAUTHBEARER_SCOPE",
    "OAUTHBEARER_AUDIENCE",
    "OAUTHBEARER_LOGICAL_CLUSTER",
    "OAUTHBEARER_IDENTITY_POOL",
    "IAM_AUTH",
    "IAM_OAUTHBEARER_AUTH",
];
const URI_PATTERN: &str = "[ a-zA-Z0-9-\\/*:_+=.@-]*";
const TOPIC_PATTERN: &str = "^[^.]([a-zA-Z0-9\\-_.]+)";

pub(super) fn is_uri_text(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || " -/*:_+=.@".contains(c))
}

pub(super) fn topics(topics: Option<&[String]>, found: &mut RequestViolations) {
    let Some(topics) = topics else { return };
    if topics.len() != 1 {
        let shown = format!("[{}]", topics.join(", "));
        let side = if topics.is_empty() { "greater" } else { "less" };
        found.add(&shown, "topics", &format!("Member must have length {side} than or equal to 1"));
    }
    for topic in topics {
        found.length(topic, "topics.1.member", 1, 249);
        let tail = topic.chars().skip(1).all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let fits = topic.len() >= 2 && !topic.starts_with('.') && tail;
        found.pattern(topic, "topics.1.member", TOPIC_PATTERN, fits || topic.is_empty());
    }
}

pub(super) fn pollers(pollers: Option<&ProvisionedPollers>, found: &mut RequestViolations) {
    let Some(pollers) = pollers else { return };
    found.range(pollers.minimum_pollers, "provisionedPollerConfig.minimumPollers", 1, 200);
    found.range(pollers.maximum_pollers, "provisionedPollerConfig.maximumPollers", 1, 2000);
    if let Some(name) = &pollers.poller_group_name {
        let at = "provisionedPollerConfig.pollerGroupName";
        found.length(name, at, 0, 128);
        let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        found.pattern(name, at, "[a-zA-Z0-9-_]*", fits);
    }
}

/// Checks that the minimum does not exceed the maximum.
pub(super) fn poller_order(pollers: Option<&ProvisionedPollers>) -> Result<(), ApiError> {
    let Some(pollers) = pollers else { return Ok(()) };
    match (pollers.minimum_pollers, pollers.maximum_pollers) {
        (Some(minimum), Some(maximum)) if minimum > maximum => Err(ApiError::invalid(format!(
            "MinimumPollers ({minimum}) must not be above MaximumPollers ({maximum})."
        ))),
        _ => Ok(()),
    }
}

/// Checks access configurations against the model.
pub(super) fn access(list: &[SourceAccess], found: &mut RequestViolations) {
    if list.len() > 23 {
        found.add(
            &format!("{} members", list.len()),
            "sourceAccessConfigurations",
            "Member must have length less than or equal to 23",
        );
    }
    for (index, access) in list.iter().enumerate() {
        let at = |member: &str| format!("sourceAccessConfigurations.{}.member.{member}", index + 1);
        found.one_of(&access.kind, &at("type"), ACCESS_TYPES);
        if let Some(uri) = &access.uri {
            found.length(uri, &at("uRI"), 1, 200);
            found.pattern(uri, &at("uRI"), URI_PATTERN, is_uri_text(uri));
        }
    }
}

/// Checks access configurations in combination; rejects types that this version does not support, by name.
pub(super) fn access_combination(list: &[SourceAccess]) -> Result<(), ApiError> {
    let has = |kind: &str| list.iter().any(|access| access.kind == kind);
    if has("VPC_SUBNET") != has("VPC_SECURITY_GROUP") {
        return Err(ApiError::invalid("VPC_SUBNET and VPC_SECURITY_GROUP must be given together."));
    }
    let unbuilt = list.iter().find(|access| {
        ACCESS_TYPES.contains(&access.kind.as_str())
            && !matches!(&*access.kind, "VPC_SUBNET" | "VPC_SECURITY_GROUP")
    });
    match unbuilt {
        Some(access) => Err(ApiError::invalid(format!(
            "SourceAccessConfigurations type {} is not supported by this version of Lighterman. \
             For a cluster without authentication give VPC_SUBNET and VPC_SECURITY_GROUP (recorded, not used).",
            access.kind
        ))),
        None => Ok(()),
    }
}

/// Returns true for a region: `(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}`
pub(super) fn is_region(text: &str) -> bool {
    let parts: Vec<&str> = text.strip_prefix("eusc-").unwrap_or(text).split('-').collect();
    let lower = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let digit = |part: &str| part.len() == 1 && part.bytes().all(|byte| byte.is_ascii_digit());
    let special = |part: &str| {
        part == "gov"
            || part.strip_prefix("iso").is_some_and(|rest| rest.is_empty() || rest.len() == 1 && lower(rest))
    };
    match parts[..] {
        [country, side, number] => country.len() == 2 && lower(country) && lower(side) && digit(number),
        [country, kind, side, number] => {
            country.len() == 2 && lower(country) && special(kind) && lower(side) && digit(number)
        }
        _ => false,
    }
}

/// Returns true for an account id of twelve digits.
pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns true for 8-4-4-4-12 hexadecimal digits.
pub(super) fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    lengths.eq([8, 4, 4, 4, 12]) && hexadecimal
}
