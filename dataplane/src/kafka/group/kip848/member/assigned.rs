//! Reconciliation of owned partitions with the assignment: added partitions are taken, removed ones are drained.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Kip848Effects, Kip848Member};
use crate::kafka::group::effects::{GroupEffect, GroupEvent, TopicPartitions};

impl Kip848Member {
    /// Selects the share of one topic id, by preference the owned one. A single topic is subscribed to: of two ids,
    /// one belongs to a deleted topic.
    pub(super) fn chosen(&self, shares: Vec<TopicPartitions>) -> TopicPartitions {
        let known = shares.iter().position(|share| share.topic == self.owned.topic);
        let mut shares = shares;
        match known {
            Some(index) => shares.swap_remove(index),
            None => shares.into_iter().next().unwrap_or_default(),
        }
    }

    /// Reconciles the owned partitions with the assignment: takes added partitions and starts to drain removed ones.
    pub(super) fn reconcile(&mut self, out: &mut Kip848Effects) {
        if self.owned.is_empty() {
            self.owned.topic = self.assigned.topic;
        }
        // A recreated topic is not started before the old one is released.
        let wanted = if self.owned.topic == self.assigned.topic {
            self.assigned.partitions.clone()
        } else {
            BTreeSet::new()
        };
        let added: Vec<i32> = wanted.difference(&self.owned.partitions).copied().collect();
        let revoked: Vec<i32> = self
            .owned
            .partitions
            .difference(&wanted)
            .filter(|partition| !self.revoking.contains(partition))
            .copied()
            .collect();
        self.owned.partitions.extend(&added);
        self.revoking.extend(&revoked);
        if !added.is_empty() || !revoked.is_empty() {
            self.count_kept();
        }
        if !added.is_empty() {
            self.announce(added, out);
        }
        if !revoked.is_empty() {
            out.push(GroupEffect::Notify(GroupEvent::Revoke { partitions: revoked }));
        }
    }

    /// Announces the kept partitions in this epoch, even without additions: look-ups by the listener hold for one
    /// epoch.
    pub(super) fn announce(&self, added: Vec<i32>, out: &mut Kip848Effects) {
        let owned = self.kept.iter().copied().collect();
        let (generation, _member) = (self.epoch, self.member.clone());
        out.push(GroupEffect::Notify(GroupEvent::Assigned { generation, owned, added }));
    }

    pub(super) fn count_kept(&mut self) {
        self.kept = Arc::new(self.owned.partitions.difference(&self.revoking).copied().collect());
    }
}
