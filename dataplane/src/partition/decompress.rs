//! Resources that the actor lends to the core: exact record sizes, filters, and decompression within the memory
//! budget.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use actix::{Handler, Recipient};
use bytes::Bytes;
use lighterman_proto::event::EventEnvelope;
use lighterman_proto::filter::FilterSet;
use lighterman_proto::ids::TopicPartition;
use lighterman_proto::records::{BatchHeader, BatchInflater, Compression, Record, RecordError};

use super::actor::PartitionActor;
use super::core::PartitionCore;
use super::messages::{CreditGranted, GiveBack};
use crate::credit::memory_budget::{MemoryBudget, MemoryLease, Overdraft};
use crate::messages::records::{RecordSizer, SharedLease};
use crate::partition::reader::fetch_buffer::{
    BatchOpener, CreditShortage, OpenedBatch, PlainSize, RecordFilter,
};
use crate::partition::reader::pieces::{NextPiece, PieceLimits, PiecedBatch};
use crate::runtime::outbox::post;
use crate::runtime::owned_task::OwnedTask;

/// Resources that the core borrows for one event.
pub(super) struct ContextParts {
    pub envelope: Arc<EventEnvelope>,
    pub filters: Arc<FilterSet>,
    pub id: TopicPartition,
    pub inflater: Rc<RefCell<BatchInflater>>,
    pub limits: PieceLimits,
    pub budget: MemoryBudget,
}

impl RecordSizer for ContextParts {
    fn record_bytes(&self, record: &Record<'_>, first: bool) -> usize {
        self.envelope.record_bytes(self.id.partition, record, first)
    }
}

impl RecordFilter for ContextParts {
    fn passes(&self, record: &Record<'_>) -> bool {
        self.filters.passes(&self.id.topic, self.id.partition, record)
    }
}

/// Decompressor that leases the memory from the node's budget.
pub(super) struct LeasedDecompressor<'a, I = BatchInflater> {
    pub inflater: &'a RefCell<I>,
    pub budget: &'a MemoryBudget,
    /// Limits on how much of a batch is held at once.
    pub limits: PieceLimits,
    /// Bytes decompressed for this event.
    pub spent: usize,
    /// Lease granted after waiting. Any part that this event does not use is returned to the budget.
    pub granted: Option<MemoryLease>,
}

impl<I: BatchDecompressor> LeasedDecompressor<'_, I> {
    fn take(&mut self, bytes: usize, purpose: Overdraft) -> Option<MemoryLease> {
        take(&mut self.granted, self.budget, bytes, purpose)
    }

    fn inflate(
        &mut self,
        compression: Compression,
        packed: &[u8],
        most: usize,
    ) -> Result<Vec<u8>, RecordError> {
        let mut plain = Vec::new();
        self.inflater.borrow_mut().inflate(compression, packed, most, &mut plain)?;
        self.spent += plain.len();
        Ok(plain)
    }

    fn open_pieced(
        &mut self,
        header: &BatchHeader,
        packed: &Bytes,
        frame: &SharedLease,
    ) -> Result<OpenedBatch, RecordError> {
        let bytes = PiecedBatch::memory_bytes(header, packed, &self.limits)?;
        let Some(memory) = self.take(bytes, Overdraft::Decoder) else {
            let shortage = CreditShortage { bytes, purpose: Overdraft::Decoder };
            return Ok(OpenedBatch::NoCredit(shortage, PlainSize::Large));
        };
        Ok(OpenedBatch::Pieced(Box::new(PiecedBatch::new(header, packed.clone(), memory, frame)?)))
    }
}

fn no_credit(bytes: usize) -> OpenedBatch {
    OpenedBatch::NoCredit(CreditShortage { bytes, purpose: Overdraft::Inflated }, PlainSize::Bytes(bytes))
}

/// Takes the granted lease if it is sufficient, or else a new one, over the limit if needed.
fn take(
    granted: &mut Option<MemoryLease>,
    budget: &MemoryBudget,
    bytes: usize,
    purpose: Overdraft,
) -> Option<MemoryLease> {
    match granted.take_if(|lease| lease.bytes() >= bytes && lease.serves(purpose)) {
        Some(mut lease) => {
            lease.shrink_to(bytes);
            Some(lease)
        }
        None => budget.try_lease_or_overdraft(bytes, purpose),
    }
}

