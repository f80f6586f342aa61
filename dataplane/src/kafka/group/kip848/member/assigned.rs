//! From what the coordinator has assigned to what is ours: what is new is taken, what is not there any more is drained.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Kip848Effects, Kip848Member};
use crate::kafka::group::effects::{GroupEffect, TopicPartitions};

impl Kip848Member {
    /// One topic is subscribed to, so all that is given is of it; of two ids, one is of a topic that was deleted.
    pub(super) fn chosen(&self, shares: Vec<TopicPartitions>) -> TopicPartitions {
        let known = shares.iter().position(|share| share.topic == self.owned.topic);
        let mut shares = shares;
        match known {
            Some(index) => shares.swap_remove(index),
            None => shares.into_iter().next().unwrap_or_default(),
        }
    }

    /// Brings what is ours to what was assigned: takes what is new, and begins to drain what is not there any more.
    pub(super) fn reconcile(&mut self, out: &mut Kip848Effects) {
        if self.owned.is_empty() {
            self.owned.topic = self.assigned.topic;
        }
        // A topic that was made anew is not begun before the old one is let go.
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
            out.push(GroupEffect::Revoke { partitions: revoked });
        }
    }

    /// Says what is ours in this epoch: without anything new too, for what is found out is found out for one epoch.
    pub(super) fn announce(&self, added: Vec<i32>, out: &mut Kip848Effects) {
        let owned = self.kept.iter().copied().collect();
        let (generation, member) = (self.epoch, self.member.clone());
        out.push(GroupEffect::Assigned { generation, member, owned, added });
    }

    pub(super) fn count_kept(&mut self) {
        self.kept = Arc::new(self.owned.partitions.difference(&self.revoking).copied().collect());
    }
}
