//! Responses of the HTTP servers to a fixed sequence of requests.

use std::fmt::Write;

use serde_json::{Value, json};

use super::http::{HttpRequest, exchange};
use super::node::{InterfaceNode, MAPPINGS, until};

const KEYS: &str = "/lighterman/v1/keys";

/// Requests sent so far, with their responses.
pub(crate) struct Transcript<'a> {
    node: &'a InterfaceNode,
    pub(crate) shown: String,
    /// Texts that this run made, and their placeholders.
    pub(crate) known: Vec<(String, &'static str)>,
}

impl Transcript<'_> {
    async fn send(&mut self, what: &str, request: HttpRequest<'_>) -> Value {
        let answer = exchange(self.node.api, &request).await;
        let HttpRequest { method, path, body, .. } = request;
        let _ = writeln!(self.shown, "# {what}\n{method} {path}\n{body}\n{answer}");
        serde_json::from_str(&answer.body).unwrap_or_default()
    }

    async fn call(&mut self, what: &str, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(what, HttpRequest::signed(method, path, &body)).await
    }

    async fn refused(&mut self, what: &str, method: &str, path: &str, body: Value) {
        let before = self.shown.len();
        self.call(what, method, path, &body).await;
        assert!(!self.shown[before..].contains("\n20"), "{what}: {}", &self.shown[before..]);
    }
}

/// Calls the API for a mapping that does not run.
pub(crate) async fn disabled_mapping(node: &InterfaceNode) -> Transcript<'_> {
    let mut api = Transcript { node, shown: String::new(), known: Vec::new() };
    let body = mapping(node);
    let created = api.call("create", "POST", MAPPINGS, &body).await;
    let path = format!("{MAPPINGS}/{}", created["UUID"].as_str().expect("created"));
    node.settled(&path).await;
    life(&mut api, &path).await;
    tags(&mut api, created["EventSourceMappingArn"].as_str().expect("created")).await;
    refusals(&mut api, &path, &body).await;
    own_routes(&mut api).await;
    api.call("delete", "DELETE", &path, &Value::Null).await;
    api
}

/// Calls the API for a mapping that has committed all records.
pub(crate) async fn running_mapping(api: &mut Transcript<'_>, mapping: &str) {
    let nothing = Value::Null;
    let ours = format!("/lighterman/v1/mappings/{mapping}");
    until("nothing is left", async || {
        let shown = api.node.get(&format!("{ours}/partitions")).await["partitions"][0].clone();
        (shown["lag"] == 0 && shown["inFlight"] == false && shown["bufferedBytes"] == 0).then_some(())
    })
    .await;
    api.call("a mapping that runs", "GET", &format!("{MAPPINGS}/{mapping}"), &nothing).await;
    api.call("its partitions", "GET", &format!("{ours}/partitions"), &nothing).await;
    api.call("its audit", "GET", &format!("{ours}/audit"), &nothing).await;
    let skip = json!({ "Offset": 0, "Reason": "as asked" });
    api.refused("skip of what does not fail", "POST", &format!("{ours}/partitions/0/skip"), skip).await;
    api.call("pause", "POST", &format!("{ours}/pause"), &nothing).await;
    api.node.settled(&format!("{MAPPINGS}/{mapping}")).await;
    api.call("a mapping that has stopped", "GET", &format!("{MAPPINGS}/{mapping}"), &nothing).await;
}

/// Returns a create request of a disabled mapping with many members.
fn mapping(node: &InterfaceNode) -> Value {
    json!({
        "FunctionName": "unused", "Topics": ["orders"], "Enabled": false, "BatchSize": 7,
        "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": [node.servers()] } },
        "SourceAccessConfigurations": [
            { "Type": "VPC_SUBNET", "URI": "subnet:s" }, { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:g" }
        ],
        "StartingPosition": "TRIM_HORIZON", "MaximumBatchingWindowInSeconds": 2, "MaximumRetryAttempts": 3,
        "MaximumRecordAgeInSeconds": 600, "BisectBatchOnFunctionError": true,
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "FilterCriteria": { "Filters": [{ "Pattern": "{\"value\":{\"state\":[\"paid\"]}}" }] },
        "DestinationConfig": { "OnFailure": { "Destination": "kafka://failed" } },
        "ProvisionedPollerConfig": { "MinimumPollers": 1, "MaximumPollers": 2 },
        "Tags": { "team": "quay" },
    })
}

