//! Selection of the next batch. An offer goes into a batch as a whole or not at all, so a batch never breaks a
//! partition's order. Several thin partitions of the topic may share one invocation. A batch closes when it is full, when its window
//! ends, or when an offer must go alone; closing it is called sealing.

use std::collections::HashMap;
use std::time::Duration;

use lighterman_proto::ids::Epoch;
use lighterman_proto::units::Moment;

use crate::messages::batch::CloseReason;
use crate::messages::offer::Offer;

/// Limits of a batch's content and of the wait of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// `BatchSize`.
    pub records_max: u32,
    /// Maximum size of the finished JSON in bytes.
    pub payload_bytes_max: usize,
    /// Size of the JSON around the partitions in bytes.
    pub envelope_bytes: usize,
    /// `MaximumBatchingWindow`.
    pub window: Duration,
}

/// Time at which a batch can be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealCondition {
    /// Nothing is offered.
    Never,
    /// Not before this time.
    At(Moment),
    /// A batch is due.
    Now,
}

/// Batch to be dispatched.
#[derive(Debug)]
pub struct SealedBatch {
    /// Offers in the batch, oldest first.
    pub parts: Vec<Offer>,
    /// Reason for sealing.
    pub reason: CloseReason,
    /// Exact size of the payload in bytes.
    pub payload_bytes: usize,
}

impl SealedBatch {
    /// Number of records.
    pub fn records(&self) -> u32 {
        self.parts.iter().map(|part| part.partition_batch.records).sum()
    }
}

/// Pending offers of one consumer, oldest first.
pub struct BatcherCore {
    limits: BatchLimits,
    offers: Vec<Offer>,
    /// Last sealed offer of each partition.
    sealed: HashMap<i32, (Epoch, u64)>,
}

