//! Reconciliation of owned partitions with the assignment: added partitions are taken, removed ones are drained.

use std::collections::BTreeSet;

use super::{Kip848Effects, Kip848Member};
use crate::kafka::group::effects::{GroupEffect, GroupEvent, TopicPartitions};

impl Kip848Member {
    /// Selects the share of one topic id, by preference the owned one. A single topic is subscribed to: of two ids,
    /// one belongs to a deleted topic.
    pub(super) fn chosen(&self, shares: Vec<TopicPartitions>) -> TopicPartitions {
        let known = shares.iter().position(|share| share.topic == self.owned_topic);
        let mut shares = shares;
        match known {
            Some(index) => shares.swap_remove(index),
            None => shares.into_iter().next().unwrap_or_default(),
        }
    }

    /// Reconciles the owned partitions with the assignment: takes added partitions and starts to drain removed ones.
    pub(super) fn reconcile(&mut self, out: &mut Kip848Effects) {
        if self.session.partitions.is_empty() {
            self.owned_topic = self.assigned.topic;
        }
        // A recreated topic is not started before the old one is released.
        let nothing = BTreeSet::new();
        let is_same_topic = self.owned_topic == self.assigned.topic;
        let wanted = if is_same_topic { &self.assigned.partitions } else { &nothing };
        let change = self.session.partitions.compare(wanted);
        self.session.partitions.add(&change.added);
        self.session.partitions.start_drain(&change.revoked);
        if !change.added.is_empty() {
            self.announce(change.added, out);
        }
        if !change.revoked.is_empty() {
            out.push(GroupEffect::Notify(GroupEvent::Revoke { partitions: change.revoked }));
        }
    }

    /// Announces the kept partitions in this epoch, even without additions: look-ups by the listener hold for one
    /// epoch.
    pub(super) fn announce(&self, added: Vec<i32>, out: &mut Kip848Effects) {
        self.session.announce(self.identity.generation, added, out);
    }
}
