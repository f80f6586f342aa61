//! Where a partition begins whose committed offset is not of the log that is there: of a topic that was made anew, or set by
//! somebody beyond its end.

use std::collections::{BTreeMap, BTreeSet};

use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::ids::Offset;
use lighterman_proto::topic_id::{TopicId, is_another};

use super::start_offsets::{StartOffsets, StartResolver, reasons};
use crate::commits::start_plan::ActivationStart;
use crate::consumer::messages::ResumePoint;
use crate::kafka::offsets::{CommittedOffset, IsolationLevel, OffsetSpec, list_offsets_each};

/// Why a partition does not go on where the group says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartRemark {
    /// The topic was deleted and made anew: it begins at its beginning.
    Recreated,
    /// The group held this offset, which lies beyond the log's end and was not committed by us: it begins as `StartingPosition` says.
    BeyondEnd(Offset),
}

impl StartResolver {
    /// A broker takes the commits of a topic away with it, and takes none away while their group is at work otherwise. Where the
    /// mapping ran before this process, its audit says on which topic.
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

    /// Beginnings of these, each with the partitions that begin there.
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

    /// Of what nothing was read of, those that the group has beyond the log's end: no log was cut off there. What others have set
    /// counts for nothing; a beginning of ours is one of a topic that was deleted. Where that cannot be asked the partition waits.
    pub(super) async fn unfounded(
        &self,
        starts: &mut StartOffsets,
        committed: &BTreeMap<i32, Option<CommittedOffset>>,
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
        // What an open transaction holds back is in the log too.
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

/// Why an offset beyond the log's end says nothing: ours are of another log, since we commit what the log had.
fn remark_of(committed: &CommittedOffset) -> StartRemark {
    if CommitMetadata::parse(&committed.metadata).is_some() {
        StartRemark::Recreated
    } else {
        StartRemark::BeyondEnd(committed.offset)
    }
}
