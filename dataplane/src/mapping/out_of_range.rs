//! Start offsets of partitions whose committed offset does not belong to the present log: the topic was recreated, or
//! an offset beyond its end was set from outside.

use std::collections::{BTreeMap, BTreeSet};

use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::ids::Offset;
use lighterman_proto::topic_id::{TopicId, is_another};

use super::start_offsets::{StartOffsets, StartResolver, reasons};
use crate::commits::start_plan::ActivationStart;
use crate::kafka::offsets::{IsolationLevel, OffsetAndMetadata, OffsetSpec, list_offsets_each};
use crate::messages::resume::ResumePoint;

/// Reason that a partition does not start at the group's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartRemark {
    /// The topic was deleted and recreated. The partition starts at the beginning.
    Recreated,
    /// The group held this offset beyond the log's end, and Lighterman did not commit it. The partition starts as
    /// configured by `StartingPosition`.
    BeyondEnd(Offset),
}

impl StartResolver {
    /// Returns the start of an activation. A broker deletes a topic's commits with the topic, and otherwise deletes
    /// none while their group is active. If the mapping ran before this process, its audit names the topic it ran on.
    pub(super) async fn beginning(
        &self,
        by_the_group: ActivationStart,
        topic: Option<TopicId>,
    ) -> ActivationStart {
        if self.has_run {
            return ActivationStart::OfRecreated;
        }
        if by_the_group == ActivationStart::OfRecreated || self.at == OffsetSpec::Earliest || topic.is_none()
        {
            return by_the_group;
        }
        let pages = self.audit.read(self.mapping).await;
        if pages.values().any(|page| is_another(page.topic, topic)) {
            ActivationStart::OfRecreated
        } else {
            by_the_group
        }
    }

    /// Groups the partitions by the offset spec at which they start.
    pub(super) fn beginnings(&self, found: &BTreeMap<i32, StartRemark>) -> Vec<(OffsetSpec, Vec<i32>)> {
        let mut beginnings: Vec<(OffsetSpec, Vec<i32>)> = Vec::new();
        for (partition, remark) in found {
            let at = if *remark == StartRemark::Recreated { OffsetSpec::Earliest } else { self.at };
            match beginnings.iter_mut().find(|(known, _)| *known == at) {
                Some((_, partitions)) => partitions.push(*partition),
                None => beginnings.push((at, vec![*partition])),
            }
        }
        beginnings
    }

    /// Returns the partitions without read records whose committed offset is beyond the log's end. Their log cannot
    /// have been truncated there. An offset set from outside is ignored; one that Lighterman committed belongs to a
    /// deleted topic. A partition whose leader cannot be asked waits.
    pub(super) async fn unfounded(
        &self,
        starts: &mut StartOffsets,
        committed: &BTreeMap<i32, Option<OffsetAndMetadata>>,
        begun: &BTreeSet<i32>,
    ) -> BTreeMap<i32, StartRemark> {
        let is_unread = |(partition, position): &(&i32, &ResumePoint)| {
            position.leader_epoch_known().is_none()
                && position.committed > Offset(0)
                && !begun.contains(*partition)
        };
        let unread: Vec<i32> =
            starts.positions.iter().filter(is_unread).map(|(partition, _)| *partition).collect();
        if unread.is_empty() {
            return BTreeMap::new();
        }
        // Records held back by an open transaction are in the log too.
        let isolation = IsolationLevel::Uncommitted;
        let ends =
            list_offsets_each(&self.cluster, &self.topic, &unread, OffsetSpec::Latest, isolation).await;
        starts.wait_for(reasons(&ends));
        let remark = |(partition, end): (i32, Offset)| {
            let offset = committed.get(&partition)?.as_ref()?;
            (offset.offset > end).then(|| (partition, remark_of(offset)))
        };
        ends.known.into_iter().filter_map(remark).collect()
    }
}

/// Classifies a committed offset beyond the log's end. Lighterman commits only offsets of the log it read, so its own
/// offset belongs to another log.
fn remark_of(committed: &OffsetAndMetadata) -> StartRemark {
    if CommitMetadata::parse(&committed.metadata).is_some() {
        StartRemark::Recreated
    } else {
        StartRemark::BeyondEnd(committed.offset)
    }
}
