//! Start positions of partitions, decided once and committed (H11, H18). Committed offsets take precedence. Without
//! any, the mapping's starting position is resolved for the whole topic and committed with the number of partitions
//! at that time. A partition beyond that number is new and starts at its beginning. One within it that has no
//! commit raises an alarm and is never reset. Partitions do not wait for each other: one whose leader is
//! unreachable at activation is committed as open.
//!
//! An offset of a deleted topic of the same name (KIP-516) says nothing about this topic's log. A mapping that has
//! read the deleted topic must deliver all of this one. It starts at the beginning, whatever the mapping's starting
//! position.

use std::collections::{BTreeMap, BTreeSet};

use lighterman_proto::commit_metadata::{self, CommitMetadata, with_open_start};
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::TimestampMs;

use crate::kafka::offsets::{OffsetAndMetadata, OffsetSpec};

/// Group's state of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCommit {
    /// Partition index.
    pub partition: i32,
    /// Commit of the partition.
    pub committed: GroupCommit,
    /// Offset to look up, if the leader was unreachable at activation. The committed offset is then meaningless.
    pub open: Option<OffsetSpec>,
}

/// Commit of a group for one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupCommit {
    /// No commit.
    Nothing,
    /// Offset in this topic, with the number of partitions at activation if its metadata carries one.
    Here(Option<i32>),
    /// Offset in a deleted topic of the same name.
    Elsewhere,
}

/// Next step of the start of a member's partitions.
#[derive(Debug, PartialEq, Eq)]
pub enum StartPlan {
    /// Every owned partition has a commit: resume there.
    Resume {
        /// Owned partitions that had a commit once and have lost it. A reset would lose or repeat everything, so an
        /// operator decides.
        alarmed: Vec<i32>,
    },
    /// Resolve the starting position of these partitions and commit all of them at once. Those whose leaders are
    /// unreachable are committed as open.
    Activate {
        /// Every partition of the topic if it has no commits; otherwise those that another program's commits leave
        /// out.
        partitions: Vec<i32>,
        /// Start position, different for a topic that was recreated.
        begins: ActivationStart,
    },
    /// Commit the beginning of these partitions. They are newer than the activation, or committed in a deleted
    /// topic.
    StartNew {
        /// Partition indexes.
        partitions: Vec<i32>,
        /// Unchanged number of partitions at activation. With a newer number, a partition that another member has
        /// not started yet would look like one with a lost commit.
        activated: i32,
    },
    /// Look up and commit the start of these partitions, whose leaders were unreachable at activation.
    Find {
        /// Offset to look up.
        at: OffsetSpec,
        /// Partition indexes.
        partitions: Vec<i32>,
        /// Number of partitions at activation.
        activated: i32,
    },
    /// Wait for the member that owns partition 0 to activate, then plan again.
    Wait,
}

/// Start position of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationStart {
    /// Starting position of the mapping.
    AsConfigured,
    /// Beginning of the log: its records were written while the mapping ran on the deleted topic of that name.
    OfRecreated,
}

impl ActivationStart {
    /// Returns the offset to look up for a mapping configured to start at `configured`.
    pub fn at(self, configured: OffsetSpec) -> OffsetSpec {
        match self {
            Self::AsConfigured => configured,
            Self::OfRecreated => OffsetSpec::Earliest,
        }
    }
}

/// Plans the start of the `owned` partitions; the caller omits those whose state is unavailable. `known` holds
/// every partition of the topic.
pub fn plan(known: &[KnownCommit], owned: &[i32]) -> StartPlan {
    let owned: BTreeSet<i32> = owned.iter().copied().collect();
    let is_ours = |entry: &&KnownCommit| owned.contains(&entry.partition);
    let is_here = |entry: &KnownCommit| matches!(entry.committed, GroupCommit::Here(_));
    let is_elsewhere = |entry: &KnownCommit| entry.committed == GroupCommit::Elsewhere;
    let missing: Vec<i32> =
        known.iter().filter(|entry| !is_here(entry) && is_ours(entry)).map(|entry| entry.partition).collect();
    if !missing.is_empty() && !known.iter().any(is_here) {
        if must_wait_for_activation(&owned) {
            return StartPlan::Wait;
        }
        let recreated = known.iter().any(is_elsewhere);
        let begins = if recreated { ActivationStart::OfRecreated } else { ActivationStart::AsConfigured };
        return StartPlan::Activate {
            partitions: known.iter().map(|entry| entry.partition).collect(),
            begins,
        };
    }
    let activated = activated(known);
    let elsewhere = known.iter().filter(|entry| is_elsewhere(entry) && is_ours(entry));
    let elsewhere: Vec<i32> = elsewhere.map(|entry| entry.partition).collect();
    if !elsewhere.is_empty() {
        // A commit of the deleted topic was applied after this one was started. Only the committed beginning is
        // lost.
        return StartPlan::StartNew {
            partitions: elsewhere,
            activated: activated.unwrap_or(known.len() as i32),
        };
    }
    let Some(activated) = activated else {
        // Another program's commits without this mapping's metadata. The starting position applies to the
        // partitions left out.
        return if missing.is_empty() {
            StartPlan::Resume { alarmed: Vec::new() }
        } else {
            StartPlan::Activate { partitions: missing, begins: ActivationStart::AsConfigured }
        };
    };
    let (alarmed, new): (Vec<i32>, Vec<i32>) =
        missing.into_iter().partition(|partition| *partition < activated);
    if !new.is_empty() {
        return StartPlan::StartNew { partitions: new, activated };
    }
    let mut open = known.iter().filter(is_ours).filter_map(|entry| Some((entry.open?, entry.partition)));
    let Some((at, first)) = open.next() else { return StartPlan::Resume { alarmed } };
    let alike = open.filter(|(other, _)| *other == at).map(|(_, partition)| partition);
    StartPlan::Find { at, partitions: std::iter::once(first).chain(alike).collect(), activated }
}

