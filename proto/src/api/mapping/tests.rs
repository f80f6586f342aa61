use super::*;
use crate::api::ErrorKind;

const ACCOUNT: AccountScope<'static> = AccountScope { region: "eu-west-1", id: "123456789012" };
const VPC: &str = r#"[{"Type":"VPC_SUBNET","URI":"subnet:subnet-0"},{"Type":"VPC_SECURITY_GROUP","URI":"security_group:sg-0"}]"#;

fn id() -> MappingId {
    MappingId(uuid::Uuid::from_u128(7))
}

/// Creates a mapping from the recorded minimal request merged with `changes`.
fn create(changes: &str) -> Result<Mapping, ApiError> {
    let mut body: Value = serde_json::from_str(&format!(
        r#"{{"FunctionName":"f","Topics":["topic"],"SourceAccessConfigurations":{VPC},
            "SelfManagedEventSource":{{"Endpoints":{{"KAFKA_BOOTSTRAP_SERVERS":["kafka:1000"]}}}}}}"#
    ))
    .expect("JSON");
    let changes: Value = serde_json::from_str(changes).expect("JSON");
    for (name, value) in changes.as_object().expect("object") {
        match value {
            Value::Null => body.as_object_mut().expect("object").remove(name),
            value => body.as_object_mut().expect("object").insert(name.clone(), value.clone()),
        };
    }
    Mapping::create(serde_json::from_value(body).expect("request"), id(), ACCOUNT, 1_700_000_000.0)
}

fn refused(changes: &str) -> (ErrorKind, String) {
    let error = create(changes).expect_err(changes);
    (error.kind, error.message)
}

#[test]
fn first_response_equals_recorded_one() {
    let shown = create("{}").expect("valid").shown(MappingState::Creating, 1.0, "No records processed");
    let expected = json!({
        "UUID": id(), "BatchSize": 100, "FunctionArn": "arn:aws:lambda:eu-west-1:123456789012:function:f",
        "EventSourceMappingArn": format!("arn:aws:lambda:eu-west-1:123456789012:event-source-mapping:{}", id()),
        "LastModified": 1.0, "LastProcessingResult": "No records processed", "State": "Creating",
        "StateTransitionReason": "USER_INITIATED", "StartingPosition": "TRIM_HORIZON", "Topics": ["topic"],
        "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": ["kafka:1000"]}},
        "SelfManagedKafkaEventSourceConfig": {"ConsumerGroupId": id()},
        "SourceAccessConfigurations": serde_json::from_str::<Value>(VPC).expect("JSON"),
    });
    assert_eq!(shown, expected);
}

