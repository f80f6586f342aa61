//! Mapping configuration: validation, storage and display.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::constraints::{self, RequestViolations};
use super::error::ApiError;
use super::failure_policy::FailurePolicy;
use super::filter_criteria::FilterCriteria;
use super::function::function_arn;
use super::recorded_settings::{self, RecordedSettings};
use super::request::{CreateRequest, ProvisionedPollers, SourceAccess, StartingPosition, UpdateRequest};
use super::servers;
use super::tags::check_tags;
use super::unknown_members;
use crate::ids::MappingId;
use crate::units::{BATCH_RECORDS_DEFAULT, BATCH_RECORDS_MAX};

/// State of a mapping, as in AWS's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MappingState {
    /// Accepted, not running yet.
    Creating,
    /// Being enabled.
    Enabling,
    /// Running: records are consumed and delivered.
    Enabled,
    /// Draining before it stops.
    Disabling,
    /// Stopped; its committed offsets remain.
    Disabled,
    /// Update in progress.
    Updating,
    /// Draining before it is removed.
    Deleting,
}

impl MappingState {
    /// Returns true if no operation is in progress.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Enabled | Self::Disabled)
    }
}

/// Region and id of the account.
#[derive(Clone, Copy, Debug)]
pub struct AccountScope<'a> {
    /// Region name.
    pub region: &'a str,
    /// Account id of twelve digits.
    pub id: &'a str,
}

/// Configuration of one mapping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// UUID of the mapping.
    pub id: MappingId,
    /// ARN of the mapping.
    pub arn: String,
    /// ARN of the function, with the qualifier that the caller gave.
    pub function_arn: String,
    /// Bootstrap servers as `host:port`, 1–10.
    pub bootstrap_servers: Vec<String>,
    /// Topic to consume.
    pub topic: String,
    /// Consumer group.
    pub group: String,
    /// `BatchSize`.
    pub batch_records_max: u32,
    /// `MaximumBatchingWindowInSeconds`; `None` for AWS's default of 500 ms.
    pub window_seconds: Option<u32>,
    /// Starting position without committed offsets.
    pub starting_position: StartingPosition,
    /// Timestamp of `AT_TIMESTAMP`, in seconds since the epoch.
    pub starting_timestamp: Option<f64>,
    /// Access configurations as given; stored, not used.
    pub access: Vec<SourceAccess>,
    /// Number of consumers, if given.
    pub pollers: Option<ProvisionedPollers>,
    /// True if the mapping is meant to run.
    pub enabled: bool,
    /// Tags of the mapping.
    pub tags: BTreeMap<String, String>,
    /// Failure handling.
    #[serde(default)]
    pub failure: FailurePolicy,
    /// Filters that select the records for the function.
    #[serde(default)]
    pub filters: FilterCriteria,
    /// Settings that are stored and shown only.
    #[serde(default)]
    pub recorded: RecordedSettings,
}

const POSITIONS: &[&str] = &["LATEST", "AT_TIMESTAMP", "TRIM_HORIZON"];

impl Mapping {
    /// Validates a create request and fills in AWS's defaults. `now` is in seconds since the epoch.
    pub fn create(
        request: CreateRequest,
        id: MappingId,
        account: AccountScope<'_>,
        now: f64,
    ) -> Result<Self, ApiError> {
        let mut found = RequestViolations::default();
        check_model(&request, &mut found);
        found.into_result()?;
        constraints::poller_order(request.provisioned_poller_config.as_ref())?;
        let bootstrap_servers = servers::bootstrap(&request)?;
        unknown_members::refuse_in_create(&request.rest)?;
        let access = request.source_access_configurations.filter(|list| !list.is_empty());
        let access = access.ok_or_else(access_missing)?;
        let mut found = RequestViolations::default();
        constraints::access(&access, &mut found);
        found.into_result()?;
        constraints::access_combination(&access)?;
        let kafka = request.self_managed_kafka_event_source_config.unwrap_or_default();
        refuse_registry(kafka.schema_registry_config.as_ref())?;
        let mode = recorded_settings::consumption_mode(kafka.consumption_mode.as_deref())?;
        let (starting_position, starting_timestamp) =
            position(request.starting_position.as_deref(), request.starting_position_timestamp, now)?;
        let topic = request.topics.and_then(|topics| topics.into_iter().next());
        let topic = topic.ok_or_else(|| ApiError::invalid("Required 'topics' parameter is missing."))?;
        let failure = request.failure.new_policy(&topic)?;
        let filters = request.filter_criteria.unwrap_or_default().criteria()?;
        let recorded = request.recorded.over(&RecordedSettings::default())?.with_consumption_mode(mode);
        let tags = request.tags.unwrap_or_default();
        check_tags(&tags)?;
        Ok(Self {
            id,
            arn: format!("arn:aws:lambda:{}:{}:event-source-mapping:{id}", account.region, account.id),
            function_arn: function_arn(&request.function_name.unwrap_or_default(), account)?,
            bootstrap_servers,
            topic,
            group: kafka.consumer_group_id.unwrap_or_else(|| id.to_string()),
            batch_records_max: batch_size(request.batch_size).unwrap_or(BATCH_RECORDS_DEFAULT),
            window_seconds: request
                .maximum_batching_window_in_seconds
                .and_then(|window| u32::try_from(window).ok()),
            starting_position,
            starting_timestamp,
            access,
            pollers: request.provisioned_poller_config.and_then(|given| given.over(None)),
            enabled: request.enabled.unwrap_or(true),
            tags,
            failure,
            filters,
            recorded,
        })
    }

