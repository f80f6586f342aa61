//! Record batch headers and the iterator over the batches of a frame.

use std::ops::Range;

use super::crc::crc32c;
use super::error::RecordError;
use crate::ids::Offset;

/// Bytes of a batch before its records section.
const HEADER_BYTES: usize = 61;
/// Bytes of the base offset and length fields, which the length does not count.
const LENGTH_PREFIX_BYTES: usize = 12;
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;
/// Minimum size of a record: length, attributes, two deltas, two lengths and a header count.
const RECORD_BYTES_MIN: usize = 7;

/// Compression codec of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Uncompressed.
    None,
    /// gzip stream.
    Gzip,
    /// snappy, raw or in Java's xerial framing.
    Snappy,
    /// lz4 frames.
    Lz4,
    /// zstd frames.
    Zstd,
}

/// Origin of the record timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    /// Set by the producer for each record.
    CreateTime,
    /// Set by the broker, one append time for the whole batch.
    LogAppendTime,
}

/// Type of a control record, as far as a consumer distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlType {
    /// Abort marker of a transaction.
    Abort,
    /// Commit marker of a transaction.
    Commit,
    /// Any other type, which a consumer may ignore.
    Other,
}

/// Header of one record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Base of the records' offset deltas.
    pub base_offset: Offset,
    /// Last offset of the batch, as a delta. Compaction preserves it when it removes records.
    pub last_offset_delta: i32,
    /// Leader epoch under which the batch was appended; −1 when unknown.
    pub leader_epoch: i32,
    /// Compression codec of the records section.
    pub compression: Compression,
    /// Origin of the record timestamps.
    pub timestamp_type: TimestampType,
    /// True if the batch is part of a transaction.
    pub is_transactional: bool,
    /// True if the batch holds control records, which are never delivered.
    pub is_control: bool,
    /// Base of the records' timestamp deltas, in milliseconds since the Unix epoch.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch, or its append time.
    pub max_timestamp: i64,
    /// Producer id; −1 without one.
    pub producer_id: i64,
    /// Number of records in the batch after compaction.
    pub record_count: u32,
    crc: u32,
}

impl BatchHeader {
    /// Returns the base offset of the next batch. It is known even when compaction has emptied this one (Kafka's
    /// `nextOffset`).
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(i64::from(self.last_offset_delta)).saturating_add(1))
    }
}

/// One record batch of a frame.
#[derive(Clone, Debug)]
pub struct RecordBatch<'a> {
    /// Parsed header.
    pub header: BatchHeader,
    /// Range of the whole batch within the frame.
    pub range: Range<usize>,
    /// Records section, still compressed if the batch is.
    pub body: &'a [u8],
    /// Range of the records section within the frame.
    pub body_range: Range<usize>,
    checked: &'a [u8],
}

impl RecordBatch<'_> {
    /// Verifies the checksum. Call it once per batch, before any of its contents are used.
    pub fn verify_crc(&self) -> Result<(), RecordError> {
        let computed = crc32c(self.checked);
        if computed == self.header.crc {
            return Ok(());
        }
        Err(RecordError::Crc { offset: self.header.base_offset.0, found: self.header.crc, computed })
    }

    /// Returns the type of a control batch's single record; `None` for a data batch. Control batches are never
    /// compressed.
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

/// Iterates over the batches of a frame, in order. A broker truncates the last batch at the response's byte limit;
/// such a partial batch ends the iteration without an error.
pub fn batches(frame: &[u8]) -> RecordBatches<'_> {
    RecordBatches { frame, at: 0 }
}

/// Iterates over the batches of a frame from byte `at`, a position returned by [`RecordBatches::at`] or
/// [`successor`].
pub fn batches_from(frame: &[u8], at: usize) -> RecordBatches<'_> {
    RecordBatches { frame, at }
}

/// Finds the batch after the unreadable one at byte `at`, and returns its position and header. Returns `None`
/// unless the unreadable batch's length field leads to a batch with a valid checksum, which confirms that length.
pub fn successor(frame: &[u8], at: usize) -> Option<(usize, BatchHeader)> {
    let rest = frame.get(at..).filter(|rest| rest.len() >= LENGTH_PREFIX_BYTES)?;
    let length = usize::try_from(i32_at(rest, 8)).ok()?;
    let next = at.checked_add(length)?.checked_add(LENGTH_PREFIX_BYTES).filter(|next| *next < frame.len())?;
    let batch = batches_from(frame, next).next()?.ok()?;
    batch.verify_crc().is_ok().then_some((next, batch.header))
}

/// Iterator over the batches of a frame; see [`batches`].
#[derive(Clone, Debug)]
pub struct RecordBatches<'a> {
    frame: &'a [u8],
    at: usize,
}

impl RecordBatches<'_> {
    /// Returns the byte position of the next batch.
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
