//! Fuzz subject: subscriptions of group members, and assignments from the group leader, of arbitrary bytes.
//! Nothing panics, and memory is proportional to the input. A plan assigns each existing partition to at most one
//! member, which subscribes to its topic.

use std::collections::{BTreeMap, BTreeSet};

use allocation_counter::measure;
use bytes::Bytes;
use lighterman::kafka::group::assignor::{MemberSubscription, assign};
use lighterman::kafka::group::wire::{assignment, read_assignment, read_subscription, subscription};
use lighterman_proto::ids::TopicPartition;

const TOPIC: &str = "orders";
const PARTITIONS: i32 = 5;
/// Separator between the subscriptions of two members.
const SEPARATOR: &[u8] = b"\xff\xff\xff\xff";
const MEMBERS_MAX: usize = 8;
const BYTES_MAX: u64 = 16 * 1024;
const BYTES_A_BYTE_MAX: u64 = 256;

/// Reads `bytes` as an assignment, and as a list of subscriptions with separators; returns how many were valid.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let mut read = 0;
    let cost = measure(|| read = usize::from(assigned(bytes)) + subscribed(bytes));
    let cost_max = BYTES_MAX + BYTES_A_BYTE_MAX * bytes.len() as u64;
    assert!(cost.bytes_max <= cost_max, "{} bytes for {}", cost.bytes_max, bytes.len());
    read
}

fn assigned(bytes: &[u8]) -> bool {
    let Ok(partitions) = read_assignment(TOPIC, &Bytes::copy_from_slice(bytes)) else { return false };
    assert!(partitions.is_sorted() && partitions.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(partitions.iter().all(|partition| *partition >= 0), "there is no such partition");
    let named: Vec<_> = partitions.iter().map(|index| TopicPartition::new(TOPIC, *index)).collect();
    assert_eq!(read_assignment(TOPIC, &assignment(&named)), Ok(partitions), "it says the same again");
    true
}

fn subscribed(bytes: &[u8]) -> usize {
    let members: Vec<MemberSubscription> = split(bytes)
        .into_iter()
        .take(MEMBERS_MAX)
        .enumerate()
        .filter_map(|(index, bytes)| {
            read_subscription(&index.to_string(), &Bytes::copy_from_slice(bytes)).ok()
        })
        .collect();
    for member in members.iter().filter(|member| member.topics == [TOPIC]) {
        let owned: Vec<i32> =
            member.owned.iter().filter(|owned| &*owned.topic == TOPIC).map(|owned| owned.partition).collect();
        let again = read_subscription(&member.id, &subscription(TOPIC, &owned, member.generation));
        let again = again.expect("what was read can be written");
        assert_eq!((again.owned.len(), again.generation), (owned.len(), member.generation));
    }
    check_plan(&members);
    members.len()
}

fn split(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut parts = Vec::new();
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        parts.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

fn check_plan(members: &[MemberSubscription]) {
    let topics: BTreeSet<&String> = members.iter().flat_map(|member| &member.topics).collect();
    let counts: BTreeMap<String, i32> = topics.into_iter().map(|topic| (topic.clone(), PARTITIONS)).collect();
    let plan = assign(members, &counts);
    let mut given = BTreeSet::new();
    for (id, partitions) in &plan {
        let member = members.iter().find(|member| member.id == *id).expect("a member");
        for partition in partitions {
            assert!(member.topics.iter().any(|topic| **topic == *partition.topic), "it wants the topic");
            assert!((0..PARTITIONS).contains(&partition.partition), "{partition:?} exists");
            assert!(given.insert(partition), "{partition:?} has one owner");
        }
    }
}
