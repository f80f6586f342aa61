//! Decompression with a limit: a small batch may not become a large memory.

use std::io::{self, Read};

use super::batch::Compression;
use super::error::RecordError;

/// Java's snappy framing: magic, version, compatible version; then blocks with a length each.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\x00";
const XERIAL_HEADER_BYTES: usize = 16;
const STEP_BYTES: usize = 64 * 1024;

/// Decompresses batches; keeps what the codecs reuse between calls.
#[derive(Default)]
pub struct Inflater {
    snappy: snap::raw::Decoder,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl Inflater {
    /// Decompresses `body` behind what is in `into`; never lets `into` grow by more than `bytes_max`.
    pub fn inflate(
        &mut self,
        compression: Compression,
        body: &[u8],
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        match compression {
            Compression::None => {
                check(body.len(), bytes_max)?;
                into.extend_from_slice(body);
                Ok(())
            }
            Compression::Gzip => drain("gzip", flate2::read::MultiGzDecoder::new(body), bytes_max, into),
            Compression::Snappy => self.snappy(body, bytes_max, into),
            Compression::Lz4 => drain("lz4", lz4_flex::frame::FrameDecoder::new(body), bytes_max, into),
            Compression::Zstd => self.zstd(body, bytes_max, into),
        }
    }

    fn snappy(&mut self, body: &[u8], bytes_max: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        let limit = into.len() + bytes_max;
        let Some(mut blocks) = body.strip_prefix(XERIAL_MAGIC).and(body.get(XERIAL_HEADER_BYTES..)) else {
            return self.snappy_block(body, limit, into);
        };
        while !blocks.is_empty() {
            let (length, rest) =
                blocks.split_first_chunk::<4>().ok_or_else(|| broken("snappy", "a block has no length"))?;
            let length = u32::from_be_bytes(*length) as usize;
            let block =
                rest.get(..length).ok_or_else(|| broken("snappy", "a block is longer than the batch"))?;
            self.snappy_block(block, limit, into)?;
            blocks = &rest[length..];
        }
        Ok(())
    }

    fn snappy_block(&mut self, block: &[u8], limit: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        let length = snap::raw::decompress_len(block).map_err(|error| broken("snappy", error))?;
        let from = into.len();
        check(from + length, limit)?;
        // Snappy cannot do better than 1:32 or so: a claim far beyond is refused before memory is touched.
        if length / 64 > block.len() {
            return Err(broken("snappy", "a block claims an impossible size"));
        }
        into.resize(from + length, 0);
        self.snappy.decompress(block, &mut into[from..]).map_err(|error| broken("snappy", error))?;
        Ok(())
    }

    /// One shot when the frame tells its size, streaming (as Java writes) when it does not.
    fn zstd(&mut self, body: &[u8], bytes_max: usize, into: &mut Vec<u8>) -> Result<(), RecordError> {
        let told = zstd::zstd_safe::get_frame_content_size(body).ok().flatten();
        let is_one_frame =
            zstd::zstd_safe::find_frame_compressed_size(body).is_ok_and(|bytes| bytes == body.len());
        let Some(told) = told.filter(|_| is_one_frame) else {
            let reader = zstd::stream::read::Decoder::new(body).map_err(|error| broken("zstd", error))?;
            return drain("zstd", reader, bytes_max, into);
        };
        let told = usize::try_from(told).unwrap_or(usize::MAX);
        check(told, bytes_max)?;
        if into.is_empty() && told / 1024 <= body.len() {
            let decompressor = match &mut self.zstd {
                Some(known) => known,
                none => none.insert(zstd::bulk::Decompressor::new().map_err(|error| broken("zstd", error))?),
            };
            into.reserve_exact(told);
            decompressor.decompress_to_buffer(body, into).map_err(|error| broken("zstd", error))?;
            return Ok(());
        }
        let reader = zstd::stream::read::Decoder::new(body).map_err(|error| broken("zstd", error))?;
        drain("zstd", reader, bytes_max, into)
    }
}

fn drain(
    codec: &'static str,
    mut reader: impl Read,
    bytes_max: usize,
    into: &mut Vec<u8>,
) -> Result<(), RecordError> {
    let limit = into.len() + bytes_max;
    loop {
        let from = into.len();
        let step = STEP_BYTES.max(from).min(limit + 1 - from);
        into.resize(from + step, 0);
        let read = match reader.read(&mut into[from..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => {
                into.truncate(from);
                return Err(broken(codec, error));
            }
            Ok(0) => {
                into.truncate(from);
                return Ok(());
            }
            Ok(read) => read,
        };
        into.truncate(from + read);
        check(into.len(), limit)?;
    }
}

fn check(bytes: usize, bytes_max: usize) -> Result<(), RecordError> {
    if bytes > bytes_max { Err(RecordError::TooLarge { bytes_max }) } else { Ok(()) }
}

fn broken(codec: &'static str, what: impl ToString) -> RecordError {
    RecordError::Compressed { codec, what: what.to_string() }
}
