//! API errors in AWS's shapes. <https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html>

use serde_json::{Value, json};
use thiserror::Error;

/// Kind of exception; determines the HTTP status, the JSON member names and the fault (`User` or `Service`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Invalid parameter.
    InvalidParameterValue,
    /// Violated constraint of the model.
    Validation,
    /// Body that is not JSON of the expected types.
    Serialization,
    /// Resource that exists already, or another operation in progress.
    ResourceConflict,
    /// Mapping that does not exist.
    ResourceNotFound,
    /// Mapping with an update in progress.
    ResourceInUse,
    /// Request rate above the limit.
    TooManyRequests,
    /// Internal error.
    Service,
    /// Request during the node's drain. It is AWS's `ServiceException` with status 503; SDKs retry both.
    Unavailable,
    /// Missing signature.
    MissingAuthenticationToken,
    /// Unknown access key id.
    UnrecognizedClient,
    /// Authorization header that is malformed or incomplete.
    IncompleteSignature,
    /// Signature that does not match.
    InvalidSignature,
    /// Operation that the access key does not permit.
    AccessDenied,
    /// Unknown path.
    UnknownOperation,
    /// Body larger than the limit.
    RequestTooLarge,
    /// Body that was not received in time.
    RequestTimeout,
}

impl ErrorKind {
    /// Returns the name for `x-amzn-ErrorType`.
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

    /// Returns the HTTP status.
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

/// API error as the client receives it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{}: {message}", kind.name())]
pub struct ApiError {
    /// Kind of exception.
    pub kind: ErrorKind,
    /// AWS's message where known; Lighterman's own otherwise.
    pub message: String,
}

impl ApiError {
    /// Creates an error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Creates an error for an invalid parameter.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidParameterValue, message)
    }

    /// Creates the error for an unknown mapping.
    pub fn not_found() -> Self {
        Self::new(ErrorKind::ResourceNotFound, "The resource you requested does not exist.")
    }

    /// Returns the JSON body. As in the model, some shapes spell the member `Message`, the others `message`.
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
