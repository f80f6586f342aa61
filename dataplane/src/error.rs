//! Error classes: the node's reaction to every error, decided in one place.

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
