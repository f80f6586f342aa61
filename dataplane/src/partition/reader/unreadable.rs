//! Offsets that cannot be read: a wrong checksum, a failing codec, or records that do not fit their batch. The
//! partition pauses and fetches again. An operator may skip exactly these offsets; if there is a destination, their
//! bytes are sent there first.

use bytes::Bytes;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::{RecordBatch, RecordBatches, RecordError, batches_from, successor};

use super::PartitionReader;
use crate::messages::dead_letter::RawBatch;
use crate::messages::records::SharedLease;
use crate::messages::skip::SkipAnswer;
use crate::messages::unreadable::{BatchDamage, BatchEnd, UnreadableRange};
use crate::partition::effects::FetchedFrame;

/// Unreadable range of a partition, and the request to skip it.
#[derive(Debug, Default)]
pub(super) struct UnreadState {
    now: Option<UnreadableRange>,
    /// Offsets that an operator has asked to skip.
    wanted: Option<OffsetRange>,
}

impl UnreadState {
    /// Forgets an unreadable range that starts before `end`, which the partition has reached.
    pub(super) fn forget_before(&mut self, end: Offset) {
        if self.now.as_ref().is_some_and(|now| now.first < end) {
            (self.now, self.wanted) = (None, None);
        }
    }
}

impl PartitionReader {
    /// Unreadable range, if there is one.
    pub(in crate::partition) fn unreadable(&self) -> Option<&UnreadableRange> {
        self.unread.now.as_ref()
    }

    /// Stops at a range that cannot be read; its fetch has ended.
    pub(in crate::partition) fn stop_at(&mut self, unreadable: UnreadableRange) {
        self.is_fetching = false;
        self.unread.now = Some(unreadable);
    }

    /// Range that an operator has asked to skip.
    pub(in crate::partition) fn requested_pass(&self) -> Option<OffsetRange> {
        self.unread.wanted
    }

    /// Accepts an operator's request to skip `first` to `end`, if it names exactly the unreadable range; returns the
    /// answer to any other.
    pub(in crate::partition) fn request_pass(
        &mut self,
        first: Offset,
        end: Option<Offset>,
    ) -> Result<(), SkipAnswer> {
        let Some(unreadable) = &self.unread.now else { return Err(SkipAnswer::NotUnreadable) };
        let named = SkipAnswer::Unreadable { first: unreadable.first, end: unreadable.damage.end };
        let Some(end) = end.filter(|end| first == unreadable.first && *end > first) else {
            return Err(named);
        };
        if matches!(unreadable.damage.end, BatchEnd::Certain(certain) if certain != end) {
            return Err(named);
        }
        self.unread.wanted = Some(OffsetRange { first, end });
        Ok(())
    }

    /// Returns the bytes of the unreadable `range` in a frame that was fetched for them, or `None` if the range can be
    /// read by now.
    pub(in crate::partition) fn raw_batch(
        &self,
        frame: &FetchedFrame<'_>,
        range: OffsetRange,
    ) -> Option<RawBatch> {
        let unreadable = self.unreadable();
        let is_intact = unreadable.is_some_and(|unreadable| unreadable.is_intact);
        let raw = raw_bytes(frame.records, range, is_intact)?;
        let why = unreadable.map(|unreadable| unreadable.damage.error.to_string()).unwrap_or_default();
        Some(RawBatch { range, raw, why, hold: SharedLease::clone(frame.hold) })
    }

    /// Forgets the unreadable range, and the request to skip it.
    pub(in crate::partition) fn forget_unreadable(&mut self) {
        self.unread = UnreadState::default();
    }
}

/// Returns the next batch of a frame that was fetched at `position`, with its checksum verified. A frame that holds
/// bytes but no whole batch is an error, as in Java's `FetchCollector`: its first batch is longer than it can be.
pub(super) fn next_batch<'f>(
    walk: &mut RecordBatches<'f>,
    frame: &'f Bytes,
    position: Offset,
) -> Option<Result<RecordBatch<'f>, RecordError>> {
    let at = walk.at();
    match walk.next() {
        None if at == 0 && !frame.is_empty() => Some(Err(RecordError::Header {
            offset: position.0,
            what: "its length is more than the broker sent",
        })),
        None => None,
        Some(batch) => Some(batch.and_then(|batch| batch.verify_crc().map(|()| batch))),
    }
}

/// Returns the damage of the batch at byte `at`. If the batch lies wholly before `position`, returns the batches
/// after it instead.
pub(super) fn damage(
    frame: &Bytes,
    at: usize,
    error: RecordError,
    position: Offset,
) -> Result<BatchDamage, RecordBatches<'_>> {
    if let Some((next, header)) = successor(frame, at) {
        if header.base_offset <= position {
            return Err(batches_from(frame, next));
        }
        return Ok(BatchDamage { end: BatchEnd::Certain(header.base_offset), error });
    }
    let header = batches_from(frame, at).next().and_then(Result::ok).map(|batch| batch.header);
    let claimed = header.map(|header| header.next_offset()).filter(|end| *end > position);
    Ok(BatchDamage { end: BatchEnd::Claimed(claimed), error })
}

/// Returns the bytes of `range` in a frame that was fetched at its start, or `None` if the range can be read by now.
/// A batch that `is_intact` is not checked for that, as its damage is inside it.
fn raw_bytes(frame: &Bytes, range: OffsetRange, is_intact: bool) -> Option<Bytes> {
    let (mut begin, mut walk) = (None, batches_from(frame, 0));
    loop {
        let at = walk.at();
        let batch = match walk.next() {
            None => break,
            Some(batch) => batch.and_then(|batch| batch.verify_crc().map(|()| batch)),
        };
        match batch {
            Ok(batch) if batch.header.next_offset() <= range.first => {}
            Ok(batch) if begin.is_some() && batch.header.base_offset >= range.end => {
                return Some(frame.slice(begin?..at));
            }
            Ok(_) if begin.is_none() && !is_intact => return None,
            Ok(_) => begin = begin.or(Some(at)),
            Err(_) => {
                let next = successor(frame, at);
                if next.as_ref().is_none_or(|(_, header)| header.base_offset > range.first) {
                    begin = begin.or(Some(at));
                }
                let Some((next, _)) = next else { break };
                walk = batches_from(frame, next);
            }
        }
    }
    let begin = begin.or((!frame.is_empty()).then_some(0))?;
    Some(frame.slice(begin..))
}
