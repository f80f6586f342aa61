//! Every member of Amazon's model of the API, through the real API: kept, shown, changed and cleared, or rejected
//! by name. The test fails if the model has a member that is not listed here.

#[path = "api/model.rs"]
mod model;
mod scene;
#[path = "api/served.rs"]
mod served;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use self::model::ApiModel;
use self::scene::scene;
use self::served::ServedApi;

const CREATE: &str = "CreateEventSourceMappingRequest";
const UPDATE: &str = "UpdateEventSourceMappingRequest";

/// Member that can be changed.
struct ChangedMember {
    name: &'static str,
    /// First value. Together with `second` it sets every nested member.
    first: Value,
    second: Value,
    /// Value that removes the member; `None` if it cannot be removed.
    nothing: Option<Value>,
}

/// Member that is fixed at creation.
struct CreatedMember {
    name: &'static str,
    value: Value,
    other: Value,
    /// Other members that the request requires.
    with: Value,
}

/// Returns values for the members that can be changed.
fn changed() -> Vec<ChangedMember> {
    let one = |name, first, second, nothing: Option<Value>| ChangedMember { name, first, second, nothing };
    let to = |arn: &str| json!({ "OnFailure": { "Destination": arn } });
    let filters = |pattern: &str| json!({ "Filters": [{ "Pattern": pattern }] });
    let pollers = |minimum: i64, maximum: i64, group: &str| json!({ "MinimumPollers": minimum, "MaximumPollers": maximum, "PollerGroupName": group });
    let access = |subnet: &str, group: &str| json!([{ "Type": "VPC_SUBNET", "URI": subnet }, { "Type": "VPC_SECURITY_GROUP", "URI": group }]);
    let key = |key: &str| json!(format!("arn:aws:kms:eu-west-1:123456789012:key/{key}"));
    vec![
        one("BatchSize", json!(5), json!(10_000), None),
        one("BisectBatchOnFunctionError", json!(true), json!(false), None),
        one(
            "DestinationConfig",
            to("arn:aws:sqs:eu-west-1:123456789012:q"),
            to("kafka://failed"),
            Some(json!({})),
        ),
        one("FilterCriteria", filters(r#"{"value":["a"]}"#), filters(r#"{"value":["b"]}"#), Some(json!({}))),
        one(
            "FunctionResponseTypes",
            json!(["ReportBatchItemFailures"]),
            json!(["ReportBatchItemFailures"]),
            Some(json!([])),
        ),
        one("KMSKeyArn", key("1"), key("2"), Some(json!(""))),
        one(
            "LoggingConfig",
            json!({ "SystemLogLevel": "DEBUG" }),
            json!({ "SystemLogLevel": "WARN" }),
            Some(json!({})),
        ),
        one("MaximumBatchingWindowInSeconds", json!(1), json!(0), None),
        one("MaximumRecordAgeInSeconds", json!(60), json!(-1), None),
        one("MaximumRetryAttempts", json!(0), json!(-1), None),
        one(
            "MetricsConfig",
            json!({ "Metrics": ["EventCount"] }),
            json!({ "Metrics": ["KafkaMetrics", "ErrorCount"] }),
            Some(json!({})),
        ),
        one("ProvisionedPollerConfig", pollers(1, 2, "a"), pollers(2, 3, "b"), Some(json!({}))),
        one(
            "SourceAccessConfigurations",
            access("subnet:a", "security_group:a"),
            access("subnet:b", "security_group:b"),
            None,
        ),
    ]
}

/// Returns values for the members that are fixed at creation.
fn created() -> Vec<CreatedMember> {
    let one = |name, value, other| CreatedMember { name, value, other, with: json!({}) };
    let servers =
        |port: u16| json!({ "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": [format!("127.0.0.1:{port}")] } });
    let group = |group: &str| json!({ "ConsumerGroupId": group, "ConsumptionMode": "Stream" });
    vec![
        one("SelfManagedEventSource", servers(1), servers(2)),
        one("SelfManagedKafkaEventSourceConfig", group("a"), group("b")),
        one("StartingPosition", json!("LATEST"), json!("TRIM_HORIZON")),
        CreatedMember {
            with: json!({ "StartingPosition": "AT_TIMESTAMP" }),
            ..one("StartingPositionTimestamp", json!(1_600_000_000.0), json!(1_600_000_001.5))
        },
        one("Tags", json!({ "team": "quay" }), json!({ "team": "harbour" })),
        one("Topics", json!(["orders"]), json!(["invoices"])),
    ]
}

/// Returns the rejected members and the text of their errors.
fn refused() -> Vec<(&'static str, &'static str)> {
    let unsupported = "parameter for given event source mapping type.";
    vec![
        (
            "AmazonManagedKafkaEventSourceConfig",
            "AmazonManagedKafkaEventSourceConfig is not supported by this version",
        ),
        (
            "DestinationConfig.OnSuccess",
            "Unsupported DestinationConfig parameter for given event source mapping type.",
        ),
        ("DocumentDBEventSourceConfig", unsupported),
        ("EventSourceArn", "EventSourceArn"),
        ("ParallelizationFactor", unsupported),
        ("Queues", unsupported),
        ("ScalingConfig", unsupported),
        (
            "SelfManagedKafkaEventSourceConfig.SchemaRegistryConfig",
            "SchemaRegistryConfig is not supported by this version",
        ),
        ("TumblingWindowInSeconds", unsupported),
    ]
}

/// Returns a body with `value` at `path`.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |value, name| json!({ name: value }))
}

