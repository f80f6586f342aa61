//! What is lent over the limit of the budget, and for what.

/// What bytes over the limit are for; each has one holder at a time. They are apart because a batch needs them one after the
/// other: whoever holds inflated records over the limit must not wait for a payload that another holder's keeps away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdraft {
    /// What a broker sends beyond what was asked for: a first batch larger than the fetch.
    Fetched,
    /// What a decoder holds between the pieces of a batch.
    Decoder,
    /// Records of a batch, inflated.
    Inflated,
    /// The payload of an invocation.
    Payload,
    /// Records on their way to a destination.
    Letter,
    /// What a function answers.
    Answer,
}

impl Overdraft {
    /// True when it is for records that are held, which can be fetched again. What is on its way out comes back by itself, and not
    /// before.
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