impl<I: BatchDecompressor> BatchOpener for LeasedDecompressor<'_, I> {
    fn open(
        &mut self,
        header: &BatchHeader,
        packed: &Bytes,
        known: Option<PlainSize>,
        frame: &SharedLease,
    ) -> Result<OpenedBatch, RecordError> {
        if self.spent >= self.limits.turn_bytes {
            return Ok(OpenedBatch::Later);
        }
        let (packed_as, most) = (header.compression, self.limits.piece_bytes);
        let (plain, lease) = match known {
            Some(PlainSize::Large) => return self.open_pieced(header, packed, frame),
            // Only decompression reveals the size: it is done once to learn it, and again when memory is available.
            None => {
                let plain = match self.inflate(packed_as, packed, most) {
                    Err(RecordError::TooLarge { .. }) => {
                        self.spent += most;
                        return self.open_pieced(header, packed, frame);
                    }
                    other => other?,
                };
                let Some(lease) = self.take(plain.len(), Overdraft::Inflated) else {
                    return Ok(no_credit(plain.len()));
                };
                (plain, lease)
            }
            Some(PlainSize::Bytes(bytes)) => {
                let Some(lease) = self.take(bytes, Overdraft::Inflated) else { return Ok(no_credit(bytes)) };
                (self.inflate(packed_as, packed, bytes)?, lease)
            }
        };
        Ok(OpenedBatch::Plain(Bytes::from(plain), Arc::new(lease)))
    }

    fn next_piece(&mut self, batch: &mut PiecedBatch) -> Result<NextPiece, RecordError> {
        let (granted, budget) = (&mut self.granted, self.budget);
        batch.next(&self.limits, &mut self.spent, &mut |bytes| {
            take(granted, budget, bytes, Overdraft::Inflated)
        })
    }

    fn has_waiters(&self) -> bool {
        self.budget.has_waiters()
    }

    fn lend(&mut self, bytes: usize) -> Option<SharedLease> {
        self.budget.try_lease(bytes).map(Arc::new)
    }
}

/// Decompressor; a trait, so that tests can count the calls.
pub(super) trait BatchDecompressor {
    /// See [`BatchInflater::inflate`].
    fn inflate(
        &mut self,
        compression: Compression,
        body: &[u8],
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), RecordError>;
}

impl BatchDecompressor for BatchInflater {
    fn inflate(
        &mut self,
        compression: Compression,
        body: &[u8],
        bytes_max: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), RecordError> {
        Self::inflate(self, compression, body, bytes_max, into)
    }
}

impl Handler<GiveBack> for PartitionActor {
    type Result = ();

    fn handle(&mut self, _: GiveBack, ctx: &mut Self::Context) {
        self.step(ctx, PartitionCore::give_back);
    }
}

/// Place in the budget's queue; dropping it leaves the queue.
pub(super) struct CreditWait {
    _task: OwnedTask,
}

impl CreditWait {
    /// Waits for the missing memory, and posts it to `to`.
    pub(super) fn for_credit(
        short: CreditShortage,
        budget: &MemoryBudget,
        to: Recipient<CreditGranted>,
    ) -> Self {
        let budget = budget.clone();
        let task = OwnedTask::spawn(async move {
            let lease = budget.lease_or_overdraft(short.bytes, short.purpose).await;
            let _ = post(&to, CreditGranted(lease));
        });
        Self { _task: task }
    }
}

#[cfg(test)]
mod tests {
    use actix::{Actor, Context, Handler};
    use futures::FutureExt;
    use lighterman_proto::commit_metadata::{CommittedProgress, ProgressPiece};
    use lighterman_proto::ids::Offset;
    use lighterman_proto::records::AbortedTransactions;
    use lighterman_proto::units::{Moment, TimestampMs};

    use super::*;
    use crate::messages::batch::BatchId;
    use crate::messages::offer::Offer;
    use crate::messages::records::PartitionBatchLimits;
    use crate::messages::resolution::BatchResolution;
    use crate::partition::attempts::attempt::FailureHandling;
    use crate::partition::effects::{
        CoreContext, FetchedFrame, PartitionConfig, PartitionEffect, PartitionEffects,
    };
    use crate::partition::model_tests::{IDENTITY, PlainTools, batch, hold};
    use crate::partition::progress::commit_window::CommitWindowLimits;

