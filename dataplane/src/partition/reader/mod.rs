//! Reading of a partition: what is fetched next, what has arrived, and what cannot be read.

pub(in crate::partition) mod compact;
pub mod fetch_buffer;
pub mod leader_epochs;
pub(in crate::partition) mod lost;
pub mod pieces;
pub(in crate::partition) mod release;
pub(in crate::partition) mod segment;
pub mod unreadable;

use lighterman_proto::ids::Offset;

use self::fetch_buffer::FetchBuffer;
use self::unreadable::UnreadState;
use super::effects::PartitionConfig;

/// Position in the log, and what was fetched and not yet taken into a batch.
pub(super) struct PartitionReader {
    pub(super) buffer: FetchBuffer,
    pub(super) position: Offset,
    /// Set while a fetch is requested.
    pub(super) wanted: bool,
    /// Set when records were released because other partitions were short of memory; cleared once the current batch
    /// is resolved.
    pub(super) gave_back: bool,
    pub(super) lost_before: Option<Offset>,
    pub(super) unread: UnreadState,
}

impl PartitionReader {
    pub(super) fn new(start: &PartitionConfig) -> Self {
        Self {
            buffer: FetchBuffer::after(start.leader_epoch),
            position: start.committed,
            wanted: false,
            gave_back: false,
            lost_before: None,
            unread: UnreadState::default(),
        }
    }

    /// True if records fetched at `position` are the next ones. An answer to an earlier request may arrive after the
    /// position was changed.
    pub(super) fn is_next(&self, position: Offset) -> bool {
        mutant!("fetch-not-matched", position == self.position, true)
    }
}
