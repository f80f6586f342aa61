//! When to seal, and what goes in. An offer goes into a batch whole or not at all, so a batch never cuts a partition's
//! order, and several thin partitions of the topic may share one invocation.

use std::collections::HashMap;
use std::time::Duration;

use lighterman_proto::ids::Epoch;
use lighterman_proto::units::Moment;

use crate::partition::batch::PartitionBatch;

/// What a batch may hold, and how long its first record waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// `BatchSize`.
    pub records_max: u32,
    /// Bytes of the finished JSON.
    pub payload_bytes_max: usize,
    /// Bytes of the JSON around the partitions.
    pub envelope_bytes: usize,
    /// `MaximumBatchingWindow`.
    pub window: Duration,
}

/// An offer that waits for its batch.
#[derive(Debug)]
pub struct PendingOffer {
    /// Partition index.
    pub partition: i32,
    /// Which ownership.
    pub epoch: Epoch,
    /// Which offer of it.
    pub seq: u64,
    /// The records.
    pub cut: PartitionBatch,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// It shares a batch with no other partition: a retry, or a piece of a batch that failed.
    pub alone: bool,
    /// Bytes of the partition's key and brackets in the payload, separator included.
    pub key_bytes: usize,
    /// A record of it grows too old then: the partition will take it back, and it is not sealed meanwhile.
    pub expires: Option<Moment>,
}

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// `BatchSize` records.
    Count,
    /// No further record fits into the payload.
    Bytes,
    /// The window is over.
    Window,
    /// The same records again.
    Retry,
}

impl CloseReason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Count, Self::Bytes, Self::Window, Self::Retry];

    /// As a metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Window => "window",
            Self::Retry => "retry",
        }
    }
}

/// When something can be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealCondition {
    /// Nothing is offered.
    Never,
    /// Not before then.
    At(Moment),
    /// A batch is due.
    Now,
}

/// A batch, decided.
#[derive(Debug)]
pub struct SealedBatch {
    /// The offers in it, by age.
    pub parts: Vec<PendingOffer>,
    /// Why it closes.
    pub reason: CloseReason,
    /// Its exact payload, in bytes.
    pub payload_bytes: usize,
}

impl SealedBatch {
    /// Records in it.
    pub fn records(&self) -> u32 {
        self.parts.iter().map(|part| part.cut.records).sum()
    }
}

/// The offers of one consumer, oldest first.
pub struct BatcherCore {
    limits: BatchLimits,
    offers: Vec<PendingOffer>,
    /// The last offer of each partition that went into a batch.
    sealed: HashMap<i32, (Epoch, u64)>,
}

impl BatcherCore {
    /// No offers yet.
    pub fn new(limits: BatchLimits) -> Self {
        Self { limits, offers: Vec::new(), sealed: HashMap::new() }
    }

    /// Offers that wait.
    pub fn waiting(&self) -> usize {
        self.offers.len()
    }

    /// Takes an offer, or replaces the partition's earlier one. One that crossed its own seal on the way comes too late: the
    /// partition offers again what is not in the batch; false says so.
    pub fn offer(&mut self, offer: PendingOffer) -> bool {
        if self.sealed.get(&offer.partition).is_some_and(|sealed| *sealed >= (offer.epoch, offer.seq)) {
            return false;
        }
        self.offers.retain(|known| known.partition != offer.partition);
        let at = self.offers.partition_point(|known| known.cut.oldest <= offer.cut.oldest);
        self.offers.insert(at, offer);
        true
    }

    /// Gives an offer back; false when it is not here.
    pub fn withdraw(&mut self, partition: i32, epoch: Epoch, seq: u64) -> bool {
        let before = self.offers.len();
        self.offers.retain(|known| (known.partition, known.epoch, known.seq) != (partition, epoch, seq));
        self.offers.len() < before
    }

    /// Forgets a partition's offer, whatever its epoch.
    pub fn forget(&mut self, partition: i32) {
        self.offers.retain(|known| known.partition != partition);
        self.sealed.remove(&partition);
    }