async fn life(api: &mut Transcript<'_>, path: &str) {
    let nothing = Value::Null;
    api.call("get", "GET", path, &nothing).await;
    api.call("list", "GET", &format!("{MAPPINGS}?FunctionName=unused&MaxItems=10"), &nothing).await;
    api.call("list of another function", "GET", &format!("{MAPPINGS}?FunctionName=other"), &nothing).await;
    let changes = json!({
        "BatchSize": 9, "FilterCriteria": {}, "DestinationConfig": {}, "FunctionResponseTypes": [],
        "ProvisionedPollerConfig": {},
    });
    api.call("update", "PUT", path, &changes).await;
    api.node.settled(path).await;
    api.call("get after the update", "GET", path, &nothing).await;
}

async fn tags(api: &mut Transcript<'_>, arn: &str) {
    let path = format!("/2017-03-31/tags/{}", arn.replace(':', "%3A"));
    api.call("tag", "POST", &path, &json!({ "Tags": { "cost": "1", "team": "harbour" } })).await;
    api.call("tags", "GET", &path, &Value::Null).await;
    api.call("untag", "DELETE", &format!("{path}?tagKeys=cost"), &Value::Null).await;
    api.call("tags that are left", "GET", &path, &Value::Null).await;
}

async fn refusals(api: &mut Transcript<'_>, path: &str, body: &Value) {
    let with = |name: &str, value: Value| {
        let mut body = body.clone();
        body[name] = value;
        body
    };
    let unknown = format!("{MAPPINGS}/01234567-89ab-4def-8123-456789abcdef");
    api.refused("the same again", "POST", MAPPINGS, body.clone()).await;
    api.refused("a value out of range", "POST", MAPPINGS, with("BatchSize", json!(0))).await;
    api.refused("a value of another type", "PUT", path, json!({ "BatchSize": "7" })).await;
    api.refused("an unsupported member", "POST", MAPPINGS, with("ParallelizationFactor", json!(2))).await;
    api.refused("an unknown member", "POST", MAPPINGS, with("BatchSise", json!(2))).await;
    let pattern = json!({ "Filters": [{ "Pattern": "{\"value\":{\"state\":[{\"prefx\":\"p\"}]}}" }] });
    api.refused("an invalid pattern", "PUT", path, json!({ "FilterCriteria": pattern })).await;
    api.refused("a fixed member", "PUT", path, json!({ "Topics": ["invoices"] })).await;
    api.refused("a mapping that is not there", "GET", &unknown, Value::Null).await;
    api.refused("an operation that is not there", "GET", "/2015-03-31/functions", Value::Null).await;
    api.send("no signature", HttpRequest::unsigned("GET", MAPPINGS)).await;
    let wrong = HttpRequest { secret: Some("another"), ..HttpRequest::signed("GET", MAPPINGS, "") };
    api.send("a wrong signature", wrong).await;
    api.send("no JSON", HttpRequest::signed("POST", MAPPINGS, "{")).await;
    let ours = path.replace(MAPPINGS, "/lighterman/v1/mappings");
    let skip = json!({ "Offset": 0, "Reason": "as asked" });
    api.call("partitions while disabled", "GET", &format!("{ours}/partitions"), &Value::Null).await;
    api.refused("skip while disabled", "POST", &format!("{ours}/partitions/0/skip"), skip).await;
    let skip = json!({ "Offset": 0, "Reason": "" });
    api.refused("skip without a reason", "POST", &format!("{ours}/partitions/0/skip"), skip).await;
}

/// Calls the routes of Lighterman itself.
async fn own_routes(api: &mut Transcript<'_>) {
    api.call("nodes", "GET", "/lighterman/v1/nodes", &Value::Null).await;
    let trial = json!({
        "FilterCriteria": { "Filters": [{ "Pattern": "{\"value\":{\"state\":[\"paid\"]}}" }] },
        "Records": [{ "value": { "state": "paid" } }, { "value": { "state": "new" } }, { "value": "text" }],
    });
    api.call("filter test", "POST", "/lighterman/v1/filters/test", &trial).await;
    let made = api.call("new key", "POST", KEYS, &Value::Null).await;
    let id = made["AccessKeyId"].as_str().expect("made").to_owned();
    api.known.push((id.clone(), "<key id>"));
    api.known.push((made["SecretAccessKey"].as_str().expect("made").to_owned(), "<secret>"));
    api.call("deletion of the key", "DELETE", &format!("{KEYS}/{id}"), &Value::Null).await;
    api.call("keys", "GET", KEYS, &Value::Null).await;
}

/// Returns the health pages.
pub(crate) async fn health(node: &InterfaceNode) -> String {
    let mut shown = String::new();
    for path in ["/healthz", "/readyz", "/nowhere"] {
        let answer = exchange(node.metrics, &HttpRequest::unsigned("GET", path)).await;
        let _ = writeln!(shown, "GET {path}\n{answer}");
    }
    shown
}
