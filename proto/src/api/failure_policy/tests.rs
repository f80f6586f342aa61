use super::*;
use crate::api::test_requests::{create, update};
use crate::api::{ErrorKind, MappingState};

const QUEUE: &str = "arn:aws:sqs:eu-west-1:123456789012:failed";

fn shown(mapping: &Mapping) -> Value {
    let mut shown = mapping.shown(MappingState::Enabled, 1.0, "OK");
    let ours = [
        "MaximumRetryAttempts",
        "MaximumRecordAgeInSeconds",
        "BisectBatchOnFunctionError",
        "FunctionResponseTypes",
        "DestinationConfig",
    ];
    shown.as_object_mut().expect("object").retain(|name, _| ours.contains(&name.as_str()));
    shown
}

fn to(destination: &str) -> Value {
    json!({ "DestinationConfig": { "OnFailure": { "Destination": destination } } })
}

#[test]
fn set_members_are_stored_and_shown() {
    let given = json!({
        "MaximumRetryAttempts": 3, "MaximumRecordAgeInSeconds": 60, "BisectBatchOnFunctionError": true,
        "FunctionResponseTypes": ["ReportBatchItemFailures"], "DestinationConfig": { "OnFailure": { "Destination": QUEUE } },
    });
    let mapping = create(given.clone()).expect("valid");
    let expected = FailurePolicy {
        retries_max: Some(3),
        record_age_max_seconds: Some(60),
        bisect: Some(true),
        partial_responses: true,
        destination: QUEUE.parse().ok(),
        lifted: LiftedLimits::default(),
    };
    assert_eq!(mapping.failure, expected);
    assert_eq!(shown(&mapping), given);
    let stored = serde_json::to_string(&mapping).expect("JSON");
    assert_eq!(serde_json::from_str::<Mapping>(&stored).expect("a mapping"), mapping);
}

#[test]
fn unset_members_are_absent() {
    let asks_for_nothing = json!({
        "MaximumRetryAttempts": null, "BisectBatchOnFunctionError": null, "FunctionResponseTypes": [],
        "DestinationConfig": { "OnFailure": { "Destination": "" }, "OnSuccess": {} },
    });
    for mapping in [create(json!({})).expect("valid"), create(asks_for_nothing).expect("valid")] {
        assert_eq!(mapping.failure, FailurePolicy::default());
        assert_eq!(shown(&mapping), json!({}));
        assert_eq!(mapping.failure.retries_max_in_force(), None);
    }
}

#[test]
fn bisect_is_shown_as_given() {
    for said in [true, false] {
        let given = json!({ "BisectBatchOnFunctionError": said });
        let mapping = create(given.clone()).expect("valid");
        assert_eq!((shown(&mapping), mapping.failure.bisects()), (given, said));
        let other = update(&mapping, json!({ "BisectBatchOnFunctionError": !said })).expect("valid");
        assert_eq!(shown(&other), json!({ "BisectBatchOnFunctionError": !said }));
        let stored = serde_json::to_string(&other).expect("JSON");
        assert_eq!(serde_json::from_str::<Mapping>(&stored).expect("a mapping"), other);
    }
    // Format that earlier versions wrote.
    let older: FailurePolicy = serde_json::from_value(json!({ "bisect": true })).expect("read");
    assert!(older.bisects());
}

#[test]
fn mapping_stored_without_policy_still_loads() {
    let mapping = create(json!({})).expect("valid");
    let mut stored = serde_json::to_value(&mapping).expect("JSON");
    stored.as_object_mut().expect("object").remove("failure");
    assert_eq!(serde_json::from_value::<Mapping>(stored.clone()).expect("loads"), mapping);
    stored["failure"] = json!({ "retries_max": 4 });
    assert_eq!(serde_json::from_value::<Mapping>(stored).expect("loads").failure.retries_max, Some(4));
}