#[test]
fn rejections_equal_recorded_messages() {
    use ErrorKind::{InvalidParameterValue, Validation};
    let cases = [
        (r#"{"SelfManagedEventSource":null}"#, InvalidParameterValue, "Unrecognized event source."),
        (
            r#"{"SourceAccessConfigurations":null}"#,
            InvalidParameterValue,
            "Required 'sourceAccessConfigurations' parameter is missing.",
        ),
        (
            r#"{"StartingPosition":"invalid"}"#,
            Validation,
            "1 validation error detected: Value 'invalid' at 'startingPosition' failed to satisfy constraint: \
             Member must satisfy enum value set: [LATEST, AT_TIMESTAMP, TRIM_HORIZON]",
        ),
        (
            r#"{"BatchSize":10001}"#,
            Validation,
            "1 validation error detected: Value '10001' at 'batchSize' failed to satisfy constraint: \
             Member must have value less than or equal to 10000",
        ),
        (
            r#"{"ParallelizationFactor":2}"#,
            InvalidParameterValue,
            "Unsupported 'parallelizationFactor' parameter for given event source mapping type.",
        ),
    ];
    for (changes, kind, message) in cases {
        assert_eq!(refused(changes), (kind, message.to_owned()));
    }
    assert!(
        refused(r#"{"BatchSize":0,"MaximumBatchingWindowInSeconds":301}"#)
            .1
            .starts_with("2 validation errors detected: ")
    );
}

#[test]
fn unsupported_features_are_rejected_by_name() {
    for (name, changes) in [
        ("BASIC_AUTH", r#"{"SourceAccessConfigurations":[{"Type":"BASIC_AUTH","URI":"arn:x"}]}"#),
        ("EventSourceArn", r#"{"EventSourceArn":"arn:aws:kafka:x","SelfManagedEventSource":null}"#),
    ] {
        let (_, message) = refused(changes);
        assert!(message.contains(name) && message.contains("not supported by this version"), "{message}");
    }
    create(r#"{"MaximumRetryAttempts":-1,"MaximumRecordAgeInSeconds":-1,"ScalingConfig":{},"Queues":null,
        "FilterCriteria":{"Filters":[]},"DestinationConfig":{"OnFailure":{}},"KMSKeyArn":"","FunctionResponseTypes":[]}"#)
    .expect("requests no unsupported feature");
}

#[test]
fn function_name_or_arn_keeps_its_qualifier() {
    for (given, expected) in [
        ("f", "arn:aws:lambda:eu-west-1:123456789012:function:f"),
        ("f:live", "arn:aws:lambda:eu-west-1:123456789012:function:f:live"),
        ("999999999999:function:f", "arn:aws:lambda:eu-west-1:999999999999:function:f"),
        ("function:f", "arn:aws:lambda:eu-west-1:123456789012:function:f"),
        (
            "arn:aws-cn:lambda:cn-north-1:999999999999:function:f:3",
            "arn:aws-cn:lambda:cn-north-1:999999999999:function:f:3",
        ),
        ("f:$LATEST", "arn:aws:lambda:eu-west-1:123456789012:function:f:$LATEST"),
    ] {
        assert_eq!(
            create(&json!({ "FunctionName": given }).to_string()).expect("valid").function_arn,
            expected
        );
    }
    refused(r#"{"FunctionName":"a b"}"#);
    refused(r#"{"FunctionName":"a:b:c:d"}"#);
}

#[test]
fn shared_bootstrap_server_is_a_conflict() {
    let existing = create("{}").expect("valid");
    let wider = create(
        r#"{"SelfManagedEventSource":{"Endpoints":{"KAFKA_BOOTSTRAP_SERVERS":["kafka:1000","kafka:2000"]}}}"#,
    )
    .expect("valid");
    assert!(wider.conflicts_with(&existing));
    assert_eq!(
        wider.conflict_text(existing.id),
        format!(
            "An event source mapping with event source (\"kafka:1000,kafka:2000\"), function (\"{}\"), \
             topics (\"topic\") already exists. Please update or delete the existing mapping with UUID {}",
            wider.function_arn, existing.id
        )
    );
    assert!(!create(r#"{"Topics":["other"]}"#).expect("valid").conflicts_with(&existing));
}

#[test]
fn group_in_use_is_reported_with_source() {
    let (existing, other) = (create("{}").expect("valid"), create(r#"{"Topics":["other"]}"#).expect("valid"));
    let servers = existing.bootstrap_servers.join(",");
    assert_eq!(
        other.group_taken_text(&existing),
        format!(
            "An event source mapping with event source (\"{servers}\") and consumer group ID (\"{}\") already exists. \
             Please update or delete the existing mapping with UUID {}",
            other.group, existing.id
        )
    );
}

#[test]
fn timestamp_requires_at_timestamp() {
    create(r#"{"StartingPosition":"AT_TIMESTAMP","StartingPositionTimestamp":1600000000}"#).expect("valid");
    refused(r#"{"StartingPosition":"AT_TIMESTAMP"}"#);
    refused(r#"{"StartingPosition":"AT_TIMESTAMP","StartingPositionTimestamp":1800000000}"#);
    refused(r#"{"StartingPositionTimestamp":1600000000}"#);
}

#[test]
fn update_changes_only_given_members() {
    let mapping = create("{}").expect("valid");
    let request = serde_json::from_str(
        r#"{"BatchSize":7,"Enabled":false,"ProvisionedPollerConfig":{"MaximumPollers":3}}"#,
    );
    let updated = mapping.updated(request.expect("request"), ACCOUNT).expect("valid");
    assert_eq!((updated.batch_records_max, updated.enabled), (7, false));
    assert_eq!(updated.topic, mapping.topic);
    let back = serde_json::from_str(r#"{"ProvisionedPollerConfig":{}}"#).expect("request");
    assert_eq!(updated.updated(back, ACCOUNT).expect("valid").pollers, None);
    let group = |update: &str| {
        let mapping = create(r#"{"ProvisionedPollerConfig":{"MinimumPollers":2,"PollerGroupName":"g"}}"#)
            .expect("valid");
        mapping
            .updated(serde_json::from_str(update).expect("request"), ACCOUNT)
            .map(|updated| updated.pollers)
    };
    let pollers = |minimum: Option<i64>, maximum: Option<i64>, name: Option<&str>| {
        Some(ProvisionedPollers {
            minimum_pollers: minimum,
            maximum_pollers: maximum,
            poller_group_name: name.map(ToOwned::to_owned),
        })
    };
    let widened = group(r#"{"ProvisionedPollerConfig":{"MaximumPollers":5}}"#);
    assert_eq!(widened.expect("valid"), pollers(Some(2), Some(5), Some("g")));
    let left = group(r#"{"ProvisionedPollerConfig":{"PollerGroupName":""}}"#);
    assert_eq!(left.expect("valid"), pollers(Some(2), None, None));
    let crossed =
        group(r#"{"ProvisionedPollerConfig":{"MaximumPollers":1}}"#).expect_err("2 at least, 1 at most");
    assert_eq!(crossed.message, "MinimumPollers (2) must not be above MaximumPollers (1).");
    let other_group = r#"{"SelfManagedKafkaEventSourceConfig":{"ConsumerGroupId":"other"}}"#;
    assert!(mapping.updated(serde_json::from_str(other_group).expect("request"), ACCOUNT).is_err());
}
