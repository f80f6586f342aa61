//! Tests of the classic member, named by hazard number.

use super::*;
use crate::kafka::group::effects::GroupEvent;

const SESSION: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Moment {
    Moment::from_micros(seconds * 1_000_000)
}

fn core() -> ClassicMember {
    ClassicMember::new(MemberTiming::new(SESSION, Duration::from_secs(1)), at(100))
}

/// Returns a member in generation 1 that owns `partitions`, joined at second 100.
fn stable(partitions: &[i32]) -> ClassicMember {
    let mut core = core();
    join(&mut core, 100, 1, partitions);
    core
}

fn who(member: &str, generation: i32) -> MemberIdentity {
    MemberIdentity { member: member.to_owned(), generation }
}

/// Returns the member's current identity.
fn itself(core: &ClassicMember) -> MemberIdentity {
    core.identity.clone()
}

fn join(core: &mut ClassicMember, second: u64, generation: i32, partitions: &[i32]) -> Vec<GroupEffect> {
    if core.session.stage() == SessionStage::Out {
        assert_eq!(core.tick(at(second)), [GroupEffect::FindCoordinator]);
        core.coordinator_found(at(second), Ok(()), 0);
    }
    let joined = JoinResult { generation, member: "me".into(), leader: "you".into(), members: vec![] };
    let sent_as = itself(core);
    core.joined(at(second), &sent_as, Ok(joined), 0);
    core.synced(at(second), &who("me", generation), Ok(partitions.to_vec()), 0)
}

fn beat(core: &mut ClassicMember, second: u64) -> u64 {
    let effects = core.tick(at(second));
    let beat = effects.iter().find_map(|effect| match effect {
        GroupEffect::Heartbeat { seq, .. } => Some(*seq),
        _ => None,
    });
    beat.expect("a heartbeat is due")
}

fn lost(effects: &[GroupEffect]) -> Vec<i32> {
    let lost = effects.iter().find_map(|effect| match effect {
        GroupEffect::Notify(GroupEvent::Lost { partitions, .. }) => Some(partitions.clone()),
        _ => None,
    });
    lost.unwrap_or_default()
}

#[test]
fn h1_lease_counts_from_send_of_acknowledged_heartbeat() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    let effects = core.heartbeat_answered(at(106), seq, Ok(()), 0);
    assert_eq!(effects, [GroupEffect::ExtendLease(at(103) + Duration::from_secs(8))]);
    assert!(lost(&core.tick(at(110))).is_empty());
    assert_eq!(lost(&core.tick(at(111))), [0], "nothing acknowledged since");
}

#[test]
fn h1_fencing_code_on_any_request_loses_everything() {
    for code in
        [ResponseError::IllegalGeneration, ResponseError::UnknownMemberId, ResponseError::FencedInstanceId]
    {
        let mut by_heartbeat = stable(&[0, 1]);
        let seq = beat(&mut by_heartbeat, 103);
        assert_eq!(
            lost(&by_heartbeat.heartbeat_answered(at(103), seq, Err(RequestError::Code(code)), 0)),
            [0, 1]
        );
        let mut by_commit = stable(&[0, 1]);
        assert_eq!(lost(&by_commit.commit_refused(at(103), &who("me", 1), code, 0)), [0, 1]);
    }
}

#[test]
fn com_1_forced_rejoin_moves_to_next_generation() {
    let mut core = stable(&[0, 1]);
    assert!(core.force_rejoin(at(101), 0).is_empty(), "of a generation that is over");
    let rejoins = GroupEffect::Join { member: "me".to_owned(), generation: 1, owned: vec![0, 1] };
    assert_eq!(core.force_rejoin(at(101), 1), [rejoins], "the member keeps its partitions");
    assert!(core.force_rejoin(at(101), 1).is_empty(), "the next generation is coming");
}

/// The response to a commit of generation 1 arrives while generation 2 is in force.
#[test]
fn drn_1_rejection_of_former_generation_takes_nothing_away() {
    let mut core = stable(&[0, 1]);
    join_again(&mut core, 104, 2, &[0, 1]);
    assert!(core.commit_refused(at(105), &who("me", 1), ResponseError::IllegalGeneration, 0).is_empty());
    assert_eq!(
        lost(&core.commit_refused(at(105), &who("me", 2), ResponseError::IllegalGeneration, 0)),
        [0, 1]
    );
    let mut core = stable(&[0, 1]);
    join_again(&mut core, 104, 2, &[0, 1]);
    assert!(core.commit_refused(at(105), &who("me", 1), ResponseError::UnknownMemberId, 0).is_empty());
    let seq = beat(&mut core, 105);
    let unknown = Err(RequestError::Code(ResponseError::UnknownMemberId));
    assert_eq!(
        lost(&core.heartbeat_answered(at(105), seq, unknown, 0)),
        [0, 1],
        "the heartbeat is sent at once"
    );
}

