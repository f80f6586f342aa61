//! Errors of destinations, and their classes.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::egress::EgressDenied;
use crate::error::{ErrorClass, error_chain};

/// Deadline of every call to a destination.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Maximum length kept of an error text from the destination.
const WHY_BYTES_MAX: usize = 1024;

/// Failed delivery. `to` names the destination: its ARN or `kafka://topic`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// A broker of the destination may not be dialled.
    #[error("{to}: {source}")]
    Egress {
        /// Destination.
        to: Arc<str>,
        /// Rule that denied it.
        source: EgressDenied,
    },
    /// No connection, no credentials, or the connection broke. The message may have arrived.
    #[error("{to} cannot be reached: {why}. Check that it runs and can be reached from here")]
    Unreachable {
        /// Destination.
        to: Arc<str>,
        /// Error text.
        why: String,
    },
    /// No response in time. The message may have arrived.
    #[error("{to} did not answer within {} s", CALL_DEADLINE.as_secs())]
    Silent {
        /// Destination.
        to: Arc<str>,
    },
    /// The destination reported a failure.
    #[error("{to} failed: {why}")]
    Failed {
        /// Destination.
        to: Arc<str>,
        /// Error text of the destination.
        why: String,
    },
    /// The destination throttles.
    #[error("{to} throttles: {why}")]
    Throttled {
        /// Destination.
        to: Arc<str>,
        /// Error text of the destination.
        why: String,
    },
    /// The destination can never accept this message.
    #[error("a message of {bytes} bytes is too large for {to}: {why}")]
    TooLarge {
        /// Destination.
        to: Arc<str>,
        /// Size of the largest such message: body, or key and value.
        bytes: usize,
        /// Limit, or the error text of the destination.
        why: String,
    },
    /// The destination does not exist.
    #[error("{to} does not exist: {why}. Create it, or correct `DestinationConfig` of the mapping")]
    Missing {
        /// Destination.
        to: Arc<str>,
        /// Error text.
        why: String,
    },
    /// Permission to write is missing.
    #[error("{to} does not let us write: {why}. Grant this node's role {permission}")]
    NotAllowed {
        /// Destination.
        to: Arc<str>,
        /// Error text of the destination.
        why: String,
        /// Permission that is required.
        permission: &'static str,
    },
    /// The destination rejects the message for another lasting reason.
    #[error("{to} refuses the message: {why}")]
    Refused {
        /// Destination.
        to: Arc<str>,
        /// Error text of the destination.
        why: String,
    },
}

impl DeliveryError {
    /// Returns the class of the error. `Poison` is returned for [`Self::TooLarge`] only.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Failed { .. } => ErrorClass::Retry,
            Self::Throttled { .. } => ErrorClass::Throttle,
            Self::TooLarge { .. } => ErrorClass::Poison,
            Self::Egress { .. } | Self::Missing { .. } | Self::NotAllowed { .. } | Self::Refused { .. } => {
                ErrorClass::Fatal
            }
        }
    }
}

/// Returns an error and its causes as text of bounded length.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    bounded(&error_chain(error)).to_owned()
}

/// Returns the beginning of an external error text.
pub(super) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(WHY_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn external_text_truncated_at_char_boundary() {
        let long = "ü".repeat(WHY_BYTES_MAX);
        assert_eq!(bounded(&long).len(), WHY_BYTES_MAX);
        assert_eq!(bounded(&format!("x{long}")).len(), WHY_BYTES_MAX - 1);
        assert_eq!(bounded("short"), "short");
    }
}
