//! The batcher's core against a list of offers that is searched from its start.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::units::Moment;
use proptest::prelude::*;

use super::core::{BatchLimits, BatcherCore, SealCondition};
use crate::messages::batch::CloseReason;
use crate::messages::offer::Offer;
use crate::messages::records::PartitionBatch;

const LIMITS: BatchLimits = BatchLimits {
    records_max: 100,
    payload_bytes_max: 1_000,
    envelope_bytes: 50,
    window: Duration::from_millis(500),
};

/// Offers in order of their oldest record, then of arrival.
#[derive(Default)]
struct ListedOffers {
    offers: Vec<Offer>,
    sealed: HashMap<i32, (Epoch, u64)>,
}

impl ListedOffers {
    fn offer(&mut self, offer: Offer) -> bool {
        if self.sealed.get(&offer.partition).is_some_and(|sealed| *sealed >= (offer.epoch, offer.seq)) {
            return false;
        }
        self.offers.retain(|known| known.partition != offer.partition);
        let oldest = offer.partition_batch.oldest;
        let at = self.offers.partition_point(|known| known.partition_batch.oldest <= oldest);
        self.offers.insert(at, offer);
        true
    }

    fn withdraw(&mut self, partition: i32, epoch: Epoch, seq: u64) -> bool {
        let before = self.offers.len();
        self.offers.retain(|known| (known.partition, known.epoch, known.seq) != (partition, epoch, seq));
        self.offers.len() < before
    }

    fn forget(&mut self, partition: i32) {
        self.offers.retain(|known| known.partition != partition);
        self.sealed.remove(&partition);
    }

    /// Returns the indexes of the next batch.
    fn choose(&self, now: Moment, blocked: &BTreeSet<i32>) -> Option<(Vec<usize>, CloseReason)> {
        let is_good = |offer: &Offer| {
            !blocked.contains(&offer.partition) && offer.expires.is_none_or(|expires| now < expires)
        };
        let goes_alone = |offer: &Offer| offer.alone || offer.partition_batch.full;
        let good: Vec<usize> = (0..self.offers.len()).filter(|at| is_good(&self.offers[*at])).collect();
        let (alone, thin): (Vec<usize>, Vec<usize>) =
            good.into_iter().partition(|at| goes_alone(&self.offers[*at]));
        let shared = self.share(now, &thin);
        let oldest = |at: usize| self.offers[at].partition_batch.oldest;
        let Some(alone) = alone.first().copied() else { return shared };
        if let Some(shared) = shared.filter(|(chosen, _)| oldest(chosen[0]) < oldest(alone)) {
            return Some(shared);
        }
        let reason = match &self.offers[alone] {
            offer if offer.alone => CloseReason::Retry,
            offer if offer.partition_batch.records == LIMITS.records_max => CloseReason::Count,
            _ => CloseReason::Bytes,
        };
        Some((vec![alone], reason))
    }

    fn share(&self, now: Moment, thin: &[usize]) -> Option<(Vec<usize>, CloseReason)> {
        let (mut chosen, mut records, mut bytes, mut overflow) = (Vec::new(), 0, LIMITS.envelope_bytes, None);
        for at in thin {
            let offer = &self.offers[*at];
            let share = offer.key_bytes + offer.partition_batch.payload_bytes;
            if records + offer.partition_batch.records > LIMITS.records_max {
                overflow = overflow.or(Some(CloseReason::Count));
            } else if bytes + share > LIMITS.payload_bytes_max {
                overflow = overflow.or(Some(CloseReason::Bytes));
            } else {
                chosen.push(*at);
                records += offer.partition_batch.records;
                bytes += share;
            }
        }
        let oldest = self.offers[*chosen.first()?].partition_batch.oldest;
        if records == LIMITS.records_max {
            overflow = Some(CloseReason::Count);
        }
        let is_over = (oldest + LIMITS.window <= now).then_some(CloseReason::Window);
        Some((chosen, overflow.or(is_over)?))
    }

