//! What an answer means. Every reply of the Invoke API, and every way to have none, is one of these; there is no "other".
//! <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>

use std::time::Duration;

use bytes::Bytes;
use lighterman_proto::units::Moment;
use serde::Deserialize;

use crate::error::ErrorClass;

/// Longest part of a function's error message that we keep.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What came back on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvokeResponse {
    /// An HTTP answer.
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
        /// The body.
        body: Bytes,
    },
    /// The request provably never left: no connection.
    NotSent(String),
    /// It was not let go: the lease ended before all of it had left, and a part starts nothing.
    Withheld,
    /// It may have been received; nobody will tell.
    Lost(String),
}

/// The facts of Lambda's answer that failure records carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerFacts {
    /// HTTP status.
    pub status: u16,
    /// `X-Amz-Executed-Version`.
    pub executed_version: Option<String>,
    /// `X-Amz-Function-Error`.
    pub function_error: Option<String>,
    /// `x-amzn-RequestId`.
    pub request_id: Option<String>,
}

/// What it means for the batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvocationOutcome {
    /// The function has answered for the records.
    Delivered {
        /// Its response.
        response: Bytes,
    },
    /// It ran and failed.
    FunctionError {
        /// `errorType` of its answer.
        error_type: String,
        /// `errorMessage` of its answer, at most 1 KiB.
        message: String,
    },
    /// It did not run: too many at once.
    Throttled {
        /// AWS's reason.
        reason: String,
        /// When AWS says to come back.
        retry_after: Option<Duration>,
    },
    /// The payload is too large for this endpoint.
    TooLarge,
    /// It was not sent: the lease ended before all of it had left.
    Withheld,
    /// The service failed, or could not be reached: the function did not run.
    ServiceError {
        /// What it said.
        message: String,
    },
    /// A person must change something: permission, name, state of the function.
    ConfigError {
        /// What it said.
        message: String,
    },
    /// Nobody says what became of it: the function may still be running.
    Unknown {
        /// How it was lost.
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
    /// What Lambda said of the invocation, if it said anything.
    pub fn facts(&self) -> Option<AnswerFacts> {
        let Self::Answer { status, function_error, executed_version, request_id, .. } = self else {
            return None;
        };
        Some(AnswerFacts {
            status: *status,
            executed_version: executed_version.clone(),
            function_error: function_error.clone(),
            request_id: request_id.clone(),
        })
    }
}

impl InvocationOutcome {
    /// Judges a reply.
    pub fn of(reply: InvokeResponse) -> Self {
        match reply {
            InvokeResponse::NotSent(message) => Self::ServiceError { message },
            InvokeResponse::Lost(message) => {
                mutant!("lost-reply-is-not-sent", Self::Unknown { message }, Self::ServiceError { message })
            }
            InvokeResponse::Withheld => Self::Withheld,
            InvokeResponse::Answer { status: 200, function_error: None, body, .. } => {
                Self::Delivered { response: body }
            }
            InvokeResponse::Answer { status, function_error, error_type, retry_after, body, .. } => {
                judge(status, function_error, error_type, retry_after, &body)
            }
        }
    }

    /// What to do about it, in one word.
    pub fn class(&self) -> Option<ErrorClass> {
        match self {
            Self::Delivered { .. } => None,
            Self::FunctionError { .. }
            | Self::Withheld
            | Self::ServiceError { .. }
            | Self::Unknown { .. } => Some(ErrorClass::Retry),
            Self::Throttled { .. } => Some(ErrorClass::Throttle),
            Self::TooLarge => Some(ErrorClass::Poison),
            Self::ConfigError { .. } => Some(ErrorClass::Fatal),
        }
    }

    /// Up to when the function may still be running, if that is not known to be over.
    pub fn may_run_until(&self, sent_at: Moment, function_timeout: Duration) -> Option<Moment> {
        matches!(self, Self::Unknown { .. }).then(|| {
            sent_at + function_timeout + mutant!("late-arrival-not-expected", UNKNOWN_MARGIN, Duration::ZERO)
        })
    }

    /// As a metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::FunctionError { .. } => "function_error",
            Self::Throttled { .. } => "throttled",
            Self::TooLarge => "too_large",
            Self::Withheld => "withheld",
            Self::ServiceError { .. } => "service_error",
            Self::ConfigError { .. } => "config_error",
            Self::Unknown { .. } => "unknown",
        }
    }

    /// One line for people; empty when all is well.
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

/// An invocation request may be on its way this long before the function's clock starts.
const UNKNOWN_MARGIN: Duration = Duration::from_secs(3);

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
        (500..=599, _) if may_have_run(status, is_aws, body) => {
            mutant!(
                "gateway-error-is-not-run",
                InvocationOutcome::Unknown { message: message() },
                InvocationOutcome::ServiceError { message: message() }
            )
        }
        // 408: the request did not arrive as a whole, or the function's file system did not.
        (408 | 500..=599, _) => InvocationOutcome::ServiceError { message: message() },
        // 1xx, 3xx, and the rest of 4xx: nothing that time alone mends.
        _ => InvocationOutcome::ConfigError { message: message() },
    }
}

/// Whether a 5xx leaves open that the function runs. A 500 is Lambda's own failure at any point, a 504 a gateway that waited no
/// longer. Lambda's other errors, which it names, come before the function does (`EC2…`, `ENI…`, `KMS…`: 502); what a gateway
/// says for itself may follow a connection that broke while the function ran. Its 503 is for having nowhere to go, but for
/// Envoy's, which is for a reset as well. <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html#API_Invoke_Errors>
fn may_have_run(status: u16, is_aws: bool, body: &[u8]) -> bool {
    const ENVOY_RESET: &[u8] = b"disconnect/reset before headers";
    match status {
        500 | 504 => true,
        _ if is_aws => false,
        503 => body.windows(ENVOY_RESET.len()).take(1024).any(|part| part == ENVOY_RESET),
        _ => true,
    }
}

/// True when status and headers alone say what became of an invocation, when the body behind them broke off: the function has
/// failed, or never ran, or nothing in a body would say more.
pub fn is_told_by_head(status: u16, has_function_error: bool, is_aws: bool) -> bool {
    match status {
        200..=299 => has_function_error,
        500..=599 => is_aws || may_have_run(status, is_aws, b""),
        _ => true,
    }
}

/// Only 200 says that a function has answered.
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
    fn a_200_with_function_error_is_a_failure() {
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
    fn throttles_and_service_errors_are_told_apart() {
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
    fn own_1_an_error_that_does_not_say_that_the_function_did_not_run_leaves_it_open() {
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
    fn a_lost_reply_may_still_run() {
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
    fn long_messages_are_cut_at_a_character() {
        let text = "é".repeat(2000);
        let verdict = answer(200, Some("Unhandled"), &format!(r#"{{"errorMessage":"{text}"}}"#));
        let InvocationOutcome::FunctionError { message, .. } = verdict else { panic!("{verdict:?}") };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
    }
}
