//! Where a partition begins, decided once and committed (H11, H18). Committed offsets win. Without any, the mapping's
//! starting position is resolved for the whole topic and committed with the number of partitions it was resolved for;
//! a partition beyond that number is new and begins at its beginning; one within it that has no commit is an alarm, never
//! a reset.
//!
//! An offset of a topic of the same name that was deleted since (KIP-516) says nothing of this one's log. Whoever has read that
//! topic is owed all of this one: it begins at its beginning, whatever the mapping's starting position says.

use std::collections::BTreeMap;

use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::topic_id::{TopicId, is_another};

use crate::kafka::offsets::{At, CommittedOffset};

/// What the group knows of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Partition index.
    pub partition: i32,
    /// What it has committed.
    pub committed: Committed,
}

/// What a group has committed for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
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
    GoOn,
    /// Nobody has committed anything: resolve the starting position for these and commit all of them at once.
    Activate {
        /// Every partition of the topic.
        partitions: Vec<i32>,
        /// The topic is read for the first time, or was made anew.
        begins: Beginning,
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

/// Where an activation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// As the mapping's starting position says.
    AsConfigured,
    /// At the beginning: what stands there was written while the mapping ran on the topic of that name before.
    OfRecreated,
}

impl Beginning {
    /// The offset that is asked for, of a mapping that is to begin at `configured`.
    pub fn at(self, configured: At) -> At {
        match self {
            Self::AsConfigured => configured,
            Self::OfRecreated => At::Earliest,
        }
    }
}

/// Decides for the partitions we own; `known` holds every partition of the topic.
pub fn plan(known: &[Known], owned: &[i32]) -> StartPlan {
    let is_here = |entry: &Known| matches!(entry.committed, Committed::Here(_));
    let is_elsewhere = |entry: &Known| entry.committed == Committed::Elsewhere;
    let missing = |entry: &&Known| !is_here(entry) && owned.contains(&entry.partition);
    let (elsewhere, missing): (Vec<&Known>, Vec<&Known>) =
        known.iter().filter(missing).partition(|entry| is_elsewhere(entry));
    let indices = |entries: &[&Known]| entries.iter().map(|entry| entry.partition).collect::<Vec<i32>>();
    if missing.is_empty() && elsewhere.is_empty() {
        return StartPlan::GoOn;
    }
    if !known.iter().any(is_here) {
        if mutant!("everybody-activates", !owned.contains(&0), false) {
            return StartPlan::Wait;
        }
        let recreated = known.iter().any(is_elsewhere);
        let begins = if recreated { Beginning::OfRecreated } else { Beginning::AsConfigured };
        return StartPlan::Activate {
            partitions: known.iter().map(|entry| entry.partition).collect(),
            begins,
        };
    }
    let activated = activated(known);
    if !elsewhere.is_empty() {
        // A commit in the topic before was served after this one was begun: it takes nothing but the beginning away.
        let partitions = indices(&elsewhere);
        return StartPlan::BeginNew { partitions, activated: activated.unwrap_or(known.len() as i32) };
    }
    let missing = indices(&missing);
    match activated {
        // Another program's commits without ours: the starting position holds for what it left out.
        None => StartPlan::Activate { partitions: missing, begins: Beginning::AsConfigured },
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

/// What the group has committed, held against `topic`, the one that has its name now.
pub(crate) fn known_of(
    committed: &BTreeMap<i32, Option<CommittedOffset>>,
    topic: Option<TopicId>,
) -> Vec<Known> {
    let known = |(partition, offset): (&i32, &Option<CommittedOffset>)| Known {
        partition: *partition,
        committed: offset.as_ref().map_or(Committed::Nothing, |offset| committed_in(topic, &offset.metadata)),
    };
    committed.iter().map(known).collect()
}

fn committed_in(topic: Option<TopicId>, metadata: &str) -> Committed {
    let metadata = CommitMetadata::parse(metadata);
    let of = metadata.as_ref().and_then(|metadata| metadata.topic);
    if is_another(of, topic) {
        Committed::Elsewhere
    } else {
        Committed::Here(metadata.map(|metadata| metadata.partitions_at_activation))
    }
}

/// The number of partitions at activation that the commits of `topic` carry.
pub(crate) fn activated(known: &[Known]) -> Option<i32> {
    known
        .iter()
        .filter_map(|entry| if let Committed::Here(activated) = entry.committed { activated } else { None })
        .max()
}

/// Whether what was decided under the generation `then` still holds under `now`: in another generation the partitions may be
/// another member's, who has delivered since.
pub fn still_holds(then: i32, now: i32) -> bool {
    mutant!("beginning-of-an-earlier-generation", then == now, true)
}

/// What a commit's metadata says while nothing behind the offset has failed: the topic, and partitions at activation.
pub fn metadata(topic: Option<TopicId>, partitions_at_activation: i32) -> String {
    CommitMetadata { partitions_at_activation, topic, progress: None }.encode()
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::Offset;

    use super::*;

    fn known(committed: &[Committed]) -> Vec<Known> {
        (0..)
            .zip(committed)
            .map(|(partition, committed)| Known { partition, committed: *committed })
            .collect()
    }

    use Committed::{Elsewhere, Here, Nothing};

    #[test]
    fn h18_committed_offsets_win_and_the_first_activation_covers_the_topic() {
        assert_eq!(plan(&known(&[Here(None), Here(None)]), &[0, 1]), StartPlan::GoOn);
        let (partitions, begins) = (vec![0, 1], Beginning::AsConfigured);
        assert_eq!(plan(&known(&[Nothing, Nothing]), &[0]), StartPlan::Activate { partitions, begins });
        assert_eq!(plan(&known(&[Nothing, Nothing]), &[1]), StartPlan::Wait);
    }

    #[test]
    fn h18_a_partition_added_later_begins_at_its_beginning() {
        let topic = known(&[Here(Some(2)), Here(Some(2)), Nothing]);
        assert_eq!(plan(&topic, &[1, 2]), StartPlan::BeginNew { partitions: vec![2], activated: 2 });
    }

    #[test]
    fn h11_a_lost_commit_is_an_alarm_not_a_reset() {
        let topic = known(&[Here(Some(2)), Nothing]);
        assert_eq!(plan(&topic, &[1]), StartPlan::Alarm { partitions: vec![1] });
        assert_eq!(plan(&topic, &[0]), StartPlan::GoOn, "not ours to judge");
    }

    #[test]
    fn h17_a_topic_made_anew_begins_at_its_beginning_all_at_once() {
        let topic = known(&[Elsewhere, Nothing, Elsewhere]);
        let (partitions, begins) = (vec![0, 1, 2], Beginning::OfRecreated);
        assert_eq!(plan(&topic, &[0, 1]), StartPlan::Activate { partitions, begins });
        assert_eq!(plan(&topic, &[1, 2]), StartPlan::Wait);
        assert_eq!(
            (begins.at(At::Latest), Beginning::AsConfigured.at(At::Latest)),
            (At::Earliest, At::Latest)
        );
    }

    #[test]
    fn h17_a_commit_of_the_topic_before_that_is_served_late_costs_repeats_and_no_record() {
        let topic = known(&[Here(Some(3)), Elsewhere, Elsewhere, Nothing]);
        assert_eq!(plan(&topic, &[0]), StartPlan::GoOn);
        assert_eq!(plan(&topic, &[1, 3]), StartPlan::BeginNew { partitions: vec![1], activated: 3 });
        let by_others = known(&[Here(None), Elsewhere]);
        assert_eq!(plan(&by_others, &[1]), StartPlan::BeginNew { partitions: vec![1], activated: 2 });
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
