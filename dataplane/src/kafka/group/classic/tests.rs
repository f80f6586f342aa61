//! One test for each hazard, by its number.

use super::*;

const SESSION: Duration = Duration::from_secs(10);

fn at(seconds: u64) -> Moment {
    Moment::from_micros(seconds * 1_000_000)
}

fn core() -> ClassicMember {
    ClassicMember::new(MemberTiming::new(SESSION, Duration::from_secs(1)), at(100))
}

/// A member in generation `generation` that owns `partitions`, joined at second 100.
fn stable(partitions: &[i32]) -> ClassicMember {
    let mut core = core();
    join(&mut core, 100, 1, partitions);
    core
}

fn who(member: &str, generation: i32) -> MemberIdentity {
    MemberIdentity { member: member.to_owned(), generation }
}

/// Who it is now.
fn itself(core: &ClassicMember) -> MemberIdentity {
    who(&core.member, core.generation)
}

fn join(core: &mut ClassicMember, second: u64, generation: i32, partitions: &[i32]) -> Vec<GroupEffect> {
    if core.state == ClassicState::Out {
        assert_eq!(core.tick(at(second), 0), [GroupEffect::FindCoordinator]);
        core.coordinator_found(at(second), Ok(()), 0);
    }
    let joined = JoinResult { generation, member: "me".into(), leader: "you".into(), members: vec![] };
    let sent_as = itself(core);
    core.joined(at(second), &sent_as, Ok(joined), 0);
    core.synced(at(second), &who("me", generation), Ok(partitions.to_vec()), 0)
}

fn beat(core: &mut ClassicMember, second: u64) -> u64 {
    let effects = core.tick(at(second), 0);
    let beat = effects.iter().find_map(|effect| match effect {
        GroupEffect::Heartbeat { seq, .. } => Some(*seq),
        _ => None,
    });
    beat.expect("a heartbeat is due")
}

fn lost(effects: &[GroupEffect]) -> Vec<i32> {
    let lost = effects.iter().find_map(|effect| match effect {
        GroupEffect::Lost { partitions, .. } => Some(partitions.clone()),
        _ => None,
    });
    lost.unwrap_or_default()
}

#[test]
fn h1_the_lease_counts_from_the_send_of_the_last_acknowledged_heartbeat() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    let effects = core.heartbeat_answered(at(106), seq, Ok(()), 0);
    assert_eq!(effects, [GroupEffect::ExtendLease(at(103) + Duration::from_secs(8))]);
    assert!(lost(&core.tick(at(110), 0)).is_empty());
    assert_eq!(lost(&core.tick(at(111), 0)), [0], "nothing acknowledged since");
}