    /// Whether a batch is due; partitions that `may_start` refuses do not count.
    pub fn ready(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> SealCondition {
        if self.choose(now, may_start).is_some() {
            return SealCondition::Now;
        }
        let oldest = self
            .offers
            .iter()
            .filter(|offer| may_be_sealed(offer, now, may_start))
            .map(|offer| offer.cut.oldest)
            .min();
        match oldest {
            Some(oldest) => SealCondition::At(oldest + self.window()),
            None if self.offers.is_empty() => SealCondition::Never,
            None => SealCondition::At(now + Duration::from_millis(50)),
        }
    }

    /// Payload bytes of the batch that [`BatcherCore::seal`] would seal now.
    pub fn due_bytes(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<usize> {
        let (chosen, _) = self.choose(now, may_start)?;
        Some(self.payload_bytes(chosen.iter().map(|index| &self.offers[*index])))
    }

    /// Seals what is due. Call it with a slot in hand (SLT-1).
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

    /// Every partition's share counts a separator; the first has none before it.
    fn payload_bytes<'p>(&self, parts: impl Iterator<Item = &'p PendingOffer>) -> usize {
        (self.limits.envelope_bytes + parts.map(share).sum::<usize>()).saturating_sub(1)
    }

    /// Indexes of the offers of the next batch, ascending.
    fn choose(&self, now: Moment, may_start: &dyn Fn(i32) -> bool) -> Option<(Vec<usize>, CloseReason)> {
        let goes = |offer: &PendingOffer| may_be_sealed(offer, now, may_start) && goes_alone(offer);
        let alone = self.offers.iter().enumerate().find(|(_, offer)| goes(offer));
        let shared = self.choose_shared(now, may_start);
        match (alone, shared) {
            (Some((index, offer)), Some((chosen, reason))) => {
                let shared_is_older = self.offers[chosen[0]].cut.oldest < offer.cut.oldest;
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
        let thin = |offer: &PendingOffer| may_be_sealed(offer, now, may_start) && !goes_alone(offer);
        for (index, offer) in self.offers.iter().enumerate().filter(|(_, offer)| thin(offer)) {
            if records + offer.cut.records
                > mutant!("batch-over-its-limit", self.limits.records_max, self.limits.records_max + 2)
            {
                overflow = overflow.or(Some(CloseReason::Count));
            } else if bytes + share(offer) > self.limits.payload_bytes_max {
                overflow = overflow.or(Some(CloseReason::Bytes));
            } else {
                chosen.push(index);
                records += offer.cut.records;
                bytes += share(offer);
            }
        }
        let oldest = self.offers[*chosen.first()?].cut.oldest;
        if records == self.limits.records_max {
            return Some((chosen, CloseReason::Count));
        }
        if let Some(reason) = overflow {
            return Some((chosen, reason));
        }
        (oldest + self.window() <= now).then_some((chosen, CloseReason::Window))
    }

    fn window(&self) -> Duration {
        let window = self.limits.window;
        mutant!("window-too-long", window, window * 2 + Duration::from_millis(200))
    }

    fn reason_alone(&self, offer: &PendingOffer) -> CloseReason {
        if offer.alone {
            CloseReason::Retry
        } else if offer.cut.records == self.limits.records_max {
            CloseReason::Count
        } else {
            CloseReason::Bytes
        }
    }
}

fn may_be_sealed(offer: &PendingOffer, now: Moment, may_start: &dyn Fn(i32) -> bool) -> bool {
    may_start(offer.partition) && offer.expires.is_none_or(|expires| now < expires)
}

fn goes_alone(offer: &PendingOffer) -> bool {
    offer.alone || offer.cut.full
}

fn share(offer: &PendingOffer) -> usize {
    offer.key_bytes + offer.cut.payload_bytes
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::Offset;
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_millis(500);
    const LIMITS: BatchLimits =
        BatchLimits { records_max: 100, payload_bytes_max: 10_000, envelope_bytes: 100, window: WINDOW };

    fn at(ms: u64) -> Moment {
        Moment::from_micros(ms * 1000)
    }

    fn offer(partition: i32, records: u32, bytes: usize, oldest_ms: u64) -> PendingOffer {
        let mut cut = PartitionBatch::empty(Offset(0));
        cut.records = records;
        cut.payload_bytes = bytes;
        cut.oldest = at(oldest_ms);
        cut.full = records == LIMITS.records_max;
        let (epoch, seq, attempt) = (Epoch(1), 1, 1);
        PendingOffer { partition, epoch, seq, cut, attempt, alone: false, key_bytes: 10, expires: None }
    }

    fn any(_: i32) -> bool {
        true
    }

    #[test]
    fn a_full_offer_goes_alone_and_at_once() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(offer(0, 3, 30, 0));
        core.offer(offer(1, 100, 1000, 5));
        let plan = core.seal(at(6), &any).expect("due");
        assert_eq!((plan.parts.len(), plan.parts[0].partition, plan.reason), (1, 1, CloseReason::Count));
        assert_eq!(core.ready(at(6), &any), SealCondition::At(at(500)));
    }

    #[test]
    fn lim_1_thin_partitions_share_a_batch_when_the_window_is_over() {
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
    fn a_window_of_zero_seals_at_once() {
        let mut core = BatcherCore::new(BatchLimits { window: Duration::ZERO, ..LIMITS });
        core.offer(offer(0, 1, 10, 7));
        assert_eq!(core.ready(at(7), &any), SealCondition::Now);
    }

    #[test]
    fn thin_offers_that_fill_a_batch_together_do_not_wait() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(offer(0, 60, 600, 0));
        core.offer(offer(1, 60, 600, 1));
        let plan = core.seal(at(2), &any).expect("due");
        assert_eq!((plan.parts.len(), plan.reason), (1, CloseReason::Count));
    }

    #[test]
    fn a_retry_goes_alone_and_a_partition_that_may_not_start_stays() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(PendingOffer { attempt: 2, alone: true, ..offer(0, 3, 30, 0) });
        core.offer(offer(1, 3, 30, 0));
        assert!(core.seal(at(1), &|partition| partition != 0).is_none());
        let plan = core.seal(at(1), &any).expect("due");
        assert_eq!((plan.parts.len(), plan.reason), (1, CloseReason::Retry));
    }

    #[test]
    fn what_has_grown_too_old_is_not_sealed_and_holds_nobody_up() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(PendingOffer { expires: Some(at(300)), ..offer(0, 3, 30, 0) });
        core.offer(offer(1, 3, 30, 10));
        assert_eq!(core.ready(at(300), &any), SealCondition::At(at(510)), "the other one's window");
        let plan = core.seal(at(600), &any).expect("due");
        assert_eq!(plan.parts.iter().map(|part| part.partition).collect::<Vec<_>>(), [1]);
        assert_eq!(core.ready(at(600), &any), SealCondition::At(at(650)), "looked at again, not spun on");
        core.offer(PendingOffer { expires: Some(at(700)), attempt: 2, alone: true, ..offer(0, 3, 30, 0) });
        assert!(core.seal(at(700), &any).is_none(), "a retry neither");
        core.offer(PendingOffer { expires: Some(at(800)), attempt: 2, alone: true, ..offer(0, 3, 30, 0) });
        assert!(core.seal(at(799), &any).is_some());
    }

