//! Every error code of Kafka's protocol as the response of every API that the node uses. The node's reaction is
//! compared with an independent table, derived from the codes that Kafka's client retries and from the required
//! reaction to each hazard.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use lighterman::error::ErrorClass;
use lighterman::kafka::cluster::KafkaCluster;
use lighterman::kafka::connection::BrokerConnection;
use lighterman::kafka::error::KafkaError;
use lighterman::kafka::fetch::FetchError;
use lighterman::kafka::fetch::wire::{ErrorAction, refused};
use lighterman::kafka::group::GroupEvent;
use lighterman::kafka::group::classic::ClassicMember;
use lighterman::kafka::group::effects::{
    GroupEffect, GroupProtocol, JoinResult, LeaveResult, MemberIdentity, MemberTiming, RequestError, leaving,
};
use lighterman::kafka::offsets::{
    CommitIdentity, IsolationLevel, KnownEpoch, OffsetAndMetadata, OffsetSpec, commit, epoch_ends,
    fetch_committed, list_offsets,
};
use lighterman::kafka::transport::BrokerAddress;
use lighterman_proto::ids::Offset;
use lighterman_proto::units::Moment;

#[path = "codes/consumer_member.rs"]
mod consumer_member;
#[path = "../fuzz/subjects/line.rs"]
mod line;
#[path = "codes/listed.rs"]
mod listed;

#[path = "codes/membership.rs"]
mod membership;
#[path = "codes/unasked.rs"]
mod unasked;

use line::{Line, frame};
use listed::{LISTED, codes_of};

/// Codes that Kafka's own client retries: the exceptions of `org.apache.kafka.common.protocol.Errors` that are a
/// `RetriableException`.
const RETRIABLE: &[i16] = &[
    2, 3, 5, 6, 7, 9, 13, 14, 15, 16, 19, 20, 41, 51, 56, 70, 71, 72, 74, 75, 78, 80, 83, 84, 88, 89, 100,
    103, 106, 122, 123, 133,
];
/// Codes that deny the membership: everything is dropped at once, whatever the request was (H1).
const FENCED: &[i16] = &[22, 25, 82, 110, 113];
/// The quota is exhausted (H22).
const THROTTLED: &[i16] = &[89];
/// The broker has no valid bytes at the offset, or none that this version reads: the partition stops (H20). Java
/// retries 2 indefinitely.
const POISON: &[i16] = &[2, 76];
/// Rights, names, limits, versions: an operator must change something.
const FOR_A_PERSON: &[i16] = &[17, 23, 24, 26, 29, 30, 31, 35, 58, 81];
/// Codes that are not retriable in Java, which passes the error to the program. Here nobody could do better than
/// retry. They are transient errors (-1), codes with a response of their own (1, 27, 79), and codes for invalid
/// requests. The others (43, 48, 49, 53, 69, 111, 112, 128) are listed for these APIs, but concern transactions,
/// groups, or other callers.
const ASKED_AGAIN: &[i16] = &[-1, 1, 12, 27, 28, 42, 43, 48, 49, 53, 69, 79, 111, 112, 128];

const APIS: &[ApiKey] = &[
    ApiKey::Fetch,
    ApiKey::ListOffsets,
    ApiKey::Metadata,
    ApiKey::LeaveGroup,
    ApiKey::OffsetCommit,
    ApiKey::OffsetFetch,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::Heartbeat,
    ApiKey::SyncGroup,
    ApiKey::ApiVersions,
    ApiKey::OffsetForLeaderEpoch,
    ApiKey::ConsumerGroupHeartbeat,
];
const TOPIC: &str = "orders";
const DEADLINE: Duration = Duration::from_secs(5);

fn all_codes() -> Vec<(i16, ResponseError)> {
    let known = |code: i16| {
        let error = ResponseError::try_from_code(code)?;
        (!matches!(error, ResponseError::Unknown(_))).then_some((code, error))
    };
    let codes: Vec<_> = (-1..=1_000).filter_map(known).collect();
    assert!(codes.len() > 130, "{} codes", codes.len());
    codes
}

fn class_of(code: i16) -> ErrorClass {
    let places = [
        (FENCED, ErrorClass::Fenced),
        (THROTTLED, ErrorClass::Throttle),
        (POISON, ErrorClass::Poison),
        (FOR_A_PERSON, ErrorClass::Fatal),
    ];
    places.into_iter().find(|(codes, _)| codes.contains(&code)).map_or(ErrorClass::Retry, |(_, class)| class)
}

