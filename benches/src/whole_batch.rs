//! A batch on its whole way through the cores: fetched frame, offer, sealed batch, payload, result, commit request,
//! acknowledgement. Sockets, actors and signatures are not part of it.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use lighterman::batcher::core::{BatchLimits, BatcherCore};
use lighterman::batcher::payload;
use lighterman::commits::coalescing::{CommitOutcome, CommitterCore, offsets_of};
use lighterman::credit::memory_budget::MemoryBudget;
use lighterman::messages::batch::BatchId;
use lighterman::messages::commit::CommitRequest;
use lighterman::messages::records::{PartitionBatchLimits, RecordSizer, SharedLease};
use lighterman::messages::resolution::BatchResolution;
use lighterman::messages::resume::ResumePoint;
use lighterman::partition::attempts::attempt::FailureHandling;
use lighterman::partition::core::PartitionCore;
use lighterman::partition::effects::{
    CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects, PartitionIdentity,
};
use lighterman::partition::progress::commit_window::CommitWindowLimits;
use lighterman::partition::reader::fetch_buffer::{BatchOpener, OpenedBatch, PlainSize, RecordFilter};
use lighterman::partition::reader::pieces::{NextPiece, PiecedBatch};
use lighterman_proto::event::EventEnvelope;
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::records::{AbortedTransactions, BatchHeader, Record, RecordError};
use lighterman_proto::units::{Moment, TimestampMs};

const PAYLOAD_BYTES_MAX: usize = 6 << 20;
const IDENTITY: PartitionIdentity = PartitionIdentity { partition: 0, topic: None, epoch: Epoch(1) };
const NOW: Moment = Moment::from_micros(1);

/// Context of a partition that reads uncompressed batches without filters.
struct PlainContext<'e>(&'e EventEnvelope);

impl BatchOpener for PlainContext<'_> {
    fn open(
        &mut self,
        _: &BatchHeader,
        packed: &Bytes,
        _: Option<PlainSize>,
        frame: &SharedLease,
    ) -> Result<OpenedBatch, RecordError> {
        Ok(OpenedBatch::Plain(packed.clone(), Arc::clone(frame)))
    }

    fn next_piece(&mut self, _: &mut PiecedBatch) -> Result<NextPiece, RecordError> {
        Ok(NextPiece::Later)
    }

    fn has_waiters(&self) -> bool {
        false
    }

    fn lend(&mut self, _: usize) -> Option<SharedLease> {
        None
    }
}

impl RecordSizer for PlainContext<'_> {
    fn record_bytes(&self, record: &Record<'_>, first: bool) -> usize {
        self.0.record_bytes(IDENTITY.partition, record, first)
    }
}

impl RecordFilter for PlainContext<'_> {
    fn passes(&self, _: &Record<'_>) -> bool {
        true
    }
}

/// The cores of one partition, its batcher and its committer.
pub struct BatchPath<'e> {
    envelope: &'e EventEnvelope,
    partition: PartitionCore,
    batcher: BatcherCore,
    committer: CommitterCore,
    budget: MemoryBudget,
    batches: u64,
    records: u32,
}

impl<'e> BatchPath<'e> {
    /// Creates the cores of a partition that starts at offset 0, with batches of at most `records_max` records.
    pub fn new(envelope: &'e EventEnvelope, records_max: u32) -> Self {
        let key_bytes = envelope.partition_bytes(IDENTITY.partition, false);
        let envelope_bytes = envelope.base_bytes();
        let payload_bytes_max = PAYLOAD_BYTES_MAX - envelope_bytes - key_bytes;
        let resume = ResumePoint {
            topic: None,
            committed: Offset(0),
            leader_epoch: -1,
            progress: None,
            failures: None,
        };
        let mut committer = CommitterCore::default();
        committer.register(CommitRequest::beginning(IDENTITY.partition, IDENTITY.epoch, &resume));
        Self {
            envelope,
            partition: PartitionCore::new(PartitionConfig {
                identity: IDENTITY,
                key_bytes,
                committed: Offset(0),
                leader_epoch: -1,
                progress: None,
                failures: None,
                policy: FailureHandling::default(),
                filters: 0,
                limits: PartitionBatchLimits { records_max, payload_bytes_max },
                commit_window: CommitWindowLimits { batches_max: 8, age_max: Duration::from_millis(100) },
                buffer_bytes_target: 2 << 20,
            }),
            batcher: BatcherCore::new(BatchLimits {
                records_max,
                payload_bytes_max: PAYLOAD_BYTES_MAX,
                envelope_bytes,
                window: Duration::ZERO,
            }),
            committer,
            budget: MemoryBudget::new(1 << 30),
            batches: 0,
            records: 0,
        }
    }

    /// Takes `frame` from fetch to acknowledged commits. Returns the number of delivered records.
    pub fn deliver(&mut self, frame: &Bytes) -> u32 {
        let hold: SharedLease = Arc::new(self.budget.try_lease(frame.len()).expect("the budget has room"));
        let aborted = AbortedTransactions::default();
        let fetched = FetchedFrame { position: Offset(0), records: frame, aborted, hold: &hold };
        let mut effects: VecDeque<PartitionEffect> =
            self.step(|core, context| core.fetched(NOW, fetched, context)).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                PartitionEffect::Offer(offer) => {
                    self.batcher.offer(offer);
                    effects.extend(self.invoke());
                }
                PartitionEffect::Commit(request) => effects.extend(self.commit(request)),
                _ => {}
            }
        }
        self.records
    }

    fn step(
        &mut self,
        event: impl FnOnce(&mut PartitionCore, &mut CoreContext<'_>) -> PartitionEffects,
    ) -> PartitionEffects {
        let tools = PlainContext(self.envelope);
        let mut batch_opener = PlainContext(self.envelope);
        let mut context = CoreContext {
            batch_opener: &mut batch_opener,
            sizer: &tools,
            record_filter: &tools,
            wall: TimestampMs(0),
        };
        event(&mut self.partition, &mut context)
    }

    /// Seals the offer, writes its payload and delivers it.
    fn invoke(&mut self) -> PartitionEffects {
        let Some(sealed) = self.batcher.seal(NOW, &|_| true) else { return PartitionEffects::new() };
        self.batches += 1;
        self.records += sealed.records();
        black_box(payload::write(&sealed, self.envelope, BytesMut::with_capacity(sealed.payload_bytes)));
        let batch = BatchId(self.batches);
        let (seq, end) = (sealed.parts[0].seq, sealed.parts[0].partition_batch.range.end);
        self.step(|core, context| {
            assert!(core.sealed(seq, end, batch, context), "the offer is the current one");
            core.resolved(NOW, batch, BatchResolution::Delivered, context)
        })
    }

    /// Commits, and acknowledges at once.
    fn commit(&mut self, request: CommitRequest) -> PartitionEffects {
        self.committer.request(request);
        black_box(offsets_of(self.committer.start(), 1));
        let acknowledged = self.committer.answered(NOW, |_| CommitOutcome::Done);
        let seq = acknowledged.last().map_or(0, |request| request.seq);
        self.step(|core, context| core.committed(NOW, seq, context))
    }
}

/// Takes a frame of 1,000 records in batches of `records_max` to their acknowledged commits.
pub fn whole_batches(frame: &Bytes, envelope: &EventEnvelope, records_max: u32) -> u32 {
    let delivered = BatchPath::new(envelope, records_max).deliver(frame);
    assert_eq!(delivered, 1_000, "every record is delivered");
    delivered
}
