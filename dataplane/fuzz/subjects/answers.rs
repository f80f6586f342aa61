//! Fuzz subject: the client on decodable responses with arbitrary contents. A result matches a naive reading of
//! the response for the requested partitions. No error is read as "nothing is committed" (H11), and no other
//! partition's response is used.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use lighterman::kafka::cluster::KafkaCluster;
use lighterman::kafka::connection::BrokerConnection;
use lighterman::kafka::error::KafkaError;
use lighterman::kafka::fetch::session::FetchSession;
use lighterman::kafka::fetch::wire;
use lighterman::kafka::group::effects::GroupProtocol;
use lighterman::kafka::offsets::{
    CommitIdentity, IsolationLevel, KnownEpoch, OffsetAndMetadata, OffsetSpec, commit, epoch_ends,
    fetch_committed, fetch_committed_as_member, list_offsets,
};
use lighterman::kafka::transport::BrokerAddress;
use lighterman_proto::ids::Offset;
use lighterman_proto::topic_id::TopicId;

use super::line::{Line, block_on, frame};

/// Number of response readers.
pub(crate) const READERS: u8 = 10;
const TOPIC: &str = "orders";
const ASKED: [i32; 2] = [0, 1];
const DEADLINE: Duration = Duration::from_secs(5);

/// Selects the reader by the first byte and the version by the second; the rest is the body. Returns 1 if the client
/// returned a result.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let [reader, version, body @ ..] = bytes else { return 0 };
    let among = |min: i16, max: i16| min + i16::from(*version) % (max - min + 1);
    usize::from(match reader % READERS {
        0 => committed(among(1, 7), body),
        1 => commits(among(2, 8), body),
        2 => topic(among(4, 9), body),
        3 => coordinator(among(0, 3), body),
        5 => committed_to_a_member(body),
        6 => listed(among(1, 7), body),
        7 => epochs(among(2, 4), body),
        8 => topic(among(10, 12), body),
        9 => fetched(13, body),
        _ => fetched(among(10, 12), body),
    })
}

fn line(api: ApiKey, version: i16, body: &[u8]) -> Line {
    Line::speaking(api, version, frame(2, api, version, body), usize::MAX)
}

async fn open(line: &Line) -> BrokerConnection {
    let address = BrokerAddress::new("broker", 9092);
    BrokerConnection::open(line, &address, "fuzz", DEADLINE).await.expect("its versions are good")
}

fn decoded<B: Decodable>(version: i16, body: &[u8]) -> B {
    B::decode(&mut Bytes::copy_from_slice(body), version).expect("it was read once")
}

fn member(protocol: GroupProtocol) -> CommitIdentity {
    CommitIdentity { group: "group".to_owned(), generation: 3, member: "member".to_owned(), protocol }
}

/// One partition's part of a response, in either layout: partition, error code, offset, metadata.
type Said = (i32, i16, i64, Option<String>);
type Found = BTreeMap<i32, Option<OffsetAndMetadata>>;

fn committed(version: i16, body: &[u8]) -> bool {
    let line = line(ApiKey::OffsetFetch, version, body);
    let found = block_on(async { fetch_committed(&mut open(&line).await, "group", TOPIC, &ASKED).await });
    let Ok(found) = found else { return false };
    let reply: OffsetFetchResponse = decoded(version, body);
    assert_eq!(reply.error_code, 0, "an error is no answer");
    let ours = reply.topics.iter().filter(|topic| &**topic.name == TOPIC);
    let said = ours.flat_map(|topic| &topic.partitions).map(|part| {
        let metadata = part.metadata.as_ref().map(ToString::to_string);
        (part.partition_index, part.error_code, part.committed_offset, metadata)
    });
    check_committed(&found, &said.collect::<Vec<_>>());
    true
}

