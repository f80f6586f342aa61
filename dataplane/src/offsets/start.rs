//! Where a partition begins, decided once and committed (H11, H18). Committed offsets win. Without any, the mapping's
//! starting position is resolved for the whole topic and committed with the number of partitions it was resolved for;
//! a partition beyond that number is new and begins at its beginning; one within it that has no commit is an alarm, never
//! a reset.

use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::ids::Offset;

/// What the group knows of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Partition index.
    pub partition: i32,
    /// Its committed offset and the number of partitions at activation that the commit's metadata carries, if any.
    pub committed: Option<(Offset, Option<i32>)>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum StartPlan {
    /// Every wanted partition has a commit: go on from there.
    GoOn,
    /// Nobody has committed anything: resolve the starting position for these and commit all of them at once.
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
    /// The member that owns partition 0 activates; ask again.
    Wait,
    /// These had a commit once and have none now. A reset would lose or repeat everything: a person decides.
    Alarm {
        /// The ones without.
        partitions: Vec<i32>,
    },
}

/// Decides for the partitions we own; `known` holds every partition of the topic.
pub fn plan(known: &[Known], owned: &[i32]) -> StartPlan {
    let missing: Vec<i32> = known
        .iter()
        .filter(|entry| entry.committed.is_none() && owned.contains(&entry.partition))
        .map(|entry| entry.partition)
        .collect();
    if missing.is_empty() {
        return StartPlan::GoOn;
    }
    if known.iter().all(|entry| entry.committed.is_none()) {
        if mutant!("everybody-activates", !owned.contains(&0), false) {
            return StartPlan::Wait;
        }
        return StartPlan::Activate { partitions: known.iter().map(|entry| entry.partition).collect() };
    }
    let activated = known.iter().filter_map(|entry| entry.committed.as_ref()?.1).max();
    match activated {
        // Another program's commits without ours: the starting position holds for what it left out.
        None => StartPlan::Activate { partitions: missing },
        Some(activated) => {
            let (inside, new): (Vec<i32>, Vec<i32>) =
                missing.into_iter().partition(|partition| *partition < activated);
            if inside.is_empty() {
                StartPlan::BeginNew { partitions: new, activated }
            } else {
                StartPlan::Alarm { partitions: inside }
            }
        }
    }
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
        };
        committed.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn h18_committed_offsets_win_and_the_first_activation_covers_the_topic() {
        assert_eq!(plan(&known(&[Some((5, None)), Some((7, None))]), &[0, 1]), StartPlan::GoOn);
        assert_eq!(plan(&known(&[None, None]), &[0]), StartPlan::Activate { partitions: vec![0, 1] });
        assert_eq!(plan(&known(&[None, None]), &[1]), StartPlan::Wait);
    }

    #[test]
    fn h18_a_partition_added_later_begins_at_its_beginning() {
        let topic = known(&[Some((5, Some(2))), Some((7, Some(2))), None]);
        assert_eq!(plan(&topic, &[1, 2]), StartPlan::BeginNew { partitions: vec![2], activated: 2 });
    }

    #[test]
    fn h11_a_lost_commit_is_an_alarm_not_a_reset() {
        let topic = known(&[Some((5, Some(2))), None]);
        assert_eq!(plan(&topic, &[1]), StartPlan::Alarm { partitions: vec![1] });
        assert_eq!(plan(&topic, &[0]), StartPlan::GoOn, "not ours to judge");
    }

    #[test]
    fn metadata_round_trips_and_ignores_strangers() {
        assert_eq!(partitions_at_activation(&metadata(8)), Some(8));
        assert_eq!(partitions_at_activation(""), None);
        assert_eq!(partitions_at_activation("NoMetadata n=3"), None);
    }
}