/// The member was expelled and rejoined under another id, and the response to an earlier commit arrives late.
#[test]
fn drn_1_rejection_of_former_identity_takes_nothing_away() {
    for code in
        [ResponseError::IllegalGeneration, ResponseError::UnknownMemberId, ResponseError::RebalanceInProgress]
    {
        let mut core = stable(&[0, 1]);
        // The group was recreated and counts its generations from 1.
        assert!(core.commit_refused(at(101), &who("before", 1), code, 0).is_empty());
        assert!(core.tick(at(101)).is_empty(), "no heartbeat is sent");
        assert_eq!(*core.kept(), BTreeSet::from([0, 1]));
    }
}

/// A new join is pending when the response to an abandoned join arrives.
#[test]
fn h7_response_to_abandoned_join_is_ignored() {
    let mut core = stable(&[0, 1]);
    let seq = beat(&mut core, 103);
    core.heartbeat_answered(at(103), seq, Err(RequestError::Code(ResponseError::RebalanceInProgress)), 0);
    let seq = beat(&mut core, 106);
    let unknown = Err(RequestError::Code(ResponseError::UnknownMemberId));
    assert_eq!(lost(&core.heartbeat_answered(at(106), seq, unknown, 0)), [0, 1]);
    core.all_invocations_ended();
    core.tick(at(107));
    let effects = core.coordinator_found(at(107), Ok(()), 0);
    assert_eq!(effects, [GroupEffect::Join { member: String::new(), generation: -1, owned: vec![] }]);
    let late =
        core.joined(at(108), &who("me", 1), Err(RequestError::Code(ResponseError::UnknownMemberId)), 0);
    assert!(late.is_empty(), "{late:?}");
    assert!(!join(&mut core, 109, 3, &[0]).is_empty(), "the member waits for its own response");
    let mut core = stable(&[0]);
    join_again(&mut core, 104, 2, &[0]);
    core.session.enter(ClassicStage::Syncing);
    assert!(core.synced(at(105), &who("me", 1), Ok(vec![0, 1, 2]), 0).is_empty());
}

#[test]
fn h2_rebalance_timeout_is_never_below_session_timeout() {
    assert_eq!(MemberTiming::new(SESSION, Duration::from_secs(1)).rebalance_timeout, SESSION);
}

#[test]
fn h3_revoked_partition_is_drained_before_release() {
    let mut core = stable(&[0, 1]);
    let effects = join_again(&mut core, 104, 2, &[1]);
    assert!(effects.contains(&GroupEffect::Notify(GroupEvent::Revoke { partitions: vec![0] })));
    assert!(lost(&effects).is_empty());
    let effects = core.released(at(105), &[0]);
    assert_eq!(effects, [GroupEffect::Join { member: "me".into(), generation: 2, owned: vec![1] }]);
}

fn join_again(
    core: &mut ClassicMember,
    second: u64,
    generation: i32,
    partitions: &[i32],
) -> Vec<GroupEffect> {
    let seq = beat(core, second);
    let rebalance = Err(RequestError::Code(ResponseError::RebalanceInProgress));
    assert!(matches!(
        core.heartbeat_answered(at(second), seq, rebalance, 0).last(),
        Some(GroupEffect::Join { .. })
    ));
    join(core, second, generation, partitions)
}

#[test]
fn h5_no_rejoin_over_own_invocations_after_loss() {
    let mut core = stable(&[0]);
    core.commit_refused(at(103), &who("me", 1), ResponseError::UnknownMemberId, 0);
    assert!(core.tick(at(104)).is_empty());
    let mut other = stable(&[0]);
    other.commit_refused(at(103), &who("me", 1), ResponseError::UnknownMemberId, 0);
    other.all_invocations_ended();
    assert_eq!(other.tick(at(104)), [GroupEffect::FindCoordinator]);
    assert_eq!(core.tick(at(111)), [GroupEffect::FindCoordinator], "the session must have expired by now");
}

