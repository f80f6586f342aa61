//! What can go wrong at a destination, typed and classed.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::egress::EgressDenied;
use crate::error::ErrorClass;

/// No call to a destination takes longer.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// What we keep of the other side's words.
const WHY_BYTES_MAX: usize = 1024;

/// One delivery that failed. `to` names the destination: its ARN or `kafka://topic`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeliveryError {
    /// A broker of it may not be dialled.
    #[error("{to}: {source}")]
    Egress {
        /// Where to.
        to: Arc<str>,
        /// Which rule.
        source: EgressDenied,
    },
    /// No connection, no credentials, or the connection broke: the message may have arrived.
    #[error("{to} cannot be reached: {why}. Check that it runs and can be reached from here")]
    Unreachable {
        /// Where to.
        to: Arc<str>,
        /// What happened.
        why: String,
    },
    /// No answer in time: the message may have arrived.
    #[error("{to} did not answer within {} s", CALL_DEADLINE.as_secs())]
    Silent {
        /// Where to.
        to: Arc<str>,
    },
    /// It failed, by its own word.
    #[error("{to} failed: {why}")]
    Failed {
        /// Where to.
        to: Arc<str>,
        /// What it said.
        why: String,
    },
    /// It asks for less.
    #[error("{to} throttles: {why}")]
    Throttled {
        /// Where to.
        to: Arc<str>,
        /// What it said.
        why: String,
    },
    /// It will never take this message.
    #[error("a message of {bytes} bytes is too large for {to}: {why}")]
    TooLarge {
        /// Where to.
        to: Arc<str>,
        /// Size of the largest such message: body, or key and value.
        bytes: usize,
        /// The limit, or what it said.
        why: String,
    },
    /// It does not exist.
    #[error("{to} does not exist: {why}. Create it, or correct `DestinationConfig` of the mapping")]
    Missing {
        /// Where to.
        to: Arc<str>,
        /// What was said.
        why: String,
    },
    /// We have no permission.
    #[error("{to} does not let us write: {why}. Grant this node's role {permission}")]
    NotAllowed {
        /// Where to.
        to: Arc<str>,
        /// What it said.
        why: String,
        /// What it takes.
        permission: &'static str,
    },
    /// It refuses the message for another reason that lasts.
    #[error("{to} refuses the message: {why}")]
    Refused {
        /// Where to.
        to: Arc<str>,
        /// What it said.
        why: String,
    },
}

impl DeliveryError {
    /// What to do about it. `Poison` is said of [`Self::TooLarge`] alone.
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

/// An error and its causes, bounded.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    bounded(&text).to_owned()
}

/// The beginning of what the other side said.
pub(super) fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(WHY_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_are_cut_between_characters() {
        let long = "ü".repeat(WHY_BYTES_MAX);
        assert_eq!(bounded(&long).len(), WHY_BYTES_MAX);
        assert_eq!(bounded(&format!("x{long}")).len(), WHY_BYTES_MAX - 1);
        assert_eq!(bounded("short"), "short");
    }
}