fn shape_at<'m>(model: &'m ApiModel, path: &str) -> &'m str {
    path.split('.').fold(CREATE, |shape, name| {
        let members = model.members(shape);
        members
            .into_iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("no {path} in the model"))
            .1
    })
}

/// Members that are shown under other names.
const SHOWN_OTHERWISE: [&str; 2] = ["Enabled", "FunctionName"];

#[test]
fn every_model_member_is_kept_or_rejected() {
    let model = ApiModel::read();
    let mut unnamed = BTreeSet::new();
    model.leaves(CREATE, "", &mut unnamed);
    assert!(unnamed.len() > 40 && unnamed.contains("FilterCriteria.Filters[].Pattern"), "{unnamed:?}");
    let mut updatable = BTreeSet::new();
    model.leaves(UPDATE, "", &mut updatable);
    assert_eq!(updatable.difference(&unnamed).collect::<Vec<_>>(), Vec::<&String>::new(), "of updates alone");
    let mut named: BTreeSet<String> = SHOWN_OTHERWISE.map(ToOwned::to_owned).into();
    for member in changed() {
        for value in [&member.first, &member.second] {
            model.set_by(shape_at(&model, member.name), value, member.name, &mut named);
        }
    }
    for member in created() {
        model.set_by(shape_at(&model, member.name), &member.value, member.name, &mut named);
    }
    unnamed.retain(|leaf| {
        let refused = refused().iter().any(|(path, _)| leaf.starts_with(path));
        !named.contains(leaf) && !refused
    });
    assert!(unnamed.is_empty(), "members of the model neither kept nor rejected: {unnamed:?}");
    let changed: BTreeSet<&str> = changed().iter().map(|member| member.name).collect();
    let refused: BTreeSet<&str> = refused().iter().map(|(path, _)| *path).collect();
    let others: BTreeSet<&str> = created().iter().map(|member| member.name).collect();
    for (name, _) in model.members(UPDATE) {
        let known = changed.contains(name) || refused.contains(name) || SHOWN_OTHERWISE.contains(&name);
        let registry = name == "SelfManagedKafkaEventSourceConfig";
        assert!(known || (registry && others.contains(name)), "{name} can be updated");
    }
}

#[test]
fn changeable_members_are_updated_cleared_and_durable() {
    scene(|scene| async move {
        let mut served = ServedApi::on(&scene);
        for member in changed() {
            let ChangedMember { name, first, second, nothing } = member;
            let path = served.create(&json!({ name: first })).await;
            assert_eq!(served.get(&path).await[name], first, "{name} set");
            served.update(&path, &json!({ "BatchSize": 9 })).await;
            if name != "BatchSize" {
                assert_eq!(served.get(&path).await[name], first, "{name} not named, not changed");
            }
            let answer = served.update(&path, &json!({ name: second })).await;
            assert_eq!(answer[name], second, "{name} changed");
            served.restart(&scene).await;
            assert_eq!(served.get(&path).await[name], second, "{name} after a restart");
            if let Some(nothing) = nothing {
                served.update(&path, &json!({ name: nothing })).await;
                let shown = served.get(&path).await;
                assert!(shown.get(name).is_none(), "{name} cleared: {shown}");
                served.update(&path, &json!({ name: second })).await;
                served.update(&path, &json!({ name: null })).await;
                assert_eq!(served.get(&path).await[name], second, "{name}: null is not there");
            }
            served.delete(&path).await;
            let never = served.create(&json!({})).await;
            if !["BatchSize", "SourceAccessConfigurations"].contains(&name) {
                assert!(served.get(&never).await.get(name).is_none(), "{name} was never set");
            }
            served.delete(&never).await;
        }
        served.stop(&scene).await;
    });
}

