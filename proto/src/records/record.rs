//! Records of one batch, borrowed from its decompressed records section.

use super::batch::{BatchHeader, TimestampType};
use super::error::RecordError;
use super::varint::{read_i32, read_i64};
use crate::ids::Offset;
use crate::units::TimestampMs;

/// One record, borrowed from its batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Record offset.
    pub offset: Offset,
    /// Record timestamp: the producer's, or the batch's append time.
    pub timestamp: TimestampMs,
    /// Origin of `timestamp`.
    pub timestamp_type: TimestampType,
    /// Key; `None` is null and distinct from empty.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is null (a tombstone) and distinct from empty.
    pub value: Option<&'a [u8]>,
    /// Headers in order, duplicates included.
    pub headers: Headers<'a>,
}

/// One record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Header name as sent: UTF-8 by convention, not guaranteed.
    pub name: &'a [u8],
    /// Header value; `None` is null.
    pub value: Option<&'a [u8]>,
}

/// Iterator over a record's headers. Their lengths were validated when the record was parsed.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    left: u32,
}

impl Headers<'_> {
    /// Returns the number of headers left.
    pub fn len(&self) -> usize {
        self.left as usize
    }

    /// Returns true when no headers are left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let mut at = 0;
        let header = read_header(self.bytes, &mut at).ok()?;
        self.bytes = &self.bytes[at..];
        Some(header)
    }
}

/// Iterates over the records of a batch, in order. `plain` is its records section, decompressed.
pub fn records<'a>(header: &BatchHeader, plain: &'a [u8]) -> Records<'a> {
    records_at(header, plain, 0, header.record_count)
}

/// Resumes at byte `at` with `left` records remaining, as returned by [`Records::at`] and [`Records::left`].
pub fn records_at<'a>(header: &BatchHeader, plain: &'a [u8], at: usize, left: u32) -> Records<'a> {
    Records { header: *header, plain, at, left }
}

/// Iterator over the records of a batch; see [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: BatchHeader,
    plain: &'a [u8],
    at: usize,
    left: u32,
}

impl Records<'_> {
    /// Returns the byte position of the next record.
    pub fn at(&self) -> usize {
        self.at
    }

    /// Returns the number of records left.
    pub fn left(&self) -> u32 {
        self.left
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        match read_record(&self.header, self.plain, &mut self.at) {
            Ok(record) => {
                self.left -= 1;
                Some(Ok(record))
            }
            Err(what) => {
                let index = self.header.record_count.saturating_sub(self.left);
                self.left = 0;
                Some(Err(RecordError::Record { offset: self.header.base_offset.0, index, what }))
            }
        }
    }
}

#[inline]
fn read_record<'a>(
    header: &BatchHeader,
    plain: &'a [u8],
    at: &mut usize,
) -> Result<Record<'a>, &'static str> {
    let length = read_i32(plain, at).ok_or("its length cannot be read")?;
    let length = usize::try_from(length).map_err(|_| "its length is negative")?;
    let end =
        at.checked_add(length).filter(|end| *end <= plain.len()).ok_or("it is longer than its batch")?;
    let bytes = &plain[..end];
    // Skip the attributes byte, which magic 2 does not use.
    *at += 1;
    let timestamp_delta = read_i64(bytes, at).ok_or("its timestamp cannot be read")?;
    let offset_delta = read_i32(bytes, at).ok_or("its offset cannot be read")?;
    let offset = header.base_offset.0.checked_add(i64::from(offset_delta)).ok_or("its offset overflows")?;
    if offset_delta < 0 || offset_delta > header.last_offset_delta {
        return Err("its offset lies outside its batch");
    }
    let key = read_bytes(bytes, at)?;
    let value = read_bytes(bytes, at)?;
    let headers = read_headers(bytes, at)?;
    if *at != end {
        return Err("it is shorter than it says");
    }
    let timestamp = match header.timestamp_type {
        TimestampType::CreateTime => header.base_timestamp.saturating_add(timestamp_delta),
        TimestampType::LogAppendTime => header.max_timestamp,
    };
    Ok(Record {
        offset: Offset(offset),
        timestamp: TimestampMs(timestamp),
        timestamp_type: header.timestamp_type,
        key,
        value,
        headers,
    })
}

#[inline]
fn read_bytes<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Option<&'a [u8]>, &'static str> {
    let length = read_i32(bytes, at).ok_or("a length cannot be read")?;
    if length < 0 {
        return if length == -1 { Ok(None) } else { Err("a length is negative") };
    }
    let end = at.checked_add(length as usize).ok_or("a length overflows")?;
    let field = bytes.get(*at..end).ok_or("a field is longer than its record")?;
    *at = end;
    Ok(Some(field))
}

#[inline]
fn read_headers<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Headers<'a>, &'static str> {
    let count = read_i32(bytes, at).ok_or("its header count cannot be read")?;
    let left = u32::try_from(count).map_err(|_| "its header count is negative")?;
    let from = *at;
    // A header takes at least two bytes. Reject an impossible count before looping over it.
    if left as usize > (bytes.len() - from.min(bytes.len())) / 2 {
        return Err("it has more headers than bytes for them");
    }
    for _ in 0..left {
        read_header(bytes, at)?;
    }
    Ok(Headers { bytes: bytes.get(from..*at).unwrap_or_default(), left })
}

fn read_header<'a>(bytes: &'a [u8], at: &mut usize) -> Result<Header<'a>, &'static str> {
    let name = read_bytes(bytes, at)?.ok_or("a header has no name")?;
    Ok(Header { name, value: read_bytes(bytes, at)? })
}
