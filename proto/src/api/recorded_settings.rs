//! Settings that a mapping stores and shows but that do not affect its operation. They are the key with which AWS
//! encrypts filters, the metrics and logs that AWS writes for a mapping, and the consumption mode. Lighterman
//! always writes its own metrics and logs.
//!
//! Model: `lambda/2015-03-31/service-2.json` of botocore. AWS writes logs in its provisioned mode only; here they
//! are always written.
//! <https://docs.aws.amazon.com/lambda/latest/api/API_EventSourceMappingMetricsConfig.html>,
//! <https://docs.aws.amazon.com/lambda/latest/dg/esm-logging.html>

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::constraints::RequestViolations;
use super::error::ApiError;

const KEY_BYTES_MAX: usize = 10_000;
const KEY_PATTERN: &str = "(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()";
const METRICS: &[&str] = &["EventCount", "ErrorCount", "KafkaMetrics"];
const LEVELS: &[&str] = &["DEBUG", "INFO", "WARN"];
const MODES: &[&str] = &["Stream", "Queue"];

/// Members of a create or update request that are stored and shown only.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RecordedRequest {
    /// ARN of a key; an empty text removes it.
    #[serde(rename = "KMSKeyArn")]
    pub kms_key_arn: Option<String>,
    /// Selected metrics; `{}` removes the selection.
    pub metrics_config: Option<MetricsConfig>,
    /// Log level; `{}` removes the selection.
    pub logging_config: Option<LoggingConfig>,
}

/// `MetricsConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Metric names, each at most once; an empty list is a valid selection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Vec<String>>,
}

/// `LoggingConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// `DEBUG`, `INFO` or `WARN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_log_level: Option<String>,
}

/// `ConsumptionMode`, as far as it is supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsumptionMode {
    /// In offset order, by a consumer group.
    Stream,
}

/// Settings that a mapping stores for display only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordedSettings {
    kms_key_arn: Option<String>,
    metrics: Option<MetricsConfig>,
    logging: Option<LoggingConfig>,
    consumption_mode: Option<ConsumptionMode>,
}

impl RecordedRequest {
    /// Checks the model's constraints.
    pub(super) fn check_model(&self, found: &mut RequestViolations) {
        if let Some(key) = &self.kms_key_arn {
            found.length(key, "kMSKeyArn", 0, KEY_BYTES_MAX);
            found.pattern(key, "kMSKeyArn", KEY_PATTERN, key.is_empty() || is_key_arn(key));
        }
        let metrics = self.metrics_config.as_ref().and_then(|config| config.metrics.as_deref());
        if let Some(metrics) = metrics {
            let (at, shown) = ("metricsConfig.metrics", format!("[{}]", metrics.join(", ")));
            if metrics.len() > METRICS.len() {
                let constraint = format!("Member must have length less than or equal to {}", METRICS.len());
                found.add(&shown, at, &constraint);
            }
            if metrics.iter().any(|name| !METRICS.contains(&name.as_str())) {
                let values = METRICS.join(", ");
                let constraint = format!(
                    "Member must satisfy constraint: [Member must satisfy enum value set: [{values}]]"
                );
                found.add(&shown, at, &constraint);
            }
        }
        let level = self.logging_config.as_ref().and_then(|config| config.system_log_level.as_deref());
        if let Some(level) = level {
            found.one_of(level, "loggingConfig.systemLogLevel", LEVELS);
        }
    }

    /// Applies a request to the previous settings; members that it omits are unchanged.
    pub(super) fn over(self, before: &RecordedSettings) -> Result<RecordedSettings, ApiError> {
        let mut settings = before.clone();
        if let Some(key) = self.kms_key_arn {
            settings.kms_key_arn = Some(key).filter(|key| !key.is_empty());
        }
        if let Some(config) = self.metrics_config {
            refuse_repeated(config.metrics.as_deref().unwrap_or_default())?;
            settings.metrics = Some(config).filter(|config| config.metrics.is_some());
        }
        if let Some(config) = self.logging_config {
            settings.logging = Some(config).filter(|config| config.system_log_level.is_some());
        }
        Ok(settings)
    }
}

impl RecordedSettings {
    /// Adds the members that are set.
    pub(super) fn show(&self, shown: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        if let Some(key) = &self.kms_key_arn {
            put("KMSKeyArn", json!(key));
        }
        if let Some(metrics) = &self.metrics {
            put("MetricsConfig", json!(metrics));
        }
        if let Some(logging) = &self.logging {
            put("LoggingConfig", json!(logging));
        }
    }

    /// Returns the mode that the caller set.
    pub(super) fn consumption_mode(&self) -> Option<ConsumptionMode> {
        self.consumption_mode
    }

    /// Returns the settings with the mode of a create request.
    pub(super) fn with_consumption_mode(self, consumption_mode: Option<ConsumptionMode>) -> Self {
        Self { consumption_mode, ..self }
    }
}

/// Checks the model's constraint of `ConsumptionMode`.
pub(super) fn check_mode(mode: Option<&str>, found: &mut RequestViolations) {
    if let Some(mode) = mode {
        found.one_of(mode, "selfManagedKafkaEventSourceConfig.consumptionMode", MODES);
    }
}

/// Returns the mode of a request that satisfies the model.
pub(super) fn consumption_mode(mode: Option<&str>) -> Result<Option<ConsumptionMode>, ApiError> {
    match mode {
        None => Ok(None),
        Some("Stream") => Ok(Some(ConsumptionMode::Stream)),
        Some(mode) => Err(ApiError::invalid(format!(
            "ConsumptionMode {mode} is not supported by this version of Lighterman."
        ))),
    }
}

fn refuse_repeated(metrics: &[String]) -> Result<(), ApiError> {
    let repeated = metrics.iter().enumerate().find(|(at, name)| metrics[..*at].contains(name));
    match repeated {
        None => Ok(()),
        Some((_, name)) => Err(ApiError::invalid(format!(
            "Duplicate {name} in MetricsConfig. Metrics must contain each of {} at most once.",
            METRICS.join(", ")
        ))),
    }
}

/// Returns true for `arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*`
fn is_key_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(4, ':').collect();
    let ["arn", partition, service, rest] = parts[..] else { return false };
    let tail = |tail: &str| tail.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    (partition.is_empty() || partition.strip_prefix("aws").is_some_and(tail))
        && !service.is_empty()
        && service.bytes().all(plain)
        && !rest.contains(['\n', '\r'])
}

#[cfg(test)]
mod tests;
