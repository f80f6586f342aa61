//! Tests of the consumer-protocol member, named by hazard number, and of members against a coordinator model.

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::*;
use crate::kafka::group::effects::{GroupEvent, MemberIdentity};

mod kept;
mod model;
mod recreated;

const LEASE: Duration = Duration::from_secs(8);

fn at(seconds: u64) -> Moment {
    Moment::from_micros(seconds * 1_000_000)
}

fn topic() -> Uuid {
    Uuid::from_u128(7)
}

fn share(partitions: &[i32]) -> TopicPartitions {
    TopicPartitions { topic: topic(), partitions: partitions.iter().copied().collect() }
}

fn told(epoch: i32, assignment: Option<&[i32]>) -> Kip848Response {
    let assignment = assignment.map(|partitions| vec![share(partitions)]);
    let heartbeat_interval = Duration::from_secs(5);
    Kip848Response { member: String::new(), epoch, heartbeat_interval, assignment }
}

fn timing() -> MemberTiming {
    MemberTiming::new(Duration::from_secs(10), Duration::from_secs(70))
}

fn beat_in(effects: &[GroupEffect]) -> Option<Kip848Heartbeat> {
    effects.iter().find_map(|effect| match effect {
        GroupEffect::Beat(beat) => Some(beat.clone()),
        _ => None,
    })
}

fn lost(effects: &[GroupEffect]) -> Vec<i32> {
    let lost = effects.iter().find_map(|effect| match effect {
        GroupEffect::Notify(GroupEvent::Lost { partitions, .. }) => Some(partitions.clone()),
        _ => None,
    });
    lost.unwrap_or_default()
}

fn come_in(core: &mut Kip848Member, second: u64) -> Kip848Heartbeat {
    assert_eq!(core.tick(at(second)), [GroupEffect::FindCoordinator]);
    beat_in(&core.coordinator_found(at(second), Ok(None), 0)).expect("the member sends a heartbeat")
}

/// Returns a member in epoch `epoch` that owns `partitions`, joined at second 100.
fn stable(epoch: i32, partitions: &[i32]) -> Kip848Member {
    let mut core = Kip848Member::new(timing(), "me".to_owned(), at(100));
    let beat = come_in(&mut core, 100);
    core.heartbeat_answered(at(100), beat.seq, Ok(told(epoch, Some(partitions))), 0);
    let beat = say(&mut core, 100);
    assert_eq!(beat.owned, Some(share(partitions)), "the assignment is acknowledged at once");
    core.heartbeat_answered(at(100), beat.seq, Ok(told(epoch, None)), 0);
    core
}

fn say(core: &mut Kip848Member, second: u64) -> Kip848Heartbeat {
    beat_in(&core.tick(at(second))).expect("a heartbeat is due")
}

fn who(generation: i32) -> MemberIdentity {
    MemberIdentity { member: "me".to_owned(), generation }
}

fn refuse(core: &mut Kip848Member, second: u64, code: ResponseError) -> Vec<GroupEffect> {
    let beat = say(core, second);
    core.heartbeat_answered(at(second), beat.seq, Err(RequestError::Code(code)), 0)
}

#[test]
fn com_1_forced_rejoin_leaves_and_joins_again() {
    let mut core = stable(4, &[0, 1]);
    assert!(core.force_rejoin(at(101), 3).is_empty(), "of an epoch that is over");
    let effects = core.force_rejoin(at(101), 4);
    assert_eq!(effects[0], GroupEffect::Leave { member: "me".to_owned() });
    assert_eq!(lost(&effects), [0, 1]);
    assert!(core.force_rejoin(at(101), 4).is_empty(), "once");
    core.all_invocations_ended();
    let beat = come_in(&mut core, 101);
    assert_eq!((beat.epoch, beat.everything), (0, true));
}

#[test]
fn h5_forced_rejoin_over_running_invocations_sends_no_leave() {
    let mut core = stable(4, &[0, 1]);
    core.disconnect(at(101), Duration::ZERO);
    core.session.hold_off_until(at(150));
    assert!(!core.force_rejoin(at(101), 4).contains(&GroupEffect::Leave { member: "me".to_owned() }));
    assert!(core.tick(at(102)).is_empty(), "until nothing runs");
}

#[test]
fn join_is_a_full_heartbeat_with_epoch_0() {
    let mut core = Kip848Member::new(timing(), "me".to_owned(), at(100));
    let beat = come_in(&mut core, 100);
    assert_eq!((beat.member.as_str(), beat.epoch, beat.everything), ("me", 0, true));
    assert_eq!(beat.owned, Some(TopicPartitions::default()), "an empty list is reported");
    assert_eq!(beat.rebalance_timeout, Duration::from_secs(70));
}

