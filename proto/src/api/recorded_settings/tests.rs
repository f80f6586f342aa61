use super::*;
use crate::api::test_requests::{create, update};
use crate::api::{ErrorKind, Mapping, MappingState};

const KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/1";

fn shown(mapping: &Mapping) -> Value {
    let mut shown = mapping.shown(MappingState::Enabled, 1.0, "OK");
    let members = shown.as_object_mut().expect("object");
    members.retain(|name, _| ["KMSKeyArn", "MetricsConfig", "LoggingConfig"].contains(&name.as_str()));
    shown
}

#[test]
fn recorded_settings_shown_changed_cleared_and_stored() {
    let given = json!({
        "KMSKeyArn": KEY,
        "MetricsConfig": { "Metrics": ["ErrorCount", "EventCount"] },
        "LoggingConfig": { "SystemLogLevel": "WARN" },
    });
    let mapping = create(given.clone()).expect("valid");
    assert_eq!(shown(&mapping), given);
    let stored = serde_json::to_string(&mapping).expect("JSON");
    assert_eq!(serde_json::from_str::<Mapping>(&stored).expect("a mapping"), mapping);
    assert_eq!(update(&mapping, json!({ "BatchSize": 7 })).map(|other| shown(&other)).expect("valid"), given);
    let changes = [
        ("KMSKeyArn", json!("arn:aws:kms:eu-west-1:123456789012:alias/a"), json!("")),
        ("MetricsConfig", json!({ "Metrics": [] }), json!({})),
        ("LoggingConfig", json!({ "SystemLogLevel": "DEBUG" }), json!({})),
    ];
    for (name, other, nothing) in changes {
        let changed = update(&mapping, json!({ name: other })).expect("valid");
        let mut expected = given.clone();
        expected[name] = other;
        assert_eq!(shown(&changed), expected);
        let cleared = update(&changed, json!({ name: nothing })).expect("valid");
        expected.as_object_mut().expect("object").remove(name);
        assert_eq!(shown(&cleared), expected);
        let never = create(json!({ name: nothing })).expect("valid");
        assert_eq!(shown(&never), json!({}));
    }
}

#[test]
fn mapping_stored_without_settings_still_loads() {
    let mapping = create(json!({})).expect("valid");
    let mut stored = serde_json::to_value(&mapping).expect("JSON");
    stored.as_object_mut().expect("object").remove("recorded").expect("the member was stored");
    assert_eq!(serde_json::from_value::<Mapping>(stored).expect("loads"), mapping);
}

#[test]
fn queue_consumption_mode_rejected_others_kept() {
    let config = |mode: &str| json!({ "SelfManagedKafkaEventSourceConfig": { "ConsumptionMode": mode } });
    let kafka = |mapping: &Mapping| {
        mapping.shown(MappingState::Enabled, 1.0, "OK")["SelfManagedKafkaEventSourceConfig"].clone()
    };
    let plain = create(json!({})).expect("valid");
    assert_eq!(kafka(&plain), json!({ "ConsumerGroupId": plain.group }));
    let named = create(config("Stream")).expect("valid");
    assert_eq!(kafka(&named), json!({ "ConsumerGroupId": named.group, "ConsumptionMode": "Stream" }));
    assert_eq!(update(&named, config("Stream")).expect("unchanged"), named);
    for refused in [create(config("Queue")), update(&plain, config("Queue"))] {
        let error = refused.expect_err("unsupported");
        assert!(error.message.contains("ConsumptionMode Queue is not supported by this version"), "{error}");
    }
}

#[test]
fn rejections_equal_front_end_messages() {
    use ErrorKind::{InvalidParameterValue, Validation};
    let violation = |value: &str, at: &str, constraint: &str| {
        format!(
            "1 validation error detected: Value '{value}' at '{at}' failed to satisfy constraint: {constraint}"
        )
    };
    let cases = [
        (
            json!({ "KMSKeyArn": "key" }),
            Validation,
            violation("key", "kMSKeyArn", &format!("Member must satisfy regular expression pattern: {KEY_PATTERN}")),
        ),
        (
            json!({ "MetricsConfig": { "Metrics": ["EventCount", "Lag"] } }),
            Validation,
            violation(
                "[EventCount, Lag]",
                "metricsConfig.metrics",
                "Member must satisfy constraint: [Member must satisfy enum value set: [EventCount, ErrorCount, KafkaMetrics]]",
            ),
        ),
        (
            json!({ "MetricsConfig": { "Metrics": ["EventCount", "EventCount", "EventCount", "EventCount"] } }),
            Validation,
            violation(
                "[EventCount, EventCount, EventCount, EventCount]",
                "metricsConfig.metrics",
                "Member must have length less than or equal to 3",
            ),
        ),
        (
            json!({ "MetricsConfig": { "Metrics": ["EventCount", "EventCount"] } }),
            InvalidParameterValue,
            "Duplicate EventCount in MetricsConfig. Metrics must contain each of EventCount, ErrorCount, KafkaMetrics \
             at most once."
                .to_owned(),
        ),
        (
            json!({ "LoggingConfig": { "SystemLogLevel": "info" } }),
            Validation,
            violation("info", "loggingConfig.systemLogLevel", "Member must satisfy enum value set: [DEBUG, INFO, WARN]"),
        ),
    ];
    let mapping = create(json!({})).expect("valid");
    for (changes, kind, message) in cases {
        let on_create = create(changes.clone()).expect_err("refused");
        assert_eq!((on_create.kind, on_create.message.clone()), (kind, message), "{changes}");
        assert_eq!(update(&mapping, changes).expect_err("refused"), on_create);
    }
}
