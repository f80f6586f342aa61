//! Reading of a partition: what is fetched next, what has arrived, and what cannot be read.

mod compact;
pub mod fetch_buffer;
pub mod leader_epochs;
pub mod pieces;
pub(in crate::partition) mod release;
mod segment;
pub mod unreadable;

use lighterman_proto::ids::Offset;
use lighterman_proto::units::Moment;

use self::fetch_buffer::{FetchBuffer, FillLimits, FillStop};
use self::unreadable::UnreadState;
use super::effects::{CoreContext, FetchedFrame, PartitionConfig, PartitionEffect};
use crate::messages::records::PartitionBatch;
use crate::messages::unreadable::{BatchDamage, BatchEnd};

const FETCH_BYTES_MIN: usize = 64 * 1024;

/// Position in the log, and what was fetched and not yet taken into a batch.
pub(super) struct PartitionReader {
    buffer: FetchBuffer,
    position: Offset,
    is_fetching: bool,
    /// Set when records were released because other partitions were short of memory.
    is_held_back: bool,
    /// Start of the log, once retention has deleted the records from the position up to there.
    lost_before: Option<Offset>,
    unread: UnreadState,
}

impl PartitionReader {
    pub(super) fn new(config: &PartitionConfig) -> Self {
        Self {
            buffer: FetchBuffer::after(config.leader_epoch),
            position: config.committed,
            is_fetching: false,
            is_held_back: false,
            lost_before: None,
            unread: UnreadState::default(),
        }
    }

    /// Offset of the next fetch.
    pub(super) fn position(&self) -> Offset {
        self.position
    }

    /// Bytes received and not yet taken into a batch.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.buffer.wire_bytes()
    }

    /// True if all received records were taken into batches.
    pub(super) fn is_buffer_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Arrival time of the first buffered record.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.buffer.oldest()
    }

    /// Leader epoch of the last record before `offset`; −1 if unknown.
    pub(super) fn leader_epoch_before(&self, offset: Offset) -> i32 {
        self.buffer.leaders().before(offset)
    }

    /// Forgets the leader epochs of records before `offset`.
    pub(super) fn forget_leaders_before(&mut self, offset: Offset) {
        self.buffer.forget_leaders_before(offset);
    }

    /// True if records fetched at `position` are the next ones. An answer to an earlier request may arrive after the
    /// position was changed.
    pub(super) fn is_next(&self, position: Offset) -> bool {
        mutant!("fetch-not-matched", position == self.position, true)
    }

    /// Returns a request for further records. There is none while one is under way, while `bytes_target` is buffered,
    /// or while records are held back or lost.
    pub(super) fn next_fetch(&mut self, bytes_target: usize) -> Option<PartitionEffect> {
        let held = self.buffer.wire_bytes();
        let must_wait = self.is_fetching || self.is_held_back || self.is_missing_records();
        if must_wait || held >= bytes_target {
            return None;
        }
        self.is_fetching = true;
        Some(PartitionEffect::Fetch {
            position: self.position,
            leader_epoch: self.leader_epoch_before(self.position),
            bytes_max: (bytes_target - held).max(FETCH_BYTES_MIN),
        })
    }

    /// Ends the fetch under way: it was answered, or its answer is not wanted any more.
    pub(super) fn end_fetch(&mut self) {
        self.is_fetching = false;
    }

    /// Receives the records of a frame and moves the position behind them; returns the damage of the batch there, if
    /// it cannot be read.
    pub(super) fn receive(&mut self, frame: FetchedFrame<'_>, now: Moment) -> Option<BatchDamage> {
        let FetchedFrame { position, records, aborted, hold } = frame;
        let received = self.buffer.receive(records, position, aborted, hold, now);
        self.position = received.position;
        received.damage
    }

    /// Grows `batch` from the buffer, as far as `fill_limits` allows.
    pub(super) fn grow(
        &mut self,
        batch: &mut PartitionBatch,
        fill_limits: FillLimits<'_>,
        context: &mut CoreContext<'_>,
    ) -> FillStop {
        let stop =
            self.buffer.grow(batch, fill_limits, context.sizer, context.record_filter, context.batch_opener);
        self.unread.forget_before(batch.range.end);
        stop
    }

    /// Takes the front record, if it is at `offset`, as a batch that starts at `first`, regardless of its size.
    pub(super) fn take_one(
        &mut self,
        first: Offset,
        offset: Offset,
        payload_bytes: usize,
    ) -> Option<PartitionBatch> {
        self.buffer.take_one(first, offset, payload_bytes)
    }

    /// Discards the buffered records, and the answer to the fetch under way.
    pub(super) fn discard_buffered(&mut self) {
        self.is_fetching = false;
        self.buffer.clear();
    }

    /// Moves the position back to `position`, from where everything is fetched again.
    pub(super) fn rewind_to(&mut self, position: Offset) {
        self.position = position;
        self.discard_buffered();
    }

    /// Moves the position back to `position`, where the front batch cannot be read; returns the end of that batch.
    pub(super) fn rewind_to_unreadable(&mut self, position: Offset) -> BatchEnd {
        let end = self.buffer.front_end().unwrap_or(position.next());
        self.rewind_to(position);
        BatchEnd::Certain(end)
    }

    /// Moves the position to `position`, behind offsets that are passed without being read.
    pub(super) fn pass_to(&mut self, position: Offset) {
        self.position = position;
    }

    /// Releases the records from `end` on, because other partitions are short of memory. Returns true if there are
    /// any: they are fetched again.
    pub(super) fn give_back(&mut self, end: Offset) -> bool {
        let has_more = self.is_fetching || !self.buffer.is_empty();
        if has_more {
            self.rewind_to(end);
        }
        self.is_held_back = true;
        has_more
    }

    /// Ends the time during which further records could not be used, once the records that were current when others
    /// were released are resolved.
    pub(super) fn end_hold_back(&mut self) {
        self.is_held_back = false;
    }

    /// Handles the deletion by retention of all records before `log_start`.
    pub(super) fn lose_before(&mut self, log_start: Offset) {
        if self.position < log_start {
            self.lost_before = Some(log_start);
        }
    }

    /// True if records at the position were deleted before they were read.
    pub(super) fn is_missing_records(&self) -> bool {
        self.lost_before.is_some()
    }

    /// Takes the offset up to which records are lost, so that they are passed.
    pub(super) fn take_lost(&mut self) -> Option<Offset> {
        let log_start = self.lost_before.take()?;
        self.unread.forget_before(log_start);
        Some(log_start)
    }

    /// True if the records after the received ones are lost or cannot be read.
    pub(super) fn is_interrupted(&self) -> bool {
        self.is_missing_records() || self.unreadable().is_some()
    }
}