    #[test]
    fn ord_1_an_offer_that_crossed_its_own_seal_is_not_sealed_again() {
        let mut core = BatcherCore::new(LIMITS);
        core.offer(offer(0, 3, 30, 0));
        assert!(core.seal(at(500), &any).is_some());
        core.offer(offer(0, 5, 50, 0));
        assert_eq!(core.ready(at(500), &any), SealCondition::Never);
        core.offer(PendingOffer { seq: 2, ..offer(0, 2, 20, 0) });
        assert!(core.seal(at(500), &any).is_some(), "the next one is");
        core.forget(0);
        core.offer(offer(0, 3, 30, 0));
        assert!(core.seal(at(500), &any).is_some(), "a partition that starts anew counts anew");
    }

    proptest! {
        /// Whatever is offered: limits hold, nothing is duplicated or dropped, nothing waits beyond its window.
        #[test]
        fn lim_1_every_batch_keeps_the_limits(
            offers in prop::collection::vec((0i32..12, 1u32..=100, 10usize..9_800, 0u64..2_000, 1u32..3), 1..40)
        ) {
            let mut core = BatcherCore::new(LIMITS);
            let mut newest = HashMap::new();
            for (seq, (partition, records, bytes, oldest, attempt)) in offers.into_iter().enumerate() {
                core.offer(PendingOffer {
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
            prop_assert!(newest.is_empty(), "left behind: {:?}", newest);
            prop_assert_eq!(core.ready(end, &any), SealCondition::Never);
        }
    }
}
