//! Decompression with a size limit, so that a small batch cannot expand without bound.

use std::io::{self, Read};

use zstd::zstd_safe::{DCtx, ResetDirective};

use super::batch::Compression;
use super::error::RecordError;

/// Java's snappy framing: magic, version, compatible version; then length-prefixed blocks.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\x00";
const XERIAL_HEADER_BYTES: usize = 16;
/// Bytes read from a codec at once. Most batches end within one step, so their size is known before the result is
/// allocated.
const STEP_BYTES: usize = 64 * 1024;
/// Largest output after which a zstd context is kept for reuse. A context holds a window as large as its largest
/// frame needed.
const CONTEXT_KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Batch decompressor; keeps codec state that is reused between calls.
#[derive(Default)]
pub struct BatchInflater {
    snappy: snap::raw::Decoder,
    zstd: Option<DCtx<'static>>,
    step: Vec<u8>,
}

impl BatchInflater {
    /// Decompresses `body` and appends the result to `into`.
    ///
    /// `into` never grows by more than `bytes_max`. When this call makes it grow, its capacity does not exceed its
    /// length, so a lease of the length covers all of the memory. After an error `into` has its previous contents.
    pub fn inflate(
        &mut self,
        compression: Compression,
        body: &[u8],
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        let (from, capacity) = (into.len(), into.capacity());
        let done = match compression {
            Compression::None => check(body.len(), bytes_max).map(|()| into.extend_from_slice(body)),
            Compression::Gzip => {
                self.drain("gzip", flate2::bufread::MultiGzDecoder::new(body), bytes_max, into)
            }
            Compression::Snappy => self.snappy(body, bytes_max, into),
            Compression::Lz4 => self.drain("lz4", lz4_flex::frame::FrameDecoder::new(body), bytes_max, into),
            Compression::Zstd => self.zstd(body, bytes_max, into),
        };
        if done.is_err() {
            into.truncate(from);
        }
        if into.capacity() > capacity {
            into.shrink_to(capacity);
        }
        done
    }

    fn snappy(&mut self, body: &[u8], bytes_max: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        let Some(framed) = xerial_body(body) else {
            let length = snappy_len(body)?;
            check(length, bytes_max)?;
            return self.snappy_block(body, length, into);
        };
        let mut total = 0usize;
        for block in XerialBlocks(framed) {
            total = total.saturating_add(snappy_len(block?)?);
            check(total, bytes_max)?;
        }
        into.reserve_exact(total);
        for block in XerialBlocks(framed) {
            let block = block?;
            self.snappy_block(block, snappy_len(block)?, into)?;
        }
        Ok(())
    }

    fn snappy_block(&mut self, block: &[u8], length: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        let from = into.len();
        into.resize(from + length, 0);
        self.snappy.decompress(block, &mut into[from..]).map_err(|error| broken("snappy", error))?;
        Ok(())
    }

    /// Decompresses as a stream, because Java's frames do not state their size. The context is reused, because
    /// creating one costs more than decompressing a small batch.
    fn zstd(&mut self, body: &[u8], bytes_max: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        let mut context =
            self.zstd.take().or_else(DCtx::try_create).ok_or_else(|| broken("zstd", "no memory for it"))?;
        context
            .reset(ResetDirective::SessionOnly)
            .map_err(|_| broken("zstd", "its context cannot be reset"))?;
        let from = into.len();
        let reader = zstd::stream::read::Decoder::with_context(body, &mut context);
        self.drain("zstd", reader, bytes_max, into)?;
        if into.len() - from <= CONTEXT_KEPT_BYTES_MAX {
            self.zstd = Some(context);
        }
        Ok(())
    }

    fn drain(
        &mut self,
        codec: &'static str,
        mut reader: impl Read,
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        self.step.resize(STEP_BYTES, 0);
        let mut left = bytes_max;
        loop {
            let read = fill(&mut reader, &mut self.step).map_err(|error| broken(codec, error))?;
            left = left.checked_sub(read).ok_or(RecordError::TooLarge { bytes_max })?;
            append(&self.step[..read], left, into);
            if read < STEP_BYTES {
                return Ok(());
            }
        }
    }
}

/// Reads until `step` is full or the data ends.
fn fill(reader: &mut impl Read, step: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < step.len() {
        match reader.read(&mut step[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Grows as vectors do, by doubling, but by at most `left` bytes beyond `bytes`. The first step allocates exactly
/// its own size.
fn append(bytes: &[u8], left: usize, into: &mut Vec<u8>) {
    if into.capacity() - into.len() < bytes.len() {
        let doubled = into.len().min(bytes.len().saturating_add(left));
        into.reserve_exact(doubled.max(bytes.len()));
    }
    into.extend_from_slice(bytes);
}

/// Returns the decompressed size that a block states, if it is plausible. Snappy compresses at most 1:22, so a
/// size far beyond that is rejected before memory is allocated.
pub(super) fn snappy_len(block: &[u8]) -> Result<usize, RecordError> {
    let length = snap::raw::decompress_len(block).map_err(|error| broken("snappy", error))?;
    if length / 64 > block.len() {
        return Err(broken("snappy", "a block claims an impossible size"));
    }
    Ok(length)
}

/// Iterator over the blocks of xerial framing, after its header.
pub(super) struct XerialBlocks<'a>(pub(super) &'a [u8]);

/// Returns the blocks of `body` if it has xerial framing.
pub(super) fn xerial_body(body: &[u8]) -> Option<&[u8]> {
    body.strip_prefix(XERIAL_MAGIC).and(body.get(XERIAL_HEADER_BYTES..))
}

impl<'a> Iterator for XerialBlocks<'a> {
    type Item = Result<&'a [u8], RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((length, rest)) = self.0.split_first_chunk::<4>() else {
            return Some(Err(broken("snappy", "a block has no length")));
        };
        let Some((block, behind)) = rest.split_at_checked(u32::from_be_bytes(*length) as usize) else {
            return Some(Err(broken("snappy", "a block is longer than the batch")));
        };
        self.0 = behind;
        Some(Ok(block))
    }
}

fn check(bytes: usize, bytes_max: usize) -> Result<(), RecordError> {
    if bytes > bytes_max { Err(RecordError::TooLarge { bytes_max }) } else { Ok(()) }
}

pub(super) fn broken(codec: &'static str, what: impl ToString) -> RecordError {
    RecordError::Compressed { codec, what: what.to_string() }
}
