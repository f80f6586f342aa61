//! Streaming snappy decoder: reads one block after another and keeps only as much of a block as its copies refer
//! back to.
//!
//! Block format: <https://github.com/google/snappy/blob/main/format_description.txt>. The `snap` crate decodes
//! whole blocks only, and an encoder without framing emits the whole batch as one block.

use std::io::{self, Read};

use bytes::Bytes;

use super::error::RecordError;
use super::inflate::{XerialBlocks, broken, snappy_len, xerial_body};

/// Decompressed bytes produced before they are handed to the reader.
const READY_BYTES: usize = 32 * 1024;
/// Maximum length of a copy element.
const COPY_BYTES_MAX: usize = 64;

/// Decoder of snappy, raw or in Java's xerial framing.
pub(super) struct SnappyReader {
    packed: Bytes,
    at: usize,
    /// True if each block is preceded by its length.
    framed: bool,
    block_end: usize,
    /// Decompressed bytes of the block still to come, including the current literal.
    block_left: usize,
    literal_left: usize,
    ring: Vec<u8>,
    /// Decompressed bytes of the block produced so far.
    made: usize,
    /// Bytes of `made` already returned to the reader.
    taken: usize,
}

/// Returns the decompressed size in bytes of the largest block in `packed`.
pub(super) fn largest_block(packed: &[u8]) -> Result<usize, RecordError> {
    match xerial_body(packed) {
        None => snappy_len(packed),
        Some(framed) => {
            XerialBlocks(framed).try_fold(0, |largest: usize, block| Ok(largest.max(snappy_len(block?)?)))
        }
    }
}

impl SnappyReader {
    /// Creates a decoder. `window_bytes` is the maximum distance that a copy may refer back.
    pub(super) fn new(packed: Bytes, window_bytes: usize) -> Self {
        let framed = xerial_body(&packed);
        let at = framed.map_or(0, |body| packed.len() - body.len());
        Self {
            framed: framed.is_some(),
            at,
            block_end: at,
            block_left: 0,
            literal_left: 0,
            ring: vec![0; window_bytes + READY_BYTES + COPY_BYTES_MAX],
            made: 0,
            taken: 0,
            packed,
        }
    }

    fn window_bytes(&self) -> usize {
        self.ring.len() - READY_BYTES - COPY_BYTES_MAX
    }

    /// Advances to the next block; returns false at the end.
    fn next_block(&mut self) -> Result<bool, &'static str> {
        if self.at != self.block_end {
            return Err("a block is longer than it says");
        }
        let rest = &self.packed[self.at..];
        if rest.is_empty() {
            return Ok(false);
        }
        let bytes = if self.framed {
            let (length, _) = rest.split_first_chunk::<4>().ok_or("a block has no length")?;
            self.at += 4;
            u32::from_be_bytes(*length) as usize
        } else {
            rest.len()
        };
        self.block_end =
            self.at.checked_add(bytes).filter(|end| *end <= self.packed.len()).ok_or("it is cut off")?;
        let block = &self.packed[self.at..self.block_end];
        self.block_left = snappy_len(block).map_err(|_| "a block's size cannot be read")?;
        // Skip the block's size varint: seven bits in each byte, the last one below 128.
        self.at += 1 + block.iter().take_while(|byte| **byte >= 0x80).count();
        (self.made, self.taken) = (0, 0);
        Ok(true)
    }

    fn byte(&mut self) -> Result<usize, &'static str> {
        let byte = self.packed[..self.block_end].get(self.at).ok_or("a block is cut off")?;
        self.at += 1;
        Ok(usize::from(*byte))
    }

    fn number(&mut self, bytes: usize) -> Result<usize, &'static str> {
        (0..bytes).try_fold(0, |number, index| Ok(number | self.byte()? << (8 * index)))
    }

    /// Decompresses until `READY_BYTES` are available or the block ends.
    fn make(&mut self) -> Result<(), &'static str> {
        while self.block_left > 0 && self.made - self.taken < READY_BYTES {
            if self.literal_left > 0 {
                self.copy_literal()?;
                continue;
            }
            let tag = self.byte()?;
            let upper = tag >> 2;
            let (length, offset) = match tag & 3 {
                0 => {
                    self.literal_left = 1 + if upper < 60 { upper } else { self.number(upper - 59)? };
                    if self.literal_left > self.block_left {
                        return Err("a literal is longer than its block");
                    }
                    continue;
                }
                1 => (4 + (upper & 7), (tag >> 5) << 8 | self.byte()?),
                2 => (upper + 1, self.number(2)?),
                _ => (upper + 1, self.number(4)?),
            };
            self.copy_back(length, offset)?;
        }
        Ok(())
    }

    fn copy_literal(&mut self) -> Result<(), &'static str> {
        let to = self.made % self.ring.len();
        let room = READY_BYTES + COPY_BYTES_MAX - (self.made - self.taken);
        let bytes = self.literal_left.min(self.ring.len() - to).min(room);
        let from = self.at..self.at + bytes;
        let literal = self.packed[..self.block_end].get(from).ok_or("a literal is cut off")?;
        self.ring[to..to + bytes].copy_from_slice(literal);
        self.at += bytes;
        self.literal_left -= bytes;
        self.block_left -= bytes;
        self.made += bytes;
        Ok(())
    }

    fn copy_back(&mut self, length: usize, offset: usize) -> Result<(), &'static str> {
        if offset == 0 || offset > self.made {
            return Err("a copy reaches back before its block");
        }
        if offset > self.window_bytes() {
            return Err("a copy reaches back further than there is memory for");
        }
        if length > self.block_left {
            return Err("a copy is longer than its block");
        }
        let size = self.ring.len();
        let mut to = self.made % size;
        let mut from = (self.made - offset) % size;
        for _ in 0..length {
            self.ring[to] = self.ring[from];
            to = if to + 1 == size { 0 } else { to + 1 };
            from = if from + 1 == size { 0 } else { from + 1 };
        }
        self.made += length;
        self.block_left -= length;
        Ok(())
    }
}

impl Read for SnappyReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.made == self.taken {
            let failed = |what| io::Error::new(io::ErrorKind::InvalidData, broken("snappy", what));
            if self.block_left == 0 && !self.next_block().map_err(failed)? {
                return Ok(0);
            }
            self.make().map_err(failed)?;
        }
        let from = self.taken % self.ring.len();
        let bytes = (self.made - self.taken).min(self.ring.len() - from).min(into.len());
        into[..bytes].copy_from_slice(&self.ring[from..from + bytes]);
        self.taken += bytes;
        Ok(bytes)
    }
}
