//! Fuzz subject: create and update requests of arbitrary bytes. Nothing panics. An accepted request satisfies the
//! model's constraints, survives storage, and yields the same mapping when its own response is sent as a request.

use lighterman_proto::api::{
    AccountScope, CreateRequest, Mapping, MappingState, StartingPosition, UpdateRequest,
};
use lighterman_proto::ids::MappingId;
use serde_json::{Value, json};

const ACCOUNT: AccountScope<'static> = AccountScope { region: "eu-west-1", id: "123456789012" };
const NOW: f64 = 1_700_000_000.0;
const PLAIN: &str = r#"{"FunctionName":"f","Topics":["topic"],
    "SelfManagedEventSource":{"Endpoints":{"KAFKA_BOOTSTRAP_SERVERS":["kafka:1000"]}},
    "SourceAccessConfigurations":[{"Type":"VPC_SUBNET","URI":"subnet:s"},{"Type":"VPC_SECURITY_GROUP","URI":"security_group:g"}]}"#;

/// Tries `bytes` as either request. Returns how often it was accepted, so that callers can check that some inputs
/// are valid.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let created = create(bytes);
    if let Some(mapping) = &created {
        check(mapping);
        let shown = mapping.shown(MappingState::Creating, NOW, "No records processed");
        assert_eq!(again(shown, mapping), *mapping, "its own answer, sent as a request");
    }
    let base = created.clone().or_else(|| create(PLAIN.as_bytes())).expect("the plain request is good");
    let updated = update(bytes, &base);
    if let Some(mapping) = &updated {
        check(mapping);
        assert_eq!(update(bytes, mapping).as_ref(), Some(mapping), "the same update twice");
        assert_eq!((mapping.id, &mapping.topic, &mapping.group), (base.id, &base.topic, &base.group));
    }
    usize::from(created.is_some()) + usize::from(updated.is_some())
}

fn id() -> MappingId {
    MappingId(serde_json::from_value(json!("01234567-89ab-cdef-0123-456789abcdef")).expect("a UUID"))
}

fn create(bytes: &[u8]) -> Option<Mapping> {
    let request: CreateRequest = serde_json::from_slice(bytes).ok()?;
    Mapping::create(request, id(), ACCOUNT, NOW).map_err(|error| assert!(!error.message.is_empty())).ok()
}

fn update(bytes: &[u8], base: &Mapping) -> Option<Mapping> {
    let request: UpdateRequest = serde_json::from_slice(bytes).ok()?;
    base.updated(request, ACCOUNT).map_err(|error| assert!(!error.message.is_empty())).ok()
}

/// Sends a response as a request and returns the mapping. A response has neither `Enabled` nor tags.
fn again(mut shown: Value, mapping: &Mapping) -> Mapping {
    shown["FunctionName"] = shown["FunctionArn"].clone();
    shown["Enabled"] = json!(mapping.enabled);
    shown["Tags"] = json!(mapping.tags);
    create(shown.to_string().as_bytes()).expect("what is shown can be sent")
}

fn check(mapping: &Mapping) {
    let stored = serde_json::to_string(mapping).expect("serialises");
    assert_eq!(serde_json::from_str::<Mapping>(&stored).expect("reads back"), *mapping);
    assert!((1..=10_000).contains(&mapping.batch_records_max));
    assert!(mapping.window_seconds.is_none_or(|window| window <= 300));
    assert!((1..=10).contains(&mapping.bootstrap_servers.len()));
    mapping.bootstrap_servers.iter().for_each(|server| check_server(server));
    assert!((1..=249).contains(&mapping.topic.chars().count()) && !mapping.topic.starts_with('.'));
    assert!((1..=200).contains(&mapping.group.chars().count()));
    check_function(&mapping.function_arn);
    let with_timestamp = mapping.starting_position == StartingPosition::AtTimestamp;
    assert_eq!(with_timestamp, mapping.starting_timestamp.is_some());
    assert!(mapping.starting_timestamp.is_none_or(|at| (0.0..=NOW).contains(&at)));
    assert!((1..=23).contains(&mapping.access.len()));
    if let Some(pollers) = &mapping.pollers {
        let (least, most) = (pollers.minimum_pollers.unwrap_or(1), pollers.maximum_pollers.unwrap_or(200));
        assert!((1..=200).contains(&least) && (least..=2_000).contains(&most));
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        assert!(pollers.poller_group_name.iter().all(|name| name.len() <= 128 && name.chars().all(plain)));
    }
    assert!(mapping.tags.len() <= 50);
    let fits = |key: &String, value: &String| {
        (1..=128).contains(&key.chars().count()) && value.chars().count() <= 256
    };
    assert!(mapping.tags.iter().all(|(key, value)| fits(key, value)));
}

/// Checks for `host:port` that can be dialled, and printed in one line.
fn check_server(server: &str) {
    let (host, port) = server.rsplit_once(':').expect("host:port");
    assert!(!host.is_empty() && server.len() <= 300);
    assert!(!server.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',' || c == '/'));
    assert!(port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0));
}

/// Checks for `arn:aws:lambda:region:account:function:name[:qualifier]`.
fn check_function(arn: &str) {
    let parts: Vec<&str> = arn.split(':').collect();
    assert!(arn.len() <= 256 && matches!(parts.len(), 7 | 8), "{arn}");
    assert!(
        parts[0] == "arn" && parts[1].starts_with("aws") && parts[2] == "lambda" && parts[5] == "function"
    );
    assert!(parts[4].len() == 12 && parts[4].bytes().all(|byte| byte.is_ascii_digit()), "{arn}");
    assert!((1..=64).contains(&parts[6].len()));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.$".contains(c);
    assert!(parts.iter().all(|part| !part.is_empty() && part.chars().all(plain)), "{arn}");
}
