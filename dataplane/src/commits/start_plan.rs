//! Where a partition begins, decided once and committed (H11, H18). Committed offsets win. Without any, the mapping's
//! starting position is resolved for the whole topic and committed with the number of partitions it was resolved for;
//! a partition beyond that number is new and begins at its beginning; one within it that has no commit is an alarm, never
//! a reset. Each partition waits for itself alone: one whose leader cannot be asked at activation is committed as open.
//!
//! An offset of a topic of the same name that was deleted since (KIP-516) says nothing of this one's log. Whoever has read that
//! topic is owed all of this one: it begins at its beginning, whatever the mapping's starting position says.

use std::collections::{BTreeMap, BTreeSet};

use lighterman_proto::commit_metadata::{self, CommitMetadata, with_open_start};
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::TimestampMs;

use crate::kafka::offsets::{CommittedOffset, OffsetSpec};

/// What the group knows of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownCommit {
    /// Partition index.
    pub partition: i32,
    /// Its commit.
    pub committed: GroupCommit,
    /// The offset says nothing: its leader could not be asked at activation, and is to be asked for this.
    pub open: Option<OffsetSpec>,
}

/// A group's commit for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupCommit {
    /// Nothing.
    Nothing,
    /// An offset in this topic, and the number of partitions at activation that its metadata carries, if any.
    Here(Option<i32>),
    /// An offset in another topic of the same name, which was deleted since.
    Elsewhere,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum StartPlan {
    /// Every wanted partition has a commit: go on from there.
    Resume {
        /// But these, which had a commit once and have none now. A reset would lose or repeat everything: a person decides.
        alarmed: Vec<i32>,
    },
    /// Nobody has committed anything: resolve the starting position for these and commit all of them at once. Those whose leaders
    /// cannot be asked are committed as open.
    Activate {
        /// Every partition of the topic.
        partitions: Vec<i32>,
        /// The topic is read for the first time, or was made anew.
        begins: ActivationStart,
    },
    /// These are newer than the activation: commit their beginning.
    StartNew {
        /// The new ones.
        partitions: Vec<i32>,
        /// Partitions at activation: stays what it was. A newer count would take a partition that another member has not
        /// begun yet for one whose commit was lost.
        activated: i32,
    },
    /// The activation could not ask where these begin: find it, and commit it.
    Find {
        /// The offset to ask for.
        at: OffsetSpec,
        /// Their indexes.
        partitions: Vec<i32>,
        /// Partitions at activation.
        activated: i32,
    },
    /// The member that owns partition 0 activates; ask again.
    Wait,
}

/// Where an activation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationStart {
    /// As the mapping's starting position says.
    AsConfigured,
    /// At the beginning: what stands there was written while the mapping ran on the topic of that name before.
    OfRecreated,
}

impl ActivationStart {
    /// The offset that is asked for, of a mapping that is to begin at `configured`.
    pub fn at(self, configured: OffsetSpec) -> OffsetSpec {
        match self {
            Self::AsConfigured => configured,
            Self::OfRecreated => OffsetSpec::Earliest,
        }
    }
}

