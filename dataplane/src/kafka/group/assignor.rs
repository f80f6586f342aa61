//! Partition assignment by the group leader: sticky and cooperative (KIP-429), compatible with Java's
//! `cooperative-sticky`. A partition that moves is first revoked from its owner. It is assigned again only in the
//! next generation, after its owner has released it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lighterman_proto::ids::TopicPartition;

/// Protocol name on the wire.
pub const PROTOCOL: &str = "cooperative-sticky";

/// Member as described by its subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSubscription {
    /// Member id.
    pub id: String,
    /// Subscribed topics.
    pub topics: Vec<String>,
    /// Partitions that it claims to own.
    pub owned: Vec<TopicPartition>,
    /// Generation in which it owned them; −1 if it names none.
    pub generation: i32,
}

/// Assigned partitions of each member, by member id.
pub type GroupAssignment = BTreeMap<String, Vec<TopicPartition>>;

/// Assigns the partitions of `partition_counts` to members that subscribe to their topics. A partition that moves is
/// assigned to nobody until its owner has released it.
pub fn assign(members: &[MemberSubscription], partition_counts: &BTreeMap<String, i32>) -> GroupAssignment {
    let owners = owners(members, partition_counts);
    let mut ideal = keep_owned(members, &owners);
    give_the_rest(members, partition_counts, &mut ideal);
    balance(members, &mut ideal);
    withhold_moves(ideal, &owners)
}

/// Claim to one partition: the highest generation that claims it, and its member unless two members claim it in that
/// generation.
struct OwnershipClaim<'m> {
    generation: i32,
    member: Option<&'m MemberSubscription>,
}

impl OwnershipClaim<'_> {
    fn is_older_than(&self, member: &MemberSubscription) -> bool {
        mutant!("generation-not-compared", member.generation > self.generation, self.member.is_none())
    }
}

/// Returns the owner of each partition: the claim of the highest generation wins, and two equal claims cancel each
/// other.
fn owners(
    members: &[MemberSubscription],
    counts: &BTreeMap<String, i32>,
) -> BTreeMap<TopicPartition, String> {
    let mut claims: BTreeMap<&TopicPartition, OwnershipClaim<'_>> = BTreeMap::new();
    for member in members {
        for partition in &member.owned {
            let exists =
                counts.get(&*partition.topic).is_some_and(|count| (0..*count).contains(&partition.partition));
            if !exists || !member.topics.iter().any(|topic| **topic == *partition.topic) {
                continue;
            }
            let claim =
                claims.entry(partition).or_insert(OwnershipClaim { generation: i32::MIN, member: None });
            if claim.is_older_than(member) {
                *claim = OwnershipClaim { generation: member.generation, member: Some(member) };
            } else if member.generation == claim.generation {
                claim.member = None;
            }
        }
    }
    claims
        .into_iter()
        .filter_map(|(partition, claim)| Some((partition.clone(), claim.member?.id.clone())))
        .collect()
}

fn keep_owned(
    members: &[MemberSubscription],
    owners: &BTreeMap<TopicPartition, String>,
) -> BTreeMap<String, BTreeSet<TopicPartition>> {
    let mut ideal: BTreeMap<_, _> =
        members.iter().map(|member| (member.id.clone(), BTreeSet::new())).collect();
    for (partition, owner) in owners {
        if let Some(set) = ideal.get_mut(owner) {
            set.insert(partition.clone());
        }
    }
    ideal
}

fn give_the_rest(
    members: &[MemberSubscription],
    counts: &BTreeMap<String, i32>,
    ideal: &mut BTreeMap<String, BTreeSet<TopicPartition>>,
) {
    let taken: BTreeSet<TopicPartition> = ideal.values().flatten().cloned().collect();
    for (topic, count) in counts {
        let name: Arc<str> = Arc::from(topic.as_str());
        let takers: Vec<&str> = members
            .iter()
            .filter(|member| member.topics.contains(topic))
            .map(|member| member.id.as_str())
            .collect();
        for index in 0..*count {
            let partition = TopicPartition { topic: Arc::clone(&name), partition: index };
            if taken.contains(&partition) {
                continue;
            }
            let lightest = takers.iter().min_by_key(|id| (ideal.get(**id).map_or(0, BTreeSet::len), **id));
            if let Some(set) = lightest.and_then(|id| ideal.get_mut(*id)) {
                set.insert(partition);
            }
        }
    }
}

