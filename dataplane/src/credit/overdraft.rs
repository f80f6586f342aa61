//! Overdrafts: purposes for which bytes are lent over the budget's limit.

/// Purpose of an overdraft, each held by one batch at a time. A batch needs the overdrafts one after the other.
/// With a single shared overdraft, a batch that holds decompressed records could wait forever for payload bytes
/// held by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdraft {
    /// Bytes that a broker sends beyond the requested size: a first batch larger than the fetch.
    Fetched,
    /// Memory of a decoder between the pieces of a batch.
    Decoder,
    /// Decompressed records of a batch.
    Inflated,
    /// Payload of an invocation.
    Payload,
    /// Records on their way to a failure destination.
    Letter,
    /// Response of a function.
    Answer,
}

impl Overdraft {
    /// True if the overdraft holds records that can be fetched again. The others hold data in transit, and are
    /// returned when its transfer ends, not earlier.
    pub(super) fn is_for_records(self) -> bool {
        match self {
            Self::Fetched | Self::Decoder | Self::Inflated => true,
            Self::Payload | Self::Letter | Self::Answer => false,
        }
    }
}

pub(super) const OVERDRAFTS: [Overdraft; 6] = [
    Overdraft::Fetched,
    Overdraft::Decoder,
    Overdraft::Inflated,
    Overdraft::Payload,
    Overdraft::Letter,
    Overdraft::Answer,
];
