//! Where the want of each partition lies: on the desk of a broker, or on none, because nobody is known to lead the partition. One
//! that is brought back from a desk comes through a mailbox: meanwhile another may have taken its place.

use std::collections::HashMap;

use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;
use lighterman_proto::units::Moment;

use super::pending::FetchSpec;
use crate::kafka::transport::BrokerAddress;

/// A want as it was put down: its number tells it from one that was put down before or after it.
#[derive(Clone)]
pub(super) struct NumberedWant<W> {
    pub(super) want: W,
    number: u64,
}

/// A want that was taken off a desk because it cannot be served there.
pub(super) struct ReturnedWant<W> {
    pub(super) want: NumberedWant<W>,
    /// Since when its partition has no room: it is to be told where its log ends, and nothing else.
    pub(super) rests_since: Option<Moment>,
}

impl<W> ReturnedWant<W> {
    /// A want that was not answered.
    pub(super) fn open(want: NumberedWant<W>) -> Self {
        Self { want, rests_since: None }
    }

    /// The last want of a partition that has no room since then.
    pub(super) fn resting((want, since): (NumberedWant<W>, Moment)) -> Self {
        Self { want, rests_since: Some(since) }
    }
}

/// A want that lies on no desk.
pub(super) struct HomelessWant<W> {
    pub(super) want: W,
    /// As in [`ReturnedWant`].
    pub(super) rests_since: Option<Moment>,
    /// Since when no broker has served it.
    pub(super) since: Moment,
}

/// The place of the want that was put down last for a partition; it is kept when that is answered, for where the partition rests.
struct DeskPlace {
    broker: BrokerAddress,
    number: u64,
    /// Since when the partition has no room, where it said so.
    rests_since: Option<Moment>,
}

/// Those of all partitions of one router.
pub(super) struct WantPlaces<W> {
    placed: HashMap<TopicPartition, DeskPlace>,
    leaderless: HashMap<TopicPartition, HomelessWant<W>>,
    last_number: u64,
}

impl<W> Default for WantPlaces<W> {
    fn default() -> Self {
        Self { placed: HashMap::new(), leaderless: HashMap::new(), last_number: 0 }
    }
}

impl<W> WantPlaces<W> {
    /// `want` goes to the desk of `broker`.
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
        self.placed.insert(partition, DeskPlace { broker, number, rests_since });
        NumberedWant { want, number }
    }

    /// Nobody is known to whom `homeless` could go. Of an earlier want of its partition nothing is left.
    pub(super) fn keep(&mut self, partition: TopicPartition, homeless: HomelessWant<W>) {
        self.placed.remove(&partition);
        self.leaderless.insert(partition, homeless);
    }

    /// `returned` was taken off a desk: it is homeless. `None` when it was replaced or forgotten meanwhile.
    pub(super) fn take_back(
        &mut self,
        partition: TopicPartition,
        returned: ReturnedWant<W>,
        now: Moment,
    ) -> Option<&mut HomelessWant<W>> {
        let ReturnedWant { want: NumberedWant { want, number }, rests_since } = returned;
        let place = self.placed.get(&partition).filter(|place| place.number == number)?;
        let rests_since = rests_since.or(place.rests_since);
        self.placed.remove(&partition);
        let homeless = HomelessWant { want, rests_since, since: now };
        Some(self.leaderless.entry(partition).insert_entry(homeless).into_mut())
    }

    /// The partition wants nothing any more. Returns on whose desk its last want was put.
    pub(super) fn forget(&mut self, partition: &TopicPartition) -> Option<BrokerAddress> {
        self.leaderless.remove(partition);
        Some(self.placed.remove(partition)?.broker)
    }

    /// The partition has no room now. Returns on whose desk its last want was put.
    pub(super) fn pause(&mut self, partition: &TopicPartition, now: Moment) -> Option<&BrokerAddress> {
        if let Some(homeless) = self.leaderless.get_mut(partition) {
            homeless.rests_since.get_or_insert(now);
        }
        let place = self.placed.get_mut(partition)?;
        place.rests_since.get_or_insert(now);
        Some(&place.broker)
    }

    /// On whose desk the partition's last want was put.
    pub(super) fn broker_of(&self, partition: &TopicPartition) -> Option<&BrokerAddress> {
        self.placed.get(partition).map(|place| &place.broker)
    }

    /// Partitions whose wants were put on a desk.
    pub(super) fn assigned_broker(&self) -> impl Iterator<Item = &TopicPartition> {
        self.placed.keys()
    }

    /// Wants that lie on no desk.
    pub(super) fn leaderless(&self) -> impl Iterator<Item = (&TopicPartition, &HomelessWant<W>)> {
        self.leaderless.iter()
    }

    /// The same, to be placed: nobody but the caller has them from now on.
    pub(super) fn take_homeless(&mut self) -> HashMap<TopicPartition, HomelessWant<W>> {
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
        let homeless = places.take_homeless().remove(&partition())?;
        Some((homeless.want, homeless.rests_since))
    }

    #[test]
    fn own_1_a_want_that_comes_back_late_displaces_no_newer_one() {
        let mut places = WantPlaces::default();
        let first = places.put_down(partition(), broker(1), 10, None);
        let second = places.put_down(partition(), broker(1), 20, None);
        assert!(
            places.take_back(partition(), returned(first.clone()), NOW).is_none(),
            "another lies there by now"
        );
        assert_eq!(places.broker_of(&partition()), Some(&broker(1)), "and stays");
        assert_eq!(homeless(&mut places), None);
        assert!(places.take_back(partition(), returned(second.clone()), NOW).is_some());
        assert!(places.take_back(partition(), returned(second), NOW).is_none(), "once");
        assert!(places.take_back(partition(), returned(first), NOW).is_none());
        assert_eq!(homeless(&mut places), Some((20, None)));

        let third = places.put_down(partition(), broker(2), 30, None);
        places.keep(partition(), HomelessWant { want: 40, rests_since: None, since: NOW });
        assert!(
            places.take_back(partition(), returned(third), NOW).is_none(),
            "nobody leads it when the next one comes"
        );
        assert_eq!(homeless(&mut places), Some((40, None)));
        let fifth = places.put_down(partition(), broker(2), 50, None);
        assert_eq!(places.forget(&partition()), Some(broker(2)));
        assert!(places.take_back(partition(), returned(fifth), NOW).is_none(), "it is forgotten");
    }

    #[test]
    fn a_partition_that_pauses_while_its_want_has_no_home_rests_where_it_goes() {
        let mut places = WantPlaces::default();
        let on_its_way = places.put_down(partition(), broker(1), 10, None);
        assert_eq!(places.pause(&partition(), NOW), Some(&broker(1)));
        assert_eq!(places.pause(&partition(), LATER), Some(&broker(1)));
        assert!(places.take_back(partition(), returned(on_its_way), LATER).is_some());
        assert_eq!(homeless(&mut places), Some((10, Some(NOW))));
        places.keep(partition(), HomelessWant { want: 20, rests_since: None, since: NOW });
        assert_eq!(places.pause(&partition(), LATER), None);
        assert_eq!(homeless(&mut places), Some((20, Some(LATER))));
        let again = places.put_down(partition(), broker(1), 30, None);
        assert!(places.take_back(partition(), returned(again), LATER).is_some());
        assert_eq!(homeless(&mut places), Some((30, None)), "it has room again");
    }
}
