//! HTTP responses of the fake Lambda.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use serde_json::json;

use super::InvocationAction;
use super::connection::ConnectionCut;

/// Extracts the function's name: `f` of `/2015-03-31/functions/f/invocations`, or the last part of an ARN.
pub(super) fn function_in(path: &str) -> &str {
    let name = path.split('/').skip_while(|part| *part != "functions").nth(1).unwrap_or_default();
    let name = name.rsplit_once("%3A").map_or(name, |(_, last)| last);
    name.rsplit_once(':').map_or(name, |(_, last)| last)
}

/// Returns the request id of invocation `id`.
pub fn request_id(id: u64) -> String {
    format!("00000000-0000-4000-8000-{id:012}")
}

/// Creates the response of a function that ran, with Lambda's headers.
pub(super) fn ran(id: u64, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = plain(200, body);
    let headers = response.headers_mut();
    headers.insert("x-amz-executed-version", http::HeaderValue::from_static("$LATEST"));
    if let Ok(name) = http::HeaderValue::from_str(&request_id(id)) {
        headers.insert("x-amzn-requestid", name);
    }
    response
}

pub(super) fn refuse(act: InvocationAction) -> Result<Response<Full<Bytes>>, ConnectionCut> {
    match act {
        InvocationAction::Throttle => {
            Ok(plain(429, r#"{"Type":"User","message":"Rate Exceeded.","Reason":"CallerRateLimitExceeded"}"#))
        }
        InvocationAction::Status(status) => Ok(plain(status, r#"{"message":"on purpose"}"#)),
        _ => Err(ConnectionCut),
    }
}

/// Formats a `ReportBatchItemFailures` response. Every second item is an object and the others are strings, since
/// AWS's pages show both.
pub(super) fn report_of(topic: &str, failed: &BTreeSet<(i32, i64)>) -> String {
    let item = |(index, (partition, offset)): (usize, &(i32, i64))| match index % 2 {
        0 => json!({"itemIdentifier": {"partition": format!("{topic}-{partition}"), "offset": offset}}),
        _ => json!({"itemIdentifier": format!("{topic}-{partition}-{offset}")}),
    };
    json!({"batchItemFailures": failed.iter().enumerate().map(item).collect::<Vec<_>>()}).to_string()
}

pub(super) fn plain(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response
}
