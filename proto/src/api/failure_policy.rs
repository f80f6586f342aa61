//! Failure handling of a mapping: the request members, their constraints, and the stored policy.
//!
//! Model: `lambda/2015-03-31/service-2.json` of botocore. Options that AWS limits to its provisioned mode are
//! always available here. Two options without a member in AWS's API are set by tags, so that every AWS client can
//! set them: [`ON_DESTINATION_FAILURE_TAG`] and [`PARTIAL_RESPONSE_TAG`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::constraints::RequestViolations;
use super::destination::{self, FailureDestination};
use super::error::ApiError;
use super::mapping::Mapping;

/// Retry limit with a destination and without a limit from the user, as in AWS.
/// <https://docs.aws.amazon.com/lambda/latest/dg/kafka-retry-configurations.html>
pub const RETRIES_WITH_DESTINATION: u32 = 10;
/// Tag for the behaviour while the destination rejects messages: `hold` (the default) or `drop`.
pub const ON_DESTINATION_FAILURE_TAG: &str = "lighterman:on-destination-failure";
/// Tag for the records to retry after a partial batch response: `ordered` (the default) or `named`.
pub const PARTIAL_RESPONSE_TAG: &str = "lighterman:partial-batch-response";

const OUR_TAGS: &str = "lighterman:";
const RETRIES_MAX: i64 = 10_000;
const AGE_SECONDS_MAX: i64 = 604_800;
const AGE_SECONDS_MIN: i64 = 60;
const UNLIMITED: i64 = -1;
const REPORT_BATCH_ITEM_FAILURES: &str = "ReportBatchItemFailures";
const UNSUPPORTED_DESTINATION: &str =
    "Unsupported DestinationConfig parameter for given event source mapping type.";

/// Members of a create or update request that configure failure handling.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct FailureRequest {
    /// Retry limit: −1 (unlimited) or 0–10,000.
    pub maximum_retry_attempts: Option<i64>,
    /// Record age limit in seconds: −1 (unlimited) or 60–604,800.
    pub maximum_record_age_in_seconds: Option<i64>,
    /// True to split a failed batch in half.
    pub bisect_batch_on_function_error: Option<bool>,
    /// Empty, or `ReportBatchItemFailures`.
    pub function_response_types: Option<Vec<String>>,
    /// Destination of failed records.
    pub destination_config: Option<DestinationConfig>,
}

/// `DestinationConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct DestinationConfig {
    /// Target for failed records.
    pub on_failure: Option<DestinationTarget>,
    /// Target for successful batches; in the model, but rejected for this kind of source.
    pub on_success: Option<DestinationTarget>,
}

/// `OnFailure` or `OnSuccess`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct DestinationTarget {
    /// ARN or `kafka://topic`; an empty text removes the destination.
    pub destination: Option<String>,
}

/// Policy of a mapping for failed records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailurePolicy {
    /// Maximum retries after the first attempt, as the user gave them; `None` for no limit. The limit in force is
    /// [`Self::retries_max_in_force`].
    pub retries_max: Option<u32>,
    /// Maximum age of a record, in seconds; older ones are not retried. `None` for no limit.
    pub record_age_max_seconds: Option<u32>,
    /// True if a failed batch is split in half, as the user set it; `None` if unset. The setting in force is
    /// [`Self::bisects`].
    pub bisect: Option<bool>,
    /// True if the function reports which records failed.
    pub partial_responses: bool,
    /// Destination of failed records.
    pub destination: Option<FailureDestination>,
    /// Limits that the user explicitly removed.
    pub lifted: LiftedLimits,
}

/// Limits for which the user gave −1. They are shown as −1, because clients such as Terraform compare the
/// configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LiftedLimits {
    /// True if `MaximumRetryAttempts` was −1.
    pub retries: bool,
    /// True if `MaximumRecordAgeInSeconds` was −1.
    pub record_age: bool,
}

/// Behaviour of a partition while the destination rejects its failed records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDestinationFailure {
    /// The partition waits, and no record is lost.
    #[default]
    Hold,
    /// The records are dropped, counted and logged, as AWS does.
    Drop,
}

/// Records to retry after a partial batch response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartialOrder {
    /// All records from the lowest failed offset of each partition on, which preserves order.
    #[default]
    Ordered,
    /// Only the records named in the response, as AWS describes it.
    Named,
}