/// True if another member is to activate the mapping: only the owner of partition 0 does.
fn must_wait_for_activation(owned: &BTreeSet<i32>) -> bool {
    mutant!("everybody-activates", !owned.contains(&0), false)
}

/// Classifies the group's commits against `topic`, the current topic of that name.
pub fn known_of(
    committed: &BTreeMap<i32, Option<OffsetAndMetadata>>,
    topic: Option<TopicId>,
) -> Vec<KnownCommit> {
    let known = |(partition, offset): (&i32, &Option<OffsetAndMetadata>)| {
        let metadata = offset.as_ref().map(|offset| offset.metadata.as_str());
        let committed = metadata.map_or(GroupCommit::Nothing, |metadata| committed_in(topic, metadata));
        let open = metadata.filter(|_| committed != GroupCommit::Elsewhere).and_then(open_start);
        KnownCommit { partition: *partition, committed, open }
    };
    committed.iter().map(known).collect()
}

fn committed_in(topic: Option<TopicId>, metadata: &str) -> GroupCommit {
    let metadata = CommitMetadata::parse(metadata);
    let of = metadata.as_ref().and_then(|metadata| metadata.topic);
    if is_another(of, topic) {
        GroupCommit::Elsewhere
    } else {
        GroupCommit::Here(metadata.map(|metadata| metadata.partitions_at_activation))
    }
}

/// Returns the number of partitions at activation that the commits in this topic carry.
pub fn activated(known: &[KnownCommit]) -> Option<i32> {
    known
        .iter()
        .filter_map(|entry| if let GroupCommit::Here(activated) = entry.committed { activated } else { None })
        .max()
}

/// Returns true if a decision of generation `then` is valid in `now`. In another generation the partitions may
/// belong to another member, which may have delivered since.
pub fn still_holds(then: i32, now: i32) -> bool {
    mutant!("beginning-of-an-earlier-generation", then == now, true)
}

/// Encodes the commit metadata of an offset without progress beyond it: topic, and number of partitions at
/// activation.
pub fn metadata(topic: Option<TopicId>, partitions_at_activation: i32) -> String {
    CommitMetadata { partitions_at_activation, topic, progress: None }.encode()
}

/// Encodes the commit metadata of a partition whose leader was unreachable at activation, with the offset to look
/// up. A start at the end becomes a start at `now`, so that records arriving before the lookup are not skipped.
pub fn open_metadata(
    topic: Option<TopicId>,
    partitions_at_activation: i32,
    at: OffsetSpec,
    now: TimestampMs,
) -> String {
    let at = if at == OffsetSpec::Latest { OffsetSpec::Timestamp(now.0.max(0)) } else { at };
    with_open_start(&metadata(topic, partitions_at_activation), at.timestamp())
}

