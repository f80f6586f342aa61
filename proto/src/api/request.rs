//! Requests, as clients send them. A member that is not known is refused by name rather than ignored in silence: a mapping that
//! does something else than its owner wrote would lose what he counted on.

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
    /// Consumer group; the mapping's UUID when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_group_id: Option<String>,
    /// Schema registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_registry_config: Option<Value>,
    /// `Stream` or `Queue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumption_mode: Option<String>,
}

/// One of `SourceAccessConfigurations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceAccess {
    /// What kind.
    #[serde(rename = "Type", default)]
    pub kind: String,
    /// Subnet, security group, or the ARN of a secret.
    #[serde(rename = "URI", default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// `ProvisionedPollerConfig`: consumers, here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct ProvisionedPollers {
    /// 1–200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_pollers: Option<i64>,
    /// 1–2000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum_pollers: Option<i64>,
    /// Recorded, not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poller_group_name: Option<String>,
}

impl ProvisionedPollers {
    /// What these members make of `before`: what they name is changed, an empty group name leaves the group, and `{}` asks for the
    /// defaults.
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

/// Where a mapping begins without committed offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StartingPosition {
    /// The oldest record kept.
    TrimHorizon,
    /// Behind the newest.
    Latest,
    /// The first record from a time on.
    AtTimestamp,
}

/// `CreateEventSourceMapping`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateRequest {
    /// Name, partial ARN or ARN, with or without qualifier.
    pub function_name: Option<String>,
    /// Amazon MSK.
    pub event_source_arn: Option<String>,
    /// Any other Kafka.
    pub self_managed_event_source: Option<SourceEndpoints>,
    /// Exactly one.
    pub topics: Option<Vec<String>>,
    /// True when absent.
    pub enabled: Option<bool>,
    /// 1–10,000; 100 when absent.
    pub batch_size: Option<i64>,
    /// 0–300; 500 ms when absent.
    pub maximum_batching_window_in_seconds: Option<i64>,
    /// `TRIM_HORIZON` when absent.
    pub starting_position: Option<String>,
    /// With `AT_TIMESTAMP` alone.
    pub starting_position_timestamp: Option<f64>,
    /// How to reach and authenticate with the cluster.
    pub source_access_configurations: Option<Vec<SourceAccess>>,
    /// Consumer group.
    pub self_managed_kafka_event_source_config: Option<KafkaGroup>,
    /// Consumers.
    pub provisioned_poller_config: Option<ProvisionedPollers>,
    /// Which records reach the function.
    pub filter_criteria: Option<FilterRequest>,
    /// Tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// What happens to failed records.
    #[serde(flatten)]
    pub failure: FailureRequest,
    /// What is kept and shown, and changes nothing of what runs.
    #[serde(flatten)]
    pub recorded: RecordedRequest,
    /// Everything else.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// `UpdateEventSourceMapping`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateRequest {
    /// Another function.
    pub function_name: Option<String>,
    /// On or off.
    pub enabled: Option<bool>,
    /// 1–10,000.
    pub batch_size: Option<i64>,
    /// 0–300.
    pub maximum_batching_window_in_seconds: Option<i64>,
    /// How to reach and authenticate with the cluster.
    pub source_access_configurations: Option<Vec<SourceAccess>>,
    /// Only its registry part may change.
    pub self_managed_kafka_event_source_config: Option<KafkaGroup>,
    /// Consumers; `{}` for the defaults.
    pub provisioned_poller_config: Option<ProvisionedPollers>,
    /// Which records reach the function; `{}` for all.
    pub filter_criteria: Option<FilterRequest>,
    /// What happens to failed records.
    #[serde(flatten)]
    pub failure: FailureRequest,
    /// What is kept and shown, and changes nothing of what runs.
    #[serde(flatten)]
    pub recorded: RecordedRequest,
    /// Everything else.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}
