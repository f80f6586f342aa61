//! Runtime API (2018-06-01) of one instance.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use uuid::Uuid;

use super::answer::{HostOutcome, HostReply, bytes_reply, json_reply};
use super::body::{self, RESPONSE_BYTES_MAX, RequestBody};
use super::core::InstanceId;
use super::host::{HostedFunction, InstanceWork};
use super::observer::{ERROR_BYTES_MAX, HostedFunctionError};
use crate::runtime::clock;

/// Answers one request of the runtime in `instance`.
pub(super) async fn handle(
    function: Rc<HostedFunction>,
    instance: InstanceId,
    request: Request<Incoming>,
) -> HostReply {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["2018-06-01", "runtime", "invocation", "next"]) => next(&function, instance).await,
        (&Method::POST, ["2018-06-01", "runtime", "invocation", id, end @ ("response" | "error")]) => {
            let failed = *end == "error";
            answer(&function, instance, id, failed, request).await
        }
        (&Method::POST, ["2018-06-01", "runtime", "init", "error"]) => {
            if let Ok(RequestBody::Whole(error)) = body::read(request.into_body(), ERROR_BYTES_MAX).await {
                function.initialization_failed(instance, &HostedFunctionError::parse(&error));
            }
            accepted()
        }
        _ => refused(StatusCode::NOT_FOUND, "no such Runtime API path"),
    }
}

async fn next(function: &Rc<HostedFunction>, instance: InstanceId) -> HostReply {
    match function.poll(instance).await {
        Ok(work) => deliver(function, work),
        Err(_) => refused(StatusCode::GONE, "this instance is to end, or polls twice"),
    }
}

fn deliver(function: &HostedFunction, work: InstanceWork) -> HostReply {
    let left = work.until.since(clock::now());
    let deadline = clock::wall_ms().0.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
    let request = work.request;
    let trace = request.simple().to_string();
    let trace = format!("Root=1-{}-{};Parent={};Sampled=0", &trace[..8], &trace[8..], &trace[..16]);
    let mut reply = bytes_reply(StatusCode::OK, work.payload);
    let headers = [
        ("lambda-runtime-aws-request-id", Some(request.to_string())),
        ("lambda-runtime-deadline-ms", Some(deadline.to_string())),
        ("lambda-runtime-invoked-function-arn", Some(function.arn.clone())),
        ("lambda-runtime-trace-id", Some(trace)),
        ("lambda-runtime-client-context", work.client_context),
    ];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            reply.headers_mut().insert(name, value);
        }
    }
    reply
}

async fn answer(
    function: &Rc<HostedFunction>,
    instance: InstanceId,
    id: &str,
    failed: bool,
    request: Request<Incoming>,
) -> HostReply {
    let Ok(id) = id.parse::<Uuid>() else {
        return refused(StatusCode::BAD_REQUEST, "InvalidRequestID");
    };
    let Ok(body) = body::read(request.into_body(), RESPONSE_BYTES_MAX).await else {
        return refused(StatusCode::BAD_REQUEST, "the body ended early");
    };
    let (outcome, fits) = match body {
        RequestBody::Whole(bytes) if failed => (HostOutcome::Error(bytes), true),
        RequestBody::Whole(bytes) => (HostOutcome::Success(bytes), true),
        RequestBody::TooLarge(seen) => (HostOutcome::too_large(seen), false),
    };
    if !function.answered(instance, id, outcome) {
        return refused(StatusCode::BAD_REQUEST, "InvalidRequestID");
    }
    if fits { accepted() } else { refused(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge") }
}

fn accepted() -> HostReply {
    bytes_reply(StatusCode::ACCEPTED, Bytes::from_static(br#"{"status":"OK"}"#))
}

fn refused(status: StatusCode, why: &str) -> HostReply {
    json_reply(status, &json!({ "errorType": why, "errorMessage": why }))
}
