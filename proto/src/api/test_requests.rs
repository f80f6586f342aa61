//! Requests for this module's tests.

use serde_json::{Value, json};

use super::error::{ApiError, ErrorKind};
use super::mapping::{AccountScope, Mapping};
use crate::ids::MappingId;

pub(super) const ACCOUNT: AccountScope<'static> = AccountScope { region: "eu-west-1", id: "123456789012" };
/// Time of the requests, in seconds since the epoch.
pub(super) const NOW: f64 = 1_700_000_000.0;

/// Id of the created mapping.
pub(super) fn id() -> MappingId {
    MappingId(uuid::Uuid::from_u128(7))
}

/// Creates a mapping from the recorded minimal request merged with `changes`; a null removes a member.
pub(super) fn create(changes: Value) -> Result<Mapping, ApiError> {
    let mut body = json!({
        "FunctionName": "f", "Topics": ["topic"],
        "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": ["kafka:1000"] } },
        "SourceAccessConfigurations": [
            { "Type": "VPC_SUBNET", "URI": "subnet:s" }, { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:g" }
        ],
    });
    if let (Value::Object(body), Value::Object(changes)) = (&mut body, changes) {
        body.extend(changes);
        body.retain(|_, value| !value.is_null());
    }
    let request = serde_json::from_value(body)
        .map_err(|error| ApiError::new(ErrorKind::Serialization, error.to_string()))?;
    Mapping::create(request, id(), ACCOUNT, NOW)
}

/// Updates `mapping` with `changes`.
pub(super) fn update(mapping: &Mapping, changes: Value) -> Result<Mapping, ApiError> {
    let request = serde_json::from_value(changes)
        .map_err(|error| ApiError::new(ErrorKind::Serialization, error.to_string()))?;
    mapping.updated(request, ACCOUNT)
}
