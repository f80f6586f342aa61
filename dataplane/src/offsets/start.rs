//! Where a partition begins, decided once and committed (H11, H18). Committed offsets win. Without any, the mapping's
//! starting position is resolved for the whole topic and committed with the number of partitions it was resolved for;
//! a partition beyond that number is new and begins at its beginning; one within it that has no commit is an alarm, never
//! a reset. Each partition waits for itself alone: one whose leader cannot be asked at activation is committed as open.

use lighterman_proto::commit_metadata::{self, CommitMetadata, with_open_start};
use lighterman_proto::ids::Offset;
use lighterman_proto::units::TimestampMs;

use crate::kafka::offsets::At;

/// What the group knows of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Partition index.
    pub partition: i32,
    /// Its committed offset and the number of partitions at activation that the commit's metadata carries, if any.
    pub committed: Option<(Offset, Option<i32>)>,
    /// The offset says nothing: its leader could not be asked at activation, and is to be asked for this.
    pub open: Option<At>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum StartPlan {
    /// Every wanted partition has a commit: go on from there.
    GoOn {
        /// But these, which had a commit once and have none now. A reset would lose or repeat everything: a person decides.
        alarmed: Vec<i32>,
    },
    /// Nobody has committed anything: resolve the starting position for these and commit all of them at once. Those whose leaders
    /// cannot be asked are committed as open.
    Activate {
        /// Every partition of the topic.
        partitions: Vec<i32>,
    },
    /// These are newer than the activation: commit their beginning.
    BeginNew {
        /// The new ones.
        partitions: Vec<i32>,
        /// Partitions at activation: stays what it was. A newer count would take a partition that another member has not
        /// begun yet for one whose commit was lost.
        activated: i32,
    },
    /// The activation could not ask where these begin: find it, and commit it.
    Find {
        /// What to ask for.
        at: At,
        /// Which ones.
        partitions: Vec<i32>,
        /// Partitions at activation.
        activated: i32,
    },
    /// The member that owns partition 0 activates; ask again.
    Wait,
}

/// Decides for the partitions we own, but for those of which nothing can be learnt now; `known` holds every partition of the
/// topic.
pub fn plan(known: &[Known], owned: &[i32]) -> StartPlan {
    let is_ours = |entry: &&Known| owned.contains(&entry.partition);
    let missing: Vec<i32> = known
        .iter()
        .filter(|entry| entry.committed.is_none() && is_ours(entry))
        .map(|entry| entry.partition)
        .collect();
    if !missing.is_empty() && known.iter().all(|entry| entry.committed.is_none()) {
        if mutant!("everybody-activates", !owned.contains(&0), false) {
            return StartPlan::Wait;
        }
        return StartPlan::Activate { partitions: known.iter().map(|entry| entry.partition).collect() };
    }
    let activated = known.iter().filter_map(|entry| entry.committed.as_ref()?.1).max();
    let Some(activated) = activated else {
        // Another program's commits without ours: the starting position holds for what it left out.
        return if missing.is_empty() {
            StartPlan::GoOn { alarmed: Vec::new() }
        } else {
            StartPlan::Activate { partitions: missing }
        };
    };
    let (alarmed, new): (Vec<i32>, Vec<i32>) =
        missing.into_iter().partition(|partition| *partition < activated);
    if !new.is_empty() {
        return StartPlan::BeginNew { partitions: new, activated };
    }
    let mut open = known.iter().filter(is_ours).filter_map(|entry| Some((entry.open?, entry.partition)));
    let Some((at, first)) = open.next() else { return StartPlan::GoOn { alarmed } };
    let alike = open.filter(|(other, _)| *other == at).map(|(_, partition)| partition);
    StartPlan::Find { at, partitions: std::iter::once(first).chain(alike).collect(), activated }
}

/// Whether what was decided under the generation `then` still holds under `now`: in another generation the partitions may be
/// another member's, who has delivered since.
pub fn still_holds(then: i32, now: i32) -> bool {
    mutant!("beginning-of-an-earlier-generation", then == now, true)
}

/// What a commit's metadata says while nothing behind the offset has failed: partitions at activation.
pub fn metadata(partitions_at_activation: i32) -> String {
    CommitMetadata { partitions_at_activation, progress: None }.encode()
}

