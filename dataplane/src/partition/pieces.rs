//! A batch too large to be inflated at once: its records are inflated piece by piece, each piece on credit of its own.
//!
//! The decoder stays where it is between pieces, on credit too, so that each byte is inflated once. A batch that is given back
//! meanwhile is fetched again and inflated from its beginning: its decoder cannot begin in the middle.

use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::records::{BatchHeader, BatchStream, RecordError};

use super::batch::SharedLease;
use crate::credit::memory::MemoryLease;

const KIB: usize = 1024;

/// How much of a batch is held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceLimits {
    /// One piece; what is not larger inflated is inflated at once.
    pub piece_bytes: usize,
    /// The largest record that is held; a larger one is passed over, and only its place and time are known.
    pub record_bytes_max: usize,
    /// How far a decoder may look back, in bytes, which takes so much memory.
    pub window_bytes_max: usize,
    /// What is inflated before others on the thread have their turn.
    pub turn_bytes: usize,
}

impl PieceLimits {
    /// What suits a budget of so many bytes. A piece is a sixteenth of it, so that several partitions get on beside each
    /// other; a record may be as large as all of it, which is the one oversized record of MEM-1.
    pub fn of(budget_bytes: usize) -> Self {
        Self {
            piece_bytes: (budget_bytes / 16).clamp(64 * KIB, 4 * KIB * KIB),
            record_bytes_max: budget_bytes.clamp(8 * KIB * KIB, 64 * KIB * KIB),
            window_bytes_max: budget_bytes.clamp(8 * KIB * KIB, 128 * KIB * KIB),
            // Enough for one payload, so that a batch is cut in one turn as a rule.
            turn_bytes: 8 * KIB * KIB,
        }
    }
}

/// A batch that is inflated in pieces.
#[derive(Debug)]
pub struct PiecedBatch {
    stream: BatchStream,
    memory: SharedLease,
    /// What keeps the bytes on the budget that the stream reads from.
    _frame: SharedLease,
}

/// What comes next of a batch.
#[derive(Debug)]
pub enum NextPiece {
    /// Whole records, and the credit they stand on.
    Records {
        /// They stand in it as in a batch's records section.
        plain: Bytes,
        /// How many.
        records: u32,
        /// What keeps them on the budget.
        hold: SharedLease,
    },
    /// A record that was too large to be held.
    Unheld {
        /// Its place and time, as a record without content.
        stub: Bytes,
        /// What it takes in the batch, in bytes.
        bytes: usize,
        /// What keeps the stub on the budget.
        hold: SharedLease,
    },
    /// There is no credit now for this many bytes.
    NoCredit(usize),
    /// Others have their turn first.
    Later,
}

impl PiecedBatch {
    /// Bytes that a batch takes besides its pieces.
    pub fn memory_bytes(
        header: &BatchHeader,
        packed: &[u8],
        limits: &PieceLimits,
    ) -> Result<usize, RecordError> {
        BatchStream::memory_bytes(header.compression, packed, limits.window_bytes_max)
    }

    /// A batch whose records section `packed` stands on `frame`; `memory` is at least [`Self::memory_bytes`].
    pub fn new(
        header: &BatchHeader,
        packed: Bytes,
        memory: MemoryLease,
        frame: &SharedLease,
    ) -> Result<Self, RecordError> {
        let stream = BatchStream::new(*header, packed, memory.bytes())?;
        Ok(Self { stream, memory: Arc::new(memory), _frame: SharedLease::clone(frame) })
    }

    /// Records still to come.
    pub fn left(&self) -> u32 {
        self.stream.left()
    }

    /// What stands on the budget as long as the batch does.
    pub(super) fn memory(&self) -> &SharedLease {
        &self.memory
    }

    /// What comes next. `spent` are the bytes inflated in this turn so far; `take` lends bytes, or not.
    pub fn next(
        &mut self,
        limits: &PieceLimits,
        spent: &mut usize,
        take: &mut dyn FnMut(usize) -> Option<MemoryLease>,
    ) -> Result<NextPiece, RecordError> {
        let turn = limits.turn_bytes.saturating_sub(*spent);
        if turn == 0 {
            return Ok(NextPiece::Later);
        }
        if !self.stream.is_passing() {
            let bytes = self.stream.next_record_bytes()?.unwrap_or(0);
            if bytes <= limits.record_bytes_max {
                let wanted = bytes.max(limits.piece_bytes);
                let Some(lease) = take(wanted) else { return Ok(NextPiece::NoCredit(wanted)) };
                return self.records(lease, wanted, spent);
            }
        }
        *spent = limits.turn_bytes;
        let hold = SharedLease::clone(&self.memory);
        Ok(match self.stream.pass_over(turn)? {
            Some(passed) => NextPiece::Unheld { stub: passed.stub.into(), bytes: passed.bytes, hold },
            None => NextPiece::Later,
        })
    }

    fn records(
        &mut self,
        mut lease: MemoryLease,
        bytes: usize,
        spent: &mut usize,
    ) -> Result<NextPiece, RecordError> {
        let piece = self.stream.next_piece(bytes)?;
        *spent += piece.plain.len();
        lease.shrink_to(piece.plain.len());
        Ok(NextPiece::Records { plain: piece.plain.into(), records: piece.records, hold: Arc::new(lease) })
    }
}