    /// Validates an update request, and returns the updated mapping.
    pub fn updated(&self, request: UpdateRequest, account: AccountScope<'_>) -> Result<Self, ApiError> {
        let mut found = RequestViolations::default();
        if let Some(name) = request.function_name.as_deref() {
            found.length(name, "functionName", 1, 256);
        }
        found.range(request.batch_size, "batchSize", 1, i64::from(BATCH_RECORDS_MAX));
        found.range(request.maximum_batching_window_in_seconds, "maximumBatchingWindowInSeconds", 0, 300);
        request.failure.check_model(&mut found);
        request.filter_criteria.iter().for_each(|criteria| criteria.check_model(&mut found));
        request.recorded.check_model(&mut found);
        constraints::pollers(request.provisioned_poller_config.as_ref(), &mut found);
        if let Some(access) = &request.source_access_configurations {
            if access.is_empty() {
                return Err(access_missing());
            }
            constraints::access(access, &mut found);
        }
        let kafka = request.self_managed_kafka_event_source_config.unwrap_or_default();
        recorded_settings::check_mode(kafka.consumption_mode.as_deref(), &mut found);
        found.into_result()?;
        unknown_members::refuse_in_update(&request.rest, self)?;
        refuse_registry(kafka.schema_registry_config.as_ref())?;
        recorded_settings::consumption_mode(kafka.consumption_mode.as_deref())?;
        if kafka.consumer_group_id.is_some_and(|group| group != self.group) {
            return Err(ApiError::invalid("ConsumerGroupId cannot be changed: create another mapping."));
        }
        let mut updated = self.clone();
        updated.recorded = request.recorded.over(&self.recorded)?;
        updated.failure = request.failure.updated_policy(&self.failure, &self.topic)?;
        if let Some(criteria) = request.filter_criteria {
            updated.filters = criteria.criteria()?;
        }
        if let Some(function) = request.function_name {
            updated.function_arn = function_arn(&function, account)?;
        }
        if let Some(size) = batch_size(request.batch_size) {
            updated.batch_records_max = size;
        }
        if let Some(window) = request.maximum_batching_window_in_seconds {
            updated.window_seconds = u32::try_from(window).ok();
        }
        if let Some(access) = request.source_access_configurations {
            constraints::access_combination(&access)?;
            updated.access = access;
        }
        if let Some(given) = request.provisioned_poller_config {
            updated.pollers = given.over(self.pollers.as_ref());
            constraints::poller_order(updated.pollers.as_ref())?;
        }
        updated.enabled = request.enabled.unwrap_or(self.enabled);
        Ok(updated)
    }

