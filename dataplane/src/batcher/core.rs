//! Selection of the next batch. An offer goes into a batch as a whole or not at all, so a batch never breaks a
//! partition's order. Several thin partitions of the topic may share one invocation. A batch closes when it is full, when its window
//! ends, or when an offer must go alone; closing it is called sealing.

use std::time::Duration;

use lighterman_proto::ids::Epoch;
use lighterman_proto::units::Moment;

use super::pending::{OfferRank, PendingOffers, RankedOffers, share_bytes};
use crate::messages::batch::CloseReason;
use crate::messages::offer::Offer;

/// Interval of checks while the group's lease, or an older invocation, does not permit to start one.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);

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

/// Number of offers that do not fit into the batch and are passed over for smaller ones behind them.
const PASSED_OVER_MAX: u32 = 64;

/// Pending offers of one consumer, and the rules of the next batch.
pub struct BatcherCore {
    limits: BatchLimits,
    offers: PendingOffers,
}

/// Offers of the next batch, oldest first.
struct ChosenOffers {
    ranks: Vec<OfferRank>,
    reason: CloseReason,
}

/// Thin offers that share a batch, while they are chosen.
struct SharedBatch {
    ranks: Vec<OfferRank>,
    records: u32,
    bytes: usize,
    /// Reason why an offer did not fit.
    overflow: Option<CloseReason>,
}

impl BatcherCore {
    /// Creates a core without offers.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, offers: PendingOffers::default() }
    }

    /// Number of pending offers.
    pub fn waiting(&self) -> usize {
        self.offers.len()
    }

    /// Adds an offer, replacing the partition's earlier one. Returns false for an offer that crossed its own seal
    /// on the way. The partition then offers the records outside the batch again.
    pub fn offer(&mut self, offer: Offer) -> bool {
        self.offers.add(offer)
    }

    /// Removes an offer. Returns false if it is not pending.
    pub fn withdraw(&mut self, partition: i32, epoch: Epoch, seq: u64) -> bool {
        self.offers.withdraw(partition, epoch, seq)
    }

    /// Removes a partition's offer, whatever its epoch, and its last seal.
    pub fn forget(&mut self, partition: i32) {
        self.offers.forget(partition);
    }

    /// Returns when a batch is due. Offers of partitions that `may_start` rejects do not count.
    pub fn ready(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> SealCondition {
        if first(self.offers.alone(), now, may_start).is_some() {
            return SealCondition::Now;
        }
        let Some((oldest, _)) = first(self.offers.thin(), now, may_start) else {
            let blocked = self.waiting() > 0;
            return if blocked { SealCondition::At(now + LOOK_AGAIN) } else { SealCondition::Never };
        };
        let ends = oldest.oldest + self.window();
        if ends <= now || self.choose_shared(now, may_start).is_some() {
            return SealCondition::Now;
        }
        SealCondition::At(ends)
    }

    /// Returns the payload size of the batch that [`BatcherCore::seal`] would seal, or `None` if none is due.
    pub fn due_bytes(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<usize> {
        let chosen = self.choose(now, may_start)?;
        Some(self.payload_bytes(chosen.ranks.iter().filter_map(|rank| self.offers.get(*rank))))
    }

    /// Seals the batch that is due. Must be called while holding a slot (SLT-1).
    pub fn seal(&mut self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<SealedBatch> {
        let ChosenOffers { ranks, reason } = self.choose(now, may_start)?;
        let parts: Vec<_> = ranks.into_iter().filter_map(|rank| self.offers.seal(rank)).collect();
        let payload_bytes = self.payload_bytes(parts.iter());
        Some(SealedBatch { parts, reason, payload_bytes })
    }

    /// Returns the payload size of `parts`. Each share counts a separator, but the first partition needs none.
    fn payload_bytes<'p>(&self, parts: impl Iterator<Item = &'p Offer>) -> usize {
        (self.limits.envelope_bytes + parts.map(share_bytes).sum::<usize>()).saturating_sub(1)
    }

    /// Selects the offers of the next batch.
    fn choose(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<ChosenOffers> {
        let alone = first(self.offers.alone(), now, may_start);
        let shared = self.choose_shared(now, may_start);
        match (alone, shared) {
            (Some((rank, _)), Some(shared)) if shared.ranks[0].oldest < rank.oldest => Some(shared),
            (Some((rank, offer)), _) => {
                Some(ChosenOffers { ranks: vec![rank], reason: self.reason_alone(offer) })
            }
            (None, shared) => shared,
        }
    }

    fn choose_shared(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<ChosenOffers> {
        let (oldest, _) = self.offers.thin().first_key_value()?;
        if oldest.oldest + self.window() > now && !self.may_fill_a_batch() {
            return None;
        }
        let shared = self.fill(now, may_start);
        let oldest = shared.ranks.first()?.oldest;
        let reason = match shared.overflow {
            _ if shared.records == self.limits.records_max => Some(CloseReason::Count),
            Some(reason) => Some(reason),
            None => (oldest + self.window() <= now).then_some(CloseReason::Window),
        };
        Some(ChosenOffers { ranks: shared.ranks, reason: reason? })
    }

    /// False if all thin offers together leave room in a batch.
    fn may_fill_a_batch(&self) -> bool {
        self.offers.thin_records() >= u64::from(self.limits.records_max)
            || self.limits.envelope_bytes + self.offers.thin_bytes() > self.limits.payload_bytes_max
    }

    /// Takes thin offers, oldest first, while they fit into one batch.
    fn fill(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> SharedBatch {
        let bytes = self.limits.envelope_bytes;
        let mut batch = SharedBatch { ranks: Vec::new(), records: 0, bytes, overflow: None };
        let mut passed_over = 0;
        for (rank, offer) in eligible(self.offers.thin(), now, may_start) {
            let misfit = self.misfit(&batch, offer);
            if misfit.is_none() {
                batch.ranks.push(rank);
                batch.records += offer.partition_batch.records;
                batch.bytes += share_bytes(offer);
            } else {
                batch.overflow = batch.overflow.or(misfit);
                passed_over += 1;
            }
            if batch.records == self.limits.records_max || passed_over == PASSED_OVER_MAX {
                break;
            }
        }
        batch
    }

    /// Returns the limit that `offer` would exceed.
    fn misfit(&self, batch: &SharedBatch, offer: &Offer) -> Option<CloseReason> {
        if !self.holds(batch.records + offer.partition_batch.records) {
            return Some(CloseReason::Count);
        }
        (batch.bytes + share_bytes(offer) > self.limits.payload_bytes_max).then_some(CloseReason::Bytes)
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

fn eligible<'o>(
    offers: &'o RankedOffers,
    now: Moment,
    may_start: &'o dyn Fn(i32) -> bool,
) -> impl Iterator<Item = (OfferRank, &'o Offer)> {
    let is_good =
        move |offer: &Offer| offer.expires.is_none_or(|expires| now < expires) && may_start(offer.partition);
    offers.iter().filter(move |(_, offer)| is_good(offer)).map(|(rank, offer)| (*rank, offer))
}

fn first<'o>(
    offers: &'o RankedOffers,
    now: Moment,
    may_start: &'o dyn Fn(i32) -> bool,
) -> Option<(OfferRank, &'o Offer)> {
    eligible(offers, now, may_start).next()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

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