#[test]
fn every_listed_code_is_classified() {
    for listed in LISTED {
        for code in listed.codes {
            let places = [RETRIABLE, FENCED, POISON, FOR_A_PERSON, ASKED_AGAIN];
            assert!(places.iter().any(|place| place.contains(code)), "{}: {code}", listed.source);
        }
    }
    let listed: BTreeSet<i16> = LISTED.iter().map(|listed| listed.api as i16).collect();
    assert_eq!(listed, APIS.iter().map(|api| *api as i16).collect(), "every API has a list of codes");
    assert!(APIS.iter().all(|api| codes_of(*api).contains(&-1)), "every API lists UNKNOWN_SERVER_ERROR");
}

#[test]
fn codes_retried_by_kafka_client_are_retried() {
    for code in RETRIABLE {
        let class = class_of(*code);
        let stops = *code == 2 && class == ErrorClass::Poison;
        assert!(stops || matches!(class, ErrorClass::Retry | ErrorClass::Throttle), "{code}: {class:?}");
    }
}

#[test]
fn every_api_maps_codes_to_expected_class() {
    for api in APIS {
        for (code, error) in all_codes() {
            let said = KafkaError::broker(*api, "subject", error);
            assert_eq!(said.class(), class_of(code), "{said}");
            assert!(said.to_string().contains(&code.to_string()), "{said}");
        }
    }
}

#[test]
fn h14_h20_every_fetch_code_is_handled() {
    for (code, error) in all_codes() {
        let does = refused(error);
        let right = match code {
            1 => does == ErrorAction::OutOfRange,
            2 | 76 => matches!(does, ErrorAction::Trouble(FetchError::Corrupt(_))),
            29 | 31 => matches!(does, ErrorAction::Trouble(FetchError::NotAuthorized(_))),
            // The leader is looked up again, and the fetch is retried.
            _ => does == ErrorAction::Misplaced,
        };
        assert!(right, "{code} {error}: {does:?}");
    }
}

fn at(seconds: u64) -> Moment {
    Moment::from_micros(seconds * 1_000_000)
}

/// Effect of a response to a membership request on the member.
#[derive(Debug, PartialEq)]
enum MemberReaction {
    /// It drops everything it owned, at once.
    Fenced,
    /// It rejoins at once, and keeps what it owns meanwhile.
    Rejoins,
    /// It keeps what it owns, reports the problem to an operator, and retries slowly.
    Waits,
    /// It keeps what it owns and retries soon.
    AsksAgain,
}

fn member() -> ClassicMember {
    let timing = MemberTiming::new(Duration::from_secs(10), Duration::from_secs(10));
    let mut core = ClassicMember::new(timing, at(100));
    core.tick(at(100));
    core.coordinator_found(at(100), Ok(()), 0);
    join(&mut core, 1);
    let who = itself(&core);
    core.synced(at(100), &who, Ok(vec![0, 1]), 0);
    core
}

/// Returns the identity that its requests carry.
fn itself(core: &ClassicMember) -> MemberIdentity {
    let none = MemberIdentity { member: String::new(), generation: -1 };
    core.commit_identity().cloned().unwrap_or(none)
}

fn join(core: &mut ClassicMember, generation: i32) -> Vec<GroupEffect> {
    let joined = JoinResult { generation, member: "me".into(), leader: "you".into(), members: vec![] };
    let who = itself(core);
    core.joined(at(100), &who, Ok(joined), 0)
}

fn heartbeat(core: &mut ClassicMember, second: u64, answer: Result<(), RequestError>) -> Vec<GroupEffect> {
    let seq = core.tick(at(second)).iter().find_map(|effect| match effect {
        GroupEffect::Heartbeat { seq, .. } => Some(*seq),
        _ => None,
    });
    core.heartbeat_answered(at(second), seq.expect("a heartbeat is due"), answer, 0)
}

fn rejoining() -> ClassicMember {
    let mut core = member();
    heartbeat(&mut core, 103, Err(RequestError::Code(ResponseError::RebalanceInProgress)));
    core
}

fn made(core: &ClassicMember, effects: &[GroupEffect]) -> MemberReaction {
    let any = |wanted: fn(&GroupEffect) -> bool| effects.iter().any(wanted);
    if any(
        |effect| matches!(effect, GroupEffect::Notify(GroupEvent::Lost { partitions, .. }) if *partitions == [0, 1]),
    ) {
        assert!(any(|effect| *effect == GroupEffect::EndLease), "the lease ends with the partitions");
        return MemberReaction::Fenced;
    }
    assert!(
        !any(|effect| matches!(effect, GroupEffect::Notify(GroupEvent::Lost { .. }) | GroupEffect::EndLease)),
        "{effects:?}"
    );
    if any(|effect| matches!(effect, GroupEffect::Join { .. })) {
        return MemberReaction::Rejoins;
    }
    let told = any(|effect| matches!(effect, GroupEffect::Notify(GroupEvent::Trouble(_))));
    match core.wake_at() {
        Some(wakes) if told => {
            // Its partitions are dropped earlier if the coordinator receives no heartbeat for that long.
            assert!(wakes >= at(108), "slowly: {wakes:?}");
            MemberReaction::Waits
        }
        Some(wakes) if (at(103)..at(104)).contains(&wakes) => MemberReaction::AsksAgain,
        other => panic!("it wakes up at {other:?} after {effects:?}"),
    }
}

