//! Errors of patterns, with their position.

use thiserror::Error;

/// Error in a pattern.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("filter {}, {path} (byte {at}): {what}", filter + 1)]
pub struct PatternError {
    /// Index of the filter, from 0.
    pub filter: usize,
    /// Byte position of the mistake in the pattern.
    pub at: usize,
    /// Path of the field that contains the mistake: `value.price[1]`; `pattern` for the whole.
    pub path: String,
    /// Description of the mistake, and the correct form.
    pub what: String,
}

/// Mistake in a pattern whose filter index is not yet known.
#[derive(Debug)]
pub(super) struct PatternMistake {
    pub(super) at: usize,
    /// Path steps, innermost first.
    pub(super) path: Vec<String>,
    pub(super) what: String,
}

impl PatternMistake {
    pub(super) fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, path: Vec::new(), what: what.into() }
    }

    /// Adds an outer path step.
    pub(super) fn inside(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }

    pub(super) fn of_filter(self, filter: usize) -> PatternError {
        // An empty field name is shown as `""`.
        let named = |step: String| if step.is_empty() { "\"\"".to_owned() } else { step };
        let steps: Vec<String> = self.path.into_iter().rev().map(named).collect();
        let path = if steps.is_empty() { "pattern".to_owned() } else { steps.join(".").replace(".[", "[") };
        PatternError { filter, at: self.at, path, what: self.what }
    }
}
