//! What scaler and dataplane say to each other: samples up, decisions down.

use crate::ids::{ConsumerId, Epoch, TopicPartition};
use crate::units::Moment;

/// What one partition looked like at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionSample {
    /// Which partition.
    pub partition: TopicPartition,
    /// Log end − committed, in records. `None`: the query failed; never to be read as zero.
    pub lag: Option<u64>,
    /// Records that arrived in the log since the last sample; `None` when unknown.
    pub arrived: Option<u64>,
    /// Records resolved since the last sample.
    pub resolved: u64,
}

/// What one mapping looked like on this node at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingSample {
    /// When it was taken.
    pub at: Moment,
    /// Every partition the member owns.
    pub partitions: Vec<PartitionSample>,
    /// Invocations in flight.
    pub slots_in_use: u32,
    /// Invocations allowed at once: five for each consumer, less while the function throttles.
    pub slots_limit: u32,
    /// Invocations throttled since the last sample.
    pub throttled: u64,
    /// Invocations answered since the last sample, throttles included.
    pub answered: u64,
}

/// Where a partition is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAssignment {
    /// Which partition.
    pub partition: TopicPartition,
    /// Under which consumer.
    pub consumer: ConsumerId,
    /// Under which ownership generation.
    pub epoch: Epoch,
}