#[test]
fn unlimited_retries_become_ten_with_destination() {
    let lifted = json!({ "MaximumRetryAttempts": -1, "MaximumRecordAgeInSeconds": -1 });
    let mapping = create(lifted.clone()).expect("valid");
    assert_eq!((shown(&mapping), mapping.failure.retries_max_in_force()), (lifted, None));
    let with_destination = update(&mapping, to(QUEUE)).expect("valid");
    assert_eq!(shown(&with_destination)["MaximumRetryAttempts"], -1);
    assert_eq!(with_destination.failure.retries_max_in_force(), Some(10));
    assert_eq!(create(to(QUEUE)).expect("valid").failure.retries_max_in_force(), Some(10));
    let limited = update(&with_destination, json!({ "MaximumRetryAttempts": 0 })).expect("valid");
    assert_eq!(limited.failure.retries_max_in_force(), Some(0));
    assert_eq!(shown(&limited)["MaximumRetryAttempts"], 0);
}

#[test]
fn update_changes_only_given_members() {
    let mut given = to("kafka://failed");
    given["MaximumRetryAttempts"] = json!(3);
    given["FunctionResponseTypes"] = json!(["ReportBatchItemFailures"]);
    let mapping = create(given).expect("valid");
    assert_eq!(update(&mapping, json!({})).expect("valid"), mapping);
    let bisecting = update(&mapping, json!({ "BisectBatchOnFunctionError": true })).expect("valid");
    assert_eq!(bisecting.failure, FailurePolicy { bisect: Some(true), ..mapping.failure.clone() });
    let plain = update(&mapping, json!({ "FunctionResponseTypes": [] })).expect("valid");
    assert!(!plain.failure.partial_responses);
    for nothing in
        [to(""), json!({ "DestinationConfig": {} }), json!({ "DestinationConfig": { "OnSuccess": {} } })]
    {
        let cleared = update(&mapping, nothing).expect("valid");
        let expected = FailurePolicy { destination: None, ..mapping.failure.clone() };
        assert_eq!(cleared.failure, expected, "a configuration replaces the previous one completely");
    }
    let other = update(&mapping, to("arn:aws:s3:::failed")).expect("valid").failure.destination;
    assert_eq!(other, "arn:aws:s3:::failed".parse().ok());
    // AWS's message, recorded from a controller that sent AWS's own response back.
    let neither = update(&mapping, json!({ "DestinationConfig": { "OnFailure": {} } })).expect_err("unclear");
    assert_eq!(neither.message, "The Destination field is required for an OnFailure configuration.");
}

#[test]
fn rejections_have_exact_messages() {
    use ErrorKind::{InvalidParameterValue, Validation};
    let violation = |value: &str, at: &str, constraint: &str| {
        format!(
            "1 validation error detected: Value '{value}' at '{at}' failed to satisfy constraint: {constraint}"
        )
    };
    let unsupported =
        "Unsupported DestinationConfig parameter for given event source mapping type.".to_owned();
    let age = "MaximumRecordAgeInSeconds must be either -1 (forever) or between 60 and 604800 (inclusive)"
        .to_owned();
    let cases = [
        (
            json!({ "MaximumRetryAttempts": -2 }),
            Validation,
            violation("-2", "maximumRetryAttempts", "Member must have value greater than or equal to -1"),
        ),
        (
            json!({ "MaximumRetryAttempts": 10_001 }),
            Validation,
            violation("10001", "maximumRetryAttempts", "Member must have value less than or equal to 10000"),
        ),
        (
            json!({ "MaximumRecordAgeInSeconds": 604_801 }),
            Validation,
            violation("604801", "maximumRecordAgeInSeconds", "Member must have value less than or equal to 604800"),
        ),
        (json!({ "MaximumRecordAgeInSeconds": 59 }), InvalidParameterValue, age.clone()),
        (json!({ "MaximumRecordAgeInSeconds": 0 }), InvalidParameterValue, age),
        (
            json!({ "FunctionResponseTypes": ["Other"] }),
            Validation,
            violation("[Other]", "functionResponseTypes", "Member must satisfy enum value set: [ReportBatchItemFailures]"),
        ),
        (
            json!({ "FunctionResponseTypes": ["ReportBatchItemFailures", "ReportBatchItemFailures"] }),
            Validation,
            violation(
                "[ReportBatchItemFailures, ReportBatchItemFailures]",
                "functionResponseTypes",
                "Member must have length less than or equal to 1",
            ),
        ),
        (
            json!({ "DestinationConfig": { "OnSuccess": { "Destination": QUEUE } } }),
            InvalidParameterValue,
            unsupported,
        ),
        (
            to("kafka://topic"),
            InvalidParameterValue,
            "The on-failure destination topic `topic` cannot be the source topic of the event source mapping.".to_owned(),
        ),
    ];
    let mapping = create(json!({})).expect("valid");
    for (changes, kind, message) in cases {
        let on_create = create(changes.clone()).expect_err("refused");
        assert_eq!((on_create.kind, on_create.message), (kind, message.clone()), "{changes}");
        let on_update = update(&mapping, changes.clone()).expect_err("refused");
        assert_eq!((on_update.kind, on_update.message), (kind, message), "{changes}");
    }
}

