//! Classification of AWS error responses by error code, then HTTP status, then text.

use std::error::Error;
use std::sync::Arc;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::super::error::{DeliveryError, bounded, causes};

/// Error codes of SQS, SNS, S3 and KMS, without their namespace.
const THROTTLED: &[&str] = &[
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "RequestLimitExceeded",
    "KmsThrottled",
    "KMSThrottlingException",
    "OverLimit",
    "SlowDown",
];
const MISSING: &[&str] =
    &["NonExistentQueue", "QueueDoesNotExist", "NotFound", "NotFoundException", "NoSuchBucket"];
const NOT_ALLOWED: &[&str] = &[
    "AccessDenied",
    "AccessDeniedException",
    "AllAccessDisabled",
    "AuthorizationError",
    "AuthorizationErrorException",
    "KmsAccessDenied",
    "KMSAccessDeniedException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidSecurity",
    "InvalidSecurityException",
];
const TOO_LARGE: &[&str] = &["EntityTooLarge", "MaxMessageLengthExceeded", "RequestEntityTooLarge"];
/// Errors of a clock or token that a retry can overcome.
const PASSING: &[&str] = &["ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeout"];
/// Texts by which SQS and SNS report a message as too large.
const TOO_LARGE_WORDS: &[&str] = &["must be shorter than", "Message too long"];

/// Returns the error of a call that sent `bytes` and requires `permission`.
pub(super) fn error_of<E>(
    to: &Arc<str>,
    bytes: usize,
    permission: &'static str,
    error: &SdkError<E, HttpResponse>,
) -> DeliveryError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let to = Arc::clone(to);
    match error {
        SdkError::ServiceError(answer) => {
            let (code, message) = (answer.err().code(), answer.err().message());
            judged(to, bytes, permission, code, message, answer.raw().status().as_u16())
        }
        SdkError::ResponseError(answer) => {
            judged(to, bytes, permission, None, Some(&causes(error)), answer.raw().status().as_u16())
        }
        SdkError::TimeoutError(_) => DeliveryError::Silent { to },
        _ => DeliveryError::Unreachable { to, why: causes(error) },
    }
}

fn judged(
    to: Arc<str>,
    bytes: usize,
    permission: &'static str,
    code: Option<&str>,
    message: Option<&str>,
    status: u16,
) -> DeliveryError {
    let (code, message) = (code.unwrap_or_default(), message.unwrap_or_default());
    let last = code.rsplit(['.', '#']).next().unwrap_or_default();
    let is = |codes: &[&str]| codes.contains(&last);
    let why = match (code, message) {
        ("", "") => format!("status {status}"),
        ("", message) => format!("status {status}: {message}"),
        (code, "") => code.to_owned(),
        (code, message) => format!("{code}: {message}"),
    };
    let why = bounded(&why).to_owned();
    if is(THROTTLED) || status == 429 {
        DeliveryError::Throttled { to, why }
    } else if is(TOO_LARGE) || status == 413 || TOO_LARGE_WORDS.iter().any(|words| message.contains(words)) {
        DeliveryError::TooLarge { to, bytes, why }
    } else if is(MISSING) {
        DeliveryError::Missing { to, why }
    } else if is(NOT_ALLOWED) {
        DeliveryError::NotAllowed { to, why, permission }
    } else if is(PASSING) || status >= 500 || status == 408 {
        DeliveryError::Failed { to, why }
    } else if matches!(status, 401 | 403) {
        DeliveryError::NotAllowed { to, why, permission }
    } else if status == 404 {
        DeliveryError::Missing { to, why }
    } else {
        DeliveryError::Refused { to, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorClass;

    #[test]
    fn aws_errors_map_to_their_class() {
        let answers = [
            ("AWS.SimpleQueueService.NonExistentQueue", "", 400, ErrorClass::Fatal),
            ("com.amazonaws.sqs#QueueDoesNotExist", "", 400, ErrorClass::Fatal),
            ("RequestThrottled", "", 403, ErrorClass::Throttle),
            ("Throttling", "Rate exceeded", 400, ErrorClass::Throttle),
            ("SlowDown", "Please reduce your request rate.", 503, ErrorClass::Throttle),
            ("", "", 429, ErrorClass::Throttle),
            ("InvalidParameterValue", "Message must be shorter than 1024 bytes.", 400, ErrorClass::Poison),
            ("InvalidParameter", "Invalid parameter: Message too long", 400, ErrorClass::Poison),
            ("EntityTooLarge", "", 400, ErrorClass::Poison),
            ("AccessDenied", "User is not authorized", 403, ErrorClass::Fatal),
            ("NoSuchBucket", "", 404, ErrorClass::Fatal),
            ("ExpiredToken", "", 400, ErrorClass::Retry),
            ("InternalError", "", 500, ErrorClass::Retry),
            ("ServiceUnavailable", "", 503, ErrorClass::Retry),
            ("SomethingNew", "", 400, ErrorClass::Fatal),
            ("", "", 502, ErrorClass::Retry),
        ];
        for (code, message, status, class) in answers {
            let error = judged("arn".into(), 7, "p", Some(code), Some(message), status);
            assert_eq!(error.class(), class, "{error}");
        }
    }
}
