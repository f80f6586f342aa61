//! Log of one partition: batches with gaps, control batches, transactions, filtered records, leaders and leader
//! epochs.

use bytes::{Bytes, BytesMut};
use lighterman_proto::ids::Offset;

use super::super::random::SeededRandom;
use super::batches::{BatchStamp, RecordShape, batch, marker};

/// Letter of values that the mapping's filters reject.
pub(crate) const FILTERED: u8 = b'f';
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const LZ4: i16 = 3;

pub(crate) struct LoggedBatch {
    pub base: i64,
    pub next: i64,
    pub epoch: i32,
    pub bytes: Bytes,
    /// True if the batch has records that must be delivered.
    pub must_be_seen: bool,
}

/// Transaction, from its first offset to its marker.
struct OpenTransaction {
    producer: i64,
    first: i64,
    marker: i64,
    aborted: bool,
}

pub(crate) struct PartitionLog {
    pub leader: usize,
    pub epoch: i32,
    pub start: i64,
    pub end: i64,
    pub batches: Vec<LoggedBatch>,
    transactions: Vec<OpenTransaction>,
}

impl PartitionLog {
    pub(crate) fn new(leader: usize) -> Self {
        let (batches, transactions) = (Vec::new(), Vec::new());
        Self { leader, epoch: 0, start: 0, end: 0, batches, transactions }
    }

    /// Appends a batch or a transaction. Returns the offsets of the records that must be delivered.
    pub(crate) fn append(&mut self, random: &mut SeededRandom, timestamp: i64, size_max: u64) -> Vec<i64> {
        let stamp = |attributes, producer| BatchStamp { epoch: 0, timestamp, attributes, producer };
        if random.chance(120) {
            return self.append_transaction(random, timestamp, size_max);
        }
        if random.chance(60) {
            // A control batch of unknown type must be skipped.
            self.append_batch(random, stamp(CONTROL, -1), size_max);
            return Vec::new();
        }
        self.append_batch(random, stamp(0, -1), size_max)
    }

    /// Appends a producer's records, sometimes another producer's, and the marker. All are written at once, so the
    /// last stable offset is the log end.
    fn append_transaction(&mut self, random: &mut SeededRandom, timestamp: i64, size_max: u64) -> Vec<i64> {
        let (producer, aborted, first) = (random.pick(&[7, 8]), random.chance(600), self.end);
        let of_producer = BatchStamp { epoch: 0, timestamp, attributes: TRANSACTIONAL, producer };
        let mut visible = self.append_batch(random, of_producer, size_max);
        if aborted {
            visible.clear();
            if let Some(last) = self.batches.last_mut() {
                last.must_be_seen = false;
            }
        }
        if random.chance(500) {
            let of_another = BatchStamp { attributes: 0, producer: -1, ..of_producer };
            visible.extend(self.append_batch(random, of_another, size_max));
        }
        let ending = BatchStamp { epoch: self.epoch, attributes: TRANSACTIONAL | CONTROL, ..of_producer };
        let (marker_at, bytes) = (self.end, marker(self.end, ending, aborted));
        self.transactions.push(OpenTransaction { producer, first, marker: marker_at, aborted });
        self.push(marker_at + 1, bytes, false);
        visible
    }

    fn append_batch(&mut self, random: &mut SeededRandom, stamp: BatchStamp, size_max: u64) -> Vec<i64> {
        let mut shapes = Vec::new();
        let mut delta = -1;
        for _ in 0..random.between(1, 5) {
            delta += if random.chance(150) { 2 } else { 1 };
            let letter = if random.chance(80) { FILTERED } else { b'v' };
            shapes.push(RecordShape { delta, letter, size: random.between(0, size_max) as usize });
        }
        if random.chance(40) {
            // Models a batch emptied by compaction.
            shapes.clear();
        }
        let last = delta + i64::from(random.chance(100));
        // The simulated opener knows that the bytes are not compressed.
        let packed = stamp.attributes & CONTROL == 0 && random.chance(200);
        let attributes = stamp.attributes | if packed { LZ4 } else { 0 };
        let bytes = batch(self.end, BatchStamp { epoch: self.epoch, attributes, ..stamp }, &shapes, last);
        let passes = |shape: &&RecordShape| shape.letter != FILTERED || shape.size == 0;
        let visible: Vec<i64> = shapes.iter().filter(passes).map(|shape| self.end + shape.delta).collect();
        self.push(self.end + last + 1, bytes, stamp.attributes & CONTROL == 0 && !visible.is_empty());
        visible
    }

    fn push(&mut self, next: i64, bytes: Bytes, must_be_seen: bool) {
        self.batches.push(LoggedBatch { base: self.end, next, epoch: self.epoch, bytes, must_be_seen });
        self.end = next;
    }

    /// Returns the aborted transactions that end at or after `position`: producer and first offset, as a broker
    /// returns them.
    pub(crate) fn aborted_from(&self, position: i64) -> Vec<(i64, Offset)> {
        let ends_behind = |of: &&OpenTransaction| of.aborted && of.marker >= position;
        self.transactions.iter().filter(ends_behind).map(|of| (of.producer, Offset(of.first))).collect()
    }

    /// Returns batches from `position` on: the first always, then as many as fit.
    pub(crate) fn read(&self, position: i64, bytes_max: usize, batches_max: usize) -> Bytes {
        let from = self.batches.partition_point(|stored| stored.next <= position);
        let mut some = self.batches[from..].iter().take(batches_max);
        let Some(first) = some.next() else { return Bytes::new() };
        let mut total = first.bytes.len();
        let rest: Vec<&LoggedBatch> = some
            .take_while(|stored| {
                total += stored.bytes.len();
                total <= bytes_max
            })
            .collect();
        if rest.is_empty() {
            return first.bytes.clone();
        }
        let mut all = BytesMut::from(&first.bytes[..]);
        for stored in rest {
            all.extend_from_slice(&stored.bytes);
        }
        all.freeze()
    }

    /// Truncates whole batches, down to `from` or a little lower, without splitting a transaction. Returns the new
    /// log end.
    pub(crate) fn truncate(&mut self, from: i64) -> i64 {
        while self.batches.last().is_some_and(|last| last.next > from || self.is_in_transaction()) {
            if let Some(gone) = self.batches.pop() {
                self.end = gone.base;
            }
        }
        self.transactions.retain(|of| of.marker < self.end);
        self.start = self.start.min(self.end);
        self.end
    }

    fn is_in_transaction(&self) -> bool {
        self.transactions.iter().any(|of| of.first < self.end && self.end <= of.marker)
    }

    /// Deletes whole batches from the start, up to `before` or a little less. Returns the new log start.
    pub(crate) fn delete(&mut self, before: i64) -> i64 {
        let keep = self.batches.partition_point(|stored| stored.next <= before);
        if let Some(last) = keep.checked_sub(1) {
            self.start = self.batches[last].next;
        }
        self.batches.drain(..keep);
        self.start
    }

    /// Returns true if no record that must be delivered has an epoch later than `epoch`, the last one read.
    pub(crate) fn is_read_up_to(&self, epoch: i32) -> bool {
        epoch < 0 || !self.batches.iter().any(|stored| stored.epoch > epoch && stored.must_be_seen)
    }

    /// Returns the end of the records of `epoch`: the first offset of a later epoch (KIP-101).
    pub(crate) fn end_of_epoch(&self, epoch: i32) -> Offset {
        let later = self.batches.iter().find(|stored| stored.epoch > epoch);
        Offset(later.map_or(self.end, |stored| stored.base))
    }
}