/// The leader withholds claimed partitions from other members until the claiming member joins without them.
#[test]
fn liv_1_partitions_lost_during_join_are_released_by_next() {
    let mut core = stable(&[0, 1]);
    let seq = beat(&mut core, 103);
    let rebalance = Err(RequestError::Code(ResponseError::RebalanceInProgress));
    core.heartbeat_answered(at(103), seq, rebalance, 0);
    assert_eq!(lost(&core.tick(at(112))), [0, 1], "the join is not answered");
    core.all_invocations_ended();
    core.tick(at(113));
    let effects = core.coordinator_found(at(113), Ok(()), 0);
    assert_eq!(effects, [GroupEffect::Join { member: "me".into(), generation: -1, owned: vec![] }]);
    let joined = JoinResult { generation: 2, member: "me".into(), leader: "you".into(), members: vec![] };
    assert!(
        core.joined(at(113), &who("me", 1), Ok(joined), 0).is_empty(),
        "a join that claimed nothing is expected"
    );
    assert!(!join(&mut core, 114, 3, &[0, 1]).is_empty());
}

#[test]
fn h5_no_leave_over_own_invocations_after_loss() {
    let says_goodbye =
        |effects: Vec<GroupEffect>| matches!(effects[..], [GroupEffect::Leave { .. }, GroupEffect::EndLease]);
    let mut core = stable(&[0]);
    assert_eq!(lost(&core.tick(at(160))), [0]);
    assert_eq!(core.leave(), [GroupEffect::EndLease], "the session expires");
    let mut core = stable(&[0]);
    core.tick(at(160));
    core.all_invocations_ended();
    assert!(says_goodbye(core.leave()));
    assert!(says_goodbye(stable(&[0]).leave()));
}

#[test]
fn h7_one_heartbeat_in_flight_and_stale_responses_ignored() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    assert!(core.tick(at(104)).is_empty(), "one heartbeat is in flight");
    assert!(core.heartbeat_answered(at(104), seq + 1, Ok(()), 0).is_empty());
    core.heartbeat_answered(at(104), seq, Err(RequestError::Code(ResponseError::RebalanceInProgress)), 0);
    let old = beat(&mut core, 107);
    join(&mut core, 107, 2, &[0]);
    let late =
        core.heartbeat_answered(at(107), old, Err(RequestError::Code(ResponseError::IllegalGeneration)), 0);
    assert!(late.is_empty(), "it was sent under the generation before: {late:?}");
}

#[test]
fn h10_coordinator_move_takes_nothing_away() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    let moved = Err(RequestError::Code(ResponseError::NotCoordinator));
    assert!(core.heartbeat_answered(at(103), seq, moved, 0).is_empty());
    assert_eq!(core.tick(at(104)), [GroupEffect::FindCoordinator]);
    let effects = core.coordinator_found(at(104), Ok(()), 0);
    assert_eq!(effects, [GroupEffect::Join { member: "me".into(), generation: 1, owned: vec![0] }]);
}

#[test]
fn h25_rejoin_while_draining_claims_draining_partitions() {
    let mut core = stable(&[0, 1]);
    join_again(&mut core, 104, 2, &[1]);
    let seq = beat(&mut core, 107);
    let rebalance = Err(RequestError::Code(ResponseError::RebalanceInProgress));
    let effects = core.heartbeat_answered(at(107), seq, rebalance, 0);
    assert!(effects.contains(&GroupEffect::Join { member: "me".into(), generation: 2, owned: vec![0, 1] }));
    let effects = join(&mut core, 107, 3, &[0, 1]);
    assert!(
        !effects.iter().any(|effect| matches!(effect, GroupEffect::Notify(GroupEvent::Revoke { .. }))),
        "the revocation was notified once"
    );
    let effects = core.released(at(108), &[0]);
    assert!(
        matches!(&effects[..], [GroupEffect::Notify(GroupEvent::Assigned { added, .. })] if added == &[0]),
        "reassigned: it starts again"
    );
}

#[test]
fn h7_fencing_heartbeat_leaves_decision_to_pending_join() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    core.heartbeat_answered(at(103), seq, Err(RequestError::Code(ResponseError::RebalanceInProgress)), 0);
    let seq = beat(&mut core, 106);
    let effects =
        core.heartbeat_answered(at(106), seq, Err(RequestError::Code(ResponseError::IllegalGeneration)), 0);
    assert!(lost(&effects).is_empty());
    assert_eq!(lost(&core.tick(at(111))), [0], "the lease still expires");
}

#[test]
fn group_of_another_protocol_is_explained() {
    let mut core = core();
    core.tick(at(100));
    core.coordinator_found(at(100), Ok(()), 0);
    let effects = core.joined(
        at(100),
        &who("", -1),
        Err(RequestError::Code(ResponseError::InconsistentGroupProtocol)),
        0,
    );
    assert!(
        matches!(&effects[..], [GroupEffect::Notify(GroupEvent::Trouble(text))] if text.contains("cooperative-sticky"))
    );
    assert!(core.tick(at(110)).is_empty());
    assert_eq!(core.tick(at(115)), [GroupEffect::FindCoordinator]);
}
