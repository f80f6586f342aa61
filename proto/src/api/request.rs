//! API requests as clients send them. An unknown member is rejected by name, not silently ignored: a mapping must
//! not deviate from the configuration that its owner relies on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::failure_policy::FailureRequest;
use super::filter_criteria::FilterRequest;
use super::recorded_settings::RecordedRequest;

/// `Endpoints` of a self-managed source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceEndpoints {
    /// `{"KAFKA_BOOTSTRAP_SERVERS": […]}`.
    #[serde(rename = "Endpoints", default)]
    pub endpoints: BTreeMap<String, Vec<String>>,
}

/// `SelfManagedKafkaEventSourceConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct KafkaGroup {
    /// Consumer group; the mapping's UUID if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_group_id: Option<String>,
    /// Schema registry, which this version rejects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_registry_config: Option<Value>,
    /// `Stream` or `Queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumption_mode: Option<String>,
}

/// Entry of `SourceAccessConfigurations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceAccess {
    /// Type of the entry.
    #[serde(rename = "Type", default)]
    pub kind: String,
    /// Subnet, security group, or ARN of a secret.
    #[serde(rename = "URI", default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// `ProvisionedPollerConfig`, which sets the number of consumers here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ProvisionedPollers {
    /// Minimum number of consumers, 1–200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_pollers: Option<i64>,
    /// Maximum number of consumers, 1–2000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_pollers: Option<i64>,
    /// Poller group, stored but not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poller_group_name: Option<String>,
}

impl ProvisionedPollers {
    /// Merges this request into `before`: given members replace the old ones, an empty group name leaves the
    /// group, and `{}` resets to the defaults.
    pub(super) fn over(self, before: Option<&Self>) -> Option<Self> {
        if self == Self::default() {
            return None;
        }
        let before = before.cloned().unwrap_or_default();
        let group = self.poller_group_name.or(before.poller_group_name);
        let merged = Self {
            minimum_pollers: self.minimum_pollers.or(before.minimum_pollers),
            maximum_pollers: self.maximum_pollers.or(before.maximum_pollers),
            poller_group_name: group.filter(|name| !name.is_empty()),
        };
        Some(merged).filter(|merged| *merged != Self::default())
    }
}

/// Starting position of a mapping without committed offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StartingPosition {
    /// Oldest retained record.
    TrimHorizon,
    /// After the newest record.
    Latest,
    /// First record from a timestamp on.
    AtTimestamp,
}

/// `CreateEventSourceMapping`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateRequest {
    /// Name, partial ARN or ARN, with or without qualifier.
    pub function_name: Option<String>,
    /// ARN of an Amazon MSK cluster.
    pub event_source_arn: Option<String>,
    /// Endpoints of any other Kafka cluster.
    pub self_managed_event_source: Option<SourceEndpoints>,
    /// Topics; exactly one.
    pub topics: Option<Vec<String>>,
    /// True if absent.
    pub enabled: Option<bool>,
    /// Records per batch, 1–10,000; 100 if absent.
    pub batch_size: Option<i64>,
    /// Batching window, 0–300 seconds; 500 ms if absent.
    pub maximum_batching_window_in_seconds: Option<i64>,
    /// Starting position; `TRIM_HORIZON` if absent.
    pub starting_position: Option<String>,
    /// Timestamp in seconds since the epoch; allowed with `AT_TIMESTAMP` only.
    pub starting_position_timestamp: Option<f64>,
    /// Network and authentication settings of the cluster.
    pub source_access_configurations: Option<Vec<SourceAccess>>,
    /// Consumer group settings.
    pub self_managed_kafka_event_source_config: Option<KafkaGroup>,
    /// Number of consumers.
    pub provisioned_poller_config: Option<ProvisionedPollers>,
    /// Filters that select the records for the function.
    pub filter_criteria: Option<FilterRequest>,
    /// Tags of the mapping.
    pub tags: Option<BTreeMap<String, String>>,
    /// Members that configure failure handling.
    #[serde(flatten)]
    pub failure: FailureRequest,
    /// Members that are stored and shown only.
    #[serde(flatten)]
    pub recorded: RecordedRequest,
    /// All other members, which are unknown.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// `UpdateEventSourceMapping`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateRequest {
    /// Function to invoke instead.
    pub function_name: Option<String>,
    /// True to run the mapping, false to stop it.
    pub enabled: Option<bool>,
    /// Records per batch, 1–10,000.
    pub batch_size: Option<i64>,
    /// Batching window, 0–300 seconds.
    pub maximum_batching_window_in_seconds: Option<i64>,
    /// Network and authentication settings of the cluster.
    pub source_access_configurations: Option<Vec<SourceAccess>>,
    /// Consumer group settings; the group itself cannot be changed.
    pub self_managed_kafka_event_source_config: Option<KafkaGroup>,
    /// Number of consumers; `{}` for the defaults.
    pub provisioned_poller_config: Option<ProvisionedPollers>,
    /// Filters that select the records for the function; `{}` removes them.
    pub filter_criteria: Option<FilterRequest>,
    /// Members that configure failure handling.
    #[serde(flatten)]
    pub failure: FailureRequest,
    /// Members that are stored and shown only.
    #[serde(flatten)]
    pub recorded: RecordedRequest,
    /// All other members, which are unknown.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}
