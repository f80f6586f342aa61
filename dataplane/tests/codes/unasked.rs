//! Well-formed responses that do not match the request: of another topic, of partitions that were not requested,
//! with a partition twice or missing. None of them is accepted.

use std::collections::BTreeSet;

use kafka_protocol::messages::*;
use lighterman::kafka::cluster::TopicView;
use lighterman::kafka::error::KafkaError;
use lighterman::kafka::group::effects::GroupProtocol;
use lighterman::kafka::offsets::{
    CommitIdentity, IsolationLevel, KnownEpoch, OffsetAndMetadata, OffsetSpec, commit, epoch_ends,
    fetch_committed, fetch_committed_as_member, list_offsets,
};
use lighterman_proto::ids::Offset;

use super::{Duration, ErrorClass, TOPIC, answers, cluster, led, open, text};

/// Topics, with an offset for each of their partitions.
type NamedOffsets = &'static [(&'static str, &'static [(i32, i64)])];

/// Requested partitions of `orders`.
const ASKED: [i32; 2] = [0, 1];
/// Responses with additional entries, which are ignored.
const MORE: &[NamedOffsets] = &[
    &[("orders", &[(0, 10), (1, 11)])],
    &[("other", &[(0, 20), (1, 21)]), ("orders", &[(0, 10), (1, 11)]), ("", &[(0, 30), (1, 31)])],
    &[("orders", &[(1, 11), (0, 10), (2, 12), (-1, 13)])],
    &[("orders", &[(0, 10)]), ("other", &[(0, 20)]), ("orders", &[(1, 11)])],
];
/// Responses in which a requested partition is missing or occurs twice.
const LESS: &[NamedOffsets] = &[
    &[],
    &[("orders", &[])],
    &[("orders", &[(0, 10)])],
    &[("other", &[(0, 20), (1, 21)])],
    &[("orders", &[(0, 10)]), ("other", &[(1, 21)])],
    &[("orders", &[(0, 10), (1, 11), (1, 11)])],
    &[("orders", &[(0, 10), (1, 11)]), ("orders", &[(0, 12)])],
];

fn offsets() -> Vec<(i32, Offset)> {
    vec![(0, Offset(10)), (1, Offset(11))]
}

fn is_asked_again<T: std::fmt::Debug>(outcome: Result<T, KafkaError>, named: NamedOffsets) {
    let failed = outcome.expect_err("the response does not match the request");
    assert_eq!((failed.class(), failed.code()), (ErrorClass::Retry, None), "{named:?}: {failed}");
    assert!(failed.to_string().contains("orders-"), "the error names the partition: {failed}");
}

fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn listed(named: NamedOffsets) -> ListOffsetsResponse {
    use list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    let part = |(index, offset): &(i32, i64)| {
        ListOffsetsPartitionResponse::default().with_partition_index(*index).with_offset(*offset)
    };
    let topics = named.iter().map(|(topic, parts)| {
        ListOffsetsTopicResponse::default()
            .with_name(name(topic))
            .with_partitions(parts.iter().map(part).collect())
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}

#[tokio::test]
async fn h14_list_offsets_accepts_only_requested_partitions() {
    let ask = async |named, at| {
        let cluster = led(ApiKey::ListOffsets, 7, &listed(named)).await;
        list_offsets(&cluster, TOPIC, &ASKED, at, IsolationLevel::Committed).await
    };
    for named in MORE {
        let found =
            ask(named, OffsetSpec::Earliest).await.expect("the requested partition is in the response");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), offsets(), "{named:?}");
    }
    for named in LESS {
        is_asked_again(ask(named, OffsetSpec::Earliest).await, named);
    }
    // Every log has a start and an end.
    const NOWHERE: NamedOffsets = &[("orders", &[(0, 10), (1, -1)])];
    is_asked_again(ask(NOWHERE, OffsetSpec::Earliest).await, NOWHERE);
    is_asked_again(ask(NOWHERE, OffsetSpec::Latest).await, NOWHERE);
}