/// What a commit's metadata says of a partition whose leader could not be asked at activation: what to ask it for. A start at the
/// end becomes one at this time, so that nothing of what comes until it can be asked is passed over.
pub fn open_metadata(partitions_at_activation: i32, at: At, now: TimestampMs) -> String {
    let at = if at == At::Latest { At::Timestamp(now.0.max(0)) } else { at };
    with_open_start(&metadata(partitions_at_activation), at.timestamp())
}

/// Reads [`open_metadata`]; `None` of a commit whose offset stands.
pub fn open_start(metadata: &str) -> Option<At> {
    At::of_timestamp(commit_metadata::open_start(metadata)?)
}

/// Reads [`metadata`], also of a partition in trouble; anything else is another program's.
pub fn partitions_at_activation(metadata: &str) -> Option<i32> {
    CommitMetadata::parse(metadata).map(|read| read.partitions_at_activation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(committed: &[Option<(i64, Option<i32>)>]) -> Vec<Known> {
        let entry = |(partition, committed): (usize, &Option<(i64, Option<i32>)>)| Known {
            partition: partition as i32,
            committed: committed.map(|(offset, n)| (Offset(offset), n)),
            open: None,
        };
        committed.iter().enumerate().map(entry).collect()
    }

    fn go_on(alarmed: &[i32]) -> StartPlan {
        StartPlan::GoOn { alarmed: alarmed.to_vec() }
    }

    #[test]
    fn h18_committed_offsets_win_and_the_first_activation_covers_the_topic() {
        assert_eq!(plan(&known(&[Some((5, None)), Some((7, None))]), &[0, 1]), go_on(&[]));
        assert_eq!(plan(&known(&[None, None]), &[0]), StartPlan::Activate { partitions: vec![0, 1] });
        assert_eq!(plan(&known(&[None, None]), &[1]), StartPlan::Wait);
        let others = known(&[Some((5, None)), None, None]);
        assert_eq!(plan(&others, &[0, 1]), StartPlan::Activate { partitions: vec![1] });
    }

    #[test]
    fn h18_a_partition_added_later_begins_at_its_beginning() {
        let topic = known(&[Some((5, Some(2))), Some((7, Some(2))), None]);
        assert_eq!(plan(&topic, &[1, 2]), StartPlan::BeginNew { partitions: vec![2], activated: 2 });
    }

    #[test]
    fn h11_a_lost_commit_is_an_alarm_not_a_reset_and_stops_nobody_else() {
        let topic = known(&[Some((5, Some(2))), None, None]);
        assert_eq!(plan(&topic, &[0, 1]), go_on(&[1]));
        assert_eq!(plan(&topic, &[0]), go_on(&[]), "not ours to judge");
        let new = StartPlan::BeginNew { partitions: vec![2], activated: 2 };
        assert_eq!(plan(&topic, &[0, 1, 2]), new, "a new one beside it begins");
    }

    #[test]
    fn h18_what_activation_could_not_ask_is_found_by_whoever_owns_it() {
        let open = |partition, open| Known { partition, committed: Some((Offset(0), Some(4))), open };
        let (early, late) = (Some(At::Earliest), Some(At::Timestamp(7)));
        let topic = [open(0, None), open(1, early), open(2, late), open(3, early)];
        let find =
            |at, partitions: &[i32]| StartPlan::Find { at, partitions: partitions.to_vec(), activated: 4 };
        assert_eq!(plan(&topic, &[0, 1, 2, 3]), find(At::Earliest, &[1, 3]));
        assert_eq!(plan(&topic, &[0, 2]), find(At::Timestamp(7), &[2]));
        assert_eq!(plan(&topic, &[0]), go_on(&[]), "the others are another's");
    }

    #[test]
    fn h18_an_open_start_at_the_end_owes_what_comes_from_now_on() {
        let now = TimestampMs(1_700_000_000_123);
        let read = |at| open_start(&open_metadata(4, at, now));
        assert_eq!(read(At::Latest), Some(At::Timestamp(now.0)));
        assert_eq!(read(At::Earliest), Some(At::Earliest));
        assert_eq!(read(At::Timestamp(5)), Some(At::Timestamp(5)));
        assert_eq!(open_start(&metadata(4)), None);
        assert_eq!(partitions_at_activation(&open_metadata(4, At::Latest, now)), Some(4));
    }

    #[test]
    fn metadata_round_trips_and_ignores_strangers() {
        assert_eq!(partitions_at_activation(&metadata(8)), Some(8));
        assert_eq!(partitions_at_activation(""), None);
        assert_eq!(partitions_at_activation("NoMetadata n=3"), None);
    }
}