#[test]
fn h1_a_fencing_code_on_any_request_loses_everything_at_once() {
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
fn com_1_what_was_not_answered_is_refused_a_generation_later() {
    let mut core = stable(&[0, 1]);
    assert!(core.force_rejoin(at(101), 0).is_empty(), "of a generation that is over");
    let rejoins = GroupEffect::Join { member: "me".to_owned(), generation: 1, owned: vec![0, 1] };
    assert_eq!(core.force_rejoin(at(101), 1), [rejoins], "and keeps what it has");
    assert!(core.force_rejoin(at(101), 1).is_empty(), "the next generation is coming");
}

/// The answer to a commit of generation 1 comes when generation 2 is in force.
#[test]
fn drn_1_a_refusal_of_the_generation_before_takes_nothing_away() {
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
    assert_eq!(lost(&core.heartbeat_answered(at(105), seq, unknown, 0)), [0, 1], "asked after at once");
}

/// It was expelled, came back under another id, and a commit of before is answered only now.
#[test]
fn drn_1_a_refusal_of_the_member_that_we_were_takes_nothing_away() {
    for code in
        [ResponseError::IllegalGeneration, ResponseError::UnknownMemberId, ResponseError::RebalanceInProgress]
    {
        let mut core = stable(&[0, 1]);
        // The group began anew, and counts its generations from 1.
        assert!(core.commit_refused(at(101), &who("before", 1), code, 0).is_empty());
        assert!(core.tick(at(101), 0).is_empty(), "nothing to ask after");
        assert_eq!(*core.kept(), BTreeSet::from([0, 1]));
    }
}

/// A join waits for a join that was given up, and that one is answered first.
#[test]
fn h7_an_answer_to_a_join_that_was_given_up_is_not_the_answer_to_the_next() {
    let mut core = stable(&[0, 1]);
    let seq = beat(&mut core, 103);
    core.heartbeat_answered(at(103), seq, Err(RequestError::Code(ResponseError::RebalanceInProgress)), 0);
    let seq = beat(&mut core, 106);
    let unknown = Err(RequestError::Code(ResponseError::UnknownMemberId));
    assert_eq!(lost(&core.heartbeat_answered(at(106), seq, unknown, 0)), [0, 1]);
    core.all_invocations_ended();
    core.tick(at(107), 0);
    let effects = core.coordinator_found(at(107), Ok(()), 0);
    assert_eq!(effects, [GroupEffect::Join { member: String::new(), generation: -1, owned: vec![] }]);
    let late =
        core.joined(at(108), &who("me", 1), Err(RequestError::Code(ResponseError::UnknownMemberId)), 0);
    assert!(late.is_empty(), "{late:?}");
    assert!(!join(&mut core, 109, 3, &[0]).is_empty(), "it waits for its own");
    let mut core = stable(&[0]);
    join_again(&mut core, 104, 2, &[0]);
    core.state = ClassicState::Syncing;
    assert!(core.synced(at(105), &who("me", 1), Ok(vec![0, 1, 2]), 0).is_empty());
}

#[test]
fn h2_the_rebalance_timeout_is_never_below_the_session_timeout() {
    assert_eq!(MemberTiming::new(SESSION, Duration::from_secs(1)).rebalance_timeout, SESSION);
}

#[test]
fn h3_a_revoked_partition_is_drained_before_we_let_go_and_the_others_flow() {
    let mut core = stable(&[0, 1]);
    let effects = join_again(&mut core, 104, 2, &[1]);
    assert!(effects.contains(&GroupEffect::Revoke { partitions: vec![0] }));
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
fn h5_after_a_loss_it_does_not_rejoin_over_its_own_invocations() {
    let mut core = stable(&[0]);
    core.commit_refused(at(103), &who("me", 1), ResponseError::UnknownMemberId, 0);
    assert!(core.tick(at(104), 0).is_empty());
    let mut other = stable(&[0]);
    other.commit_refused(at(103), &who("me", 1), ResponseError::UnknownMemberId, 0);
    other.all_invocations_ended();
    assert_eq!(other.tick(at(104), 0), [GroupEffect::FindCoordinator]);
    assert_eq!(core.tick(at(111), 0), [GroupEffect::FindCoordinator], "the session must have expired by now");
}

/// The leader withholds from others what a Join claimed, until its member joins without it.
#[test]
fn liv_1_what_a_join_claimed_and_was_lost_since_is_let_go_by_the_next() {
    let mut core = stable(&[0, 1]);
    let seq = beat(&mut core, 103);
    let rebalance = Err(RequestError::Code(ResponseError::RebalanceInProgress));
    core.heartbeat_answered(at(103), seq, rebalance, 0);
    assert_eq!(lost(&core.tick(at(112), 0)), [0, 1], "the join is not answered");
    core.all_invocations_ended();
    core.tick(at(113), 0);
    let effects = core.coordinator_found(at(113), Ok(()), 0);
    assert_eq!(effects, [GroupEffect::Join { member: "me".into(), generation: -1, owned: vec![] }]);
    let joined = JoinResult { generation: 2, member: "me".into(), leader: "you".into(), members: vec![] };
    assert!(core.joined(at(113), &who("me", 1), Ok(joined), 0).is_empty(), "not by the one that claimed");
    assert!(!join(&mut core, 114, 3, &[0, 1]).is_empty());
}

#[test]
fn h5_after_a_loss_it_does_not_say_goodbye_over_its_own_invocations() {
    let says_goodbye =
        |effects: Vec<GroupEffect>| matches!(effects[..], [GroupEffect::Leave { .. }, GroupEffect::EndLease]);
    let mut core = stable(&[0]);
    assert_eq!(lost(&core.tick(at(160), 0)), [0]);
    assert_eq!(core.leave(), [GroupEffect::EndLease], "the session ends by itself");
    let mut core = stable(&[0]);
    core.tick(at(160), 0);
    core.all_invocations_ended();
    assert!(says_goodbye(core.leave()));
    assert!(says_goodbye(stable(&[0]).leave()));
}

#[test]
fn h7_one_heartbeat_at_a_time_and_old_answers_do_not_count() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    assert!(core.tick(at(104), 0).is_empty(), "one is outstanding");
    assert!(core.heartbeat_answered(at(104), seq + 1, Ok(()), 0).is_empty());
    core.heartbeat_answered(at(104), seq, Err(RequestError::Code(ResponseError::RebalanceInProgress)), 0);
    let old = beat(&mut core, 107);
    join(&mut core, 107, 2, &[0]);
    let late =
        core.heartbeat_answered(at(107), old, Err(RequestError::Code(ResponseError::IllegalGeneration)), 0);
    assert!(late.is_empty(), "it was sent under the generation before: {late:?}");
}

#[test]
fn h10_a_coordinator_that_moves_takes_nothing_away() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    let moved = Err(RequestError::Code(ResponseError::NotCoordinator));
    assert!(core.heartbeat_answered(at(103), seq, moved, 0).is_empty());
    assert_eq!(core.tick(at(104), 0), [GroupEffect::FindCoordinator]);
    let effects = core.coordinator_found(at(104), Ok(()), 0);
    assert_eq!(effects, [GroupEffect::Join { member: "me".into(), generation: 1, owned: vec![0] }]);
}

