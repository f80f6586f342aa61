//! Errors in AWS's shapes. <https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html>

use serde_json::{Value, json};
use thiserror::Error;

/// Which exception; decides status, spelling and blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A parameter is wrong.
    InvalidParameterValue,
    /// A constraint of the model is violated.
    Validation,
    /// The body is not JSON of the right types.
    Serialization,
    /// It exists already, or an operation is under way.
    ResourceConflict,
    /// No such mapping.
    ResourceNotFound,
    /// It is being changed.
    ResourceInUse,
    /// Not this fast.
    TooManyRequests,
    /// Our fault.
    Service,
    /// Not now: the node drains. AWS's `ServiceException`, with the status that says so; SDKs try both again.
    Unavailable,
    /// No signature.
    MissingAuthenticationToken,
    /// A key we did not issue.
    UnrecognizedClient,
    /// An Authorization header that is none, or lacks something.
    IncompleteSignature,
    /// A signature that does not fit.
    InvalidSignature,
    /// The key may not do that.
    AccessDenied,
    /// No such path.
    UnknownOperation,
    /// A body beyond the limit.
    RequestTooLarge,
    /// A body that does not come.
    RequestTimeout,
}

impl ErrorKind {
    /// Name in `x-amzn-ErrorType`.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidParameterValue => "InvalidParameterValueException",
            Self::Validation => "ValidationException",
            Self::Serialization => "SerializationException",
            Self::ResourceConflict => "ResourceConflictException",
            Self::ResourceNotFound => "ResourceNotFoundException",
            Self::ResourceInUse => "ResourceInUseException",
            Self::TooManyRequests => "TooManyRequestsException",
            Self::Service | Self::Unavailable => "ServiceException",
            Self::MissingAuthenticationToken => "MissingAuthenticationTokenException",
            Self::UnrecognizedClient => "UnrecognizedClientException",
            Self::IncompleteSignature => "IncompleteSignatureException",
            Self::InvalidSignature => "InvalidSignatureException",
            Self::AccessDenied => "AccessDeniedException",
            Self::UnknownOperation => "UnknownOperationException",
            Self::RequestTooLarge => "RequestEntityTooLargeException",
            Self::RequestTimeout => "RequestTimeoutException",
        }
    }

    /// HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidParameterValue
            | Self::Validation
            | Self::Serialization
            | Self::ResourceInUse
            | Self::IncompleteSignature => 400,
            Self::MissingAuthenticationToken
            | Self::UnrecognizedClient
            | Self::InvalidSignature
            | Self::AccessDenied => 403,
            Self::ResourceNotFound | Self::UnknownOperation => 404,
            Self::RequestTimeout => 408,
            Self::ResourceConflict => 409,
            Self::RequestTooLarge => 413,
            Self::TooManyRequests => 429,
            Self::Service => 500,
            Self::Unavailable => 503,
        }
    }
}

/// An error as the API gives it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: {message}", kind.name())]
pub struct ApiError {
    /// Which exception.
    pub kind: ErrorKind,
    /// AWS's text where it is known, ours where AWS has none.
    pub message: String,
}

impl ApiError {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A wrong parameter.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameterValue, message)
    }

    /// The unknown mapping.
    pub fn not_found() -> Self {
        Self::new(ErrorKind::ResourceNotFound, "The resource you requested does not exist.")
    }

    /// The JSON body: three shapes spell `Message`, the others `message`, as the model has it.
    pub fn body(&self) -> Value {
        match self.kind {
            ErrorKind::ResourceNotFound | ErrorKind::ResourceInUse => {
                json!({ "Type": "User", "Message": self.message })
            }
            ErrorKind::Service | ErrorKind::Unavailable => {
                json!({ "Type": "Service", "Message": self.message })
            }
            ErrorKind::InvalidParameterValue | ErrorKind::ResourceConflict | ErrorKind::TooManyRequests => {
                json!({ "Type": "User", "message": self.message })
            }
            ErrorKind::Validation
            | ErrorKind::Serialization
            | ErrorKind::MissingAuthenticationToken
            | ErrorKind::UnrecognizedClient
            | ErrorKind::IncompleteSignature
            | ErrorKind::InvalidSignature
            | ErrorKind::AccessDenied
            | ErrorKind::UnknownOperation
            | ErrorKind::RequestTooLarge
            | ErrorKind::RequestTimeout => json!({ "message": self.message }),
        }
    }
}