    const NOW: Moment = Moment::from_micros(1);
    const LIMIT: usize = 1_000;

    /// Decompressor for batches that are only marked as compressed; counts the calls.
    #[derive(Default)]
    struct CountingDecompressor {
        inflations: u32,
    }

    impl BatchDecompressor for CountingDecompressor {
        fn inflate(
            &mut self,
            _: Compression,
            body: &[u8],
            _: usize,
            into: &mut Vec<u8>,
        ) -> Result<(), RecordError> {
            self.inflations += 1;
            into.extend_from_slice(body);
            Ok(())
        }
    }

    fn packed(base: i64, count: i64) -> Vec<u8> {
        let deltas: Vec<(i64, usize)> = (0..count).map(|delta| (delta, 20)).collect();
        let mut packed = batch(base, &deltas, count - 1, false).to_vec();
        // Attributes: gzip.
        packed[22] = 1;
        let checksum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &packed[21..]) as u32;
        packed[17..21].copy_from_slice(&checksum.to_be_bytes());
        packed
    }

    /// Partition on a budget that is leased to others entirely, except for the overdrafts.
    struct PressedPartition {
        core: PartitionCore,
        inflater: RefCell<CountingDecompressor>,
        budget: MemoryBudget,
        others: MemoryLease,
    }

    impl PressedPartition {
        fn new(progress: Option<CommittedProgress>) -> Self {
            Self::with_buffer(progress, 100)
        }

        fn with_buffer(progress: Option<CommittedProgress>, buffer_bytes_target: usize) -> Self {
            let budget = MemoryBudget::new(LIMIT);
            let others = budget.try_lease(LIMIT).expect("room");
            let core = PartitionCore::new(PartitionConfig {
                identity: IDENTITY,
                key_bytes: 0,
                committed: Offset(0),
                leader_epoch: -1,
                progress,
                failures: None,
                policy: FailureHandling::default(),
                filters: 0,
                limits: PartitionBatchLimits { records_max: 8, payload_bytes_max: 4_000 },
                commit_window: CommitWindowLimits::CLOSED,
                buffer_bytes_target,
            });
            Self { core, inflater: RefCell::default(), budget, others }
        }

        fn step(
            &mut self,
            granted: Option<MemoryLease>,
            event: impl FnOnce(&mut PartitionCore, &mut CoreContext<'_>) -> PartitionEffects,
        ) -> PartitionEffects {
            let (inflater, budget) = (&self.inflater, &self.budget);
            let limits = PieceLimits::of(LIMIT);
            let mut batch_opener = LeasedDecompressor { inflater, budget, limits, spent: 0, granted };
            let batch_opener = &mut batch_opener;
            event(
                &mut self.core,
                &mut CoreContext {
                    batch_opener,
                    sizer: &PlainTools,
                    record_filter: &PlainTools,
                    wall: TimestampMs(0),
                },
            )
        }

        fn fetch(&mut self, records: &Bytes) -> PartitionEffects {
            let (position, hold) = (self.core.position(), hold());
            let aborted = AbortedTransactions::default();
            self.step(None, |core, context| {
                core.fetched(NOW, FetchedFrame { position, records, aborted, hold: &hold }, context)
            })
        }

        fn wake(&mut self, granted: Option<MemoryLease>) -> PartitionEffects {
            self.step(granted, |core, context| core.wake(NOW, context))
        }

        fn inflations(&self) -> u32 {
            self.inflater.borrow().inflations
        }
    }

    fn awaited(effects: &PartitionEffects) -> Option<usize> {
        effects.iter().find_map(|effect| match effect {
            PartitionEffect::AwaitCredit(short) => Some(short.bytes),
            _ => None,
        })
    }

    fn is_offered(effects: &PartitionEffects) -> bool {
        effects.iter().any(|effect| matches!(effect, PartitionEffect::Offer(_)))
    }

    #[test]
    fn mem_1_batch_awaiting_credit_decompressed_in_vain_once() {
        let mut pressed = PressedPartition::new(None);
        let over = pressed.budget.try_lease_or_overdraft(1, Overdraft::Inflated).expect("the overdraft");
        let bytes = awaited(&pressed.fetch(&packed(0, 5).into())).expect("no credit");
        for _ in 0..50 {
            assert_eq!(awaited(&pressed.wake(None)), Some(bytes));
        }
        assert_eq!(pressed.inflations(), 1, "decompressed once, for its size");
        let budget = pressed.budget.clone();
        let mut line = Box::pin(budget.lease_or_overdraft(bytes, Overdraft::Inflated));
        assert!(line.as_mut().now_or_never().is_none());
        drop(over);
        let granted = line.now_or_never().expect("served by the returned bytes");
        assert!(is_offered(&pressed.wake(Some(granted))));
        assert_eq!(pressed.inflations(), 2);
        assert_eq!(pressed.budget.leased(), LIMIT + bytes);
        for _ in 0..50 {
            pressed.wake(None);
        }
        assert_eq!(pressed.inflations(), 2);
    }

    #[test]
    fn insufficient_or_unneeded_grant_returns_to_budget() {
        let mut pressed = PressedPartition::new(None);
        let over =
            pressed.budget.try_lease_or_overdraft(LIMIT / 2, Overdraft::Inflated).expect("the overdraft");
        let bytes = awaited(&pressed.fetch(&packed(0, 5).into())).expect("no credit");
        pressed.others.shrink_to(LIMIT - bytes);
        let little = pressed.budget.try_lease(bytes - 1).expect("room");
        assert_eq!(awaited(&pressed.wake(Some(little))), Some(bytes), "requested again");
        drop(over);
        pressed.step(None, |core, context| core.drain(NOW, context));
        let late = pressed.budget.try_lease(bytes).expect("room");
        pressed.wake(Some(late));
        assert_eq!((pressed.inflations(), pressed.budget.leased()), (1, LIMIT - bytes));
    }

    fn offered(effects: &PartitionEffects) -> Option<(u64, Offset, Vec<i64>)> {
        effects.iter().find_map(|effect| match effect {
            PartitionEffect::Offer(Offer { seq, partition_batch, .. }) => Some((
                *seq,
                partition_batch.range.end,
                partition_batch.walk().map(|record| record.offset.0).collect(),
            )),
            _ => None,
        })
    }

    fn wanted(effects: &PartitionEffects) -> Option<Offset> {
        effects.iter().find_map(|effect| match effect {
            PartitionEffect::Fetch { position, .. } => Some(*position),
            _ => None,
        })
    }

    /// Partition that alone uses the budget and holds a frame, whose first batch is offered.
    fn stocked(buffer_bytes_target: usize) -> (PressedPartition, usize, (u64, Offset, Vec<i64>)) {
        let mut pressed = PressedPartition::with_buffer(None, buffer_bytes_target);
        pressed.others.shrink_to(0);
        let deltas: Vec<(i64, usize)> = (0..8).map(|delta| (delta, 20)).collect();
        let frame = Bytes::from([batch(0, &deltas, 7, false), batch(8, &deltas, 7, false)].concat());
        let hold = Arc::new(pressed.budget.try_lease(frame.len()).expect("room"));
        let effects = pressed.step(None, |core, context| {
            let aborted = AbortedTransactions::default();
            core.fetched(
                NOW,
                FetchedFrame { position: Offset(0), records: &frame, aborted, hold: &hold },
                context,
            )
        });
        let offer = offered(&effects).expect("a batch");
        (pressed, frame.len(), offer)
    }

    #[test]
    fn mem_1_ord_1_records_after_retry_released_and_refetched_later() {
        for target in [100, 100_000] {
            let (mut pressed, frame_bytes, (seq, end, records)) = stocked(target);
            pressed.step(None, PartitionCore::give_back);
            assert_eq!(pressed.budget.leased(), frame_bytes, "offered records are kept");
            let until = NOW + std::time::Duration::from_secs(5);
            let again = |pressed: &mut PressedPartition, seq, request_id| {
                pressed.step(None, |core, context| {
                    core.sealed(seq, end, BatchId(request_id), context);
                    core.resolved(NOW, BatchId(request_id), BatchResolution::Again { at: until }, context)
                })
            };
            again(&mut pressed, seq, 1);
            let effects = pressed.step(None, PartitionCore::give_back);
            assert!(effects.iter().any(|effect| matches!(effect, PartitionEffect::Pause)), "{effects:?}");
            assert_eq!((pressed.core.position(), pressed.core.buffered_bytes()), (Offset(8), 0));
            assert!(pressed.budget.leased() < frame_bytes / 2, "only records to retry are held");
            for request_id in 2..5 {
                let effects = pressed.step(None, |core, context| core.wake(until, context));
                let (seq, _, same) = offered(&effects).expect("the same records are offered");
                assert_eq!(
                    (&same, wanted(&effects)),
                    (&records, None),
                    "no fetch before the records are needed"
                );
                let effects = again(&mut pressed, seq, request_id);
                assert_eq!(wanted(&effects), None);
            }
            let (seq, ..) =
                offered(&pressed.step(None, |core, context| core.wake(until, context))).expect("again");
            let effects = pressed.step(None, |core, context| {
                core.sealed(seq, end, BatchId(9), context);
                core.resolved(NOW, BatchId(9), BatchResolution::Delivered, context)
            });
            assert_eq!(wanted(&effects), Some(Offset(8)), "ALO-1: the records are fetched again");
            assert_eq!(pressed.budget.leased(), 0);
        }
    }

    #[test]
    fn mem_1_shared_frame_released_when_copy_fits() {
        let (mut pressed, frame_bytes, (seq, end, _)) = stocked(100);
        let other = pressed.core.work().batch.runs[0].hold.clone();
        let until = NOW + std::time::Duration::from_secs(5);
        pressed.step(None, |core, context| {
            core.sealed(seq, end, BatchId(1), context);
            core.resolved(NOW, BatchId(1), BatchResolution::Again { at: until }, context)
        });
        pressed.step(None, PartitionCore::give_back);
        assert!(pressed.budget.leased() > frame_bytes, "the other's, and a copy");
        drop(other);
        assert!(pressed.budget.leased() < frame_bytes / 2);
    }

    fn short(bytes: usize) -> CreditShortage {
        CreditShortage { bytes, purpose: Overdraft::Inflated }
    }

    struct ReceivingPartition(tokio::sync::mpsc::UnboundedSender<MemoryLease>);

    impl Actor for ReceivingPartition {
        type Context = Context<Self>;
    }

    impl Handler<CreditGranted> for ReceivingPartition {
        type Result = ();

        fn handle(&mut self, CreditGranted(lease): CreditGranted, _: &mut Self::Context) {
            let _ = self.0.send(lease);
        }
    }

    #[actix::test]
    async fn liv_1_credit_wait_posts_lease_unless_dropped() {
        let budget = MemoryBudget::new(LIMIT);
        let others = budget.try_lease(LIMIT).expect("room");
        let over = budget.try_lease_or_overdraft(1, Overdraft::Inflated).expect("the overdraft");
        let (sender, mut granted) = tokio::sync::mpsc::unbounded_channel();
        let to = ReceivingPartition(sender).start().recipient();
        let given_up = CreditWait::for_credit(short(5), &budget, to.clone());
        let _waits = CreditWait::for_credit(short(6), &budget, to);
        while !budget.has_waiters() {
            tokio::task::yield_now().await;
        }
        drop(given_up);
        tokio::task::yield_now().await;
        drop(over);
        assert_eq!(granted.recv().await.expect("there").bytes(), 6);
        assert_eq!(others.bytes(), budget.leased());
    }

    /// The rest of the batch has arrived, and only memory that the partition holds itself could be lent to decompress
    /// it: it must not wait for that.
    #[test]
    fn liv_1_inherited_batch_starts_partial_when_rest_lacks_credit() {
        let pieces = vec![ProgressPiece { length: 4, attempts: 1, alone: true }];
        let left = CommittedProgress { pieces, first_failure_ms: Some(5), ..CommittedProgress::default() };
        let mut pressed = PressedPartition::new(Some(left));
        let effects = pressed.fetch(&[packed(0, 2), packed(2, 2)].concat().into());
        assert!(
            !is_offered(&effects)
                && !effects.iter().any(|effect| matches!(effect, PartitionEffect::Fetch { .. }))
        );
        let bytes = awaited(&effects).expect("the first has the overdraft");
        let budget = pressed.budget.clone();
        let mut line = Box::pin(budget.lease_or_overdraft(bytes, Overdraft::Inflated));
        assert!(line.as_mut().now_or_never().is_none());
        let effects = pressed.wake(None);
        let begun = |effect: &PartitionEffect| {
            matches!(effect, PartitionEffect::Commit(_) | PartitionEffect::Offer(_))
        };
        assert!(effects.iter().any(begun), "{effects:?}");
        assert_eq!(pressed.core.work().batch.records, 2);
    }
}