fn committed_to_a_member(body: &[u8]) -> bool {
    let line = line(ApiKey::OffsetFetch, 9, body);
    let who = member(GroupProtocol::Consumer);
    let found =
        block_on(async { fetch_committed_as_member(&mut open(&line).await, &who, TOPIC, &ASKED).await });
    let Ok(found) = found else { return false };
    let reply: OffsetFetchResponse = decoded(9, body);
    let groups: Vec<_> = reply.groups.iter().filter(|group| **group.group_id == who.group).collect();
    assert!(groups.iter().all(|group| group.error_code == 0), "an error is no answer");
    let ours = groups.iter().flat_map(|group| &group.topics).filter(|topic| &**topic.name == TOPIC);
    let said = ours.flat_map(|topic| &topic.partitions).map(|part| {
        let metadata = part.metadata.as_ref().map(ToString::to_string);
        (part.partition_index, part.error_code, part.committed_offset, metadata)
    });
    check_committed(&found, &said.collect::<Vec<_>>());
    true
}

fn check_committed(found: &Found, ours: &[Said]) {
    assert!(found.keys().eq(&ASKED), "what was asked for, and nothing else");
    for partition in ASKED {
        let said: Vec<_> = ours.iter().filter(|(index, ..)| *index == partition).collect();
        assert_eq!(said.len(), 1, "one answer for what was asked");
        let (_, code, offset, metadata) = said[0];
        assert_eq!(*code, 0, "no partition's error is passed over");
        match &found[&partition] {
            None => assert_eq!(*offset, -1, "only -1 says that there is none"),
            Some(committed) => {
                assert_eq!(committed.offset, Offset(*offset));
                assert!(committed.offset.0 >= 0);
                assert_eq!(committed.metadata, metadata.clone().unwrap_or_default());
            }
        }
    }
}

fn commits(version: i16, body: &[u8]) -> bool {
    let line = line(ApiKey::OffsetCommit, version, body);
    let who = member(GroupProtocol::Classic);
    let offset = OffsetAndMetadata { offset: Offset(7), leader_epoch: -1, metadata: String::new() };
    let offsets = ASKED.map(|partition| (partition, offset.clone())).into();
    let done = block_on(async { commit(&mut open(&line).await, &who, TOPIC, &offsets).await });
    let Ok(done) = done else { return false };
    let reply: OffsetCommitResponse = decoded(version, body);
    let ours: Vec<_> = reply
        .topics
        .iter()
        .filter(|topic| &**topic.name == TOPIC)
        .flat_map(|topic| &topic.partitions)
        .collect();
    assert!(done.keys().eq(&ASKED), "what was asked for, and nothing else");
    for partition in ASKED {
        let said: Vec<_> = ours.iter().filter(|answer| answer.partition_index == partition).collect();
        let stands = !said.is_empty() && said.iter().all(|answer| answer.error_code == 0);
        assert_eq!(done[&partition].is_none(), stands, "only what was said to be committed is");
    }
    true
}

fn cluster(line: Line) -> KafkaCluster {
    KafkaCluster::new(vec![BrokerAddress::new("broker", 9092)], Arc::new(line), "fuzz")
}

fn topic(version: i16, body: &[u8]) -> bool {
    let cluster = cluster(line(ApiKey::Metadata, version, body));
    let Ok(view) = block_on(cluster.topic(TOPIC, Duration::ZERO)) else { return false };
    let reply: MetadataResponse = decoded(version, body);
    let brokers: BTreeMap<i32, BrokerAddress> = reply
        .brokers
        .iter()
        .map(|broker| (*broker.node_id, BrokerAddress::new(broker.host.as_str(), broker.port as u16)))
        .collect();
    assert!(reply.brokers.iter().all(|broker| u16::try_from(broker.port).is_ok()));
    let named = |topic: &&metadata_response::MetadataResponseTopic| {
        topic.name.as_ref().is_some_and(|name| &***name == TOPIC)
    };
    let said: Vec<_> = reply.topics.iter().filter(named).collect();
    assert_eq!(said.len(), 1, "the topic is in it, once");
    assert_eq!((said[0].error_code, said[0].partitions.len()), (0, view.partitions.len()));
    assert_eq!(view.id, TopicId::of(said[0].topic_id));
    let indices = view.partitions.iter().map(|partition| partition.partition);
    assert!(indices.eq(0..view.partitions.len() as i32), "each of them, once");
    for partition in view.partitions.iter() {
        if let Some(leader) = cluster.leader(TOPIC, partition.partition) {
            assert_eq!(brokers.get(&leader.broker.0), Some(&leader.address));
        }
    }
    true
}

