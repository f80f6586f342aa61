//! What an answer of AWS means: its error code, its status, its words, in this order.

use std::error::Error;
use std::sync::Arc;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::super::error::{DestinationError, bounded, causes};

/// Codes of SQS, SNS, S3 and KMS, without their namespace.
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
/// A clock or a token that will be right soon.
const PASSING: &[&str] = &["ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeout"];
/// How SQS and SNS say in words that a message is too large.
const TOO_LARGE_WORDS: &[&str] = &["must be shorter than", "Message too long"];

/// The error of a call that sent `bytes` and takes `permission`.
pub(super) fn error_of<E>(
    to: &Arc<str>,
    bytes: usize,
    permission: &'static str,
    error: &SdkError<E, HttpResponse>,
) -> DestinationError
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
        SdkError::TimeoutError(_) => DestinationError::Silent { to },
        _ => DestinationError::Unreachable { to, why: causes(error) },
    }
}

fn judged(
    to: Arc<str>,
    bytes: usize,
    permission: &'static str,
    code: Option<&str>,
    message: Option<&str>,
    status: u16,
) -> DestinationError {
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
        DestinationError::Throttled { to, why }
    } else if is(TOO_LARGE) || status == 413 || TOO_LARGE_WORDS.iter().any(|words| message.contains(words)) {
        DestinationError::TooLarge { to, bytes, why }
    } else if is(MISSING) {
        DestinationError::Missing { to, why }
    } else if is(NOT_ALLOWED) {
        DestinationError::NotAllowed { to, why, permission }
    } else if is(PASSING) || status >= 500 || status == 408 {
        DestinationError::Failed { to, why }
    } else if matches!(status, 401 | 403) {
        DestinationError::NotAllowed { to, why, permission }
    } else if status == 404 {
        DestinationError::Missing { to, why }
    } else {
        DestinationError::Refused { to, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn answers_of_aws_have_their_class() {
        let answers = [
            ("AWS.SimpleQueueService.NonExistentQueue", "", 400, Class::Fatal),
            ("com.amazonaws.sqs#QueueDoesNotExist", "", 400, Class::Fatal),
            ("RequestThrottled", "", 403, Class::Throttle),
            ("Throttling", "Rate exceeded", 400, Class::Throttle),
            ("SlowDown", "Please reduce your request rate.", 503, Class::Throttle),
            ("", "", 429, Class::Throttle),
            ("InvalidParameterValue", "Message must be shorter than 1024 bytes.", 400, Class::Poison),
            ("InvalidParameter", "Invalid parameter: Message too long", 400, Class::Poison),
            ("EntityTooLarge", "", 400, Class::Poison),
            ("AccessDenied", "User is not authorized", 403, Class::Fatal),
            ("NoSuchBucket", "", 404, Class::Fatal),
            ("ExpiredToken", "", 400, Class::Retry),
            ("InternalError", "", 500, Class::Retry),
            ("ServiceUnavailable", "", 503, Class::Retry),
            ("SomethingNew", "", 400, Class::Fatal),
            ("", "", 502, Class::Retry),
        ];
        for (code, message, status, class) in answers {
            let error = judged("arn".into(), 7, "p", Some(code), Some(message), status);
            assert_eq!(error.class(), class, "{error}");
        }
    }
}
