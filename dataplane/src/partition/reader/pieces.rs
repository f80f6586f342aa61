//! Record batches too large to be decompressed at once: their records are decompressed piece by piece, each piece on
//! its own lease.
//!
//! Between pieces the decoder keeps its state, on a lease too, so that each byte is decompressed once. A batch that
//! is released in the meantime is fetched again and decompressed from its start, as its decoder cannot start in the
//! middle.

use std::sync::Arc;

use bytes::Bytes;
use lighterman_proto::records::{BatchHeader, BatchStream, RecordError};

use crate::credit::memory_budget::MemoryLease;
use crate::messages::records::SharedLease;

const KIB: usize = 1024;

/// Limits on how much of a batch is held at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceLimits {
    /// Size of a piece, in bytes; a batch up to this size is decompressed at once.
    pub piece_bytes: usize,
    /// Size of the largest record that is held, in bytes. A larger one is skipped over, and only its offset and
    /// timestamp are known.
    pub record_bytes_max: usize,
    /// Largest decoder window, in bytes; the decoder takes as much memory.
    pub window_bytes_max: usize,
    /// Bytes decompressed before other tasks on the thread run.
    pub turn_bytes: usize,
}

impl PieceLimits {
    /// Returns the limits for a budget of `budget_bytes`. A piece is a sixteenth of the budget, so that several
    /// partitions can make progress at once. A record may take the whole budget, as the one oversized record of
    /// MEM-1.
    pub fn of(budget_bytes: usize) -> Self {
        Self {
            piece_bytes: (budget_bytes / 16).clamp(64 * KIB, 4 * KIB * KIB),
            record_bytes_max: budget_bytes.clamp(8 * KIB * KIB, 64 * KIB * KIB),
            window_bytes_max: budget_bytes.clamp(8 * KIB * KIB, 128 * KIB * KIB),
            // Enough for one payload, so that a batch is usually filled in one turn.
            turn_bytes: 8 * KIB * KIB,
        }
    }
}

/// Record batch that is decompressed in pieces.
#[derive(Debug)]
pub struct PiecedBatch {
    stream: BatchStream,
    memory: SharedLease,
    /// Lease on the compressed bytes that the stream reads.
    _frame: SharedLease,
}

/// Next part of a batch.
#[derive(Debug)]
pub enum NextPiece {
    /// Whole records, with the lease on their memory.
    Records {
        /// The records, in the format of a batch's records section.
        plain: Bytes,
        /// Number of records.
        records: u32,
        /// Lease on the memory of the records.
        hold: SharedLease,
    },
    /// A record that was too large to hold.
    Unheld {
        /// The record's offset and timestamp, as a record without content.
        stub: Bytes,
        /// Size of the record in the batch, in bytes.
        bytes: usize,
        /// Lease on the memory of the stub.
        hold: SharedLease,
    },
    /// The memory for this many bytes is not available.
    NoCredit(usize),
    /// Other tasks on the thread run first.
    Later,
}

impl PiecedBatch {
    /// Returns the memory that a batch takes besides its pieces, in bytes.
    pub fn memory_bytes(
        header: &BatchHeader,
        packed: &[u8],
        limits: &PieceLimits,
    ) -> Result<usize, RecordError> {
        BatchStream::memory_bytes(header.compression, packed, limits.window_bytes_max)
    }

    /// Creates a batch from its records section `packed`, whose memory `frame` leases; `memory` is at least
    /// [`Self::memory_bytes`].
    pub fn new(
        header: &BatchHeader,
        packed: Bytes,
        memory: MemoryLease,
        frame: &SharedLease,
    ) -> Result<Self, RecordError> {
        let stream = BatchStream::new(*header, packed, memory.bytes())?;
        Ok(Self { stream, memory: Arc::new(memory), _frame: SharedLease::clone(frame) })
    }

    /// Number of records still to come.
    pub fn left(&self) -> u32 {
        self.stream.left()
    }

    /// Returns the lease that lives as long as the batch.
    pub(in crate::partition) fn memory(&self) -> &SharedLease {
        &self.memory
    }

    /// Returns the next part. `spent` counts the bytes decompressed in this turn; `take` leases bytes, if they are
    /// available.
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
