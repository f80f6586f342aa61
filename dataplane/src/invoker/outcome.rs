//! Classification of replies. Each reply of the Invoke API, and each way to get none, is a variant of its own.
//! There is no "other". `batcher/results.rs` turns an outcome into a result for each partition. <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>

use std::time::Duration;

use bytes::Bytes;
use lighterman_proto::units::Moment;
use serde::Deserialize;

use crate::messages::resolution::InvocationMetadata;

/// Metric label of invocations that delivered their batch.
pub(super) const DELIVERED: &str = "delivered";
/// Maximum length of a retained error message.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Result of a wire attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvokeResponse {
    /// HTTP response.
    Answer {
        /// Status code.
        status: u16,
        /// `X-Amz-Function-Error`.
        function_error: Option<String>,
        /// `x-amzn-ErrorType`.
        error_type: Option<String>,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
        /// `X-Amz-Executed-Version`.
        executed_version: Option<String>,
        /// `x-amzn-RequestId`.
        request_id: Option<String>,
        /// Response body.
        body: Bytes,
    },
    /// The request provably never left, for lack of a connection.
    NotSent(String),
    /// The lease ended before the whole request had left. A partial request invokes nothing.
    Withheld,
    /// The request may have been received. Its outcome is unknown.
    Lost(String),
}