impl FailureRequest {
    /// Checks the model's constraints.
    pub(super) fn check_model(&self, found: &mut RequestViolations) {
        found.range(self.maximum_retry_attempts, "maximumRetryAttempts", UNLIMITED, RETRIES_MAX);
        found.range(
            self.maximum_record_age_in_seconds,
            "maximumRecordAgeInSeconds",
            UNLIMITED,
            AGE_SECONDS_MAX,
        );
        if let Some(types) = &self.function_response_types {
            let shown = format!("[{}]", types.join(", "));
            if types.len() > 1 {
                found.add(&shown, "functionResponseTypes", "Member must have length less than or equal to 1");
            }
            if types.iter().any(|name| name != REPORT_BATCH_ITEM_FAILURES) {
                let constraint =
                    format!("Member must satisfy enum value set: [{REPORT_BATCH_ITEM_FAILURES}]");
                found.add(&shown, "functionResponseTypes", &constraint);
            }
        }
        let config = self.destination_config.clone().unwrap_or_default();
        for (target, at) in [
            (config.on_failure, "destinationConfig.onFailure.destination"),
            (config.on_success, "destinationConfig.onSuccess.destination"),
        ] {
            if let Some(given) = target.and_then(|target| target.destination) {
                destination::check_model(&given, at, found);
            }
        }
    }

    /// Returns the policy of a new mapping that reads `source_topic`.
    pub(super) fn new_policy(self, source_topic: &str) -> Result<FailurePolicy, ApiError> {
        self.over(FailurePolicy::default(), source_topic)
    }

    /// Returns the policy after an update; members that the request omits are unchanged.
    pub(super) fn updated_policy(
        self,
        before: &FailurePolicy,
        source_topic: &str,
    ) -> Result<FailurePolicy, ApiError> {
        let on_failure = self.destination_config.as_ref().and_then(|config| config.on_failure.as_ref());
        if on_failure.is_some_and(|target| target.destination.is_none()) {
            // The intent is ambiguous (no change, or removal), and AWS rejects it too.
            return Err(ApiError::invalid(
                "The Destination field is required for an OnFailure configuration.",
            ));
        }
        self.over(before.clone(), source_topic)
    }

    fn over(self, mut policy: FailurePolicy, source_topic: &str) -> Result<FailurePolicy, ApiError> {
        if let Some(retries) = self.maximum_retry_attempts {
            policy.lifted.retries = retries == UNLIMITED;
            policy.retries_max = u32::try_from(retries).ok();
        }
        if let Some(seconds) = self.maximum_record_age_in_seconds {
            if (0..AGE_SECONDS_MIN).contains(&seconds) {
                return Err(ApiError::invalid(
                    "MaximumRecordAgeInSeconds must be either -1 (forever) or between 60 and 604800 (inclusive)",
                ));
            }
            policy.lifted.record_age = seconds == UNLIMITED;
            policy.record_age_max_seconds = u32::try_from(seconds).ok();
        }
        policy.bisect = self.bisect_batch_on_function_error.or(policy.bisect);
        if let Some(types) = self.function_response_types {
            policy.partial_responses = !types.is_empty();
        }
        if let Some(config) = self.destination_config {
            let asked = |target: Option<DestinationTarget>| target.and_then(|target| target.destination);
            if asked(config.on_success).is_some_and(|given| !given.is_empty()) {
                return Err(ApiError::invalid(UNSUPPORTED_DESTINATION));
            }
            // A configuration replaces the previous one entirely; without a target, none remains.
            policy.destination = match asked(config.on_failure) {
                Some(given) => destination_of(&given, source_topic)?,
                None => None,
            };
        }
        Ok(policy)
    }
}

fn destination_of(given: &str, source_topic: &str) -> Result<Option<FailureDestination>, ApiError> {
    if given.is_empty() {
        return Ok(None);
    }
    let destination: FailureDestination =
        given.parse().map_err(|error| ApiError::invalid(format!("{error}")))?;
    if matches!(&destination, FailureDestination::Topic(topic) if **topic == *source_topic) {
        return Err(ApiError::invalid(format!(
            "The on-failure destination topic `{source_topic}` cannot be the source topic of the event source mapping."
        )));
    }
    Ok(Some(destination))
}

impl FailurePolicy {
    /// Returns the retry limit in force: the user's, or [`RETRIES_WITH_DESTINATION`] with a destination and
    /// without a given limit; `None` for no limit. A limit that the user did not set is never shown.
    pub fn retries_max_in_force(&self) -> Option<u32> {
        self.retries_max.or_else(|| self.destination.as_ref().map(|_| RETRIES_WITH_DESTINATION))
    }

