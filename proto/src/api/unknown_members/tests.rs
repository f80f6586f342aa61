use super::*;
use crate::api::ErrorKind;
use crate::api::test_requests::{self, update};

/// Creates a mapping with members that an update must repeat unchanged.
fn create(changes: Value) -> Result<Mapping, ApiError> {
    let mut all = json!({
        "Tags": { "team": "quay" }, "StartingPosition": "AT_TIMESTAMP", "StartingPositionTimestamp": 1_600_000_000,
    });
    if let (Value::Object(all), Value::Object(changes)) = (&mut all, changes) {
        all.extend(changes);
    }
    test_requests::create(all)
}

#[test]
fn nested_unknown_member_rejected_by_name() {
    let mapping = create(json!({})).expect("valid");
    let unknown = json!({ "BatchSizes": 7 });
    for refused in [create(unknown.clone()), update(&mapping, unknown)] {
        let error = refused.expect_err("unknown");
        assert_eq!(error.kind, ErrorKind::InvalidParameterValue);
        assert!(error.message.starts_with("Unknown parameter in input: \"BatchSizes\"."), "{error}");
    }
    for nested in [
        json!({ "DestinationConfig": { "OnFailur": {} } }),
        json!({ "DestinationConfig": { "OnFailure": { "Destinaton": "kafka://t" } } }),
        json!({ "ProvisionedPollerConfig": { "MaxPollers": 3 } }),
        json!({ "SelfManagedKafkaEventSourceConfig": { "GroupId": "g" } }),
        json!({ "SelfManagedEventSource": { "Endpoint": {} } }),
        json!({ "SourceAccessConfigurations": [{ "Type": "VPC_SUBNET", "Uri": "subnet:s" }] }),
        json!({ "MetricsConfig": { "Metric": [] } }),
        json!({ "LoggingConfig": { "Level": "WARN" } }),
        json!({ "FilterCriteria": { "Filter": [] } }),
    ] {
        let error = create(nested.clone()).expect_err("unknown");
        assert_eq!(error.kind, ErrorKind::Serialization, "{nested}");
        assert!(error.message.contains("unknown field `"), "{error}");
    }
}

#[test]
fn members_of_other_sources_are_rejected() {
    let mapping = create(json!({})).expect("valid");
    for (name, value, nothing) in [
        ("ParallelizationFactor", json!(1), json!(null)),
        ("TumblingWindowInSeconds", json!(0), json!(null)),
        ("ScalingConfig", json!({ "MaximumConcurrency": 2 }), json!({})),
        ("Queues", json!(["q"]), json!([])),
        ("DocumentDBEventSourceConfig", json!({ "DatabaseName": "d" }), json!({ "DatabaseName": "" })),
    ] {
        let text =
            format!("Unsupported '{}' parameter for given event source mapping type.", lower_first(name));
        assert_eq!(create(json!({ name: value })).expect_err("refused").message, text);
        assert_eq!(update(&mapping, json!({ name: value })).expect_err("refused").message, text);
        create(json!({ name: nothing })).expect("an empty member is accepted");
        update(&mapping, json!({ name: nothing })).expect("an empty member is accepted");
    }
    let msk = json!({ OF_MSK: { "ConsumerGroupId": "g" } });
    assert!(create(msk).expect_err("refused").message.starts_with(OF_MSK));
}

#[test]
fn response_sent_back_changes_no_fixed_member() {
    let mapping = create(json!({})).expect("valid");
    let mut answer = mapping.shown(MappingState::Enabled, 1.0, "OK");
    answer["Tags"] = json!(mapping.tags);
    assert_eq!(update(&mapping, answer.clone()).expect("unchanged"), mapping);
    answer["BatchSize"] = json!(7);
    assert_eq!(update(&mapping, answer).expect("changed").batch_records_max, 7);
    for (name, other) in [
        ("Topics", json!(["other"])),
        ("StartingPosition", json!("LATEST")),
        ("StartingPositionTimestamp", json!(1_600_000_001)),
        ("SelfManagedEventSource", json!({ "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": ["kafka:2000"] } })),
        ("EventSourceArn", json!("arn:aws:kafka:eu-west-1:123456789012:cluster/c/1")),
        ("Tags", json!({ "team": "harbour" })),
    ] {
        let error = update(&mapping, json!({ name: other })).expect_err("stays");
        let text = format!("{name} cannot be changed by an update: ");
        assert!(error.message.starts_with(&text), "{error}");
    }
}