#[test]
fn known_partitions_are_not_reported_again() {
    let mut core = stable(1, &[0, 1]);
    let beat = say(&mut core, 103);
    assert_eq!((beat.epoch, beat.everything, beat.owned), (1, false, None));
}

#[test]
fn h1_lease_counts_from_send_of_acknowledged_heartbeat() {
    let mut core = stable(1, &[0]);
    let beat = say(&mut core, 103);
    let effects = core.heartbeat_answered(at(106), beat.seq, Ok(told(1, None)), 0);
    assert_eq!(effects, [GroupEffect::ExtendLease(at(103) + LEASE)]);
    core.tick(at(106));
    assert!(lost(&core.tick(at(110))).is_empty());
    assert_eq!(lost(&core.tick(at(111))), [0], "nothing acknowledged since");
    assert_eq!(core.commit_identity(), None);
}

#[test]
fn h18_new_epoch_is_announced_without_additions() {
    let mut core = stable(1, &[0]);
    let beat = say(&mut core, 103);
    let effects = core.heartbeat_answered(at(103), beat.seq, Ok(told(2, None)), 0);
    let news = GroupEffect::Notify(GroupEvent::Assigned { generation: 2, owned: vec![0], added: Vec::new() });
    assert_eq!(effects.first(), Some(&news));
}

#[test]
fn h1_lease_follows_session_reported_by_broker() {
    let mut core = Kip848Member::new(timing(), "me".to_owned(), at(100));
    core.tick(at(100));
    let session = SessionBounds { shortest: Duration::from_secs(45), longest: Duration::from_secs(90) };
    let beat = beat_in(&core.coordinator_found(at(100), Ok(Some(session)), 0)).expect("beats");
    assert_eq!(beat.rebalance_timeout, Duration::from_secs(90), "never below the session (H2)");
    let effects = core.heartbeat_answered(at(101), beat.seq, Ok(told(1, Some(&[0]))), 0);
    assert!(effects.contains(&GroupEffect::ExtendLease(at(136))), "{effects:?}");
}

#[test]
fn h1_fenced_member_keeps_only_its_id() {
    for code in [ResponseError::FencedMemberEpoch, ResponseError::UnknownMemberId] {
        let mut core = stable(4, &[0, 1]);
        let effects = refuse(&mut core, 103, code);
        assert_eq!(lost(&effects), [0, 1]);
        assert!(effects.contains(&GroupEffect::EndLease));
        core.all_invocations_ended();
        let beat = come_in(&mut core, 104);
        assert_eq!(
            (beat.member.as_str(), beat.epoch, beat.owned),
            ("me", 0, Some(TopicPartitions::default()))
        );
        let mut by_commit = stable(4, &[0, 1]);
        assert_eq!(lost(&by_commit.commit_refused(at(103), &who(4), code, 0)), [0, 1]);
        assert!(stable(4, &[0]).commit_refused(at(103), &who(3), code, 0).is_empty(), "of the epoch before");
    }
}

#[test]
fn drn_1_rejection_of_former_identity_takes_nothing_away() {
    for code in [
        ResponseError::FencedMemberEpoch,
        ResponseError::UnknownMemberId,
        ResponseError::StaleMemberEpoch,
        ResponseError::IllegalGeneration,
    ] {
        for (member, generation) in [("before", 4), ("me", 3), ("me", 5)] {
            let mut core = stable(4, &[0]);
            let sent_as = MemberIdentity { member: member.to_owned(), generation };
            assert!(core.commit_refused(at(101), &sent_as, code, 0).is_empty());
            assert!(core.tick(at(101)).is_empty(), "no heartbeat is sent");
            assert_eq!(*core.kept(), BTreeSet::from([0]));
        }
    }
}

#[test]
fn stale_epoch_on_commit_triggers_full_heartbeat_only() {
    let mut core = stable(4, &[0]);
    let stale = ResponseError::StaleMemberEpoch;
    assert!(core.commit_refused(at(101), &who(4), stale, 0).is_empty());
    let beat = say(&mut core, 101);
    assert_eq!((beat.epoch, beat.everything, beat.owned), (4, true, Some(share(&[0]))));
    let effects = core.heartbeat_answered(at(101), beat.seq, Ok(told(5, Some(&[0]))), 0);
    assert!(lost(&effects).is_empty());
    assert_eq!(core.commit_identity(), Some(&who(5)));
}