    /// Returns true if the mappings conflict: same function, same topic, and a bootstrap server in common.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let servers: BTreeSet<&String> = self.bootstrap_servers.iter().collect();
        self.function_arn == other.function_arn
            && self.topic == other.topic
            && other.bootstrap_servers.iter().any(|server| servers.contains(server))
    }

    /// Returns AWS's text for that conflict. It names the new request's source and the existing mapping.
    pub fn conflict_text(&self, existing: MappingId) -> String {
        format!(
            "An event source mapping with event source (\"{}\"), function (\"{}\"), topics (\"{}\") already exists. \
             Please update or delete the existing mapping with UUID {existing}",
            self.bootstrap_servers.join(","),
            self.function_arn,
            self.topic
        )
    }

    /// Returns the error text for a consumer group that another mapping uses, modelled on AWS's text for a source
    /// in use. It names the source, the group and the existing mapping.
    pub fn group_taken_text(&self, existing: &Self) -> String {
        format!(
            "An event source mapping with event source (\"{}\") and consumer group ID (\"{}\") already exists. \
             Please update or delete the existing mapping with UUID {}",
            existing.bootstrap_servers.join(","),
            self.group,
            existing.id
        )
    }

    /// Returns the `EventSourceMappingConfiguration`. Unset members are absent.
    pub fn shown(&self, state: MappingState, last_modified: f64, last_result: &str) -> Value {
        let mut shown = Map::new();
        let mut put = |name: &str, value: Value| shown.insert(name.to_owned(), value);
        put("UUID", json!(self.id));
        put("EventSourceMappingArn", json!(self.arn));
        put("FunctionArn", json!(self.function_arn));
        put("BatchSize", json!(self.batch_records_max));
        if let Some(window) = self.window_seconds {
            put("MaximumBatchingWindowInSeconds", json!(window));
        }
        put("StartingPosition", json!(self.starting_position));
        if let Some(timestamp) = self.starting_timestamp {
            put("StartingPositionTimestamp", json!(timestamp));
        }
        put("Topics", json!([self.topic]));
        let endpoints = json!({ "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers } });
        put("SelfManagedEventSource", endpoints);
        let mut kafka = json!({ "ConsumerGroupId": self.group });
        if let Some(mode) = self.recorded.consumption_mode() {
            kafka["ConsumptionMode"] = json!(mode);
        }
        put("SelfManagedKafkaEventSourceConfig", kafka);
        put("SourceAccessConfigurations", json!(self.access));
        if let Some(pollers) = &self.pollers {
            put("ProvisionedPollerConfig", json!(pollers));
        }
        put("State", json!(state));
        put("StateTransitionReason", json!("USER_INITIATED"));
        put("LastModified", json!(last_modified));
        put("LastProcessingResult", json!(last_result));
        self.failure.show(&mut shown);
        self.filters.show(&mut shown);
        self.recorded.show(&mut shown);
        Value::Object(shown)
    }
}

fn access_missing() -> ApiError {
    ApiError::invalid("Required 'sourceAccessConfigurations' parameter is missing.")
}

fn check_model(request: &CreateRequest, found: &mut RequestViolations) {
    match request.function_name.as_deref() {
        None => found.absent("functionName"),
        Some(name) => found.length(name, "functionName", 1, 256),
    }
    servers::keys(request.self_managed_event_source.as_ref(), found);
    found.range(request.batch_size, "batchSize", 1, i64::from(BATCH_RECORDS_MAX));
    found.range(request.maximum_batching_window_in_seconds, "maximumBatchingWindowInSeconds", 0, 300);
    if let Some(position) = request.starting_position.as_deref() {
        found.one_of(position, "startingPosition", POSITIONS);
    }
    constraints::topics(request.topics.as_deref(), found);
    let group = request.self_managed_kafka_event_source_config.as_ref();
    if let Some(group) = group.and_then(|config| config.consumer_group_id.as_deref()) {
        let at = "selfManagedKafkaEventSourceConfig.consumerGroupId";
        found.length(group, at, 1, 200);
        found.pattern(group, at, "[a-zA-Z0-9-\\/*:_+=.@-]*", constraints::is_uri_text(group));
    }
    recorded_settings::check_mode(group.and_then(|config| config.consumption_mode.as_deref()), found);
    request.failure.check_model(found);
    request.recorded.check_model(found);
    request.filter_criteria.iter().for_each(|criteria| criteria.check_model(found));
    constraints::pollers(request.provisioned_poller_config.as_ref(), found);
}

fn refuse_registry(registry: Option<&Value>) -> Result<(), ApiError> {
    if registry.is_some_and(|registry| registry.as_object().is_none_or(|members| !members.is_empty())) {
        return Err(ApiError::invalid(
            "SchemaRegistryConfig is not supported by this version of Lighterman.",
        ));
    }
    Ok(())
}

fn position(
    position: Option<&str>,
    timestamp: Option<f64>,
    now: f64,
) -> Result<(StartingPosition, Option<f64>), ApiError> {
    let position = match position {
        Some("LATEST") => StartingPosition::Latest,
        Some("AT_TIMESTAMP") => StartingPosition::AtTimestamp,
        // AWS's default for self-managed Kafka.
        _ => StartingPosition::TrimHorizon,
    };
    match (position, timestamp) {
        (StartingPosition::AtTimestamp, None) => {
            Err(ApiError::invalid("StartingPositionTimestamp is required with AT_TIMESTAMP."))
        }
        (StartingPosition::AtTimestamp, Some(at)) if !at.is_finite() || at < 0.0 || at > now => {
            Err(ApiError::invalid("StartingPositionTimestamp cannot be in the future."))
        }
        (StartingPosition::TrimHorizon | StartingPosition::Latest, Some(_)) => {
            Err(ApiError::invalid("StartingPositionTimestamp is allowed with AT_TIMESTAMP only."))
        }
        (position, timestamp) => Ok((position, timestamp)),
    }
}

fn batch_size(size: Option<i64>) -> Option<u32> {
    size.and_then(|size| u32::try_from(size).ok())
}

#[cfg(test)]
mod tests;
