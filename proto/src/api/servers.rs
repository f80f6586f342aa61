//! Bootstrap servers of a cluster in a request.

use super::constraints::RequestViolations;
use super::error::ApiError;
use super::request::{CreateRequest, SourceEndpoints};

const KEY: &str = "KAFKA_BOOTSTRAP_SERVERS";

/// Checks that the endpoints have only the known key, as AWS's front end does.
pub(super) fn keys(source: Option<&SourceEndpoints>, found: &mut RequestViolations) {
    let Some(source) = source else { return };
    for key in source.endpoints.keys().filter(|key| *key != KEY) {
        found.add(
            key,
            "selfManagedEventSource.endpoints",
            &format!("Map keys must satisfy constraint: [Member must satisfy enum value set: [{KEY}]]"),
        );
    }
}

/// Returns the bootstrap servers of a request.
pub(super) fn bootstrap(request: &CreateRequest) -> Result<Vec<String>, ApiError> {
    if request.event_source_arn.is_some() && request.self_managed_event_source.is_some() {
        return Err(ApiError::invalid("EventSourceArn and SelfManagedEventSource cannot be given together."));
    }
    if request.event_source_arn.is_some() {
        return Err(ApiError::invalid(
            "EventSourceArn is not supported by this version of Lighterman: \
             give the cluster's bootstrap servers in SelfManagedEventSource.",
        ));
    }
    let endpoints = request.self_managed_event_source.as_ref().map(|source| &source.endpoints);
    let servers = endpoints.and_then(|endpoints| endpoints.get(KEY));
    let servers = servers.ok_or_else(|| ApiError::invalid("Unrecognized event source."))?;
    if !(1..=10).contains(&servers.len()) {
        return Err(ApiError::invalid(format!("SelfManagedEventSource: {KEY} must have 1 to 10 members.")));
    }
    if let Some(server) = servers.iter().find(|server| !is_server(server)) {
        return Err(ApiError::invalid(format!(
            "SelfManagedEventSource: `{server}` is no bootstrap server: write host:port."
        )));
    }
    Ok(servers.clone())
}

/// Returns true for `host:port`. Also accepts underscores (container names) and `[IPv6]`, which AWS's pattern does
/// not but self-hosted clusters use.
fn is_server(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let name = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    let address = |host: &str| host.bytes().all(|b| b.is_ascii_hexdigit() || b":.".contains(&b));
    let host_fits = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) => !host.is_empty() && address(host),
        None => !host.is_empty() && name(host),
    };
    let port_fits = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 300 && host_fits && port_fits && port.parse::<u16>().is_ok_and(|port| port > 0)
}