/// Moves one partition at a time from the most loaded member to the least loaded that can take it, until no move
/// helps.
fn balance(members: &[MemberSubscription], ideal: &mut BTreeMap<String, BTreeSet<TopicPartition>>) {
    let wants: BTreeMap<&str, &MemberSubscription> =
        members.iter().map(|member| (member.id.as_str(), member)).collect();
    loop {
        let mut by_load: Vec<(usize, String)> =
            ideal.iter().map(|(id, set)| (set.len(), id.clone())).collect();
        by_load.sort();
        let step = by_load.iter().rev().find_map(|(heavy_load, heavy)| {
            by_load.iter().take_while(|(light_load, _)| light_load + 1 < *heavy_load).find_map(
                |(_, light)| {
                    let takes = |partition: &&TopicPartition| {
                        wants.get(light.as_str()).is_some_and(|member| {
                            member.topics.iter().any(|topic| **topic == *partition.topic)
                        })
                    };
                    let moved = ideal.get(heavy)?.iter().rev().find(takes)?.clone();
                    Some((heavy.clone(), light.clone(), moved))
                },
            )
        });
        let Some((heavy, light, moved)) = step else { return };
        if let Some(set) = ideal.get_mut(&heavy) {
            set.remove(&moved);
        }
        if let Some(set) = ideal.get_mut(&light) {
            set.insert(moved);
        }
    }
}

fn withhold_moves(
    ideal: BTreeMap<String, BTreeSet<TopicPartition>>,
    owners: &BTreeMap<TopicPartition, String>,
) -> GroupAssignment {
    ideal
        .into_iter()
        .map(|(id, set)| {
            let given = set.into_iter().filter(|partition| may_start(&id, owners.get(partition))).collect();
            (id, given)
        })
        .collect()
}

/// Returns true if member `id` may start a partition of `owner`: nobody else still runs it.
fn may_start(id: &str, owner: Option<&String>) -> bool {
    mutant!(
        "moves-are-not-withheld",
        owner.is_none_or(|owner| owner == id),
        !id.is_empty() || owner.is_none()
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(id: usize, topics: &[&str]) -> MemberSubscription {
        MemberSubscription {
            id: format!("m{id}"),
            topics: topics.iter().map(ToString::to_string).collect(),
            owned: Vec::new(),
            generation: -1,
        }
    }

    /// Lets all members take their assignment and rejoin until nothing moves. Returns the number of generations it
    /// took.
    fn move_excess(
        members: &mut [MemberSubscription],
        counts: &BTreeMap<String, i32>,
        generation: &mut i32,
    ) -> usize {
        for round in 1..5 {
            let plan = assign(members, counts);
            *generation += 1;
            let mut changed = false;
            for member in members.iter_mut() {
                let given = plan.get(&member.id).cloned().unwrap_or_default();
                changed |= given != member.owned;
                member.owned = given;
                member.generation = *generation;
            }
            if !changed {
                return round;
            }
        }
        panic!("does not settle");
    }

    proptest! {
        #[test]
        fn own_1_assignment_is_balanced_without_double_ownership(
            partitions in 1i32..40,
            steps in prop::collection::vec((1usize..7, 0usize..3), 1..6),
        ) {
            let counts = BTreeMap::from([("t".to_owned(), partitions)]);
            let mut members: Vec<MemberSubscription> = Vec::new();
            let (mut generation, mut next) = (0, 0);
            for (add, remove) in steps {
                for _ in 0..remove.min(members.len()) {
                    members.remove(0);
                }
                for _ in 0..add {
                    members.push(member(next, &["t"]));
                    next += 1;
                }
                let before: BTreeMap<TopicPartition, String> = members
                    .iter()
                    .flat_map(|member| member.owned.iter().map(|partition| (partition.clone(), member.id.clone())))
                    .collect();
                for (id, given) in assign(&members, &counts) {
                    for partition in given {
                        let owner = before.get(&partition);
                        prop_assert!(owner.is_none_or(|owner| *owner == id), "{} is taken before {:?} let go", partition, owner);
                    }
                }
                move_excess(&mut members, &counts, &mut generation);
                let loads: Vec<usize> = members.iter().map(|member| member.owned.len()).collect();
                prop_assert!(loads.iter().max().unwrap_or(&0) - loads.iter().min().unwrap_or(&0) <= 1);
                let all: BTreeSet<_> = members.iter().flat_map(|member| member.owned.clone()).collect();
                prop_assert_eq!(all.len() as i32, partitions);
                prop_assert_eq!(loads.iter().sum::<usize>() as i32, partitions);
            }
        }
    }

    #[test]
    fn claim_of_older_generation_is_ignored() {
        let t0 = TopicPartition::new("t", 0);
        let zombie = MemberSubscription { owned: vec![t0.clone()], generation: 3, ..member(0, &["t"]) };
        let owner = MemberSubscription { owned: vec![t0.clone()], generation: 7, ..member(1, &["t"]) };
        let plan = assign(&[zombie, owner], &BTreeMap::from([("t".to_owned(), 1)]));
        assert_eq!(plan["m1"], [t0]);
    }

    #[test]
    fn members_get_only_subscribed_topics() {
        let plan = assign(
            &[member(0, &["a"]), member(1, &["b"]), member(2, &["a", "b"])],
            &BTreeMap::from([("a".to_owned(), 4), ("b".to_owned(), 2)]),
        );
        assert!(plan["m0"].iter().all(|partition| &*partition.topic == "a"));
        assert!(plan["m1"].iter().all(|partition| &*partition.topic == "b"));
        assert_eq!(plan.values().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    }
}
