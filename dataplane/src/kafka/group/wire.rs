//! Embedded consumer protocol: subscription and assignment, each after a two-byte version (KIP-429, KIP-792).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as OwnedTopic;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use lighterman_proto::ids::TopicPartition;

use super::assignor::MemberSubscription;
use crate::kafka::schema;

const SUBSCRIPTION_VERSION: i16 = 3;
const ASSIGNMENT_VERSION: i16 = 1;

/// Encodes this member's subscription: one topic, the partitions that it owns, and the generation of that ownership.
pub fn subscription(topic: &str, owned: &[i32], generation: i32) -> Bytes {
    let mut wire = ConsumerProtocolSubscription::default()
        .with_topics(vec![StrBytes::from_string(topic.to_owned())])
        .with_generation_id(generation);
    if !owned.is_empty() {
        let owned = OwnedTopic::default().with_topic(name(topic)).with_partitions(owned.to_vec());
        wire = wire.with_owned_partitions(vec![owned]);
    }
    versioned(&wire, SUBSCRIPTION_VERSION)
}

/// Decodes a member's subscription, as the group's leader receives it.
pub fn read_subscription(member: &str, metadata: &Bytes) -> Result<MemberSubscription, String> {
    let mut bytes = metadata.clone();
    let version = read_version(&mut bytes)?.clamp(0, SUBSCRIPTION_VERSION);
    schema::check_subscription(version, &bytes)?;
    let wire =
        ConsumerProtocolSubscription::decode(&mut bytes, version).map_err(|error| error.to_string())?;
    let owned =
        wire.owned_partitions.iter().flat_map(|topic| spread(topic.topic.as_str(), &topic.partitions));
    Ok(MemberSubscription {
        id: member.to_owned(),
        topics: wire.topics.iter().map(ToString::to_string).collect(),
        owned: owned.collect(),
        generation: if version >= 2 { wire.generation_id } else { -1 },
    })
}

/// Encodes a member's assignment, as the leader sends it.
pub fn assignment(partitions: &[TopicPartition]) -> Bytes {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        by_topic.entry(&partition.topic).or_default().push(partition.partition);
    }
    let topics = by_topic
        .into_iter()
        .map(|(topic, partitions)| {
            AssignedTopic::default().with_topic(name(topic)).with_partitions(partitions)
        })
        .collect();
    versioned(&ConsumerProtocolAssignment::default().with_assigned_partitions(topics), ASSIGNMENT_VERSION)
}

/// Decodes this member's assignment and returns its partitions of `topic`. An empty assignment has no partitions.
pub fn read_assignment(topic: &str, assignment: &Bytes) -> Result<Vec<i32>, String> {
    if assignment.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = assignment.clone();
    let version = read_version(&mut bytes)?.clamp(0, SUBSCRIPTION_VERSION);
    schema::check_assignment(version, &bytes)?;
    let wire = ConsumerProtocolAssignment::decode(&mut bytes, version).map_err(|error| error.to_string())?;
    let ours = wire.assigned_partitions.into_iter().filter(|assigned| assigned.topic.as_str() == topic);
    let mut partitions: Vec<i32> = ours.flat_map(|assigned| assigned.partitions).collect();
    partitions.sort_unstable();
    partitions.dedup();
    match partitions.first() {
        Some(first @ ..0) => Err(format!("it assigns partition {first}")),
        _ => Ok(partitions),
    }
}

fn read_version(bytes: &mut Bytes) -> Result<i16, String> {
    bytes.try_get_i16().map_err(|_| "it is empty".to_owned())
}

fn spread(topic: &str, partitions: &[i32]) -> Vec<TopicPartition> {
    let topic: Arc<str> = Arc::from(topic);
    partitions
        .iter()
        .map(|partition| TopicPartition { topic: Arc::clone(&topic), partition: *partition })
        .collect()
}

fn versioned(message: &impl Encodable, version: i16) -> Bytes {
    let mut into = BytesMut::new();
    into.put_i16(version);
    // The structures are built here, for a version that they support: encoding cannot fail.
    let _ = message.encode(&mut into, version);
    into.freeze()
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscription_and_assignment_round_trip() {
        let member = read_subscription("m", &subscription("t", &[2, 0], 9)).expect("reads");
        assert_eq!((member.generation, member.owned.len(), &*member.topics[0]), (9, 2, "t"));
        let given = [TopicPartition::new("t", 1), TopicPartition::new("other", 4)];
        assert_eq!(read_assignment("t", &assignment(&given)), Ok(vec![1]));
        assert_eq!(read_assignment("t", &Bytes::new()), Ok(vec![]));
        assert!(read_subscription("m", &Bytes::from_static(&[0])).is_err());
    }
}
