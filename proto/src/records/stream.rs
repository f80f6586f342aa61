//! Streaming decompression of a batch: returns whole records in memory that does not grow with the batch.
//!
//! The decoder keeps its state between pieces, so each byte is decompressed once. A piece ends at a record
//! boundary. The size of the next record is known before it is decompressed; a record too large to be held is
//! skipped.

use std::io::{self, Read};

use bytes::Bytes;

use super::batch::{BatchHeader, Compression};
use super::error::RecordError;
use super::inflate::broken;
use super::source::{memory_bytes, source};
use super::varint::{read_i32, read_i64, write_i64};

/// Bytes read from the codec at once.
const STEP_BYTES: usize = 64 * 1024;
/// Maximum bytes of a record up to and including its offset: three varints and the attributes.
const FRONT_BYTES_MAX: usize = 5 + 1 + 10 + 5;
const LENGTH_BYTES_MAX: usize = 5;

/// Records of one batch that are still to be decompressed.
pub struct BatchStream {
    header: BatchHeader,
    codec: &'static str,
    source: Box<dyn Read>,
    /// Decompressed bytes; those from `at` on are not consumed yet.
    step: Vec<u8>,
    at: usize,
    ended: bool,
    /// Codec error after the bytes in `step`. The codec is not read again.
    broken: Option<RecordError>,
    left: u32,
    passing: Option<PassedHeader>,
    failed: Option<RecordError>,
}

/// State of a record that is being skipped.
struct PassedHeader {
    bytes: usize,
    left: usize,
    stub: Vec<u8>,
}

/// Whole records of a batch.
#[derive(Debug)]
pub struct RecordPiece {
    /// Records in the layout of a batch's records section.
    pub plain: Vec<u8>,
    /// Number of records in `plain`.
    pub records: u32,
}

/// Record that was too large to be held and was skipped.
#[derive(Debug)]
pub struct PassedRecord {
    /// Stand-in record of the same offset and timestamp without key, value and headers, in the layout of the
    /// batch.
    pub stub: Vec<u8>,
    /// Size of the skipped record in the batch, in bytes.
    pub bytes: usize,
}

impl BatchStream {
    /// Computes the bytes of memory that a stream of `packed` holds while it exists. Returns
    /// [`RecordError::Window`] when its codec's window exceeds `window_bytes_max`.
    pub fn memory_bytes(
        compression: Compression,
        packed: &[u8],
        window_bytes_max: usize,
    ) -> Result<usize, RecordError> {
        Ok(memory_bytes(compression, packed, window_bytes_max)? + STEP_BYTES)
    }

    /// Creates a stream of a batch's records section, in `memory_bytes` as computed by [`Self::memory_bytes`].
    pub fn new(header: BatchHeader, packed: Bytes, memory_bytes: usize) -> Result<Self, RecordError> {
        let codec = match header.compression {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        };
        Ok(Self {
            codec,
            source: source(header.compression, packed, memory_bytes.saturating_sub(STEP_BYTES))?,
            step: Vec::with_capacity(STEP_BYTES),
            at: 0,
            ended: false,
            broken: None,
            left: header.record_count,
            passing: None,
            failed: None,
            header,
        })
    }

    /// Returns the number of records left.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Returns the size in bytes of the next record, its length field included; `None` after the last one. The
    /// size is the one the record states, not checked against anything.
    pub fn next_record_bytes(&mut self) -> Result<Option<usize>, RecordError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if self.left == 0 {
            return Ok(None);
        }
        self.peek().map(Some).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Returns as many of the next records as fit into `bytes_max`, which must be at least the size of the next
    /// one. An error that follows whole records is returned by the next call.
    pub fn next_piece(&mut self, bytes_max: usize) -> Result<RecordPiece, RecordError> {
        let mut piece = RecordPiece { plain: Vec::with_capacity(bytes_max), records: 0 };
        while let Some(bytes) = self.next_in(&piece)? {
            let held = piece.plain.len();
            if held.saturating_add(bytes) > bytes_max {
                break;
            }
            if let Err(error) = self.take(bytes, &mut piece.plain) {
                self.failed = Some(error.clone());
                piece.plain.truncate(held);
                if piece.records == 0 {
                    return Err(error);
                }
                break;
            }
            piece.records += 1;
            self.left -= 1;
        }
        piece.plain.shrink_to_fit();
        Ok(piece)
    }