#[test]
fn destination_is_checked_against_model_and_kind() {
    let refusal = |given: &str| create(to(given)).expect_err(given);
    for given in ["https://sqs.eu-west-1.amazonaws.com/123456789012/q", "kafka://.a"] {
        let error = refusal(given);
        assert_eq!(error.kind, ErrorKind::Validation);
        assert!(error.message.contains("'destinationConfig.onFailure.destination'"), "{}", error.message);
        assert!(error.message.contains("regular expression pattern: ^$|kafka://"), "{}", error.message);
    }
    let long = format!("arn:aws:s3:::{}", "a".repeat(338));
    assert!(refusal(&long).message.contains("Member must have length less than or equal to 350"));
    for given in
        ["arn:aws:sqs:eu-west-1:123456789012:q.fifo", "arn:aws:lambda:eu-west-1:123456789012:function:g"]
    {
        let error = refusal(given);
        assert_eq!(error.kind, ErrorKind::InvalidParameterValue);
        let text = format!(
            "The provided destination config DestinationConfig(onSuccess=null, onFailure=OnFailure(destination={given})) is invalid."
        );
        assert!(error.message.starts_with(&text), "{}", error.message);
    }
    assert!(refusal("arn:aws:sns:eu-west-1:123456789012:t.fifo").message.contains("FIFO"));
}

fn tags(tags: &[(&str, &str)]) -> BTreeMap<String, String> {
    tags.iter().map(|(tag, value)| ((*tag).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn tags_select_options_without_aws_member() {
    let plain = create(json!({ "Tags": { "team": "orders" } })).expect("valid");
    assert_eq!(plain.on_destination_failure(), OnDestinationFailure::Hold);
    assert_eq!(plain.partial_order(), PartialOrder::Ordered);
    let chosen = create(json!({ "Tags": {
        "lighterman:on-destination-failure": "drop", "lighterman:partial-batch-response": "named"
    } }))
    .expect("valid");
    assert_eq!(chosen.on_destination_failure(), OnDestinationFailure::Drop);
    assert_eq!(chosen.partial_order(), PartialOrder::Named);
    let defaults = tags(&[
        ("lighterman:on-destination-failure", "hold"),
        ("lighterman:partial-batch-response", "ordered"),
    ]);
    assert!(!plain.is_changed_by(&defaults) && chosen.is_changed_by(&defaults));
    assert!(!plain.is_changed_by(&tags(&[("team", "invoices")])));
    assert!(plain.is_changed_by(&tags(&[("lighterman:partial-batch-response", "named")])));
}

#[test]
fn unknown_lighterman_tags_are_rejected() {
    let mapping = create(json!({})).expect("valid");
    for (tag, value, tells) in [
        ("lighterman:on-destination-failure", "Drop", "hold or drop"),
        ("lighterman:on-destination-failure", "", "hold or drop"),
        ("lighterman:partial-batch-response", "unordered", "ordered or named"),
        ("lighterman:on-failure", "drop", "lighterman:on-destination-failure"),
        ("Lighterman:partial-batch-response", "named", "is not known"),
        ("lighterman:", "", "is not known"),
    ] {
        let on_create = create(json!({ "Tags": { tag: value } })).expect_err("refused");
        let on_tag = mapping.tagged(tags(&[(tag, value)])).expect_err("refused");
        assert_eq!(on_create, on_tag);
        assert_eq!(on_tag.kind, ErrorKind::InvalidParameterValue);
        assert!(on_tag.message.contains(tag) && on_tag.message.contains(tells), "{}", on_tag.message);
    }
    mapping.tagged(tags(&[("lightermen", "x"), ("é", "y")])).expect("foreign tags are accepted");
}