#[tokio::test]
async fn h13_leader_epoch_accepts_only_requested_partitions() {
    use offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
    let ask = async |named: NamedOffsets| {
        let part = |(index, end): &(i32, i64)| {
            EpochEndOffset::default().with_partition(*index).with_leader_epoch(3).with_end_offset(*end)
        };
        let topics = named.iter().map(|(topic, parts)| {
            OffsetForLeaderTopicResult::default()
                .with_topic(name(topic))
                .with_partitions(parts.iter().map(part).collect())
        });
        let reply = OffsetForLeaderEpochResponse::default().with_topics(topics.collect());
        let cluster = led(ApiKey::OffsetForLeaderEpoch, 4, &reply).await;
        let known = ASKED.map(|partition| KnownEpoch { partition, leader_epoch: 3 });
        epoch_ends(&cluster, TOPIC, &known).await
    };
    for named in MORE {
        let found = ask(named).await.expect("the requested partition is in the response");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), offsets(), "{named:?}");
    }
    for named in LESS {
        is_asked_again(ask(named).await, named);
    }
}

fn committed(named: NamedOffsets) -> OffsetFetchResponse {
    use offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
    let part = |(index, offset): &(i32, i64)| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(*index)
            .with_committed_offset(*offset)
            .with_error_code(if ASKED.contains(index) { 0 } else { 29 })
    };
    let topics = named.iter().map(|(topic, parts)| {
        OffsetFetchResponseTopic::default()
            .with_name(name(topic))
            .with_partitions(parts.iter().map(part).collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}

fn committed_of_groups(named: NamedOffsets) -> OffsetFetchResponse {
    use offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
    };
    let part = |(index, offset): &(i32, i64), add: i64| {
        OffsetFetchResponsePartitions::default()
            .with_partition_index(*index)
            .with_committed_offset(offset + add)
    };
    let group = |id: &str, add: i64, code: i16| {
        let topics = named.iter().map(|(topic, parts)| {
            let parts = parts.iter().map(|said| part(said, add)).collect();
            OffsetFetchResponseTopics::default().with_name(name(topic)).with_partitions(parts)
        });
        OffsetFetchResponseGroup::default()
            .with_group_id(GroupId(text(id)))
            .with_error_code(code)
            .with_topics(topics.collect())
    };
    OffsetFetchResponse::default().with_groups(vec![
        group("another", 100, 0),
        group("group", 0, 0),
        group("a third", 200, 30),
    ])
}

fn who(protocol: GroupProtocol) -> CommitIdentity {
    CommitIdentity { group: "group".to_owned(), generation: 3, member: "member".to_owned(), protocol }
}

#[tokio::test]
async fn h11_offset_fetch_accepts_only_requested_partitions() {
    let ask = async |named, protocol| match protocol {
        GroupProtocol::Classic => {
            let line = answers(ApiKey::OffsetFetch, 7, &committed(named));
            fetch_committed(&mut open(&line).await, "group", TOPIC, &ASKED).await
        }
        GroupProtocol::Consumer => {
            let line = answers(ApiKey::OffsetFetch, 9, &committed_of_groups(named));
            fetch_committed_as_member(&mut open(&line).await, &who(protocol), TOPIC, &ASKED).await
        }
    };
    const NOWHERE: NamedOffsets = &[("orders", &[(0, 10), (1, -2)])];
    for protocol in [GroupProtocol::Classic, GroupProtocol::Consumer] {
        for named in MORE {
            let found = ask(named, protocol).await.expect("the requested partition is in the response");
            let found =
                found.into_iter().map(|(partition, offset)| (partition, offset.expect("some").offset));
            assert_eq!(found.collect::<Vec<_>>(), offsets(), "{protocol:?}: {named:?}");
        }
        for named in LESS {
            is_asked_again(ask(named, protocol).await, named);
        }
        is_asked_again(ask(NOWHERE, protocol).await, NOWHERE);
    }
}

#[tokio::test]
async fn com_1_offset_commit_accepts_only_requested_partitions() {
    use offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
    let offset = OffsetAndMetadata { offset: Offset(7), leader_epoch: -1, metadata: String::new() };
    let offsets = ASKED.map(|partition| (partition, offset.clone())).into();
    let ask = async |named: NamedOffsets, protocol, version| {
        let part = |(index, _): &(i32, i64)| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(*index)
                .with_error_code(if ASKED.contains(index) { 0 } else { 25 })
        };
        let topics = named.iter().map(|(topic, parts)| {
            OffsetCommitResponseTopic::default()
                .with_name(name(topic))
                .with_partitions(parts.iter().map(part).collect())
        });
        let reply = OffsetCommitResponse::default().with_topics(topics.collect());
        let line = answers(ApiKey::OffsetCommit, version, &reply);
        commit(&mut open(&line).await, &who(protocol), TOPIC, &offsets).await.expect("answered")
    };
    for (protocol, version) in [(GroupProtocol::Classic, 8), (GroupProtocol::Consumer, 9)] {
        for named in MORE {
            let codes = ask(named, protocol, version).await;
            assert!(
                codes.values().all(Option::is_none),
                "only requested partitions may report errors: {named:?}: {codes:?}"
            );
        }
        for named in MORE.iter().chain(LESS) {
            let codes = ask(named, protocol, version).await;
            let of: BTreeSet<i32> = codes.keys().copied().collect();
            assert_eq!(of, BTreeSet::from(ASKED), "{named:?}");
            for (partition, code) in codes {
                let ours = named.iter().filter(|(topic, _)| *topic == TOPIC);
                let is_there = ours.flat_map(|(_, parts)| *parts).any(|(index, _)| *index == partition);
                assert_eq!(code.is_none(), is_there, "silence is no commit: {named:?}: {partition}");
            }
        }
    }
}

