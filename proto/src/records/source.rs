//! Readers that decompress a batch piece by piece, and the memory that each codec needs for that.

use std::io::{self, Cursor, Read};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use lz4_flex::frame::FrameDecoder;
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::batch::Compression;
use super::error::RecordError;
use super::inflate::broken;
use super::snappy::{SnappyReader, largest_block};

const KIB: usize = 1024;
/// Memory for codec tables, one input block and one output block. gzip needs the least, zstd the most.
const TABLES_BYTES: usize = 512 * KIB;
const LZ4_LEGACY_MAGIC: u32 = 0x184C_2102;
const ZSTD_MAGIC: u32 = 0xFD2F_B528;
/// First of the sixteen magic numbers of zstd frames that hold no data.
const ZSTD_SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
const ZSTD_WINDOW_LOG_MIN: u32 = 10;

/// Computes the memory in bytes for decompressing `packed` piece by piece, without the pieces themselves. The size
/// is taken from the codec's own header before any of it is allocated. Returns [`RecordError::Window`] when the
/// codec's window exceeds `bytes_max`.
pub(super) fn memory_bytes(
    compression: Compression,
    packed: &[u8],
    bytes_max: usize,
) -> Result<usize, RecordError> {
    let (codec, window) = match compression {
        Compression::None => ("none", 0),
        Compression::Gzip => ("gzip", 32 * KIB),
        // No known encoder refers back further than `bytes_max`, so the window may be smaller than the block.
        Compression::Snappy => ("snappy", largest_block(packed)?.min(bytes_max)),
        Compression::Lz4 => ("lz4", lz4_bytes(packed)?),
        Compression::Zstd => ("zstd", zstd_window_bytes(packed)?),
    };
    if window > bytes_max {
        return Err(RecordError::Window { codec, bytes: window, bytes_max });
    }
    Ok(window + TABLES_BYTES)
}

/// Returns a reader of the decompressed bytes of `packed`, in `memory_bytes` as computed by [`memory_bytes`].
pub(super) fn source(
    compression: Compression,
    packed: Bytes,
    memory_bytes: usize,
) -> Result<Box<dyn Read>, RecordError> {
    Ok(match compression {
        Compression::None => Box::new(Cursor::new(packed)),
        Compression::Gzip => Box::new(MultiGzDecoder::new(Cursor::new(packed))),
        Compression::Snappy => Box::new(SnappyReader::new(packed, memory_bytes.saturating_sub(TABLES_BYTES))),
        Compression::Lz4 => Box::new(FrameDecoder::new(Cursor::new(packed))),
        Compression::Zstd => Box::new(ZstdReader::new(packed, memory_bytes.saturating_sub(TABLES_BYTES))?),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Computes the memory of the lz4 decoder: one input block, and one output block (independent blocks) or two
/// output blocks and a 64 KiB window (dependent blocks).
/// <https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md>
fn lz4_bytes(packed: &[u8]) -> Result<usize, RecordError> {
    let cut_off = || broken("lz4", "it has no header");
    if u32_at(packed, 0).ok_or_else(cut_off)? == LZ4_LEGACY_MAGIC {
        return Ok(2 * 8 * KIB * KIB);
    }
    let [flags, sizes] = *packed.get(4..).and_then(|rest| rest.first_chunk()).ok_or_else(cut_off)?;
    let block = match sizes >> 4 & 7 {
        4 => 64 * KIB,
        5 => 256 * KIB,
        6 => KIB * KIB,
        7 => 4 * KIB * KIB,
        _ => return Err(broken("lz4", "its blocks have an unknown size")),
    };
    let independent = flags & 0x20 != 0;
    Ok(if independent { 2 * block } else { 3 * block + 64 * KIB })
}

/// Reads the window size from the first data frame's header: RFC 8878 §3.1.1.1. A later frame may not need more.
fn zstd_window_bytes(packed: &[u8]) -> Result<usize, RecordError> {
    let cut_off = || broken("zstd", "it has no header");
    let mut at = 0;
    while u32_at(packed, at).ok_or_else(cut_off)? & !0xf == ZSTD_SKIPPABLE_MAGIC {
        at = at.saturating_add(8).saturating_add(u32_at(packed, at + 4).ok_or_else(cut_off)? as usize);
    }
    if u32_at(packed, at) != Some(ZSTD_MAGIC) {
        return Err(broken("zstd", "it does not begin as a frame does"));
    }
    let header = &packed[at + 4..];
    let byte = |at: usize| header.get(at).copied().ok_or_else(cut_off);
    let descriptor = byte(0)?;
    if descriptor & 0x20 == 0 {
        let window = byte(1)?;
        let base = 1u64 << (10 + (window >> 3));
        let bytes = base + base / 8 * u64::from(window & 7);
        return Ok(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    // In a single-segment frame, the window is the content size.
    let at = 1 + [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (length, more) = match descriptor >> 6 {
        0 => (1, 0),
        1 => (2, 256),
        2 => (4, 0),
        _ => (8, 0),
    };
    let mut size = 0u64;
    for index in 0..length {
        size |= u64::from(byte(at + index)?) << (8 * index);
    }
    Ok(usize::try_from(size.saturating_add(more)).unwrap_or(usize::MAX))
}

struct ZstdReader {
    packed: Bytes,
    at: usize,
    context: DCtx<'static>,
    ended: bool,
}

impl ZstdReader {
    fn new(packed: Bytes, window_bytes: usize) -> Result<Self, RecordError> {
        let mut context = DCtx::try_create().ok_or_else(|| broken("zstd", "no memory for it"))?;
        let log = usize::BITS - window_bytes.saturating_sub(1).leading_zeros();
        context
            .set_parameter(DParameter::WindowLogMax(log.max(ZSTD_WINDOW_LOG_MIN)))
            .map_err(|_| broken("zstd", "its window cannot be so large"))?;
        Ok(Self { packed, at: 0, context, ended: false })
    }
}

impl Read for ZstdReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !self.ended {
            let mut input = InBuffer::around(&self.packed[self.at..]);
            let mut output = OutBuffer::around(into);
            let hint = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(|code| io::Error::new(io::ErrorKind::InvalidData, get_error_name(code)))?;
            let (read, written) = (input.pos(), output.pos());
            self.at += read;
            self.ended = hint == 0 && self.at == self.packed.len();
            if written > 0 {
                return Ok(written);
            }
            if read == 0 && !self.ended {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "incomplete frame"));
            }
        }
        Ok(0)
    }
}
