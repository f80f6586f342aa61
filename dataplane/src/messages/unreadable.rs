//! Batches that cannot be read.

use std::time::Duration;

use lighterman_proto::ids::Offset;
use lighterman_proto::records::RecordError;

/// End of a batch that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchEnd {
    /// Offset after the batch, known because its header has a valid checksum or the next batch can be read.
    Certain(Offset),
    /// Offset given by the batch's header, if that is after the start of the batch; not verified.
    Claimed(Option<Offset>),
}

/// Damage of a batch that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchDamage {
    /// End of the batch.
    pub end: BatchEnd,
    /// Cause of the damage.
    pub error: RecordError,
}

impl BatchDamage {
    /// Returns a message for operators with the cause, and the command that skips the batch.
    pub fn told(&self, partition: i32, first: Offset) -> String {
        let Self { end, error } = self;
        let range = match end {
            BatchEnd::Certain(end) => format!("offsets {first} to {} of partition {partition}", end.0 - 1),
            BatchEnd::Claimed(_) => format!("partition {partition} from offset {first} on"),
        };
        let end = match end {
            BatchEnd::Certain(end) => end.to_string(),
            BatchEnd::Claimed(Some(end)) => format!("END (its header says {end}, which nothing vouches for)"),
            BatchEnd::Claimed(None) => "END (where the next good record is)".to_owned(),
        };
        format!(
            "{range} cannot be read: {error}; asked for again every {} s; to pass it: lighterman mapping skip UUID \
             {partition} {first} --end {end} --reason TEXT",
            READ_RETRY_DELAY.as_secs()
        )
    }
}

/// Range of offsets that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRange {
    /// The first of them.
    pub first: Offset,
    /// End of the range, and the cause.
    pub damage: BatchDamage,
    /// Set if the damage is inside the batch, whose bytes are as they were written.
    pub is_intact: bool,
}

/// Pause before a partition that cannot be read is fetched again.
pub const READ_RETRY_DELAY: Duration = Duration::from_secs(5);
