//! Error classes, the node's reaction to every error, and the text of an error with its causes.

use std::error::Error;

/// Reaction to an error. There is no "other": every new error must choose a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Transient: retry after a backoff.
    Retry,
    /// The other side throttles.
    Throttle,
    /// The bytes can never be accepted; a retry changes nothing.
    Poison,
    /// This member has lost what it acted on. Drop it and change nothing.
    Fenced,
    /// An operator must change something. Keep reporting it, and retry slowly.
    Fatal,
}

/// Returns an error's text and those of its causes. A cause that its effect already quotes is not repeated.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct TestError {
        text: &'static str,
        source: Option<Box<TestError>>,
    }

    #[test]
    fn error_chain_names_each_cause_once() {
        let of = |text, source: Option<TestError>| TestError { text, source: source.map(Box::new) };
        let error = of("no connection: refused", Some(of("refused", Some(of("port closed", None)))));
        assert_eq!(error_chain(&error), "no connection: refused: port closed");
    }
}
