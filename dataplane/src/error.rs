//! The class of every error: what the node does about it, decided once.

/// What to do about an error. There is no "other": a new failure must choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// Passing: try again after a backoff.
    Retry,
    /// The other side asks for less.
    Throttle,
    /// These bytes will never be good; trying again changes nothing.
    Poison,
    /// We no longer own what we acted on: drop it, touch nothing.
    Fenced,
    /// A person must change something; keep saying so, and keep trying slowly.
    Fatal,
}
