//! What can be wrong with a pattern, and where.

use thiserror::Error;

/// A pattern that cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("filter {}, {path} (byte {at}): {what}", filter + 1)]
pub struct PatternError {
    /// Which filter, from 0.
    pub filter: usize,
    /// Byte of the pattern at which the mistake stands.
    pub at: usize,
    /// The field in which it stands: `value.price[1]`; `pattern` for the whole.
    pub path: String,
    /// What is wrong, and what to write instead.
    pub what: String,
}

/// A mistake whose filter is not named yet.
#[derive(Debug)]
pub(super) struct PatternMistake {
    pub(super) at: usize,
    /// From the inside out.
    pub(super) path: Vec<String>,
    pub(super) what: String,
}

impl PatternMistake {
    pub(super) fn new(at: usize, what: impl Into<String>) -> Self {
        Self { at, path: Vec::new(), what: what.into() }
    }

    /// The same, seen from one level further out.
    pub(super) fn inside(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }

    pub(super) fn of_filter(self, filter: usize) -> PatternError {
        // A field's name may be empty: its place has one all the same.
        let named = |step: String| if step.is_empty() { "\"\"".to_owned() } else { step };
        let steps: Vec<String> = self.path.into_iter().rev().map(named).collect();
        let path = if steps.is_empty() { "pattern".to_owned() } else { steps.join(".").replace(".[", "[") };
        PatternError { filter, at: self.at, path, what: self.what }
    }
}