#[test]
fn h25_it_rejoins_while_draining_and_claims_what_it_drains() {
    let mut core = stable(&[0, 1]);
    join_again(&mut core, 104, 2, &[1]);
    let seq = beat(&mut core, 107);
    let rebalance = Err(RequestError::Code(ResponseError::RebalanceInProgress));
    let effects = core.heartbeat_answered(at(107), seq, rebalance, 0);
    assert!(effects.contains(&GroupEffect::Join { member: "me".into(), generation: 2, owned: vec![0, 1] }));
    let effects = join(&mut core, 107, 3, &[0, 1]);
    assert!(!effects.iter().any(|effect| matches!(effect, GroupEffect::Revoke { .. })), "it was told once");
    let effects = core.released(at(108), &[0]);
    assert!(
        matches!(&effects[..], [GroupEffect::Assigned { added, .. }] if added == &[0]),
        "given back: starts anew"
    );
}

#[test]
fn h7_a_fencing_heartbeat_during_a_join_waits_for_the_join_to_decide() {
    let mut core = stable(&[0]);
    let seq = beat(&mut core, 103);
    core.heartbeat_answered(at(103), seq, Err(RequestError::Code(ResponseError::RebalanceInProgress)), 0);
    let seq = beat(&mut core, 106);
    let effects =
        core.heartbeat_answered(at(106), seq, Err(RequestError::Code(ResponseError::IllegalGeneration)), 0);
    assert!(lost(&effects).is_empty());
    assert_eq!(lost(&core.tick(at(111), 0)), [0], "the lease still ends by itself");
}

#[test]
fn a_group_of_another_protocol_is_told_in_words() {
    let mut core = core();
    core.tick(at(100), 0);
    core.coordinator_found(at(100), Ok(()), 0);
    let effects = core.joined(
        at(100),
        &who("", -1),
        Err(RequestError::Code(ResponseError::InconsistentGroupProtocol)),
        0,
    );
    assert!(matches!(&effects[..], [GroupEffect::Trouble(text)] if text.contains("cooperative-sticky")));
    assert!(core.tick(at(110), 0).is_empty());
    assert_eq!(core.tick(at(115), 0), [GroupEffect::FindCoordinator]);
}