#[test]
fn function_and_enabled_are_shown_under_other_names() {
    scene(|scene| async move {
        let mut served = ServedApi::on(&scene);
        let arn = |name: &str| json!(format!("arn:aws:lambda:eu-west-1:000000000000:function:{name}"));
        let path = served.create(&json!({ "FunctionName": "f:live" })).await;
        let shown = served.get(&path).await;
        assert_eq!((&shown["FunctionArn"], &shown["State"]), (&arn("f:live"), &json!("Disabled")));
        served.update(&path, &json!({ "FunctionName": "g", "Enabled": true })).await;
        served.restart(&scene).await;
        let shown = served.settled(&path).await;
        assert_eq!((&shown["FunctionArn"], &shown["State"]), (&arn("g"), &json!("Enabled")));
        served.update(&path, &json!({ "Enabled": false })).await;
        assert_eq!(served.get(&path).await["State"], "Disabled");
        served.stop(&scene).await;
    });
}

#[test]
fn fixed_members_are_shown_but_unchangeable() {
    scene(|scene| async move {
        let mut served = ServedApi::on(&scene);
        for CreatedMember { name, value, other, with } in created() {
            let mut body = with;
            body[name] = value.clone();
            let path = served.create(&body).await;
            served.restart(&scene).await;
            let shown = served.get(&path).await;
            let shown = if name == "Tags" {
                served.tags(shown["EventSourceMappingArn"].as_str().expect("text")).await
            } else {
                shown[name].clone()
            };
            assert_eq!(shown, value, "{name} set");
            served.update(&path, &json!({ name: value })).await;
            let error = served.refused("PUT", &path, &json!({ name: other })).await;
            let named = error.contains(name) || error.contains("ConsumerGroupId");
            assert!(named && error.contains("cannot be changed"), "{name}: {error}");
            served.delete(&path).await;
        }
        served.stop(&scene).await;
    });
}

#[test]
fn unsupported_members_are_rejected_by_name() {
    scene(|scene| async move {
        let model = ApiModel::read();
        let served = ServedApi::on(&scene);
        let mapping = served.create(&json!({})).await;
        for (path, words) in refused() {
            let value = model.sample(shape_at(&model, path));
            let body = at(path, value);
            let on_create = served.refused("POST", served::MAPPINGS, &served.body(&body)).await;
            let on_update = served.refused("PUT", &mapping, &body).await;
            for error in [on_create, on_update] {
                assert!(error.contains("InvalidParameterValueException"), "{path}: {error}");
                let spelt = words == "parameter for given event source mapping type.";
                let last = path.rsplit('.').next().expect("a name");
                let by_name = !spelt || error.to_lowercase().contains(&format!("'{}'", last.to_lowercase()));
                assert!(error.contains(words) && by_name, "{path}: {error}");
            }
        }
        served.stop(&scene).await;
    });
}

#[test]
fn create_and_update_reject_invalid_values() {
    scene(|scene| async move {
        let model = ApiModel::read();
        let served = ServedApi::on(&scene);
        let mapping = served.create(&json!({})).await;
        let before = served.get(&mapping).await;
        let in_updates: Vec<&str> = model.members(UPDATE).into_iter().map(|(name, _)| name).collect();
        let kept = changed().into_iter().map(|member| (member.name, member.first));
        let kept = kept.chain(created().into_iter().map(|member| (member.name, member.value)));
        let kept = kept.chain([("FunctionName", json!("f")), ("Enabled", json!(false))]);
        let mut tried = 0;
        for (name, good) in kept {
            for broken in model.violations(shape_at(&model, name), &good, name) {
                let bodies = [
                    ("POST", served::MAPPINGS, served.body(&json!({ name: broken.value }))),
                    ("PUT", mapping.as_str(), json!({ name: broken.value })),
                ];
                for (method, path, body) in bodies {
                    if method == "PUT" && (!in_updates.contains(&name) || name.starts_with("SelfManaged")) {
                        continue;
                    }
                    if name == "SelfManagedKafkaEventSourceConfig"
                        && broken.path.contains("SchemaRegistryConfig")
                    {
                        continue;
                    }
                    judge(&broken.path, broken.typed, &served.refused(method, path, &body).await);
                    tried += 1;
                }
            }
        }
        assert!(tried > 150, "{tried}");
        let mut after = served.get(&mapping).await;
        after["LastModified"] = before["LastModified"].clone();
        assert_eq!(after, before, "the rejected update changed nothing");
        served.stop(&scene).await;
    });
}

/// Asserts that an error names the member, or one that contains it.
fn judge(path: &str, typed: bool, error: &str) {
    if !typed {
        assert!(error.starts_with("400 SerializationException"), "{path}: {error}");
        return;
    }
    let refused = error.starts_with("400 ValidationException")
        || error.starts_with("400 InvalidParameterValueException");
    let lower = error.to_lowercase();
    let names = |name: &str| lower.contains(&name.trim_end_matches(['[', ']', '{', '}']).to_lowercase());
    // An empty map of endpoints counts as no event source.
    let no_source =
        path.starts_with("SelfManagedEventSource") && error.contains("Unrecognized event source.");
    assert!(refused && (no_source || path.split('.').any(names)), "{path}: {error}");
}