    /// Returns true if a failed batch is split in half.
    pub fn bisects(&self) -> bool {
        self.bisect.unwrap_or_default()
    }

    /// Adds the members that are set; −1 is shown if the user gave it.
    pub(super) fn show(&self, shown: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        let limit = |limit: Option<u32>, lifted: bool| match limit {
            Some(limit) => Some(json!(limit)),
            None => lifted.then(|| json!(UNLIMITED)),
        };
        if let Some(retries) = limit(self.retries_max, self.lifted.retries) {
            put("MaximumRetryAttempts", retries);
        }
        if let Some(seconds) = limit(self.record_age_max_seconds, self.lifted.record_age) {
            put("MaximumRecordAgeInSeconds", seconds);
        }
        if let Some(bisect) = self.bisect {
            put("BisectBatchOnFunctionError", json!(bisect));
        }
        if self.partial_responses {
            put("FunctionResponseTypes", json!([REPORT_BATCH_ITEM_FAILURES]));
        }
        if let Some(destination) = &self.destination {
            put("DestinationConfig", json!({ "OnFailure": { "Destination": destination } }));
        }
    }
}

impl OnDestinationFailure {
    const VALUES: &[(&str, Self)] = &[("hold", Self::Hold), ("drop", Self::Drop)];
}

impl PartialOrder {
    const VALUES: &[(&str, Self)] = &[("ordered", Self::Ordered), ("named", Self::Named)];
}

/// Returns the option that a tag selects, or the default without the tag. Values were validated when the tags were
/// accepted.
fn choice<T: Copy + Default>(tags: &BTreeMap<String, String>, tag: &str, values: &[(&str, T)]) -> T {
    let given = tags.get(tag).and_then(|given| values.iter().find(|(value, _)| value == given));
    given.map(|(_, choice)| *choice).unwrap_or_default()
}

/// Rejects unknown Lighterman tags and values. A misspelt tag would silently select the default.
pub(super) fn check_our_tags(tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    for (tag, given) in tags.iter().filter(|(tag, _)| is_ours(tag)) {
        let values: Vec<&str> = match tag.as_str() {
            ON_DESTINATION_FAILURE_TAG => {
                OnDestinationFailure::VALUES.iter().map(|(value, _)| *value).collect()
            }
            PARTIAL_RESPONSE_TAG => PartialOrder::VALUES.iter().map(|(value, _)| *value).collect(),
            _ => {
                return Err(ApiError::invalid(format!(
                    "Tag `{tag}` is not known. Tags that begin with `{OUR_TAGS}` choose what Lighterman does: \
                     `{ON_DESTINATION_FAILURE_TAG}` (hold, drop) and `{PARTIAL_RESPONSE_TAG}` (ordered, named)."
                )));
            }
        };
        if !values.contains(&given.as_str()) {
            let values = values.join(" or ");
            return Err(ApiError::invalid(format!("Tag `{tag}` cannot be `{given}`: give {values}.")));
        }
    }
    Ok(())
}

/// Returns true for a tag with Lighterman's prefix, in any case.
fn is_ours(tag: &str) -> bool {
    tag.get(..OUR_TAGS.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(OUR_TAGS))
}

impl Mapping {
    /// Returns the behaviour of a partition while the destination rejects its failed records.
    pub fn on_destination_failure(&self) -> OnDestinationFailure {
        choice(&self.tags, ON_DESTINATION_FAILURE_TAG, OnDestinationFailure::VALUES)
    }

    /// Returns which records are retried after a partial batch response.
    pub fn partial_order(&self) -> PartialOrder {
        choice(&self.tags, PARTIAL_RESPONSE_TAG, PartialOrder::VALUES)
    }

    /// Returns true if replacing the mapping's tags with `tags` would change its behaviour.
    pub fn is_changed_by(&self, tags: &BTreeMap<String, String>) -> bool {
        let on_failure = choice(tags, ON_DESTINATION_FAILURE_TAG, OnDestinationFailure::VALUES);
        let order = choice(tags, PARTIAL_RESPONSE_TAG, PartialOrder::VALUES);
        (on_failure, order) != (self.on_destination_failure(), self.partial_order())
    }
}

#[cfg(test)]
mod tests;