#[test]
fn h2_lease_of_draining_member_ends_with_rebalance_timeout() {
    let mut core = stable(1, &[0, 1]);
    let beat = say(&mut core, 103);
    core.heartbeat_answered(at(103), beat.seq, Ok(told(1, None)), 0);
    let beat = say(&mut core, 106);
    core.heartbeat_answered(at(106), beat.seq, Ok(told(1, Some(&[1]))), 0);
    let mut last = at(0);
    for second in (109..166).step_by(3) {
        let beat = say(&mut core, second);
        for effect in core.heartbeat_answered(at(second), beat.seq, Ok(told(1, None)), 0) {
            if let GroupEffect::ExtendLease(until) = effect {
                last = until;
            }
        }
    }
    // The revocation was requested at second 100 at the earliest, the time of the last full heartbeat. The member is
    // expelled 70 s later, and the margin is 2 s.
    assert_eq!(last, at(168));
    let beat = say(&mut core, 166);
    core.released(at(166), &[0]);
    let effects = core.heartbeat_answered(at(166), beat.seq, Ok(told(1, None)), 0);
    assert!(effects.is_empty(), "the heartbeat was sent before the release: {effects:?}");
    let beat = say(&mut core, 166);
    let effects = core.heartbeat_answered(at(166), beat.seq, Ok(told(2, None)), 0);
    let extended = GroupEffect::ExtendLease(at(166) + LEASE);
    assert!(effects.contains(&extended), "the coordinator knows of the release: {effects:?}");
}

#[test]
fn h2_longer_rebalance_timeout_applies_to_later_drains_only() {
    let longer = Duration::from_secs(300);
    for raised_before in [true, false] {
        let mut core = stable(1, &[0, 1]);
        if raised_before {
            core.set_rebalance_timeout(at(101), longer);
            let beat = say(&mut core, 101);
            assert_eq!((beat.everything, beat.rebalance_timeout), (true, longer));
            core.heartbeat_answered(at(101), beat.seq, Ok(told(1, Some(&[0, 1]))), 0);
        }
        let beat = say(&mut core, 104);
        core.heartbeat_answered(at(104), beat.seq, Ok(told(1, Some(&[1]))), 0);
        core.set_rebalance_timeout(at(105), longer);
        let mut last = at(0);
        for second in (107..165).step_by(3) {
            let beat = say(&mut core, second);
            for effect in core.heartbeat_answered(at(second), beat.seq, Ok(told(1, Some(&[1]))), 0) {
                if let GroupEffect::ExtendLease(until) = effect {
                    last = until;
                }
            }
        }
        let beat = say(&mut core, 167);
        let effects = core.heartbeat_answered(at(167), beat.seq, Ok(told(1, Some(&[1]))), 0);
        let goes_on = effects.iter().any(|effect| matches!(effect, GroupEffect::ExtendLease(_)));
        assert_eq!(goes_on, raised_before, "an earlier drain keeps its limit of 70 s: {last:?}");
    }
}

#[test]
fn h3_revoked_partition_is_reported_until_drained() {
    let mut core = stable(1, &[0, 1]);
    let beat = say(&mut core, 103);
    let effects = core.heartbeat_answered(at(103), beat.seq, Ok(told(1, Some(&[1]))), 0);
    assert!(effects.contains(&GroupEffect::Notify(GroupEvent::Revoke { partitions: vec![0] })));
    assert!(lost(&effects).is_empty());
    assert_eq!(say(&mut core, 106).owned, None, "both, as the coordinator knows");
    assert!(core.released(at(107), &[0]).is_empty());
    core.heartbeat_answered(at(107), 4, Ok(told(1, None)), 0);
    assert_eq!(say(&mut core, 107).owned, Some(share(&[1])), "at once");
}

#[test]
fn h5_no_rejoin_over_own_invocations_after_loss() {
    let mut core = stable(1, &[0]);
    core.commit_refused(at(103), &who(1), ResponseError::UnknownMemberId, 0);
    assert!(core.tick(at(104)).is_empty());
    assert!(core.tick(at(162)).is_empty(), "the longest session may still run");
    assert_eq!(core.tick(at(176)), [GroupEffect::FindCoordinator]);
}

#[test]
fn h7_one_heartbeat_in_flight_and_stale_responses_ignored() {
    let mut core = stable(1, &[0]);
    let beat = say(&mut core, 103);
    assert!(core.tick(at(104)).is_empty(), "one heartbeat is in flight");
    assert!(core.heartbeat_answered(at(104), beat.seq + 1, Ok(told(9, Some(&[]))), 0).is_empty());
    core.commit_refused(at(104), &who(1), ResponseError::UnknownMemberId, 0);
    let late = core.heartbeat_answered(at(104), beat.seq, Ok(told(1, Some(&[0]))), 0);
    assert!(late.is_empty(), "the heartbeat carried the former identity: {late:?}");
}