fn described(named: &[(&'static str, &'static [i32])]) -> MetadataResponse {
    use metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
    let part = |index: &i32| {
        MetadataResponsePartition::default().with_partition_index(*index).with_leader_id(1.into())
    };
    let topics = named.iter().map(|(topic, parts)| {
        MetadataResponseTopic::default()
            .with_name(Some(name(topic)))
            .with_partitions(parts.iter().map(part).collect())
    });
    let broker =
        MetadataResponseBroker::default().with_node_id(1.into()).with_host(text("host")).with_port(9092);
    MetadataResponse::default().with_brokers(vec![broker]).with_topics(topics.collect())
}

async fn view(reply: &MetadataResponse) -> Result<TopicView, KafkaError> {
    cluster(answers(ApiKey::Metadata, 9, reply)).topic(TOPIC, Duration::ZERO).await
}

#[tokio::test]
async fn h18_metadata_with_duplicate_or_missing_partitions_is_rejected() {
    let good: &[&[(&str, &[i32])]] = &[
        &[("orders", &[1, 0])],
        &[("other", &[0, 1, 2]), ("orders", &[0, 1]), ("", &[0])],
        &[("other", &[0]), ("other", &[0, 0]), ("orders", &[0, 1])],
    ];
    for named in good {
        let view = view(&described(named)).await.expect("the requested partition is in the response");
        let partitions: Vec<i32> = view.partitions.iter().map(|partition| partition.partition).collect();
        assert_eq!(partitions, [0, 1], "{named:?}");
    }
    // Counting these partitions would leave one without an owner, or look for one that does not exist.
    let bad: &[&[(&str, &[i32])]] = &[
        &[("orders", &[0, 1]), ("orders", &[0])],
        &[("orders", &[0, 1, 1])],
        &[("orders", &[0, 2])],
        &[("orders", &[1])],
        &[("orders", &[-1, 0])],
    ];
    for named in bad {
        let failed = view(&described(named)).await.expect_err("the metadata is rejected");
        assert_eq!((failed.class(), failed.code()), (ErrorClass::Retry, None), "{named:?}: {failed}");
        assert!(failed.to_string().contains(TOPIC), "{failed}");
    }
    let only_others = view(&described(&[("other", &[0, 1])])).await;
    assert!(matches!(only_others, Err(KafkaError::NoTopic { .. })), "{only_others:?}");
}

#[tokio::test]
async fn metadata_with_two_broker_addresses_is_rejected() {
    use metadata_response::MetadataResponseBroker;
    let with = async |hosts: [&'static str; 2]| {
        let broker = |host: &'static str| {
            MetadataResponseBroker::default().with_node_id(1.into()).with_host(text(host)).with_port(9092)
        };
        view(&described(&[("orders", &[0, 1])]).with_brokers(hosts.map(broker).to_vec())).await
    };
    assert!(with(["host", "host"]).await.is_ok());
    let failed = with(["host", "another"]).await.expect_err("the leader is ambiguous");
    assert_eq!(failed.class(), ErrorClass::Retry, "{failed}");
}
