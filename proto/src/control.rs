//! Samples of mappings, from the dataplane to the scaler.

use crate::ids::TopicPartition;
use crate::units::Moment;

/// Sample of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionSample {
    /// Partition that was sampled.
    pub partition: TopicPartition,
    /// Log end offset − committed offset, in records. `None` if the query failed; never treat it as zero.
    pub lag: Option<u64>,
    /// Records appended to the log since the last sample; `None` if unknown.
    pub arrived: Option<u64>,
    /// Records resolved since the last sample.
    pub resolved: u64,
}

/// Sample of one mapping on this node.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingSample {
    /// Time of the sample.
    pub at: Moment,
    /// Samples of all partitions that the member owns.
    pub partitions: Vec<PartitionSample>,
    /// Invocations in flight.
    pub slots_in_use: u32,
    /// Maximum concurrent invocations: five for each consumer, fewer while the function is throttled.
    pub slots_limit: u32,
    /// Invocations throttled since the last sample.
    pub throttled: u64,
    /// Invocations that returned since the last sample, throttled ones included.
    pub answered: u64,
}