#[test]
fn h1_h10_h25_every_code_of_member_requests() {
    // Codes of the other protocol (KIP-848).
    let others = [110, 113];
    for (code, error) in all_codes().into_iter().filter(|(code, _)| !others.contains(code)) {
        let failure = || RequestError::Code(error);
        let expected = match code {
            22 | 25 | 82 => MemberReaction::Fenced,
            27 => MemberReaction::Rejoins,
            23 | 24 | 26 | 30 | 81 => MemberReaction::Waits,
            _ => MemberReaction::AsksAgain,
        };
        let mut core = rejoining();
        let who = itself(&core);
        let effects = core.joined(at(103), &who, Err(failure()), 0);
        assert_eq!(made(&core, &effects), expected, "JoinGroup {code} {error}: {effects:?}");
        let mut core = rejoining();
        join(&mut core, 2);
        let who = itself(&core);
        let effects = core.synced(at(103), &who, Err(failure()), 0);
        assert_eq!(made(&core, &effects), expected, "SyncGroup {code} {error}: {effects:?}");
        let mut core = member();
        let effects = heartbeat(&mut core, 103, Err(failure()));
        assert_eq!(made(&core, &effects), expected, "Heartbeat {code} {error}: {effects:?}");
        let mut core = member();
        let who = itself(&core);
        let effects = core.commit_refused(at(101), &who, error, 0);
        match expected {
            MemberReaction::Fenced | MemberReaction::Rejoins => {
                assert_eq!(made(&core, &effects), expected, "OffsetCommit {code}");
            }
            // The commit is retried; its error has no effect on the membership.
            _ => assert!(effects.is_empty() && core.commit_identity().is_some(), "OffsetCommit {code}"),
        }
    }
}

#[test]
fn h10_every_leave_code_is_handled() {
    for (code, error) in all_codes() {
        let expected = match class_of(code) {
            // A fenced member has left, whatever the reason.
            ErrorClass::Fenced => LeaveResult::Gone,
            // The whole group is gone.
            _ if code == 69 => LeaveResult::Gone,
            ErrorClass::Retry | ErrorClass::Throttle => LeaveResult::Again,
            ErrorClass::Poison | ErrorClass::Fatal => LeaveResult::Refused(error),
        };
        assert_eq!(leaving(Some(error)), expected, "LeaveGroup, or the last heartbeat: {code} {error}");
    }
    assert_eq!(leaving(None), LeaveResult::Gone);
}

fn encoded(message: &impl Encodable, version: i16) -> BytesMut {
    let mut body = BytesMut::new();
    message.encode(&mut body, version).expect("encodes");
    body
}

fn answers(api: ApiKey, version: i16, reply: &impl Encodable) -> Line {
    Line::speaking(api, version, frame(2, api, version, &encoded(reply, version)), usize::MAX)
}

