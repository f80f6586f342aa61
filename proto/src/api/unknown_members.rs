//! Unknown members of a request: those of other event sources, of responses, and unrecognized ones. None is
//! silently ignored: a mapping must not deviate from the configuration that its owner relies on.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::mapping::{Mapping, MappingState};

/// Members of other event sources, rejected with AWS's message.
const OF_OTHER_SOURCES: &[&str] = &[
    "ParallelizationFactor",
    "TumblingWindowInSeconds",
    "ScalingConfig",
    "Queues",
    "DocumentDBEventSourceConfig",
];
/// Member for Amazon MSK.
const OF_MSK: &str = "AmazonManagedKafkaEventSourceConfig";
/// Members of a response only. As with AWS, a client may send a response back with changes.
const OF_ANSWERS: &[&str] = &[
    "UUID",
    "EventSourceMappingArn",
    "FunctionArn",
    "LastModified",
    "LastProcessingResult",
    "State",
    "StateTransitionReason",
    "FilterCriteriaError",
];
/// Members that are fixed at creation.
const OF_CREATION: &[&str] = &[
    "EventSourceArn",
    "SelfManagedEventSource",
    "StartingPosition",
    "StartingPositionTimestamp",
    "Tags",
    "Topics",
];

/// Rejects unknown members of a create request.
pub(super) fn refuse_in_create(rest: &BTreeMap<String, Value>) -> Result<(), ApiError> {
    rest.iter().filter(|(_, value)| !asks_for_nothing(value)).try_for_each(|(name, _)| refuse(name))
}

/// Rejects unknown members of an update request, and changes to members of `mapping` that are fixed at creation.
pub(super) fn refuse_in_update(rest: &BTreeMap<String, Value>, mapping: &Mapping) -> Result<(), ApiError> {
    let mut shown = None;
    for (name, value) in rest.iter().filter(|(_, value)| !asks_for_nothing(value)) {
        if !OF_CREATION.contains(&name.as_str()) {
            refuse(name)?;
            continue;
        }
        let shown = shown.get_or_insert_with(|| as_created(mapping));
        if !is_same(shown.get(name), value) {
            let instead =
                if name == "Tags" { "use TagResource and UntagResource" } else { "create another mapping" };
            return Err(ApiError::invalid(format!("{name} cannot be changed by an update: {instead}.")));
        }
    }
    Ok(())
}

fn refuse(name: &str) -> Result<(), ApiError> {
    if OF_ANSWERS.contains(&name) {
        return Ok(());
    }
    Err(ApiError::invalid(if OF_OTHER_SOURCES.contains(&name) {
        let parameter = lower_first(name);
        format!("Unsupported '{parameter}' parameter for given event source mapping type.")
    } else if name == OF_MSK {
        format!("{name} is not supported by this version of Lighterman.")
    } else {
        format!("Unknown parameter in input: \"{name}\". This version of Lighterman does not know it.")
    }))
}

fn as_created(mapping: &Mapping) -> Map<String, Value> {
    let mut shown = match mapping.shown(MappingState::Enabled, 0.0, "") {
        Value::Object(shown) => shown,
        _ => Map::new(),
    };
    shown.insert("Tags".to_owned(), json!(mapping.tags));
    shown
}

/// Compares members. Numbers are compared by value, since clients write a timestamp with and without a fraction.
fn is_same(shown: Option<&Value>, given: &Value) -> bool {
    match (shown, given) {
        (Some(Value::Number(shown)), Value::Number(given)) => shown.as_f64() == given.as_f64(),
        (shown, given) => shown == Some(given),
    }
}

/// Returns true for null, an empty value, or an object in which nothing is set.
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(members) => members.values().all(asks_for_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn lower_first(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(characters).collect()
}

#[cfg(test)]
mod tests;