/// Decides for the partitions we own, but for those of which nothing can be learnt now; `known` holds every partition of the
/// topic.
pub fn plan(known: &[KnownCommit], owned: &[i32]) -> StartPlan {
    let owned: BTreeSet<i32> = owned.iter().copied().collect();
    let is_ours = |entry: &&KnownCommit| owned.contains(&entry.partition);
    let is_here = |entry: &KnownCommit| matches!(entry.committed, GroupCommit::Here(_));
    let is_elsewhere = |entry: &KnownCommit| entry.committed == GroupCommit::Elsewhere;
    let missing: Vec<i32> =
        known.iter().filter(|entry| !is_here(entry) && is_ours(entry)).map(|entry| entry.partition).collect();
    if !missing.is_empty() && !known.iter().any(is_here) {
        if mutant!("everybody-activates", !owned.contains(&0), false) {
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
        // A commit in the topic before was served after this one was begun: it takes nothing but the beginning away.
        return StartPlan::StartNew {
            partitions: elsewhere,
            activated: activated.unwrap_or(known.len() as i32),
        };
    }
    let Some(activated) = activated else {
        // Another program's commits without ours: the starting position holds for what it left out.
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

/// The group's commit, held against `topic`, the one that has its name now.
pub(crate) fn known_of(
    committed: &BTreeMap<i32, Option<CommittedOffset>>,
    topic: Option<TopicId>,
) -> Vec<KnownCommit> {
    let known = |(partition, offset): (&i32, &Option<CommittedOffset>)| {
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

/// The number of partitions at activation that the commits of `topic` carry.
pub(crate) fn activated(known: &[KnownCommit]) -> Option<i32> {
    known
        .iter()
        .filter_map(|entry| if let GroupCommit::Here(activated) = entry.committed { activated } else { None })
        .max()
}

/// Whether what was decided under the generation `then` still holds under `now`: in another generation the partitions may be
/// another member's, who has delivered since.
pub fn still_holds(then: i32, now: i32) -> bool {
    mutant!("beginning-of-an-earlier-generation", then == now, true)
}

/// A commit's metadata while nothing behind the offset has failed: the topic, and partitions at activation.
pub fn metadata(topic: Option<TopicId>, partitions_at_activation: i32) -> String {
    CommitMetadata { partitions_at_activation, topic, progress: None }.encode()
}

/// A commit's metadata of a partition whose leader could not be asked at activation: what to ask it for. A start at the
/// end becomes one at this time, so that nothing of what comes until it can be asked is passed over.
pub fn open_metadata(
    topic: Option<TopicId>,
    partitions_at_activation: i32,
    at: OffsetSpec,
    now: TimestampMs,
) -> String {
    let at = if at == OffsetSpec::Latest { OffsetSpec::Timestamp(now.0.max(0)) } else { at };
    with_open_start(&metadata(topic, partitions_at_activation), at.timestamp())
}

/// Reads [`open_metadata`]; `None` of a commit whose offset stands.
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
    fn h18_committed_offsets_win_and_the_first_activation_covers_the_topic() {
        assert_eq!(plan(&known(&[Here(None), Here(None)]), &[0, 1]), go_on(&[]));
        assert_eq!(plan(&known(&[Nothing, Nothing]), &[0]), activate(&[0, 1], ActivationStart::AsConfigured));
        assert_eq!(plan(&known(&[Nothing, Nothing]), &[1]), StartPlan::Wait);
        let others = known(&[Here(None), Nothing, Nothing]);
        assert_eq!(plan(&others, &[0, 1]), activate(&[1], ActivationStart::AsConfigured));
    }

    #[test]
    fn h18_a_partition_added_later_begins_at_its_beginning() {
        let topic = known(&[Here(Some(2)), Here(Some(2)), Nothing]);
        assert_eq!(plan(&topic, &[1, 2]), StartPlan::StartNew { partitions: vec![2], activated: 2 });
    }

    #[test]
    fn h11_a_lost_commit_is_an_alarm_not_a_reset_and_stops_nobody_else() {
        let topic = known(&[Here(Some(2)), Nothing, Nothing]);
        assert_eq!(plan(&topic, &[0, 1]), go_on(&[1]));
        assert_eq!(plan(&topic, &[0]), go_on(&[]), "not ours to judge");
        let new = StartPlan::StartNew { partitions: vec![2], activated: 2 };
        assert_eq!(plan(&topic, &[0, 1, 2]), new, "a new one beside it begins");
    }

    #[test]
    fn h18_what_activation_could_not_ask_is_found_by_whoever_owns_it() {
        let open = |partition, open| KnownCommit { partition, committed: Here(Some(4)), open };
        let (early, late) = (Some(OffsetSpec::Earliest), Some(OffsetSpec::Timestamp(7)));
        let topic = [open(0, None), open(1, early), open(2, late), open(3, early)];
        let find =
            |at, partitions: &[i32]| StartPlan::Find { at, partitions: partitions.to_vec(), activated: 4 };
        assert_eq!(plan(&topic, &[0, 1, 2, 3]), find(OffsetSpec::Earliest, &[1, 3]));
        assert_eq!(plan(&topic, &[0, 2]), find(OffsetSpec::Timestamp(7), &[2]));
        assert_eq!(plan(&topic, &[0]), go_on(&[]), "the others are another's");
    }

    #[test]
    fn h18_an_open_start_at_the_end_owes_what_comes_from_now_on() {
        let now = TimestampMs(1_700_000_000_123);
        let read = |at| open_start(&open_metadata(None, 4, at, now));
        assert_eq!(read(OffsetSpec::Latest), Some(OffsetSpec::Timestamp(now.0)));
        assert_eq!(read(OffsetSpec::Earliest), Some(OffsetSpec::Earliest));
        assert_eq!(read(OffsetSpec::Timestamp(5)), Some(OffsetSpec::Timestamp(5)));
        assert_eq!(open_start(&metadata(None, 4)), None);
        assert_eq!(committed_in(None, &open_metadata(None, 4, OffsetSpec::Latest, now)), Here(Some(4)));
    }

    #[test]
    fn h17_a_topic_made_anew_begins_at_its_beginning_all_at_once() {
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
    fn h17_a_commit_of_the_topic_before_that_is_served_late_costs_repeats_and_no_record() {
        let topic = known(&[Here(Some(3)), Elsewhere, Elsewhere, Nothing]);
        assert_eq!(plan(&topic, &[0]), go_on(&[]));
        assert_eq!(plan(&topic, &[1, 3]), StartPlan::StartNew { partitions: vec![1], activated: 3 });
        let by_others = known(&[Here(None), Elsewhere]);
        assert_eq!(plan(&by_others, &[1]), StartPlan::StartNew { partitions: vec![1], activated: 2 });
    }

    #[test]
    fn metadata_round_trips_and_ignores_strangers() {
        let id = |number| TopicId::of(uuid::Uuid::from_u128(number));
        assert_eq!(committed_in(id(1), &metadata(id(1), 8)), Here(Some(8)));
        assert_eq!(committed_in(id(2), &metadata(id(1), 8)), Elsewhere);
        assert_eq!(committed_in(id(2), &metadata(None, 8)), Here(Some(8)), "of a time before ids were kept");
        assert_eq!(committed_in(None, &metadata(id(1), 8)), Here(Some(8)), "of brokers without ids");
        assert_eq!(committed_in(id(1), ""), Here(None));
        assert_eq!(committed_in(id(1), "NoMetadata n=3"), Here(None));
        let offset = CommittedOffset { offset: Offset(5), leader_epoch: 0, metadata: metadata(id(1), 8) };
        let committed = BTreeMap::from([(0, Some(offset)), (1, None)]);
        assert_eq!(known_of(&committed, id(2)), known(&[Elsewhere, Nothing]));
        assert_eq!(activated(&known_of(&committed, id(1))), Some(8));
    }
}
