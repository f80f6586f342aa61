//! Constraints of the model, with the front end's text; and what this version refuses by name.

use std::collections::BTreeMap;

use serde_json::Value;

use super::error::{ApiError, ErrorKind};
use super::request::{ProvisionedPollers, SourceAccess};

/// Collects violations of one request; AWS tells all of them at once.
#[derive(Default)]
pub(super) struct Violations(Vec<String>);

impl Violations {
    pub(super) fn add(&mut self, value: &str, at: &str, constraint: &str) {
        self.0.push(format!("Value '{value}' at '{at}' failed to satisfy constraint: {constraint}"));
    }

    /// Without quotes: AWS writes a value that is not there as a bare null.
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
        match self.0.len() {
            0 => Ok(()),
            1 => Err(ApiError::new(
                ErrorKind::Validation,
                format!("1 validation error detected: {}", self.0[0]),
            )),
            many => {
                let all = self.0.join("; ");
                Err(ApiError::new(ErrorKind::Validation, format!("{many} validation errors detected: {all}")))
            }
        }
    }
}

/// The types of `SourceAccessConfigurations` that the model knows.
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
const URI_PATTERN: &str = "[a-zA-Z0-9-\\/*:_+=.@-]*";
const TOPIC_PATTERN: &str = "^[^.]([a-zA-Z0-9\\-_.]+)";

pub(super) fn is_uri_text(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || " -/*:_+=.@".contains(c))
}

pub(super) fn topics(topics: Option<&[String]>, found: &mut Violations) {
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

pub(super) fn pollers(pollers: Option<&ProvisionedPollers>, found: &mut Violations) -> Result<(), ApiError> {
    let Some(pollers) = pollers else { return Ok(()) };
    found.range(pollers.minimum_pollers, "provisionedPollerConfig.minimumPollers", 1, 200);
    found.range(pollers.maximum_pollers, "provisionedPollerConfig.maximumPollers", 1, 2000);
    if let Some(name) = &pollers.poller_group_name {
        let at = "provisionedPollerConfig.pollerGroupName";
        found.length(name, at, 0, 128);
        let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        found.pattern(name, at, "[a-zA-Z0-9-_]*", fits);
    }
    match (pollers.minimum_pollers, pollers.maximum_pollers) {
        (Some(minimum), Some(maximum)) if minimum > maximum => Err(ApiError::invalid(format!(
            "MinimumPollers ({minimum}) must not be above MaximumPollers ({maximum})."
        ))),
        _ => Ok(()),
    }
}

/// Access configurations: shape by the model; kinds that need what is not built yet are refused by name.
pub(super) fn access(list: &[SourceAccess], found: &mut Violations) -> Result<(), ApiError> {
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

/// Members that ask for nothing may be there; those that ask for what this version cannot do are refused by name, because
/// a mapping that silently does something else would lose what its owner counted on.
pub(super) fn rest(rest: &BTreeMap<String, Value>) -> Result<(), ApiError> {
    const RECORDED: &[&str] = &["MetricsConfig", "LoggingConfig", "KMSKeyArn"];
    const STREAMS_ONLY: &[&str] = &[
        "ParallelizationFactor",
        "TumblingWindowInSeconds",
        "ScalingConfig",
        "Queues",
        "DocumentDBEventSourceConfig",
    ];
    for (name, value) in rest {
        let asks_for_nothing = match value {
            Value::Null => true,
            Value::Bool(asked) => !asked,
            Value::Number(number) => number.as_i64() == Some(-1),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(_) => is_hollow(value),
        };
        if asks_for_nothing || RECORDED.contains(&name.as_str()) {
            continue;
        }
        if STREAMS_ONLY.contains(&name.as_str()) {
            let parameter = lower_first(name);
            let text = format!("Unsupported '{parameter}' parameter for given event source mapping type.");
            return Err(ApiError::invalid(text));
        }
        if name == "AmazonManagedKafkaEventSourceConfig" {
            return Err(ApiError::invalid(format!("{name} is not supported by this version of Lighterman.")));
        }
    }
    Ok(())
}

/// An object in which nothing is set.
fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.values().all(is_hollow),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn lower_first(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(characters).collect()
}
