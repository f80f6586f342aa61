//! Locations of the fetches of each partition: at a broker, or at none while no leader is known. A fetch that a
//! broker task returns comes through a mailbox, and a newer one may have replaced it meanwhile.

use std::collections::HashMap;

use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;
use lighterman_proto::units::Moment;

use super::pending::FetchSpec;
use crate::kafka::transport::BrokerAddress;

/// Fetch with a number that distinguishes it from earlier and later fetches of its partition.
#[derive(Clone)]
pub(super) struct NumberedWant<W> {
    pub(super) want: W,
    number: u64,
}

/// Fetch that a broker task returned because its broker cannot serve it.
pub(super) struct ReturnedWant<W> {
    pub(super) want: NumberedWant<W>,
    /// Start of the pause, if the partition has no buffer space. Only its log end is reported then.
    pub(super) rests_since: Option<Moment>,
}

impl<W> ReturnedWant<W> {
    /// Wraps a fetch that was not answered.
    pub(super) fn open(want: NumberedWant<W>) -> Self {
        Self { want, rests_since: None }
    }

    /// Wraps the last fetch of a partition that has been paused since that moment.
    pub(super) fn resting((want, since): (NumberedWant<W>, Moment)) -> Self {
        Self { want, rests_since: Some(since) }
    }
}

/// Fetch without a broker.
pub(super) struct LeaderlessFetch<W> {
    pub(super) want: W,
    /// Start of the pause, as in [`ReturnedWant`].
    pub(super) rests_since: Option<Moment>,
    /// Moment since which no broker has served it.
    pub(super) since: Moment,
}

/// Broker of a partition's last fetch. It is kept after the answer, because a paused partition stays at that broker.
struct FetchPlace {
    broker: BrokerAddress,
    number: u64,
    /// Start of the pause, if the partition has reported one.
    rests_since: Option<Moment>,
}

/// Locations of the fetches of all partitions of one router.
pub(super) struct WantPlaces<W> {
    placed: HashMap<TopicPartition, FetchPlace>,
    leaderless: HashMap<TopicPartition, LeaderlessFetch<W>>,
    last_number: u64,
}

impl<W> Default for WantPlaces<W> {
    fn default() -> Self {
        Self { placed: HashMap::new(), leaderless: HashMap::new(), last_number: 0 }
    }
}

impl<W> WantPlaces<W> {
    /// Assigns `want` to `broker` and numbers it.
    pub(super) fn put_down(
        &mut self,
        partition: TopicPartition,
        broker: BrokerAddress,
        want: W,
        rests_since: Option<Moment>,
    ) -> NumberedWant<W> {
        self.leaderless.remove(&partition);
        self.last_number += 1;
        let number = self.last_number;
        self.placed.insert(partition, FetchPlace { broker, number, rests_since });
        NumberedWant { want, number }
    }

    /// Keeps a fetch whose leader is unknown. It replaces any earlier fetch of its partition.
    pub(super) fn keep(&mut self, partition: TopicPartition, homeless: LeaderlessFetch<W>) {
        self.placed.remove(&partition);
        self.leaderless.insert(partition, homeless);
    }

    /// Takes back a fetch that a broker task returned, as one without a broker. Returns `None` if it was replaced or
    /// forgotten meanwhile.
    pub(super) fn take_back(
        &mut self,
        partition: TopicPartition,
        returned: ReturnedWant<W>,
        now: Moment,
    ) -> Option<&mut LeaderlessFetch<W>> {
        let ReturnedWant { want: NumberedWant { want, number }, rests_since } = returned;
        let place = self.placed.get(&partition).filter(|place| place.number == number)?;
        let rests_since = rests_since.or(place.rests_since);
        self.placed.remove(&partition);
        let homeless = LeaderlessFetch { want, rests_since, since: now };
        Some(self.leaderless.entry(partition).insert_entry(homeless).into_mut())
    }

    /// Forgets a partition that has cancelled its fetch. Returns the broker of its last fetch.
    pub(super) fn forget(&mut self, partition: &TopicPartition) -> Option<BrokerAddress> {
        self.leaderless.remove(partition);
        Some(self.placed.remove(partition)?.broker)
    }

    /// Marks a partition without buffer space as paused. Returns the broker of its last fetch.
    pub(super) fn pause(&mut self, partition: &TopicPartition, now: Moment) -> Option<&BrokerAddress> {
        if let Some(homeless) = self.leaderless.get_mut(partition) {
            homeless.rests_since.get_or_insert(now);
        }
        let place = self.placed.get_mut(partition)?;
        place.rests_since.get_or_insert(now);
        Some(&place.broker)
    }

