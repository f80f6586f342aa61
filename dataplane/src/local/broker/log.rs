//! Log of one partition: whole record batches in memory up to a byte limit. The oldest batches are dropped first.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use lighterman_proto::ids::Offset;
use lighterman_proto::records::{BatchInflater, RecordError, batches, records};
use lighterman_proto::units::INFLATED_BYTES_MAX;

const LEADER_EPOCH_AT: usize = 12;

#[derive(Clone, Debug)]
struct StoredBatch {
    base: Offset,
    end: Offset,
    max_timestamp: i64,
    bytes: Bytes,
}

/// Log of one partition.
#[derive(Clone, Debug)]
pub(super) struct BrokerLog {
    batches: VecDeque<StoredBatch>,
    start: Offset,
    end: Offset,
    bytes: usize,
    bytes_max: usize,
    /// Leader epochs with their start offsets, oldest first; never empty.
    epochs: Vec<(i32, Offset)>,
}

impl BrokerLog {
    pub(super) fn new(bytes_max: usize) -> Self {
        let epochs = vec![(0, Offset(0))];
        Self { batches: VecDeque::new(), start: Offset(0), end: Offset(0), bytes: 0, bytes_max, epochs }
    }

    pub(super) fn leader_epoch(&self) -> i32 {
        self.epochs.last().map_or(0, |(epoch, _)| *epoch)
    }

    /// Returns the newest epoch that is not newer than `epoch`, with its end offset (KIP-320). `None` if `epoch` is
    /// unknown.
    pub(super) fn end_of_epoch(&self, epoch: i32) -> Option<(i32, Offset)> {
        if epoch > self.leader_epoch() {
            return None;
        }
        let at = self.epochs.iter().rposition(|(known, _)| *known <= epoch)?;
        let end = self.epochs.get(at + 1).map_or(self.end, |(_, began)| *began);
        Some((self.epochs[at].0, end))
    }

    pub(super) fn start(&self) -> Offset {
        self.start
    }

    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// Appends a producer's record batches: verifies each, assigns its offset and leader epoch. Returns the first
    /// offset.
    pub(super) fn append(&mut self, sent: &Bytes) -> Result<Offset, RecordError> {
        let leader_epoch = self.leader_epoch();
        let mut checked = Vec::new();
        for batch in batches(sent) {
            let batch = batch?;
            batch.verify_crc()?;
            checked.push((batch.range, batch.header));
        }
        let whole = checked.last().map_or(0, |(range, _)| range.end);
        if whole != sent.len() || sent.is_empty() {
            return Err(RecordError::Header { offset: 0, what: "a batch is cut off" });
        }
        let base = self.end;
        for (range, header) in checked {
            // Base offset and leader epoch precede the part that the checksum covers.
            let mut bytes = BytesMut::from(&sent[range]);
            bytes[..8].copy_from_slice(&self.end.0.to_be_bytes());
            bytes[LEADER_EPOCH_AT..LEADER_EPOCH_AT + 4].copy_from_slice(&leader_epoch.to_be_bytes());
            let end = Offset(self.end.0 + i64::from(header.last_offset_delta) + 1);
            self.bytes += bytes.len();
            let (base, max_timestamp) = (self.end, header.max_timestamp);
            self.batches.push_back(StoredBatch { base, end, max_timestamp, bytes: bytes.freeze() });
            self.end = end;
        }
        self.retain();
        Ok(base)
    }

    /// Returns batches from the one that contains `offset`: at most `bytes_max` bytes, but at least one batch. `None`
    /// if `offset` is out of range.
    pub(super) fn read(&self, offset: Offset, bytes_max: usize) -> Option<Bytes> {
        if offset < self.start || offset > self.end {
            return None;
        }
        let from = self.batches.partition_point(|stored| stored.end <= offset);
        let mut size = 0;
        let chosen: Vec<&StoredBatch> = self
            .batches
            .range(from..)
            .take_while(|stored| {
                let fits = size == 0 || size + stored.bytes.len() <= bytes_max;
                size += stored.bytes.len();
                fits
            })
            .collect();
        match &chosen[..] {
            [] => Some(Bytes::new()),
            [one] => Some(one.bytes.clone()),
            several => Some(several.iter().flat_map(|stored| stored.bytes.iter().copied()).collect()),
        }
    }

    /// Returns the first record at or after `timestamp`, with the record's own timestamp.
    pub(super) fn at_time(&self, timestamp: i64) -> Option<(Offset, i64)> {
        let mut inflater = BatchInflater::default();
        for stored in self.batches.iter().filter(|stored| stored.max_timestamp >= timestamp) {
            let batch = batches(&stored.bytes).next()?.ok()?;
            let mut plain = Vec::new();
            inflater.inflate(batch.header.compression, batch.body, INFLATED_BYTES_MAX, &mut plain).ok()?;
            let found =
                records(&batch.header, &plain).flatten().find(|record| record.timestamp.0 >= timestamp);
            if let Some(record) = found {
                return Some((record.offset, record.timestamp.0));
            }
        }
        None
    }

    /// Truncates the log to `offset` and starts a new leader epoch, as an unclean leader election does.
    pub(super) fn truncate(&mut self, offset: Offset) {
        while self.batches.back().is_some_and(|last| last.base >= offset) {
            if let Some(cut) = self.batches.pop_back() {
                self.bytes -= cut.bytes.len();
                self.end = cut.base;
            }
        }
        let next = self.leader_epoch() + 1;
        let end = self.end;
        self.epochs.retain(|(_, began)| *began < end);
        self.epochs.push((next, end));
    }

    /// Drops the batches that end at or before `offset`, as retention does.
    pub(super) fn delete_before(&mut self, offset: Offset) {
        while self.batches.front().is_some_and(|first| first.end <= offset) {
            self.drop_oldest();
        }
    }

    /// Replaces the bytes of the batch that contains `offset`.
    pub(super) fn replace(&mut self, offset: Offset, bytes: Bytes) {
        if let Some(stored) = self.batches.iter_mut().find(|stored| stored.end > offset) {
            self.bytes = self.bytes + bytes.len() - stored.bytes.len();
            stored.bytes = bytes;
        }
    }

    fn retain(&mut self) {
        while self.bytes > self.bytes_max && self.batches.len() > 1 {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(gone) = self.batches.pop_front() {
            self.bytes -= gone.bytes.len();
            self.start = gone.end;
        }
    }
}
