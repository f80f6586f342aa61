//! Batch headers and the iterator over the batches of a frame.

use std::ops::Range;

use super::crc::crc32c;
use super::error::RecordError;
use crate::ids::Offset;

/// Bytes before the records section.
const HEADER_BYTES: usize = 61;
/// Bytes of base offset and length, which the length does not count.
const LENGTH_PREFIX_BYTES: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
/// A record has at least a length, attributes, two deltas, two lengths and a header count.
const RECORD_BYTES_MIN: usize = 7;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// snappy, raw or in Java's xerial framing.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// zstd.
    Zstd,
}

/// Who stamped the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// The producer, each one.
    CreateTime,
    /// The broker, the whole batch with one time.
    LogAppendTime,
}

/// The kinds of control records that matter to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlType {
    /// A transaction was aborted.
    Abort,
    /// A transaction was committed.
    Commit,
    /// Something a consumer may ignore.
    Other,
}

/// The header of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset that record deltas count from.
    pub base_offset: Offset,
    /// Last offset of the batch, as a delta; stays when compaction removes records.
    pub last_offset_delta: i32,
    /// Leader epoch under which it was appended, −1 when unknown.
    pub leader_epoch: i32,
    /// How the records are compressed.
    pub compression: Compression,
    /// Who stamped them.
    pub timestamp_type: TimestampType,
    /// Part of a transaction.
    pub is_transactional: bool,
    /// Holds control records, which are never delivered.
    pub is_control: bool,
    /// Milliseconds that timestamp deltas count from.
    pub base_timestamp: i64,
    /// Largest timestamp, or the append time.
    pub max_timestamp: i64,
    /// Producer id, −1 without one.
    pub producer_id: i64,
    /// Records in it now.
    pub record_count: u32,
    crc: u32,
}

impl BatchHeader {
    /// Where the next batch begins: known even when compaction has emptied this one (KAFKA's `nextOffset`).
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1))
    }
}

/// One batch of a frame.
#[derive(Clone, Debug)]
pub struct RecordBatch<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// The whole batch within the frame.
    pub range: Range<usize>,
    /// The records section, compressed or not.
    pub body: &'a [u8],
    /// The records section within the frame.
    pub body_range: Range<usize>,
    checked: &'a [u8],
}

impl RecordBatch<'_> {
    /// Compares the checksum; needed once, before anything in the batch is believed.
    pub fn verify_crc(&self) -> Result<(), RecordError> {
        let computed = crc32c(self.checked);
        if computed == self.header.crc {
            return Ok(());
        }
        Err(RecordError::Crc { offset: self.header.base_offset.0, found: self.header.crc, computed })
    }

    /// The kind of a control batch's one record; `None` for data. Control batches are never compressed.
    pub fn control_type(&self) -> Option<ControlType> {
        if !self.header.is_control {
            return None;
        }
        let key =
            super::records(&self.header, self.body).next().and_then(Result::ok).and_then(|record| record.key);
        Some(match key {
            Some([_, _, 0, 0, ..]) => ControlType::Abort,
            Some([_, _, 0, 1, ..]) => ControlType::Commit,
            _ => ControlType::Other,
        })
    }
}

/// The batches of a frame, in order. A partial batch at the end is what brokers send when the limit cuts one: it ends the
/// iteration without an error.
pub fn batches(frame: &[u8]) -> RecordBatches<'_> {
    RecordBatches { frame, at: 0 }
}

/// The batches of a frame from byte `at` on, which [`RecordBatches::at`] or [`successor`] told.
pub fn batches_from(frame: &[u8], at: usize) -> RecordBatches<'_> {
    RecordBatches { frame, at }
}

/// The batch behind the one that begins at byte `at` and cannot be read, and where it begins; `None` unless the length of the
/// unreadable one leads to a batch with a right checksum, which vouches for both.
pub fn successor(frame: &[u8], at: usize) -> Option<(usize, BatchHeader)> {
    let rest = frame.get(at..).filter(|rest| rest.len() >= LENGTH_PREFIX_BYTES)?;
    let length = usize::try_from(i32_at(rest, 8)).ok()?;
    let next = at.checked_add(length)?.checked_add(LENGTH_PREFIX_BYTES).filter(|next| *next < frame.len())?;
    let batch = batches_from(frame, next).next()?.ok()?;
    batch.verify_crc().is_ok().then_some((next, batch.header))
}

/// See [`batches`].
#[derive(Clone, Debug)]
pub struct RecordBatches<'a> {
    frame: &'a [u8],
    at: usize,
}

impl RecordBatches<'_> {
    /// Where the next batch begins.
    pub fn at(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for RecordBatches<'a> {
    type Item = Result<RecordBatch<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.frame[self.at..];
        if rest.len() < CRC_AT {
            return None;
        }
        let parsed = parse(rest, self.at);
        self.at = match &parsed {
            Some(Ok(batch)) => batch.range.end,
            Some(Err(_)) | None => self.frame.len(),
        };
        parsed
    }
}

fn parse(rest: &[u8], at: usize) -> Option<Result<RecordBatch<'_>, RecordError>> {
    let offset = i64_at(rest, 0);
    let magic = rest[16] as i8;
    let bad = |what| Some(Err(RecordError::Header { offset, what }));
    let Ok(length) = usize::try_from(i32_at(rest, 8)) else { return bad("negative length") };
    if magic != 2 {
        return Some(Err(RecordError::Magic { offset, magic }));
    }
    let Some(end) = length.checked_add(LENGTH_PREFIX_BYTES) else { return bad("length overflows") };
    if end < HEADER_BYTES {
        return bad("length is shorter than a batch header");
    }
    let whole = rest.get(..end)?;
    Some(header(whole).map(|header| RecordBatch {
        header,
        range: at..at + end,
        body: &whole[HEADER_BYTES..],
        body_range: at + HEADER_BYTES..at + end,
        checked: &whole[CRC_FROM..],
    }))
}

fn header(whole: &[u8]) -> Result<BatchHeader, RecordError> {
    let offset = i64_at(whole, 0);
    let bad = |what| RecordError::Header { offset, what };
    let attributes = i16_at(whole, 21);
    let compression = match attributes & 7 {
        0 => Compression::None,
        1 => Compression::Gzip,
        2 => Compression::Snappy,
        3 => Compression::Lz4,
        4 => Compression::Zstd,
        _ => return Err(bad("unknown compression codec")),
    };
    let record_count = u32::try_from(i32_at(whole, 57)).map_err(|_| bad("negative record count"))?;
    let body_bytes = whole.len() - HEADER_BYTES;
    if compression == Compression::None && record_count as usize > body_bytes / RECORD_BYTES_MIN {
        return Err(bad("more records than bytes for them"));
    }
    let last_offset_delta = i32_at(whole, 23);
    if offset < 0 || last_offset_delta < 0 || offset.checked_add(i64::from(last_offset_delta) + 1).is_none() {
        return Err(bad("offsets out of range"));
    }
    Ok(BatchHeader {
        base_offset: Offset(offset),
        last_offset_delta,
        leader_epoch: i32_at(whole, 12),
        compression,
        timestamp_type: if attributes & 8 == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        },
        is_transactional: attributes & 16 != 0,
        is_control: attributes & 32 != 0,
        base_timestamp: i64_at(whole, 27),
        max_timestamp: i64_at(whole, 35),
        producer_id: i64_at(whole, 43),
        record_count,
        crc: i32_at(whole, CRC_AT) as u32,
    })
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    bytes[at..at + 8].iter().fold(0, |value, byte| value << 8 | i64::from(*byte))
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn i16_at(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}
