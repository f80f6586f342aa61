//! Pending offers of one consumer, ordered by the age of their oldest record. With 10,000 partitions an offer is added,
//! found and removed in logarithmic time.

use std::collections::{BTreeMap, HashMap};

use lighterman_proto::ids::Epoch;
use lighterman_proto::units::Moment;

use crate::messages::offer::Offer;

/// Place of an offer: the time of its oldest record, then the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct OfferRank {
    pub(super) oldest: Moment,
    arrival: u64,
}

/// Offers of one kind, oldest first.
pub(super) type RankedOffers = BTreeMap<OfferRank, Offer>;

/// Pending offers, at most one of each partition.
#[derive(Default)]
pub(super) struct PendingOffers {
    /// Offers that are a batch of their own: retries, and offers of a full batch.
    alone: RankedOffers,
    /// Offers that may share a batch.
    thin: RankedOffers,
    thin_records: u64,
    thin_bytes: usize,
    partitions: HashMap<i32, PartitionOffers>,
    arrivals: u64,
}

/// Offers of one partition.
#[derive(Default)]
struct PartitionOffers {
    waiting: Option<OfferRank>,
    /// Last sealed offer.
    sealed: Option<(Epoch, u64)>,
}

impl PendingOffers {
    pub(super) fn len(&self) -> usize {
        self.alone.len() + self.thin.len()
    }

    pub(super) fn alone(&self) -> &RankedOffers {
        &self.alone
    }

    pub(super) fn thin(&self) -> &RankedOffers {
        &self.thin
    }

    pub(super) fn get(&self, rank: OfferRank) -> Option<&Offer> {
        self.alone.get(&rank).or_else(|| self.thin.get(&rank))
    }

    /// Number of records in thin offers.
    pub(super) fn thin_records(&self) -> u64 {
        self.thin_records
    }

    /// Number of payload bytes of thin offers.
    pub(super) fn thin_bytes(&self) -> usize {
        self.thin_bytes
    }

    /// Adds an offer, replacing the partition's earlier one. Returns false for an offer that is not newer than the last
    /// sealed one.
    pub(super) fn add(&mut self, offer: Offer) -> bool {
        let partition = self.partitions.entry(offer.partition).or_default();
        if partition.sealed.is_some_and(|sealed| sealed >= (offer.epoch, offer.seq)) {
            return false;
        }
        self.arrivals += 1;
        let rank = OfferRank { oldest: offer.partition_batch.oldest, arrival: self.arrivals };
        let replaced = partition.waiting.replace(rank);
        if let Some(replaced) = replaced {
            self.take(replaced);
        }
        if goes_alone(&offer) {
            self.alone.insert(rank, offer);
        } else {
            self.thin_records += u64::from(offer.partition_batch.records);
            self.thin_bytes += share_bytes(&offer);
            self.thin.insert(rank, offer);
        }
        true
    }

    /// Removes the offer at `rank` as part of a sealed batch.
    pub(super) fn seal(&mut self, rank: OfferRank) -> Option<Offer> {
        let offer = self.take(rank)?;
        let partition = self.partitions.entry(offer.partition).or_default();
        *partition = PartitionOffers { waiting: None, sealed: Some((offer.epoch, offer.seq)) };
        Some(offer)
    }

    /// Removes an offer. Returns false if it is not pending.
    pub(super) fn withdraw(&mut self, partition: i32, epoch: Epoch, seq: u64) -> bool {
        let Some(rank) = self.partitions.get(&partition).and_then(|known| known.waiting) else {
            return false;
        };
        if self.get(rank).is_none_or(|offer| (offer.epoch, offer.seq) != (epoch, seq)) {
            return false;
        }
        self.partitions.entry(partition).or_default().waiting = None;
        self.take(rank).is_some()
    }

    /// Removes a partition's offer, whatever its epoch, and its last seal.
    pub(super) fn forget(&mut self, partition: i32) {
        if let Some(rank) = self.partitions.remove(&partition).and_then(|known| known.waiting) {
            self.take(rank);
        }
    }

    fn take(&mut self, rank: OfferRank) -> Option<Offer> {
        if let Some(offer) = self.alone.remove(&rank) {
            return Some(offer);
        }
        let offer = self.thin.remove(&rank)?;
        self.thin_records -= u64::from(offer.partition_batch.records);
        self.thin_bytes -= share_bytes(&offer);
        Some(offer)
    }
}

fn goes_alone(offer: &Offer) -> bool {
    offer.alone || offer.partition_batch.full
}

/// Size of an offer's share of the payload, with its separator.
pub(super) fn share_bytes(offer: &Offer) -> usize {
    offer.key_bytes + offer.partition_batch.payload_bytes
}
