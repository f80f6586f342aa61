//! Messages that a consumer accepts, and its reports.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix::Message;
use lighterman_proto::ids::{ConsumerId, Epoch};

use crate::messages::report::PartitionReport;
use crate::messages::resume::ResumePoint;
use crate::status::partition::PartitionStats;

/// Starts a partition.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StartPartition {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Offset and progress to resume from.
    pub position: ResumePoint,
    /// Statistics that the partition updates.
    pub stats: Arc<PartitionStats>,
}

/// Drains a partition: completes what is in flight, commits, then reports `Drained`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DrainPartition {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
}

/// Stops partitions at once because this member has lost them. `None` means all.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FencePartitions(pub Option<Arc<BTreeSet<i32>>>);

/// Report of a consumer to the member.
#[derive(Clone, Debug, Message)]
#[rtype(result = "()")]
pub struct ConsumerReport {
    /// Id of the consumer.
    pub consumer: ConsumerId,
    /// Event that is reported.
    pub event: ConsumerEvent,
}

/// Event of a consumer.
#[derive(Clone, Debug)]
pub enum ConsumerEvent {
    /// A report of one of its partitions.
    Partition(PartitionReport),
    /// The consumer or its batcher panicked. All its partitions must be rebuilt.
    Exited,
}