    /// Returns the broker of the partition's last fetch.
    pub(super) fn broker_of(&self, partition: &TopicPartition) -> Option<&BrokerAddress> {
        self.placed.get(partition).map(|place| &place.broker)
    }

    /// Returns the partitions whose fetches were assigned to a broker.
    pub(super) fn assigned_broker(&self) -> impl Iterator<Item = &TopicPartition> {
        self.placed.keys()
    }

    /// Returns the fetches without a broker.
    pub(super) fn leaderless(&self) -> impl Iterator<Item = (&TopicPartition, &LeaderlessFetch<W>)> {
        self.leaderless.iter()
    }

    /// Removes and returns the fetches without a broker.
    pub(super) fn take_leaderless(&mut self) -> HashMap<TopicPartition, LeaderlessFetch<W>> {
        std::mem::take(&mut self.leaderless)
    }
}

impl<W: FetchSpec> FetchSpec for NumberedWant<W> {
    fn topic(&self) -> Option<TopicId> {
        self.want.topic()
    }

    fn position(&self) -> Offset {
        self.want.position()
    }

    fn leader_epoch(&self) -> Option<i32> {
        self.want.leader_epoch()
    }

    fn bytes_max(&self) -> u32 {
        self.want.bytes_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_micros(1);
    const LATER: Moment = Moment::from_micros(2);

    fn partition() -> TopicPartition {
        TopicPartition::new("t", 0)
    }

    fn broker(port: u16) -> BrokerAddress {
        BrokerAddress::new("b", port)
    }

    fn returned(want: NumberedWant<i64>) -> ReturnedWant<i64> {
        ReturnedWant { want, rests_since: None }
    }

    fn homeless(places: &mut WantPlaces<i64>) -> Option<(i64, Option<Moment>)> {
        let homeless = places.take_leaderless().remove(&partition())?;
        Some((homeless.want, homeless.rests_since))
    }

    #[test]
    fn own_1_late_return_does_not_displace_newer_fetch() {
        let mut places = WantPlaces::default();
        let first = places.put_down(partition(), broker(1), 10, None);
        let second = places.put_down(partition(), broker(1), 20, None);
        assert!(
            places.take_back(partition(), returned(first.clone()), NOW).is_none(),
            "a newer fetch has replaced it"
        );
        assert_eq!(places.broker_of(&partition()), Some(&broker(1)), "and stays");
        assert_eq!(homeless(&mut places), None);
        assert!(places.take_back(partition(), returned(second.clone()), NOW).is_some());
        assert!(places.take_back(partition(), returned(second), NOW).is_none(), "once");
        assert!(places.take_back(partition(), returned(first), NOW).is_none());
        assert_eq!(homeless(&mut places), Some((20, None)));

        let third = places.put_down(partition(), broker(2), 30, None);
        places.keep(partition(), LeaderlessFetch { want: 40, rests_since: None, since: NOW });
        assert!(places.take_back(partition(), returned(third), NOW).is_none(), "the partition has no leader");
        assert_eq!(homeless(&mut places), Some((40, None)));
        let fifth = places.put_down(partition(), broker(2), 50, None);
        assert_eq!(places.forget(&partition()), Some(broker(2)));
        assert!(places.take_back(partition(), returned(fifth), NOW).is_none(), "the partition is forgotten");
    }

    #[test]
    fn partition_paused_without_broker_stays_paused() {
        let mut places = WantPlaces::default();
        let on_its_way = places.put_down(partition(), broker(1), 10, None);
        assert_eq!(places.pause(&partition(), NOW), Some(&broker(1)));
        assert_eq!(places.pause(&partition(), LATER), Some(&broker(1)));
        assert!(places.take_back(partition(), returned(on_its_way), LATER).is_some());
        assert_eq!(homeless(&mut places), Some((10, Some(NOW))));
        places.keep(partition(), LeaderlessFetch { want: 20, rests_since: None, since: NOW });
        assert_eq!(places.pause(&partition(), LATER), None);
        assert_eq!(homeless(&mut places), Some((20, Some(LATER))));
        let again = places.put_down(partition(), broker(1), 30, None);
        assert!(places.take_back(partition(), returned(again), LATER).is_some());
        assert_eq!(homeless(&mut places), Some((30, None)), "the partition has room again");
    }
}