/// Parses [`open_metadata`]. Returns `None` for a commit with a valid offset.
pub fn open_start(metadata: &str) -> Option<OffsetSpec> {
    OffsetSpec::of_timestamp(commit_metadata::open_start(metadata)?)
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::Offset;

    use super::*;

    fn known(committed: &[GroupCommit]) -> Vec<KnownCommit> {
        let entry = |(partition, committed): (i32, &GroupCommit)| KnownCommit {
            partition,
            committed: *committed,
            open: None,
        };
        (0..).zip(committed).map(entry).collect()
    }

    use GroupCommit::{Elsewhere, Here, Nothing};

    fn go_on(alarmed: &[i32]) -> StartPlan {
        StartPlan::Resume { alarmed: alarmed.to_vec() }
    }

    fn activate(partitions: &[i32], begins: ActivationStart) -> StartPlan {
        StartPlan::Activate { partitions: partitions.to_vec(), begins }
    }

    #[test]
    fn h18_commits_win_and_activation_covers_topic() {
        assert_eq!(plan(&known(&[Here(None), Here(None)]), &[0, 1]), go_on(&[]));
        assert_eq!(plan(&known(&[Nothing, Nothing]), &[0]), activate(&[0, 1], ActivationStart::AsConfigured));
        assert_eq!(plan(&known(&[Nothing, Nothing]), &[1]), StartPlan::Wait);
        let others = known(&[Here(None), Nothing, Nothing]);
        assert_eq!(plan(&others, &[0, 1]), activate(&[1], ActivationStart::AsConfigured));
    }

    #[test]
    fn h18_added_partition_starts_at_its_beginning() {
        let topic = known(&[Here(Some(2)), Here(Some(2)), Nothing]);
        assert_eq!(plan(&topic, &[1, 2]), StartPlan::StartNew { partitions: vec![2], activated: 2 });
    }

    #[test]
    fn h11_lost_commit_alarms_without_blocking_others() {
        let topic = known(&[Here(Some(2)), Nothing, Nothing]);
        assert_eq!(plan(&topic, &[0, 1]), go_on(&[1]));
        assert_eq!(plan(&topic, &[0]), go_on(&[]), "a partition of another owner is not checked");
        let new = StartPlan::StartNew { partitions: vec![2], activated: 2 };
        assert_eq!(plan(&topic, &[0, 1, 2]), new, "an added partition starts");
    }

    #[test]
    fn h18_open_start_is_looked_up_by_owner() {
        let open = |partition, open| KnownCommit { partition, committed: Here(Some(4)), open };
        let (early, late) = (Some(OffsetSpec::Earliest), Some(OffsetSpec::Timestamp(7)));
        let topic = [open(0, None), open(1, early), open(2, late), open(3, early)];
        let find =
            |at, partitions: &[i32]| StartPlan::Find { at, partitions: partitions.to_vec(), activated: 4 };
        assert_eq!(plan(&topic, &[0, 1, 2, 3]), find(OffsetSpec::Earliest, &[1, 3]));
        assert_eq!(plan(&topic, &[0, 2]), find(OffsetSpec::Timestamp(7), &[2]));
        assert_eq!(plan(&topic, &[0]), go_on(&[]), "the other partitions have another owner");
    }

    #[test]
    fn h18_open_start_at_end_becomes_timestamp() {
        let now = TimestampMs(1_700_000_000_123);
        let read = |at| open_start(&open_metadata(None, 4, at, now));
        assert_eq!(read(OffsetSpec::Latest), Some(OffsetSpec::Timestamp(now.0)));
        assert_eq!(read(OffsetSpec::Earliest), Some(OffsetSpec::Earliest));
        assert_eq!(read(OffsetSpec::Timestamp(5)), Some(OffsetSpec::Timestamp(5)));
        assert_eq!(open_start(&metadata(None, 4)), None);
        assert_eq!(committed_in(None, &open_metadata(None, 4, OffsetSpec::Latest, now)), Here(Some(4)));
    }

    #[test]
    fn h17_recreated_topic_starts_at_its_beginning() {
        let topic = known(&[Elsewhere, Nothing, Elsewhere]);
        let (partitions, begins) = (vec![0, 1, 2], ActivationStart::OfRecreated);
        assert_eq!(plan(&topic, &[0, 1]), StartPlan::Activate { partitions, begins });
        assert_eq!(plan(&topic, &[1, 2]), StartPlan::Wait);
        assert_eq!(
            (begins.at(OffsetSpec::Latest), ActivationStart::AsConfigured.at(OffsetSpec::Latest)),
            (OffsetSpec::Earliest, OffsetSpec::Latest)
        );
    }

    #[test]
    fn h17_late_commit_of_deleted_topic_loses_nothing() {
        let topic = known(&[Here(Some(3)), Elsewhere, Elsewhere, Nothing]);
        assert_eq!(plan(&topic, &[0]), go_on(&[]));
        assert_eq!(plan(&topic, &[1, 3]), StartPlan::StartNew { partitions: vec![1], activated: 3 });
        let by_others = known(&[Here(None), Elsewhere]);
        assert_eq!(plan(&by_others, &[1]), StartPlan::StartNew { partitions: vec![1], activated: 2 });
    }

    #[test]
    fn metadata_round_trips_and_ignores_foreign_metadata() {
        let id = |number| TopicId::of(uuid::Uuid::from_u128(number));
        assert_eq!(committed_in(id(1), &metadata(id(1), 8)), Here(Some(8)));
        assert_eq!(committed_in(id(2), &metadata(id(1), 8)), Elsewhere);
        assert_eq!(
            committed_in(id(2), &metadata(None, 8)),
            Here(Some(8)),
            "metadata written before topic ids were recorded"
        );
        assert_eq!(committed_in(None, &metadata(id(1), 8)), Here(Some(8)), "of brokers without ids");
        assert_eq!(committed_in(id(1), ""), Here(None));
        assert_eq!(committed_in(id(1), "NoMetadata n=3"), Here(None));
        let offset = OffsetAndMetadata { offset: Offset(5), leader_epoch: 0, metadata: metadata(id(1), 8) };
        let committed = BTreeMap::from([(0, Some(offset)), (1, None)]);
        assert_eq!(known_of(&committed, id(2)), known(&[Elsewhere, Nothing]));
        assert_eq!(activated(&known_of(&committed, id(1))), Some(8));
    }
}