impl BatcherCore {
    /// Creates a core without offers.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, offers: Vec::new(), sealed: HashMap::new() }
    }

    /// Number of pending offers.
    pub fn waiting(&self) -> usize {
        self.offers.len()
    }

    /// Adds an offer, replacing the partition's earlier one. Returns false for an offer that crossed its own seal
    /// on the way. The partition then offers the records outside the batch again.
    pub fn offer(&mut self, offer: Offer) -> bool {
        if self.sealed.get(&offer.partition).is_some_and(|sealed| *sealed >= (offer.epoch, offer.seq)) {
            return false;
        }
        self.offers.retain(|known| known.partition != offer.partition);
        let at =
            self.offers.partition_point(|known| known.partition_batch.oldest <= offer.partition_batch.oldest);
        self.offers.insert(at, offer);
        true
    }

    /// Removes an offer. Returns false if it is not pending.
    pub fn withdraw(&mut self, partition: i32, epoch: Epoch, seq: u64) -> bool {
        let before = self.offers.len();
        self.offers.retain(|known| (known.partition, known.epoch, known.seq) != (partition, epoch, seq));
        self.offers.len() < before
    }

    /// Removes a partition's offer, whatever its epoch, and its last seal.
    pub fn forget(&mut self, partition: i32) {
        self.offers.retain(|known| known.partition != partition);
        self.sealed.remove(&partition);
    }

    /// Returns when a batch is due. Offers of partitions that `may_start` rejects do not count.
    pub fn ready(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> SealCondition {
        if self.choose(now, may_start).is_some() {
            return SealCondition::Now;
        }
        let oldest = self
            .offers
            .iter()
            .filter(|offer| may_be_sealed(offer, now, may_start))
            .map(|offer| offer.partition_batch.oldest)
            .min();
        match oldest {
            Some(oldest) => SealCondition::At(oldest + self.window()),
            None if self.offers.is_empty() => SealCondition::Never,
            None => SealCondition::At(now + Duration::from_millis(50)),
        }
    }

    /// Returns the payload size of the batch that [`BatcherCore::seal`] would seal, or `None` if none is due.
    pub fn due_bytes(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<usize> {
        let (chosen, _) = self.choose(now, may_start)?;
        Some(self.payload_bytes(chosen.iter().map(|index| &self.offers[*index])))
    }

    /// Seals the batch that is due. Must be called while holding a slot (SLT-1).
    pub fn seal(&mut self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<SealedBatch> {
        let (chosen, reason) = self.choose(now, may_start)?;
        let mut parts = Vec::with_capacity(chosen.len());
        for index in chosen.into_iter().rev() {
            let part = self.offers.remove(index);
            self.sealed.insert(part.partition, (part.epoch, part.seq));
            parts.push(part);
        }
        parts.reverse();
        let payload_bytes = self.payload_bytes(parts.iter());
        Some(SealedBatch { parts, reason, payload_bytes })
    }

    /// Returns the payload size of `parts`. Each share counts a separator, but the first partition needs none.
    fn payload_bytes<'p>(&self, parts: impl Iterator<Item = &'p Offer>) -> usize {
        (self.limits.envelope_bytes + parts.map(share).sum::<usize>()).saturating_sub(1)
    }

    /// Selects the offers of the next batch, as ascending indexes, and its reason.
    fn choose(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<(Vec<usize>, CloseReason)> {
        let goes = |offer: &Offer| may_be_sealed(offer, now, may_start) && goes_alone(offer);
        let alone = self.offers.iter().enumerate().find(|(_, offer)| goes(offer));
        let shared = self.choose_shared(now, may_start);
        match (alone, shared) {
            (Some((index, offer)), Some((chosen, reason))) => {
                let shared_is_older =
                    self.offers[chosen[0]].partition_batch.oldest < offer.partition_batch.oldest;
                Some(if shared_is_older { (chosen, reason) } else { (vec![index], self.reason_alone(offer)) })
            }
            (Some((index, offer)), None) => Some((vec![index], self.reason_alone(offer))),
            (None, shared) => shared,
        }
    }

    fn choose_shared(
        &self,
        now: Moment,
        may_start: &dyn Fn(i32) -> bool,
    ) -> Option<(Vec<usize>, CloseReason)> {
        let mut chosen = Vec::new();
        let mut records = 0;
        let mut bytes = self.limits.envelope_bytes;
        let mut overflow = None;
        let thin = |offer: &Offer| may_be_sealed(offer, now, may_start) && !goes_alone(offer);
        for (index, offer) in self.offers.iter().enumerate().filter(|(_, offer)| thin(offer)) {
            if !self.holds(records + offer.partition_batch.records) {
                overflow = overflow.or(Some(CloseReason::Count));
            } else if bytes + share(offer) > self.limits.payload_bytes_max {
                overflow = overflow.or(Some(CloseReason::Bytes));
            } else {
                chosen.push(index);
                records += offer.partition_batch.records;
                bytes += share(offer);
            }
        }
        let oldest = self.offers[*chosen.first()?].partition_batch.oldest;
        if records == self.limits.records_max {
            return Some((chosen, CloseReason::Count));
        }
        if let Some(reason) = overflow {
            return Some((chosen, reason));
        }
        (oldest + self.window() <= now).then_some((chosen, CloseReason::Window))
    }

    /// True if one batch may hold `records` records.
    fn holds(&self, records: u32) -> bool {
        mutant!(
            "batch-over-its-limit",
            records <= self.limits.records_max,
            records <= self.limits.records_max + 2
        )
    }

    /// Returns the batching window: the longest time for which records wait for others.
    fn window(&self) -> Duration {
        mutant!("window-too-long", self.limits.window, self.limits.window * 2 + Duration::from_millis(200))
    }

    fn reason_alone(&self, offer: &Offer) -> CloseReason {
        if offer.alone {
            CloseReason::Retry
        } else if offer.partition_batch.records == self.limits.records_max {
            CloseReason::Count
        } else {
            CloseReason::Bytes
        }
    }
}

fn may_be_sealed(offer: &Offer, now: Moment, may_start: &dyn Fn(i32) -> bool) -> bool {
    may_start(offer.partition) && offer.expires.is_none_or(|expires| now < expires)
}

fn goes_alone(offer: &Offer) -> bool {
    offer.alone || offer.partition_batch.full
}

fn share(offer: &Offer) -> usize {
    offer.key_bytes + offer.partition_batch.payload_bytes
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::Offset;
    use proptest::prelude::*;

    use super::*;
    use crate::messages::records::PartitionBatch;

    const WINDOW: Duration = Duration::from_millis(500);
    const LIMITS: BatchLimits =
        BatchLimits { records_max: 100, payload_bytes_max: 10_000, envelope_bytes: 100, window: WINDOW };

    fn at(ms: u64) -> Moment {
        Moment::from_micros(ms * 1000)
    }

    fn offer(partition: i32, records: u32, bytes: usize, oldest_ms: u64) -> Offer {
        let mut partition_batch = PartitionBatch::empty(Offset(0));
        partition_batch.records = records;
        partition_batch.payload_bytes = bytes;
        partition_batch.oldest = at(oldest_ms);
        partition_batch.full = records == LIMITS.records_max;
        let (epoch, seq, attempt) = (Epoch(1), 1, 1);
        Offer { partition, epoch, seq, partition_batch, attempt, alone: false, key_bytes: 10, expires: None }
    }

    fn any(_: i32) -> bool {
        true
    }

    #[test]
    fn full_offer_is_sealed_alone_at_once() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(offer(0, 3, 30, 0));
        core.offer(offer(1, 100, 1000, 5));
        let plan = core.seal(at(6), &any).expect("due");
        assert_eq!((plan.parts.len(), plan.parts[0].partition, plan.reason), (1, 1, CloseReason::Count));
        assert_eq!(core.ready(at(6), &any), SealCondition::At(at(500)));
    }

    #[test]
    fn lim_1_thin_partitions_share_a_batch_after_window() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(offer(0, 3, 30, 10));
        core.offer(offer(1, 4, 40, 0));
        assert!(core.seal(at(499), &any).is_none());
        let plan = core.seal(at(500), &any).expect("due");
        assert_eq!(plan.reason, CloseReason::Window);
        assert_eq!(plan.parts.iter().map(|part| part.partition).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(core.ready(at(500), &any), SealCondition::Never);
    }

    #[test]
    fn zero_window_seals_at_once() {
        let mut core = BatcherCore::new(BatchLimits { window: Duration::ZERO, ..LIMITS });
        core.offer(offer(0, 1, 10, 7));
        assert_eq!(core.ready(at(7), &any), SealCondition::Now);
    }

    #[test]
    fn thin_offers_filling_batch_skip_window() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(offer(0, 60, 600, 0));
        core.offer(offer(1, 60, 600, 1));
        let plan = core.seal(at(2), &any).expect("due");
        assert_eq!((plan.parts.len(), plan.reason), (1, CloseReason::Count));
    }

    #[test]
    fn retry_is_sealed_alone_and_blocked_partition_waits() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(Offer { attempt: 2, alone: true, ..offer(0, 3, 30, 0) });
        core.offer(offer(1, 3, 30, 0));
        assert!(core.seal(at(1), &|partition| partition != 0).is_none());
        let plan = core.seal(at(1), &any).expect("due");
        assert_eq!((plan.parts.len(), plan.reason), (1, CloseReason::Retry));
    }

    #[test]
    fn expired_offer_neither_seals_nor_blocks() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(Offer { expires: Some(at(300)), ..offer(0, 3, 30, 0) });
        core.offer(offer(1, 3, 30, 10));
        assert_eq!(
            core.ready(at(300), &any),
            SealCondition::At(at(510)),
            "the end of the other partition's window"
        );
        let plan = core.seal(at(600), &any).expect("due");
        assert_eq!(plan.parts.iter().map(|part| part.partition).collect::<Vec<_>>(), [1]);
        assert_eq!(
            core.ready(at(600), &any),
            SealCondition::At(at(650)),
            "the batcher waits before it checks again"
        );
        core.offer(Offer { expires: Some(at(700)), attempt: 2, alone: true, ..offer(0, 3, 30, 0) });
        assert!(core.seal(at(700), &any).is_none(), "a retry neither");
        core.offer(Offer { expires: Some(at(800)), attempt: 2, alone: true, ..offer(0, 3, 30, 0) });
        assert!(core.seal(at(799), &any).is_some());
    }

    #[test]
    fn ord_1_offer_crossing_its_seal_is_not_sealed_again() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(offer(0, 3, 30, 0));
        assert!(core.seal(at(500), &any).is_some());
        core.offer(offer(0, 5, 50, 0));
        assert_eq!(core.ready(at(500), &any), SealCondition::Never);
        core.offer(Offer { seq: 2, ..offer(0, 2, 20, 0) });
        assert!(core.seal(at(500), &any).is_some(), "a new offer is sealed");
        core.forget(0);
        core.offer(offer(0, 3, 30, 0));
        assert!(core.seal(at(500), &any).is_some(), "the sequence restarts with a new owner");
    }

    proptest! {
        /// For any offers the limits hold, nothing is duplicated or dropped, and nothing waits beyond its window.
        #[test]
        fn lim_1_every_batch_keeps_the_limits(
            offers in prop::collection::vec((0i32..12, 1u32..=100, 10usize..9_800, 0u64..2_000, 1u32..3), 1..40)
        ) {
            let mut core = BatcherCore::new(LIMITS);
            let mut newest = HashMap::new();
            for (seq, (partition, records, bytes, oldest, attempt)) in offers.into_iter().enumerate() {
                core.offer(Offer {
                    seq: seq as u64,
                    attempt,
                    alone: attempt > 1,
                    ..offer(partition, records, bytes, oldest)
                });
                newest.insert(partition, seq as u64);
            }
            let end = at(2_000) + WINDOW;
            while let Some(plan) = core.seal(end, &any) {
                prop_assert!(plan.records() <= LIMITS.records_max);
                prop_assert!(plan.payload_bytes <= LIMITS.payload_bytes_max);
                prop_assert!(plan.parts.len() == 1 || plan.parts.iter().all(|part| part.attempt == 1));
                for part in plan.parts {
                    prop_assert_eq!(newest.remove(&part.partition), Some(part.seq));
                }
            }
            prop_assert!(newest.is_empty(), "offers never sealed: {:?}", newest);
            prop_assert_eq!(core.ready(end, &any), SealCondition::Never);
        }
    }
}