#[test]
fn h7_assignment_older_than_release_is_requested_again() {
    let mut core = stable(1, &[0, 1]);
    let beat = say(&mut core, 103);
    core.heartbeat_answered(at(103), beat.seq, Ok(told(1, Some(&[1]))), 0);
    let beat = say(&mut core, 106);
    core.released(at(106), &[0]);
    let effects = core.heartbeat_answered(at(107), beat.seq, Ok(told(1, Some(&[0, 1]))), 0);
    assert!(
        !effects.iter().any(|effect| matches!(effect, GroupEffect::Notify(GroupEvent::Assigned { .. }))),
        "{effects:?}"
    );
    let beat = say(&mut core, 107);
    assert_eq!((beat.everything, beat.owned), (true, Some(share(&[1]))));
}

#[test]
fn h10_coordinator_move_takes_nothing_away() {
    for code in [
        ResponseError::NotCoordinator,
        ResponseError::CoordinatorNotAvailable,
        ResponseError::CoordinatorLoadInProgress,
    ] {
        let mut core = stable(3, &[0]);
        assert!(refuse(&mut core, 103, code).is_empty());
        let beat = come_in(&mut core, 104);
        assert_eq!((beat.epoch, beat.everything, beat.owned), (3, true, Some(share(&[0]))));
    }
}

#[test]
fn lost_response_is_followed_by_full_heartbeat() {
    let mut core = stable(3, &[0]);
    let beat = say(&mut core, 103);
    assert!(
        core.heartbeat_answered(at(104), beat.seq, Err(RequestError::Transport("cut".into())), 0).is_empty()
    );
    let beat = come_in(&mut core, 105);
    assert_eq!((beat.epoch, beat.everything, beat.owned), (3, true, Some(share(&[0]))));
}

#[test]
fn full_heartbeat_is_sent_at_intervals() {
    let mut core = stable(3, &[0]);
    for second in (103..121).step_by(3) {
        let beat = say(&mut core, second);
        assert_eq!(beat.everything, second >= 118, "a quarter of the rebalance timeout: {second}");
        core.heartbeat_answered(at(second), beat.seq, Ok(told(3, beat.everything.then_some(&[0]))), 0);
    }
    let beat = say(&mut core, 121);
    assert!(!beat.everything);
    let effects = core.heartbeat_answered(at(121), beat.seq, Ok(told(3, Some(&[0, 1]))), 0);
    assert!(matches!(&effects[0], GroupEffect::Notify(GroupEvent::Assigned { added, .. }) if added == &[1]));
}

#[test]
fn fenced_join_leaves_before_retry() {
    let mut core = Kip848Member::new(timing(), "me".to_owned(), at(100));
    let beat = come_in(&mut core, 100);
    let fenced = Err(RequestError::Code(ResponseError::FencedMemberEpoch));
    let effects = core.heartbeat_answered(at(100), beat.seq, fenced, 0);
    assert_eq!(effects, [GroupEffect::Leave { member: "me".into() }]);
    assert_eq!(come_in(&mut core, 101).epoch, 0);
}

#[test]
fn operator_errors_are_explained_and_retried_slowly() {
    for (code, word) in [
        (ResponseError::UnsupportedVersion, "Kafka 4.0"),
        (ResponseError::GroupIdNotFound, "classic"),
        (ResponseError::UnreleasedInstanceId, "group.instance.id"),
        (ResponseError::GroupMaxSizeReached, "group.consumer.max.size"),
    ] {
        let mut core = Kip848Member::new(timing(), "me".to_owned(), at(100));
        let beat = come_in(&mut core, 100);
        let effects = core.heartbeat_answered(at(100), beat.seq, Err(RequestError::Code(code)), 0);
        assert!(
            matches!(&effects[..], [GroupEffect::Notify(GroupEvent::Trouble(text))] if text.contains(word)),
            "{effects:?}"
        );
        assert!(core.tick(at(110)).is_empty());
        let beat = come_in(&mut core, 115);
        let effects = core.heartbeat_answered(at(115), beat.seq, Ok(told(1, Some(&[]))), 0);
        assert_eq!(effects.first(), Some(&GroupEffect::Notify(GroupEvent::Healthy)));
    }
}

#[test]
fn drn_1_leave_names_member_id_and_ends_lease() {
    let mut core = stable(1, &[]);
    assert_eq!(core.leave(), [GroupEffect::Leave { member: "me".into() }, GroupEffect::EndLease]);
    let mut silent = Kip848Member::new(timing(), "me".to_owned(), at(100));
    assert_eq!(silent.leave(), [GroupEffect::EndLease], "the coordinator does not know the member");
}