/// Outcome of an invocation for its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvocationOutcome {
    /// The function has processed the records.
    Delivered {
        /// Response of the function.
        response: Bytes,
    },
    /// The function ran and failed.
    FunctionError {
        /// `errorType` of the response.
        error_type: String,
        /// `errorMessage` of the response, at most 1 KiB.
        message: String,
    },
    /// The function did not run, because of a concurrency limit.
    Throttled {
        /// Reason given by AWS.
        reason: String,
        /// Delay requested by AWS.
        retry_after: Option<Duration>,
    },
    /// The payload is too large for this endpoint.
    TooLarge,
    /// Not sent: the lease ended before the whole request had left.
    Withheld,
    /// The service failed or was unreachable. The function did not run.
    ServiceError {
        /// Error message.
        message: String,
    },
    /// An operator must change a permission, a name or the state of the function.
    ConfigError {
        /// Error message.
        message: String,
    },
    /// The outcome is unknown. The function may still be running.
    Unknown {
        /// Reason for the loss.
        message: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ErrorBody {
    #[serde(rename = "errorType")]
    error_type: Option<String>,
    #[serde(rename = "errorMessage")]
    error_message: Option<String>,
    #[serde(alias = "Message")]
    message: Option<String>,
    #[serde(rename = "Reason")]
    reason: Option<String>,
}

impl InvokeResponse {
    /// Returns the facts of Lambda's response, if there was one.
    pub fn facts(&self) -> Option<InvocationMetadata> {
        let Self::Answer { status, function_error, executed_version, request_id, .. } = self else {
            return None;
        };
        Some(InvocationMetadata {
            status: *status,
            executed_version: executed_version.clone(),
            function_error: function_error.clone(),
            request_id: request_id.clone(),
        })
    }
}

impl InvocationOutcome {
    /// Classifies a reply.
    pub fn of(reply: InvokeResponse) -> Self {
        match reply {
            InvokeResponse::NotSent(message) => Self::ServiceError { message },
            InvokeResponse::Lost(message) => of_lost_response(message),
            InvokeResponse::Withheld => Self::Withheld,
            InvokeResponse::Answer { status: 200, function_error: None, body, .. } => {
                Self::Delivered { response: body }
            }
            InvokeResponse::Answer { status, function_error, error_type, retry_after, body, .. } => {
                judge(status, function_error, error_type, retry_after, &body)
            }
        }
    }

    /// Returns the time until which the function may still be running, if the outcome is unknown.
    pub fn may_run_until(&self, sent_at: Moment, function_timeout: Duration) -> Option<Moment> {
        matches!(self, Self::Unknown { .. }).then(|| latest_end(sent_at, function_timeout))
    }

    /// Returns the metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => DELIVERED,
            Self::FunctionError { .. } => "function_error",
            Self::Throttled { .. } => "throttled",
            Self::TooLarge => "too_large",
            Self::Withheld => "withheld",
            Self::ServiceError { .. } => "service_error",
            Self::ConfigError { .. } => "config_error",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// Returns a one-line explanation for operators, empty if the batch was delivered.
    pub fn explain(&self) -> String {
        match self {
            Self::Delivered { .. } => String::new(),
            Self::FunctionError { error_type, message } => {
                format!("the function failed: {error_type}: {message}")
            }
            Self::Throttled { reason, .. } => format!("the function is throttled: {reason}"),
            Self::TooLarge => "the endpoint refuses the payload as too large: lower BatchSize".to_owned(),
            Self::Withheld => {
                "the consumer group's lease ended before the invocation was sent: another node may own the partition"
                    .to_owned()
            }
            Self::ServiceError { message } => format!("Lambda does not answer: {message}"),
            Self::ConfigError { message } => format!("Lambda refuses the invocation: {message}"),
            Self::Unknown { message } => {
                format!("the outcome is unknown, the function may still be running: {message}")
            }
        }
    }
}

/// Longest time between sending an invocation and the start of the function's timeout.
const UNKNOWN_MARGIN: Duration = Duration::from_secs(3);

/// Returns the latest time at which an invocation sent at `sent_at` ends: the function's timeout may start late.
fn latest_end(sent_at: Moment, function_timeout: Duration) -> Moment {
    mutant!(
        "late-arrival-not-expected",
        sent_at + function_timeout + UNKNOWN_MARGIN,
        sent_at + function_timeout
    )
}

/// Returns the outcome of a request without a response. It was sent, so the function may have run.
fn of_lost_response(message: String) -> InvocationOutcome {
    mutant!(
        "lost-reply-is-not-sent",
        InvocationOutcome::Unknown { message },
        InvocationOutcome::ServiceError { message }
    )
}

/// Returns the outcome of a 5xx despite which the function may have run.
fn of_ambiguous_error(message: String) -> InvocationOutcome {
    mutant!(
        "gateway-error-is-not-run",
        InvocationOutcome::Unknown { message },
        InvocationOutcome::ServiceError { message }
    )
}

fn judge(
    status: u16,
    function_error: Option<String>,
    error_type: Option<String>,
    retry_after: Option<u64>,
    body: &[u8],
) -> InvocationOutcome {
    let said: ErrorBody = serde_json::from_slice(body).unwrap_or_default();
    let is_aws = error_type.is_some();
    let kind = error_type.unwrap_or_default();
    let message = || {
        let text = said
            .message
            .clone()
            .unwrap_or_else(|| String::from_utf8_lossy(&body[..body.len().min(200)]).into());
        shorten(format!("{status} {kind} {text}").trim())
    };
    match (status, function_error) {
        (200..=299, Some(handling)) => InvocationOutcome::FunctionError {
            error_type: shorten(&said.error_type.unwrap_or(handling)),
            message: shorten(&said.error_message.unwrap_or_default()),
        },
        (200..=299, None) => InvocationOutcome::Unknown { message: not_of_request_response(status) },
        (413, _) => InvocationOutcome::TooLarge,
        (429, _) => InvocationOutcome::Throttled {
            reason: shorten(&said.reason.unwrap_or_else(message)),
            retry_after: retry_after.map(Duration::from_secs),
        },
        (500..=599, _) if may_have_run(status, is_aws, body) => of_ambiguous_error(message()),
        // 408: the request arrived incompletely, or mounting the function's file system timed out.
        (408 | 500..=599, _) => InvocationOutcome::ServiceError { message: message() },
        // 1xx, 3xx and the rest of 4xx: errors that time alone does not resolve.
        _ => InvocationOutcome::ConfigError { message: message() },
    }
}

/// Returns true if the function may have run despite a 5xx. A 500 is Lambda's own failure at any point, a 504 a
/// gateway's timeout. Lambda's other named errors (`EC2…`, `ENI…`, `KMS…`: 502) precede the function. An unnamed
/// error comes from a gateway, whose connection may have broken while the function ran. A gateway's 503 means that
/// no upstream was available, except for Envoy, which also returns it for a reset.
/// <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors>
fn may_have_run(status: u16, is_aws: bool, body: &[u8]) -> bool {
    const ENVOY_RESET: &[u8] = b"disconnect/reset before headers";
    match status {
        500 | 504 => true,
        _ if is_aws => false,
        503 => body.windows(ENVOY_RESET.len()).take(1024).any(|part| part == ENVOY_RESET),
        _ => true,
    }
}

/// Returns true if status and headers alone determine the outcome of an invocation with a truncated body. The
/// function has failed, has not run, or no body would say more.
pub fn is_told_by_head(status: u16, has_function_error: bool, is_aws: bool) -> bool {
    match status {
        200..=299 => has_function_error,
        500..=599 => is_aws || may_have_run(status, is_aws, b""),
        _ => true,
    }
}

/// Describes a successful status other than 200. Only 200 means that the function has answered.
fn not_of_request_response(status: u16) -> String {
    let what = match status {
        202 => "it was accepted to run later",
        204 => "it was only tried (DryRun)",
        _ => "nothing that Lambda says to it",
    };
    format!(
        "the endpoint answers {status} to a RequestResponse invocation: {what}. Check AWS_ENDPOINT_URL_LAMBDA"
    )
}

fn shorten(text: &str) -> String {
    text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, function_error: Option<&str>, body: &str) -> InvocationOutcome {
        named(status, None, function_error, body)
    }

    fn named(
        status: u16,
        error_type: Option<&str>,
        function_error: Option<&str>,
        body: &str,
    ) -> InvocationOutcome {
        InvocationOutcome::of(InvokeResponse::Answer {
            status,
            function_error: function_error.map(ToOwned::to_owned),
            error_type: error_type.map(ToOwned::to_owned),
            retry_after: (status == 429).then_some(2),
            executed_version: None,
            request_id: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
        })
    }

    #[test]
    fn function_error_with_200_is_failure() {
        let verdict = answer(200, Some("Unhandled"), r#"{"errorType":"ValueError","errorMessage":"no"}"#);
        assert_eq!(
            verdict,
            InvocationOutcome::FunctionError { error_type: "ValueError".into(), message: "no".into() }
        );
        assert!(matches!(
            answer(200, Some("Unhandled"), "not JSON"),
            InvocationOutcome::FunctionError { .. }
        ));
        assert!(matches!(answer(200, None, "null"), InvocationOutcome::Delivered { .. }));
    }

    #[test]
    fn throttles_and_service_errors_are_distinguished() {
        let throttled =
            answer(429, None, r#"{"Reason":"ReservedFunctionConcurrentInvocationLimitExceeded"}"#);
        let reason = "ReservedFunctionConcurrentInvocationLimitExceeded".to_owned();
        assert_eq!(
            throttled,
            InvocationOutcome::Throttled { reason, retry_after: Some(Duration::from_secs(2)) }
        );
        for status in [301, 400, 403, 404, 409] {
            assert!(matches!(answer(status, None, "{}"), InvocationOutcome::ConfigError { .. }), "{status}");
        }
        assert_eq!(answer(413, None, ""), InvocationOutcome::TooLarge);
    }

    #[test]
    fn own_1_possibly_executed_error_is_unknown() {
        for (status, kind) in [
            (500, None),
            (500, Some("ServiceException")),
            (502, None),
            (504, None),
            (504, Some("X")),
            (520, None),
        ] {
            let verdict = named(status, kind, None, "<html>");
            assert!(matches!(verdict, InvocationOutcome::Unknown { .. }), "{status} {kind:?}: {verdict:?}");
        }
        let reset =
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
        assert!(matches!(answer(503, None, reset), InvocationOutcome::Unknown { .. }));
        let mut did_not_run = vec![(503, None), (503, Some("ServiceUnavailableException")), (408, None)];
        let kinds = [
            "EC2AccessDeniedException",
            "EC2ThrottledException",
            "EC2UnexpectedException",
            "ENILimitReachedException",
            "InvalidRuntimeException",
            "InvalidSecurityGroupIDException",
            "InvalidSubnetIDException",
            "InvalidZipFileException",
            "KMSAccessDeniedException",
            "KMSDisabledException",
            "KMSInvalidStateException",
            "KMSNotFoundException",
            "ResourceNotReadyException",
            "SubnetIPAddressLimitReachedException",
        ];
        did_not_run.extend(kinds.map(|kind| (502, Some(kind))));
        for (status, kind) in did_not_run {
            let verdict = named(status, kind, None, "{}");
            assert!(
                matches!(verdict, InvocationOutcome::ServiceError { .. }),
                "{status} {kind:?}: {verdict:?}"
            );
        }
    }

    #[test]
    fn alo_1_only_200_delivers() {
        for status in [201, 202, 204, 299] {
            let InvocationOutcome::Unknown { message } = answer(status, None, "null") else {
                panic!("{status}")
            };
            assert!(message.contains(&status.to_string()) && message.contains("AWS_ENDPOINT_URL_LAMBDA"));
            assert!(matches!(
                answer(status, Some("Unhandled"), "{}"),
                InvocationOutcome::FunctionError { .. }
            ));
        }
    }

    #[test]
    fn lost_reply_may_still_be_running() {
        let sent = Moment::from_micros(0);
        let minute = Duration::from_secs(60);
        let lost = InvocationOutcome::of(InvokeResponse::Lost("cut".into()));
        assert!(lost.may_run_until(sent, minute) >= Some(sent + minute));
        assert_eq!(
            InvocationOutcome::of(InvokeResponse::NotSent("refused".into())).may_run_until(sent, minute),
            None
        );
    }

    #[test]
    fn long_message_truncated_at_char_boundary() {
        let text = "é".repeat(2000);
        let verdict = answer(200, Some("Unhandled"), &format!(r#"{{"errorMessage":"{text}"}}"#));
        let InvocationOutcome::FunctionError { message, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
    }
}
