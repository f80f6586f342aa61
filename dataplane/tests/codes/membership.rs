//! Reaction of a membership to a rejected `OffsetFetch`: an unknown member drops everything before another request
//! reveals it (H1).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Encodable;
use lighterman::kafka::group::effects::MemberTiming;
use lighterman::kafka::group::{
    GroupEvent, GroupProtocol, GroupThread, MembershipSettings, RebalanceTimeout, wire,
};
use lighterman_proto::ids::TopicPartition;
use parking_lot::Mutex;

use super::line::{Line, frame};
use super::{TOPIC, answers, cluster, encoded, text, topic};

const OUT: &[i16] = &[25];
const SOON: Duration = Duration::from_secs(5);

fn reply(correlation: i32, api: ApiKey, version: i16, body: &impl Encodable) -> Bytes {
    frame(correlation, api, version, &encoded(body, version))
}

/// A coordinator that accepts a member, and then responds to `OffsetFetch` with `code`.
fn coordinator(code: i16) -> Line {
    use offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
    let found = FindCoordinatorResponse::default().with_host(text("broker")).with_port(9092);
    let offered = |api: ApiKey, version| {
        ApiVersion::default().with_api_key(api as i16).with_min_version(version).with_max_version(version)
    };
    let spoken = ApiVersionsResponse::default()
        .with_api_keys(vec![offered(ApiKey::JoinGroup, 7), offered(ApiKey::SyncGroup, 4)]);
    let joined = JoinGroupResponse::default()
        .with_generation_id(3)
        .with_member_id(text("me"))
        .with_leader(text("another"));
    let share = wire::assignment(&[TopicPartition::new(TOPIC, 0), TopicPartition::new(TOPIC, 1)]);
    let synced = SyncGroupResponse::default().with_assignment(share);
    let part = OffsetFetchResponsePartition::default().with_committed_offset(-1).with_error_code(code);
    let of_topic = OffsetFetchResponseTopic::default().with_name(topic()).with_partitions(vec![part]);
    let committed = OffsetFetchResponse::default().with_topics(vec![of_topic]);
    answers(ApiKey::FindCoordinator, 3, &found)
        .then(Line::saying(
            [
                reply(1, ApiKey::ApiVersions, 3, &spoken),
                reply(2, ApiKey::JoinGroup, 7, &joined),
                reply(3, ApiKey::SyncGroup, 4, &synced),
            ],
            usize::MAX,
        ))
        // The member sends a heartbeat as soon as it has joined; the next one is due three seconds later.
        .then(answers(ApiKey::Heartbeat, 4, &HeartbeatResponse::default()))
        .then(answers(ApiKey::OffsetFetch, 7, &committed))
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the partitions and the reason that are lost by this code.
async fn lost_by(code: i16) -> Option<(Vec<i32>, String)> {
    let events: Arc<Mutex<Vec<GroupEvent>>> = Arc::default();
    let heard = Arc::clone(&events);
    let timing = MemberTiming::new(Duration::from_secs(30), Duration::from_secs(60));
    let settings = MembershipSettings {
        group: "group".to_owned(),
        topic: TOPIC.to_owned(),
        protocol: GroupProtocol::Classic,
        timing,
        rebalance: RebalanceTimeout::new(timing.rebalance_timeout),
    };
    let threads = GroupThread::start().expect("a thread");
    let sink = Arc::new(move |event| heard.lock().push(event));
    let membership = threads.join(cluster(coordinator(code)), settings, sink);
    let assigned = |event: &GroupEvent| matches!(event, GroupEvent::Assigned { .. });
    until("the member has joined", || events.lock().iter().any(assigned)).await;
    let standing = membership.view().expect("the member has a view");
    let answer = membership.committed(&standing, vec![0]).await;
    let said = answer.expect_err("refused");
    assert_eq!(said.code().map(|said| said.code()), Some(code), "{said}");
    if OUT.contains(&code) {
        until("the member is fenced", || membership.view().is_none()).await;
    }
    let is_out = membership.view().is_none();
    let lost = events.lock().iter().find_map(|event| match event {
        GroupEvent::Lost { partitions, reason } => Some((partitions.clone(), reason.clone())),
        _ => None,
    });
    assert_eq!(lost.is_some(), is_out, "a fenced member commits nothing: {said}");
    lost
}

#[tokio::test]
async fn h1_unknown_member_on_offset_fetch_is_fenced() {
    let (partitions, reason) = lost_by(25).await.expect("all partitions are lost");
    assert_eq!(partitions, [0, 1]);
    assert!(reason.contains("UnknownMemberId"), "{reason}");
    for code in [-1, 14, 15, 16, 29, 30, 88] {
        assert_eq!(lost_by(code).await, None, "{code} says nothing of the member");
    }
}
