//! Context that a partition's core borrows from its actor, modelled on `partition/decompress.rs`.

use std::sync::Arc;

use bytes::Bytes;
use lighterman::credit::memory_budget::{MemoryBudget, MemoryLease, Overdraft};
use lighterman::messages::records::{RecordSizer, SharedLease};
use lighterman::partition::reader::fetch_buffer::BatchOpener;
use lighterman::partition::reader::fetch_buffer::CreditShortage;
use lighterman::partition::reader::fetch_buffer::OpenedBatch;
use lighterman::partition::reader::fetch_buffer::PlainSize;
use lighterman::partition::reader::fetch_buffer::RecordFilter;
use lighterman::partition::reader::pieces::NextPiece;
use lighterman::partition::reader::pieces::PieceLimits;
use lighterman::partition::reader::pieces::PiecedBatch;
use lighterman_proto::event::EventEnvelope;
use lighterman_proto::records::{BatchHeader, Compression, Record, RecordError};

/// Small, so that batches have several pieces.
const PIECES: PieceLimits =
    PieceLimits { piece_bytes: 120, record_bytes_max: 1 << 20, window_bytes_max: 1 << 20, turn_bytes: 200 };
const DECODER_BYTES: usize = 20;

/// Context of the core for one event.
pub(super) struct SimulatedContext {
    pub envelope: Arc<EventEnvelope>,
    pub partition: i32,
    pub budget: MemoryBudget,
}

impl RecordSizer for SimulatedContext {
    fn record_bytes(&self, record: &Record<'_>, first: bool) -> usize {
        self.envelope.record_bytes(self.partition, record, first)
    }
}

impl RecordFilter for SimulatedContext {
    fn passes(&self, record: &Record<'_>) -> bool {
        record.value.is_none_or(|value| value.first() != Some(&b'f'))
    }
}

/// Opener of simulated batches, which claim compression but are plain: only the credit is real.
pub(super) struct OnCredit<'a> {
    pub budget: &'a MemoryBudget,
    pub granted: Option<MemoryLease>,
    pub spent: usize,
}

fn take(
    granted: &mut Option<MemoryLease>,
    budget: &MemoryBudget,
    bytes: usize,
    purpose: Overdraft,
) -> Option<MemoryLease> {
    let granted = granted.take_if(|lease| lease.bytes() >= bytes && lease.serves(purpose));
    let mut lease = granted.or_else(|| budget.try_lease_or_overdraft(bytes, purpose))?;
    lease.shrink_to(bytes);
    Some(lease)
}

impl BatchOpener for OnCredit<'_> {
    fn open(
        &mut self,
        header: &BatchHeader,
        packed: &Bytes,
        _: Option<PlainSize>,
        frame: &SharedLease,
    ) -> Result<OpenedBatch, RecordError> {
        let (is_large, size) = (packed.len() > PIECES.piece_bytes, packed.len());
        let (bytes, purpose, known) = if is_large {
            (DECODER_BYTES, Overdraft::Decoder, PlainSize::Large)
        } else {
            (size, Overdraft::Inflated, PlainSize::Bytes(size))
        };
        let Some(lease) = take(&mut self.granted, self.budget, bytes, purpose) else {
            return Ok(OpenedBatch::NoCredit(CreditShortage { bytes, purpose }, known));
        };
        if !is_large {
            return Ok(OpenedBatch::Plain(packed.clone(), Arc::new(lease)));
        }
        let mut plain = *header;
        plain.compression = Compression::None;
        Ok(OpenedBatch::Pieced(Box::new(PiecedBatch::new(&plain, packed.clone(), lease, frame)?)))
    }

    fn next_piece(&mut self, batch: &mut PiecedBatch) -> Result<NextPiece, RecordError> {
        let (granted, budget) = (&mut self.granted, self.budget);
        batch.next(&PIECES, &mut self.spent, &mut |bytes| take(granted, budget, bytes, Overdraft::Inflated))
    }

    fn has_waiters(&self) -> bool {
        self.budget.has_waiters()
    }

    fn lend(&mut self, bytes: usize) -> Option<SharedLease> {
        self.budget.try_lease(bytes).map(Arc::new)
    }
}
