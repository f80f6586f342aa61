//! Amazon's model of the API as data: its members, and values that violate their constraints.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Operations on mappings and their tags from botocore 1.44.8 (Apache-2.0),
/// `botocore/data/lambda/2015-03-31/service-2.json`, without documentation.
const TEXT: &str = include_str!("botocore-1.44.8-lambda-event-source-mappings.json");

pub(crate) struct ApiModel(Value);

/// Invalid value that the API must reject.
pub(crate) struct BadValue {
    /// Members from the request on; `[]` is a list element, `{}` a map entry.
    pub(crate) path: String,
    /// Value of the request's member that contains it.
    pub(crate) value: Value,
    /// False if even its type is wrong.
    pub(crate) typed: bool,
}

impl ApiModel {
    pub(crate) fn read() -> Self {
        Self(serde_json::from_str(TEXT).expect("JSON"))
    }

    fn shape(&self, name: &str) -> &Map<String, Value> {
        self.0["shapes"][name].as_object().expect("a shape")
    }

    /// Returns the members of a structure that are sent in the body, with their shapes.
    pub(crate) fn members(&self, structure: &str) -> Vec<(&str, &str)> {
        let members = self.shape(structure)["members"].as_object().expect("members");
        let in_body = members.iter().filter(|(_, member)| member.get("location").is_none());
        in_body.map(|(name, member)| (name.as_str(), member["shape"].as_str().expect("a name"))).collect()
    }

    /// Collects the paths of everything in `shape` that can be set.
    pub(crate) fn leaves(&self, shape: &str, path: &str, into: &mut BTreeSet<String>) {
        let inner = |of: &str| self.shape(shape)[of]["shape"].as_str().expect("a name");
        match self.kind(shape) {
            "structure" => {
                for (name, member) in self.members(shape) {
                    self.leaves(member, &joined(path, name), into);
                }
            }
            "list" => self.leaves(inner("member"), &format!("{path}[]"), into),
            "map" => self.leaves(inner("value"), &format!("{path}{{}}"), into),
            _ => drop(into.insert(path.to_owned())),
        }
    }

    /// Collects the paths that `value`, of `shape`, sets.
    pub(crate) fn set_by(&self, shape: &str, value: &Value, path: &str, into: &mut BTreeSet<String>) {
        let inner = |of: &str| self.shape(shape)[of]["shape"].as_str().expect("a name");
        match value {
            Value::Object(entries) if self.kind(shape) == "structure" => {
                for (name, value) in entries {
                    let member = self.members(shape).into_iter().find(|(known, _)| known == name);
                    let (_, member) = member.unwrap_or_else(|| panic!("{path}: the model has no {name}"));
                    self.set_by(member, value, &joined(path, name), into);
                }
            }
            Value::Object(entries) => {
                for value in entries.values() {
                    self.set_by(inner("value"), value, &format!("{path}{{}}"), into);
                }
            }
            Value::Array(list) => {
                for value in list {
                    self.set_by(inner("member"), value, &format!("{path}[]"), into);
                }
            }
            _ => drop(into.insert(path.to_owned())),
        }
    }

    /// Creates a value with every member of `shape`.
    pub(crate) fn sample(&self, shape: &str) -> Value {
        let known = self.shape(shape);
        let inner = |of: &str| self.sample(known[of]["shape"].as_str().expect("a name"));
        match self.kind(shape) {
            "structure" => self
                .members(shape)
                .into_iter()
                .map(|(name, member)| (name.to_owned(), self.sample(member)))
                .collect::<Map<_, _>>()
                .into(),
            "list" => json!([inner("member")]),
            "map" => json!({ inner("key").as_str().expect("text"): inner("value") }),
            "boolean" => json!(true),
            "integer" => known.get("max").cloned().unwrap_or(json!(7)),
            "timestamp" => json!(1_600_000_000),
            _ => match (known.get("enum"), known.get("pattern").and_then(Value::as_str)) {
                (Some(values), _) => values[0].clone(),
                (None, Some(pattern)) if pattern.contains("arn:") => {
                    json!("arn:aws:sqs:eu-west-1:123456789012:q")
                }
                (None, _) => json!("text"),
            },
        }
    }

    /// Returns every variant of `value`, of `shape`, with one violation.
    pub(crate) fn violations(&self, shape: &str, value: &Value, path: &str) -> Vec<BadValue> {
        let known = self.shape(shape);
        let number = |name: &str| known.get(name).and_then(Value::as_i64);
        let length = |name: &str| number(name).and_then(|length| usize::try_from(length).ok());
        let inner = |of: &str| known[of]["shape"].as_str().expect("a name");
        let one = |value: Value, typed: bool| BadValue { path: path.to_owned(), value, typed };
        let mut all = Vec::new();
        match self.kind(shape) {
            "structure" => {
                all.push(one(json!(7), false));
                for (name, member) in self.members(shape) {
                    for broken in self.violations(member, &value[name], &joined(path, name)) {
                        let mut around = value.clone();
                        around[name] = broken.value;
                        all.push(BadValue { value: around, ..broken });
                    }
                }
            }
            "list" => {
                all.push(one(json!({}), false));
                let element = &value[0];
                all.extend(length("max").map(|max| one(json!(vec![element; max + 1]), true)));
                all.extend(length("min").filter(|min| *min > 0).map(|_| one(json!([]), true)));
                for broken in self.violations(inner("member"), element, &format!("{path}[]")) {
                    all.push(BadValue { value: json!([broken.value]), ..broken });
                }
            }
            "map" => {
                all.push(one(json!([]), false));
                let (key, entry) = value.as_object().and_then(|map| map.iter().next()).expect("an entry");
                for broken in self.violations(inner("key"), &json!(key), path) {
                    let key = broken.value.as_str().filter(|_| broken.typed);
                    all.extend(key.map(|key| one(json!({ key: entry }), true)));
                }
                for broken in self.violations(inner("value"), entry, &format!("{path}{{}}")) {
                    all.push(BadValue { value: json!({ key: broken.value }), ..broken });
                }
            }
            "boolean" => all.push(one(json!("yes"), false)),
            "timestamp" => all.push(one(json!({}), false)),
            "integer" => {
                all.push(one(json!("seven"), false));
                all.extend(number("min").map(|min| one(json!(min - 1), true)));
                all.extend(number("max").map(|max| one(json!(max + 1), true)));
            }
            _ => {
                all.push(one(json!(7), false));
                all.extend(known.get("enum").map(|_| one(json!("invalid"), true)));
                all.extend(length("max").map(|max| one(json!("a".repeat(max + 1)), true)));
                all.extend(length("min").filter(|min| *min > 0).map(|_| one(json!(""), true)));
                let bound = known.get("pattern").filter(|pattern| *pattern != "[\\s\\S]*");
                all.extend(bound.map(|_| one(json!("~"), true)));
            }
        }
        all
    }

    fn kind(&self, shape: &str) -> &str {
        self.shape(shape)["type"].as_str().expect("a type")
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