async fn open(line: &Line) -> BrokerConnection {
    let address = BrokerAddress::new("broker", 9092);
    BrokerConnection::open(line, &address, "codes", DEADLINE).await.expect("the versions are accepted")
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic() -> TopicName {
    TopicName(text(TOPIC))
}

fn cluster(line: Line) -> KafkaCluster {
    KafkaCluster::new(vec![BrokerAddress::new("broker", 9092)], Arc::new(line), "codes")
}

fn is_code<T: std::fmt::Debug>(outcome: Result<T, KafkaError>, error: ResponseError) {
    let failed = outcome.expect_err("an error is no answer");
    assert_eq!(failed.code(), Some(error), "{failed}");
}

#[tokio::test]
async fn h11_offset_fetch_error_never_means_no_commit() {
    use offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
    for (code, error) in all_codes() {
        for of_all in [true, false] {
            let part = OffsetFetchResponsePartition::default()
                .with_committed_offset(-1)
                .with_metadata(Some(StrBytes::default()))
                .with_error_code(if of_all { 0 } else { code });
            let topic = OffsetFetchResponseTopic::default().with_name(topic()).with_partitions(vec![part]);
            let reply = OffsetFetchResponse::default()
                .with_error_code(if of_all { code } else { 0 })
                .with_topics(vec![topic]);
            let line = answers(ApiKey::OffsetFetch, 7, &reply);
            is_code(fetch_committed(&mut open(&line).await, "group", TOPIC, &[0]).await, error);
        }
    }
}

#[tokio::test]
async fn com_1_no_commit_error_code_is_ignored() {
    use offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
    let who = CommitIdentity {
        group: "group".to_owned(),
        generation: 3,
        member: "member".to_owned(),
        protocol: GroupProtocol::Classic,
    };
    let offset = OffsetAndMetadata { offset: Offset(7), leader_epoch: -1, metadata: String::new() };
    let offsets = [(0, offset)].into();
    for (code, error) in all_codes() {
        let part = OffsetCommitResponsePartition::default().with_error_code(code);
        let topic = OffsetCommitResponseTopic::default().with_name(topic()).with_partitions(vec![part]);
        let line =
            answers(ApiKey::OffsetCommit, 8, &OffsetCommitResponse::default().with_topics(vec![topic]));
        let done = commit(&mut open(&line).await, &who, TOPIC, &offsets).await;
        assert_eq!(done.expect("answered")[&0], Some(error));
    }
}

#[tokio::test]
async fn no_lookup_error_code_is_ignored() {
    use metadata_response::MetadataResponseTopic;
    for (code, error) in all_codes() {
        let of_topic = MetadataResponseTopic::default().with_name(Some(topic())).with_error_code(code);
        let reply = MetadataResponse::default().with_topics(vec![of_topic]);
        let view = cluster(answers(ApiKey::Metadata, 9, &reply)).topic(TOPIC, Duration::ZERO).await;
        match (code, view) {
            (3, Err(KafkaError::NoTopic { .. })) => {}
            (_, view) => is_code(view, error),
        }
        let reply = FindCoordinatorResponse::default().with_error_code(code);
        is_code(cluster(answers(ApiKey::FindCoordinator, 3, &reply)).find_coordinator("group").await, error);
        let refusal = encoded(&ApiVersionsResponse::default().with_error_code(code), 0);
        // Version 3 is rejected in the layout of version 0; all other responses use their own.
        let own =
            encoded(&ApiVersionsResponse::default().with_error_code(code), if code == 35 { 0 } else { 3 });
        let line = Line::saying(
            [frame(1, ApiKey::ApiVersions, 0, &own), frame(2, ApiKey::ApiVersions, 0, &refusal)],
            usize::MAX,
        );
        let opened =
            BrokerConnection::open(&line, &BrokerAddress::new("broker", 9092), "codes", DEADLINE).await;
        is_code(opened.map(drop), error);
    }
}

/// Creates a cluster whose two partitions are led by `host`, which responds with `reply`.
async fn led(api: ApiKey, version: i16, reply: &impl Encodable) -> KafkaCluster {
    use metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
    let part =
        |index| MetadataResponsePartition::default().with_partition_index(index).with_leader_id(1.into());
    let parts = vec![part(0), part(1)];
    let of_topic = MetadataResponseTopic::default().with_name(Some(topic())).with_partitions(parts);
    let broker =
        MetadataResponseBroker::default().with_node_id(1.into()).with_host(text("host")).with_port(9092);
    let metadata = MetadataResponse::default().with_brokers(vec![broker]).with_topics(vec![of_topic]);
    let first = answers(ApiKey::Metadata, 9, &metadata);
    let cluster = cluster(first.then(answers(api, version, reply)));
    cluster.topic(TOPIC, Duration::ZERO).await.expect("metadata");
    cluster
}

#[tokio::test]
async fn h13_h14_no_leader_error_code_is_ignored() {
    use list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    use offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
    for (code, error) in all_codes() {
        let part = ListOffsetsPartitionResponse::default().with_error_code(code).with_offset(-1);
        let of_topic = ListOffsetsTopicResponse::default().with_name(topic()).with_partitions(vec![part]);
        let reply = ListOffsetsResponse::default().with_topics(vec![of_topic]);
        let cluster = led(ApiKey::ListOffsets, 7, &reply).await;
        is_code(
            list_offsets(&cluster, TOPIC, &[0], OffsetSpec::Earliest, IsolationLevel::Committed).await,
            error,
        );
        let part = EpochEndOffset::default().with_error_code(code);
        let of_topic = OffsetForLeaderTopicResult::default().with_topic(topic()).with_partitions(vec![part]);
        let reply = OffsetForLeaderEpochResponse::default().with_topics(vec![of_topic]);
        let cluster = led(ApiKey::OffsetForLeaderEpoch, 4, &reply).await;
        let known = KnownEpoch { partition: 0, leader_epoch: 3 };
        is_code(epoch_ends(&cluster, TOPIC, &[known]).await, error);
    }
}
