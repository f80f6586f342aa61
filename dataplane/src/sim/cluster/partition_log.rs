//! One partition's log: batches with gaps, control batches, records that the filters refuse; leaders and their epochs.

use bytes::{Bytes, BytesMut};
use lighterman_proto::ids::Offset;

use super::super::random::Random;
use super::batches::{Shape, batch};

/// A value of this letter does not pass the mapping's filters.
pub(crate) const FILTERED: u8 = b'f';
const CONTROL: i16 = 0x20;
const LZ4: i16 = 3;

pub(crate) struct Stored {
    pub base: i64,
    pub next: i64,
    pub epoch: i32,
    pub bytes: Bytes,
    /// It holds records that the function must see.
    pub must_be_seen: bool,
}

pub(crate) struct Log {
    pub leader: usize,
    pub epoch: i32,
    pub start: i64,
    pub end: i64,
    pub batches: Vec<Stored>,
}

impl Log {
    pub(crate) fn new(leader: usize) -> Self {
        Self { leader, epoch: 0, start: 0, end: 0, batches: Vec::new() }
    }

    /// Writes a batch; the offsets of its records that must be delivered.
    pub(crate) fn append(&mut self, random: &mut Random, timestamp: i64, size_max: u64) -> Vec<i64> {
        let control = random.chance(60);
        let mut shapes = Vec::new();
        let mut delta = -1;
        for _ in 0..random.between(1, 5) {
            delta += if random.chance(150) { 2 } else { 1 };
            let letter = if random.chance(80) { FILTERED } else { b'v' };
            shapes.push(Shape { delta, letter, size: random.between(0, size_max) as usize });
        }
        if random.chance(40) {
            // Compaction has emptied it.
            shapes.clear();
        }
        let last = delta + i64::from(random.chance(100));
        // The simulated opener knows that such a batch is plain.
        let attributes = if control {
            CONTROL
        } else if random.chance(200) {
            LZ4
        } else {
            0
        };
        let bytes = batch(self.end, self.epoch, &shapes, last, timestamp, attributes);
        let visible: Vec<i64> = if control {
            Vec::new()
        } else {
            shapes
                .iter()
                .filter(|shape| shape.letter != FILTERED || shape.size == 0)
                .map(|shape| self.end + shape.delta)
                .collect()
        };
        let (base, next) = (self.end, self.end + last + 1);
        let must_be_seen = !visible.is_empty();
        self.batches.push(Stored { base, next, epoch: self.epoch, bytes, must_be_seen });
        self.end = next;
        visible
    }

    /// Batches from `position` on: the first always, then what fits.
    pub(crate) fn read(&self, position: i64, bytes_max: usize, batches_max: usize) -> Bytes {
        let from = self.batches.partition_point(|stored| stored.next <= position);
        let mut some = self.batches[from..].iter().take(batches_max);
        let Some(first) = some.next() else { return Bytes::new() };
        let mut total = first.bytes.len();
        let rest: Vec<&Stored> = some
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

    /// Cuts whole batches off the end, down to `from` or a little lower; the offset where the log ends now.
    pub(crate) fn truncate(&mut self, from: i64) -> i64 {
        while self.batches.last().is_some_and(|last| last.next > from) {
            if let Some(gone) = self.batches.pop() {
                self.end = gone.base;
            }
        }
        self.start = self.start.min(self.end);
        self.end
    }

    /// Deletes whole batches from the beginning, up to `before` or a little less.
    pub(crate) fn delete(&mut self, before: i64) -> i64 {
        let keep = self.batches.partition_point(|stored| stored.next <= before);
        if let Some(last) = keep.checked_sub(1) {
            self.start = self.batches[last].next;
        }
        self.batches.drain(..keep);
        self.start
    }

    /// Whether everything is read by somebody who knows records up to `epoch`.
    pub(crate) fn is_read_up_to(&self, epoch: i32) -> bool {
        epoch < 0 || !self.batches.iter().any(|stored| stored.epoch > epoch && stored.must_be_seen)
    }

    /// Where the records of `epoch` end: the first offset of a later one (KIP-101).
    pub(crate) fn end_of_epoch(&self, epoch: i32) -> Offset {
        let later = self.batches.iter().find(|stored| stored.epoch > epoch);
        Offset(later.map_or(self.end, |stored| stored.base))
    }
}
