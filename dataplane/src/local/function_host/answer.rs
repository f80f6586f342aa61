//! Responses of the Invoke API with AWS's statuses, headers and messages.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use uuid::Uuid;

use super::core::HostFailure;

pub(super) type HostReply = Response<Full<Bytes>>;

/// Outcome of an invocation.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HostOutcome {
    /// Response of the function.
    Success(Bytes),
    /// Error of the function, or of the host in its place.
    Error(Bytes),
    /// Concurrency limit reached.
    Throttled,
}

impl HostOutcome {
    pub(super) fn of(failure: &HostFailure, request: Uuid) -> Self {
        let (kind, message) = match failure {
            HostFailure::TimedOut(limit) => {
                let seconds = limit.as_secs_f64();
                (
                    "Sandbox.Timedout",
                    format!("RequestId: {request} Error: Task timed out after {seconds:.2} seconds"),
                )
            }
            HostFailure::Exited(how) => {
                let text = format!("RequestId: {request} Error: Runtime exited with error: {how}");
                ("Runtime.ExitError", text)
            }
            HostFailure::NotStarted(how) => {
                let text =
                    format!("RequestId: {request} Error: Runtime exited before it asked for work: {how}");
                ("Runtime.ExitError", text)
            }
        };
        Self::error(kind, &message)
    }

    pub(super) fn too_large(bytes: usize) -> Self {
        let text = format!(
            "Response payload size ({bytes} bytes) exceeded maximum allowed payload size ({} bytes).",
            super::body::RESPONSE_BYTES_MAX
        );
        Self::error("Function.ResponseSizeTooLarge", &text)
    }

    fn error(kind: &str, message: &str) -> Self {
        let body = json!({ "errorType": kind, "errorMessage": message });
        Self::Error(Bytes::from(body.to_string()))
    }
}

/// Returns a response with a JSON body.
pub(super) fn json_reply(status: StatusCode, body: &Value) -> HostReply {
    bytes_reply(status, Bytes::from(body.to_string()))
}

/// Returns a response with `body`, which must be JSON.
pub(super) fn bytes_reply(status: StatusCode, body: Bytes) -> HostReply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// Returns one of AWS's exceptions.
pub(super) fn exception(status: StatusCode, kind: &'static str, message: &str) -> HostReply {
    let mut reply = json_reply(status, &json!({ "Type": "User", "Message": message }));
    reply.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(kind));
    reply
}

/// Returns the 429 response of a function with reserved concurrency.
pub(super) fn throttled() -> HostReply {
    let body = json!({
        "Type": "User",
        "message": "Rate Exceeded.",
        "Reason": "ReservedFunctionConcurrentInvocationLimitExceeded",
    });
    let mut reply = json_reply(StatusCode::TOO_MANY_REQUESTS, &body);
    reply.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static("TooManyRequestsException"));
    reply.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
    reply
}