    fn seal(&mut self, now: Moment, blocked: &BTreeSet<i32>) -> Option<(Vec<(i32, u64)>, CloseReason)> {
        let (chosen, reason) = self.choose(now, blocked)?;
        let mut parts = Vec::new();
        for at in chosen.into_iter().rev() {
            let offer = self.offers.remove(at);
            self.sealed.insert(offer.partition, (offer.epoch, offer.seq));
            parts.push((offer.partition, offer.seq));
        }
        parts.reverse();
        Some((parts, reason))
    }
}

#[derive(Clone, Debug)]
enum BatcherStep {
    Offer {
        partition: i32,
        seq: u64,
        records: u32,
        bytes: usize,
        oldest_ms: u64,
        alone: bool,
        expires_ms: Option<u64>,
    },
    Withdraw {
        partition: i32,
        seq: u64,
    },
    Forget {
        partition: i32,
    },
    Seal {
        at_ms: u64,
        blocked: BTreeSet<i32>,
    },
}

fn step() -> impl Strategy<Value = BatcherStep> {
    let offer = (
        0..12,
        0..9_u64,
        1..=100_u32,
        1..900_usize,
        0..4_u64,
        0..6,
        prop::option::weighted(0.1, 0..2_000_u64),
    )
        .prop_map(|(partition, seq, records, bytes, quarter, alone, expires_ms)| BatcherStep::Offer {
            partition,
            seq,
            records,
            bytes,
            oldest_ms: quarter * 250,
            alone: alone == 0,
            expires_ms,
        });
    let seal = (0..1_600_u64, prop::collection::btree_set(0..12, 0..3));
    prop_oneof![
        6 => offer,
        1 => (0..12, 0..9_u64).prop_map(|(partition, seq)| BatcherStep::Withdraw { partition, seq }),
        1 => (0..12).prop_map(|partition| BatcherStep::Forget { partition }),
        4 => seal.prop_map(|(at_ms, blocked)| BatcherStep::Seal { at_ms, blocked }),
    ]
}

fn at(ms: u64) -> Moment {
    Moment::from_micros(ms * 1_000)
}

proptest! {
    #[test]
    fn lim_1_batches_equal_those_of_a_list(steps in prop::collection::vec(step(), 1..60)) {
        let (mut core, mut list) = (BatcherCore::new(LIMITS), ListedOffers::default());
        for step in steps {
            match step {
                BatcherStep::Offer { partition, seq, records, bytes, oldest_ms, alone, expires_ms } => {
                    let mut partition_batch = PartitionBatch::empty(Offset(0));
                    partition_batch.records = records;
                    partition_batch.payload_bytes = bytes;
                    partition_batch.oldest = at(oldest_ms);
                    partition_batch.full = records == LIMITS.records_max;
                    let offer = || Offer {
                        partition,
                        epoch: Epoch(1),
                        seq,
                        partition_batch: partition_batch.clone(),
                        attempt: 1,
                        alone,
                        key_bytes: 10,
                        expires: expires_ms.map(at),
                    };
                    prop_assert_eq!(core.offer(offer()), list.offer(offer()));
                }
                BatcherStep::Withdraw { partition, seq } => prop_assert_eq!(
                    core.withdraw(partition, Epoch(1), seq),
                    list.withdraw(partition, Epoch(1), seq)
                ),
                BatcherStep::Forget { partition } => {
                    core.forget(partition);
                    list.forget(partition);
                }
                BatcherStep::Seal { at_ms, blocked } => {
                    let may_start = |partition: i32| !blocked.contains(&partition);
                    let expected = list.seal(at(at_ms), &blocked);
                    let ready = core.ready(at(at_ms), &may_start);
                    prop_assert_eq!(ready == SealCondition::Now, expected.is_some());
                    let due_bytes = core.due_bytes(at(at_ms), &may_start);
                    let sealed = core.seal(at(at_ms), &may_start);
                    prop_assert_eq!(due_bytes, sealed.as_ref().map(|sealed| sealed.payload_bytes));
                    let of = |part: &Offer| (part.partition, part.seq);
                    let sealed = sealed.map(|sealed| (sealed.parts.iter().map(of).collect(), sealed.reason));
                    prop_assert_eq!(sealed, expected);
                }
            }
            prop_assert_eq!(core.waiting(), list.offers.len());
        }
    }
}