/// Creates a cluster whose partitions are led by one broker, which responds with `body`.
fn led(api: ApiKey, version: i16, body: &[u8]) -> KafkaCluster {
    use metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
    let part =
        |index| MetadataResponsePartition::default().with_partition_index(index).with_leader_id(1.into());
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_static_str(TOPIC))))
        .with_partitions(ASKED.map(part).to_vec());
    let broker = MetadataResponseBroker::default()
        .with_node_id(1.into())
        .with_host(StrBytes::from_static_str("host"))
        .with_port(9092);
    let metadata = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![topic]);
    let mut described = BytesMut::new();
    metadata.encode(&mut described, 9).expect("encodes");
    let cluster = cluster(line(ApiKey::Metadata, 9, &described).then(line(api, version, body)));
    block_on(cluster.topic(TOPIC, Duration::ZERO)).expect("metadata");
    cluster
}

fn listed(version: i16, body: &[u8]) -> bool {
    let cluster = led(ApiKey::ListOffsets, version, body);
    let found =
        block_on(list_offsets(&cluster, TOPIC, &ASKED, OffsetSpec::Earliest, IsolationLevel::Committed));
    let Ok(found) = found else { return false };
    let reply: ListOffsetsResponse = decoded(version, body);
    let ours = reply.topics.iter().filter(|topic| &**topic.name == TOPIC);
    let said = ours.flat_map(|topic| &topic.partitions);
    let said: Vec<_> = said.map(|part| (part.partition_index, part.error_code, part.offset)).collect();
    assert!(found.keys().eq(&ASKED), "what was asked for, and nothing else");
    for (partition, offset) in found {
        let own: Vec<_> = said.iter().filter(|(index, ..)| *index == partition).collect();
        assert_eq!(own, [&(partition, 0, offset.0)], "one answer, and no error");
        assert!(offset.0 >= 0, "a log has a beginning");
    }
    true
}

fn epochs(version: i16, body: &[u8]) -> bool {
    let cluster = led(ApiKey::OffsetForLeaderEpoch, version, body);
    let known = ASKED.map(|partition| KnownEpoch { partition, leader_epoch: 3 });
    let Ok(found) = block_on(epoch_ends(&cluster, TOPIC, &known)) else { return false };
    let reply: OffsetForLeaderEpochResponse = decoded(version, body);
    let ours = reply.topics.iter().filter(|topic| &**topic.topic == TOPIC);
    let said = ours.flat_map(|topic| &topic.partitions);
    let said: Vec<_> = said.map(|part| (part.partition, part.error_code, part.end_offset)).collect();
    assert!(found.keys().all(|partition| ASKED.contains(partition)), "nothing but what was asked for");
    for partition in ASKED {
        let own: Vec<_> = said.iter().filter(|(index, ..)| *index == partition).collect();
        assert!(matches!(own[..], [(_, 0, _)]), "one answer, and no error");
        let end = Some(own[0].2).filter(|end| *end >= 0);
        assert_eq!(found.get(&partition).map(|offset| offset.0), end);
    }
    true
}

fn coordinator(version: i16, body: &[u8]) -> bool {
    let cluster = cluster(line(ApiKey::FindCoordinator, version, body));
    let Ok(found) = block_on(cluster.find_coordinator("group")) else { return false };
    let address = found.address;
    let reply: FindCoordinatorResponse = decoded(version, body);
    assert_eq!((reply.error_code, i32::from(address.port)), (0, reply.port));
    assert_eq!(&*address.host, reply.host.as_str());
    true
}

fn fetched(version: i16, body: &[u8]) -> bool {
    let line = line(ApiKey::Fetch, version, body);
    let reply: Result<FetchResponse, KafkaError> = block_on(async {
        let call = open(&line).await;
        let mut connection = call;
        connection.call(wire::FETCH, DEADLINE, |_| FetchRequest::default()).await.map(|(reply, _)| reply)
    });
    let Ok(reply) = reply else { return false };
    let parts = wire::parts(reply, &FetchSession::default());
    let records: usize = parts.iter().map(|part| part.records.len()).sum();
    assert!(records <= body.len(), "records are slices of the frame, none twice");
    assert!(parts.iter().all(|part| part.diverging_end.is_none_or(|end| end.0 >= 0)));
    true
}
