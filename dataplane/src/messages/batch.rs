//! Identity of a batch, and the reason why it was closed.

/// Id of a batch within this process. It matches outcomes to sent batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Reason for sealing a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The batch holds `BatchSize` records, or a further offer would exceed them.
    Count,
    /// No further offer fits into the payload.
    Bytes,
    /// The batching window has ended.
    Window,
    /// The batch is a retry of the same records.
    Retry,
}

impl CloseReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Count, Self::Bytes, Self::Window, Self::Retry];

    /// Returns the metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Window => "window",
            Self::Retry => "retry",
        }
    }
}