    /// Skips up to `step_bytes` of the next record, whatever it holds. Returns `None` while part of it is left;
    /// until it is skipped completely, no other method may be called.
    pub fn pass_over(&mut self, step_bytes: usize) -> Result<Option<PassedRecord>, RecordError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        self.pass_some(step_bytes).inspect_err(|error| self.failed = Some(error.clone()))
    }

    /// Returns true while a record is being skipped.
    pub fn is_passing(&self) -> bool {
        self.passing.is_some()
    }

    fn next_in(&mut self, piece: &RecordPiece) -> Result<Option<usize>, RecordError> {
        match self.next_record_bytes() {
            Err(_) if piece.records > 0 => Ok(None),
            other => other,
        }
    }

    fn pass_some(&mut self, step_bytes: usize) -> Result<Option<PassedRecord>, RecordError> {
        let mut passing = match self.passing.take() {
            Some(passing) => passing,
            None => self.begin_passing()?,
        };
        let mut now = passing.left.min(step_bytes.max(1));
        passing.left -= now;
        while now > 0 {
            self.need(1)?;
            let here = (self.step.len() - self.at).min(now);
            if here == 0 {
                return Err(self.cut_off());
            }
            self.at += here;
            now -= here;
        }
        if passing.left > 0 {
            self.passing = Some(passing);
            return Ok(None);
        }
        self.left -= 1;
        Ok(Some(PassedRecord { stub: passing.stub, bytes: passing.bytes }))
    }

    fn begin_passing(&mut self) -> Result<PassedHeader, RecordError> {
        let bytes = self.peek()?;
        self.need(FRONT_BYTES_MAX)?;
        let front = &self.step[self.at..];
        let wrong = |what| self.wrong(what);
        let mut at = 0;
        read_i32(front, &mut at).ok_or_else(|| wrong("its length cannot be read"))?;
        at += 1;
        let timestamp = read_i64(front, &mut at).ok_or_else(|| wrong("its timestamp cannot be read"))?;
        let offset = read_i32(front, &mut at).ok_or_else(|| wrong("its offset cannot be read"))?;
        if at > bytes {
            return Err(wrong("it is shorter than it says"));
        }
        if offset < 0 || offset > self.header.last_offset_delta {
            return Err(wrong("its offset lies outside its batch"));
        }
        let mut inside = vec![0];
        // No key, no value, no headers.
        for value in [timestamp, i64::from(offset), -1, -1, 0] {
            write_i64(value, &mut inside);
        }
        let mut stub = Vec::with_capacity(inside.len() + 1);
        write_i64(inside.len() as i64, &mut stub);
        stub.extend_from_slice(&inside);
        Ok(PassedHeader { bytes, left: bytes, stub })
    }

    /// Returns the size in bytes of the next record, its length field included.
    fn peek(&mut self) -> Result<usize, RecordError> {
        if self.step.len() - self.at < LENGTH_BYTES_MAX {
            self.need(LENGTH_BYTES_MAX)?;
        }
        let mut at = self.at;
        let length = read_i32(&self.step, &mut at).ok_or_else(|| self.wrong("its length cannot be read"))?;
        let length = usize::try_from(length).map_err(|_| self.wrong("its length is negative"))?;
        Ok(at - self.at + length)
    }

    fn take(&mut self, bytes: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        let here = (self.step.len() - self.at).min(bytes);
        into.extend_from_slice(&self.step[self.at..self.at + here]);
        self.at += here;
        let mut filled = into.len();
        let end = filled + (bytes - here);
        if filled == end {
            return Ok(());
        }
        // Read the rest directly into its destination.
        into.resize(end, 0);
        while filled < end {
            match self.read(&mut into[filled..end])? {
                0 => return Err(self.cut_off()),
                read => filled += read,
            }
        }
        Ok(())
    }

    /// Reads until at least `bytes` are buffered or the data ends.
    fn need(&mut self, bytes: usize) -> Result<(), RecordError> {
        if self.step.len() - self.at >= bytes || self.ended {
            return Ok(());
        }
        let mut step = std::mem::take(&mut self.step);
        step.copy_within(self.at.., 0);
        let mut filled = step.len() - std::mem::take(&mut self.at);
        step.resize(STEP_BYTES, 0);
        while filled < STEP_BYTES && self.broken.is_none() {
            match self.read(&mut step[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(read) => filled += read,
                // Bytes read before the error are valid.
                Err(error) => self.broken = Some(error),
            }
        }
        step.truncate(filled);
        self.step = step;
        match &self.broken {
            Some(error) if filled < bytes => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, RecordError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        loop {
            match self.source.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|error| broken(self.codec, error)),
            }
        }
    }

    fn cut_off(&self) -> RecordError {
        self.wrong("it is longer than its batch")
    }

    fn wrong(&self, what: &'static str) -> RecordError {
        let index = self.header.record_count - self.left;
        RecordError::Record { offset: self.header.base_offset.0, index, what }
    }
}

impl std::fmt::Debug for BatchStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchStream")
            .field("codec", &self.codec)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
