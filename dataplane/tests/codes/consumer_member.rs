//! Every code as the response to a member of the consumer protocol (KIP-848): to its heartbeat while it joins, owns
//! or drains partitions, and to its commit. The expected reactions are those of Java's
//! `AbstractHeartbeatRequestManager`, `ConsumerMembershipManager` and `CommitRequestManager`, and those that the
//! hazards require in addition (H1, H5, H7, H10).

use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use lighterman::kafka::group::GroupEvent;
use lighterman::kafka::group::effects::{
    GroupEffect, Kip848Heartbeat, Kip848Response, MemberIdentity, MemberTiming, RequestError, TopicPartitions,
};
use lighterman::kafka::group::kip848::member::Kip848Member;
use lighterman_proto::units::Moment;
use uuid::Uuid;

use super::listed::codes_of;
use super::{all_codes, at};

/// The member is unknown in its epoch, or at all: everything is dropped at once, and the next heartbeat joins (H1).
/// The coordinator sends 69 for a group that does not exist, unless the member is joining.
const OUT: &[i16] = &[22, 25, 69, 82, 110, 113];
/// Rights, names, limits, versions, and members of the other protocol in the group: an operator must change
/// something.
const FOR_A_PERSON: &[i16] = &[23, 24, 29, 30, 35, 69, 81, 111, 112];
/// On a commit or an `OffsetFetch` these codes concern the epoch only: the response with the next epoch is in
/// flight, or was lost.
const OF_THE_EPOCH: &[i16] = &[22, 113];

const EPOCH: i32 = 4;
/// End of the longest session that can apply, plus its margin, after a loss at 103 s.
const SESSION_ENDS: u64 = 175;

fn share(partitions: &[i32]) -> TopicPartitions {
    TopicPartitions { topic: Uuid::from_u128(7), partitions: partitions.iter().copied().collect() }
}

fn told(epoch: i32, assignment: Option<&[i32]>) -> Kip848Response {
    let assignment = assignment.map(|partitions| vec![share(partitions)]);
    Kip848Response { member: String::new(), epoch, heartbeat_interval: Duration::from_secs(5), assignment }
}

fn beat_in(effects: &[GroupEffect]) -> Option<Kip848Heartbeat> {
    effects.iter().find_map(|effect| match effect {
        GroupEffect::Beat(beat) => Some(beat.clone()),
        _ => None,
    })
}

/// Finds the coordinator and returns the heartbeat that follows.
fn comes_in(core: &mut Kip848Member, now: Moment) -> Kip848Heartbeat {
    assert_eq!(core.tick(now), [GroupEffect::FindCoordinator]);
    beat_in(&core.coordinator_found(now, Ok(None), 0)).expect("the member sends a heartbeat")
}

/// Returns a member whose first heartbeat is in flight.
fn joining() -> (Kip848Member, u64) {
    let timing = MemberTiming::new(Duration::from_secs(10), Duration::from_secs(70));
    let mut core = Kip848Member::new(timing, "me".to_owned(), at(100));
    let beat = comes_in(&mut core, at(100));
    (core, beat.seq)
}

/// Returns a member that owns 0 and 1, acknowledged by the coordinator, with a heartbeat in flight.
fn owning() -> (Kip848Member, u64) {
    let (mut core, seq) = joining();
    core.heartbeat_answered(at(100), seq, Ok(told(EPOCH, Some(&[0, 1]))), 0);
    let beat = beat_in(&core.tick(at(100))).expect("the assignment is acknowledged at once");
    core.heartbeat_answered(at(100), beat.seq, Ok(told(EPOCH, None)), 0);
    let beat = beat_in(&core.tick(at(103))).expect("a heartbeat is due");
    (core, beat.seq)
}

/// Like [`owning`], with 1 being drained.
fn draining() -> (Kip848Member, u64) {
    let (mut core, seq) = owning();
    let effects = core.heartbeat_answered(at(103), seq, Ok(told(EPOCH, Some(&[0]))), 0);
    assert!(effects.contains(&GroupEffect::Notify(GroupEvent::Revoke { partitions: vec![1] })));
    let beat = beat_in(&core.tick(at(106))).expect("a heartbeat is due");
    (core, beat.seq)
}

/// Returns a member between two heartbeats.
fn committing() -> Kip848Member {
    let (mut core, seq) = owning();
    core.heartbeat_answered(at(103), seq, Ok(told(EPOCH, None)), 0);
    core
}

/// Asserts that everything is dropped, and that the member rejoins without partitions once none of its invocations
/// can run.
fn is_fenced(mut core: Kip848Member, effects: &[GroupEffect], now: u64, what: &str) {
    let lost = |effect: &GroupEffect| matches!(effect, GroupEffect::Notify(GroupEvent::Lost { partitions, reason }) if *partitions == [0, 1] && !reason.is_empty());
    assert!(effects.iter().any(lost), "{what}: {effects:?}");
    assert!(effects.contains(&GroupEffect::EndLease), "{what}: the lease goes with them");
    assert!(
        !effects.iter().any(|effect| matches!(effect, GroupEffect::Leave { .. })),
        "{what}: it is out already"
    );
    assert_eq!(core.commit_identity(), None, "{what}: it commits nothing");
    assert!(core.kept().is_empty(), "{what}");
    assert!(core.tick(at(SESSION_ENDS - 1)).is_empty(), "{what}: its own invocations may run (H5)");
    core.all_invocations_ended();
    let beat = comes_in(&mut core, at(now + 1));
    assert_eq!((beat.member.as_str(), beat.epoch, beat.everything), ("me", 0, true), "{what}");
    assert_eq!(beat.owned, Some(TopicPartitions::default()), "{what}: nothing, and said so");
}

/// Asserts that epoch and ownership remain, but no longer than the lease. At `comes_back` the member finds the
/// coordinator and sends a full heartbeat.
fn keeps(mut core: Kip848Member, effects: &[GroupEffect], comes_back: Moment, what: &str) {
    let takes = |effect: &GroupEffect| {
        matches!(
            effect,
            GroupEffect::Notify(GroupEvent::Lost { .. } | GroupEvent::Revoke { .. })
                | GroupEffect::EndLease
                | GroupEffect::ExtendLease(_)
        )
    };
    assert!(!effects.iter().any(takes), "{what}: {effects:?}");
    assert_eq!(core.commit_identity(), Some(&me_in(EPOCH)), "{what}");
    let lease_ends = core.wake_at().expect("something is due").min(comes_back);
    if lease_ends < comes_back {
        let effects = core.tick(lease_ends);
        assert!(
            effects.contains(&GroupEffect::EndLease),
            "{what}: nobody has heard of it for so long: {effects:?}"
        );
        return;
    }
    let beat = comes_in(&mut core, comes_back);
    assert_eq!((beat.member.as_str(), beat.epoch, beat.everything), ("me", EPOCH, true), "{what}");
    assert_eq!(beat.owned, Some(share(&[0, 1])), "{what}: that which is being drained too");
}

fn troubles(effects: &[GroupEffect]) -> usize {
    effects
        .iter()
        .filter(|effect| matches!(effect, GroupEffect::Notify(GroupEvent::Trouble(text)) if !text.is_empty()))
        .count()
}

/// Returns the time of the first retry with the shortest jitter.
fn soon(seconds: u64) -> Moment {
    at(seconds) + Duration::from_millis(50)
}

fn slowly(seconds: u64) -> Moment {
    at(seconds) + Duration::from_secs(15)
}

#[test]
fn h1_h10_every_heartbeat_code_is_handled() {
    for (code, error) in all_codes() {
        for (phase, (mut core, seq), now) in [("owning", owning(), 103), ("draining", draining(), 106)] {
            let what = format!("{phase}: ConsumerGroupHeartbeat {code} {error}");
            let effects = core.heartbeat_answered(at(now), seq, Err(RequestError::Code(error)), 0);
            if OUT.contains(&code) {
                is_fenced(core, &effects, now, &what);
                continue;
            }
            let is_told = FOR_A_PERSON.contains(&code);
            assert_eq!(troubles(&effects), usize::from(is_told), "{what}: {effects:?}");
            keeps(core, &effects, if is_told { slowly(now) } else { soon(now) }, &what);
        }
    }
}

#[test]
fn h1_h10_every_code_of_joining_heartbeat() {
    for (code, error) in all_codes() {
        let what = format!("ConsumerGroupHeartbeat {code} {error}");
        let (mut core, seq) = joining();
        let effects = core.heartbeat_answered(at(100), seq, Err(RequestError::Code(error)), 0);
        let is_told = FOR_A_PERSON.contains(&code);
        if is_told {
            assert!(
                matches!(&effects[..], [GroupEffect::Notify(GroupEvent::Trouble(_))]),
                "{what}: {effects:?}"
            );
        } else if OUT.contains(&code) {
            // The coordinator knows the member in an abandoned epoch: it must leave before it can join again.
            assert_eq!(effects, [GroupEffect::Leave { member: "me".into() }], "{what}");
        } else {
            assert!(effects.is_empty(), "{what}: {effects:?}");
        }
        let again = if is_told { slowly(100) } else { soon(100) };
        assert!(core.tick(again - Duration::from_millis(1)).is_empty(), "{what}: not before");
        let beat = comes_in(&mut core, again);
        assert_eq!(
            (beat.epoch, beat.everything, beat.owned),
            (0, true, Some(TopicPartitions::default())),
            "{what}"
        );
        let effects = core.heartbeat_answered(again, beat.seq, Ok(told(1, Some(&[0]))), 0);
        assert_eq!(
            effects.contains(&GroupEffect::Notify(GroupEvent::Healthy)),
            is_told,
            "{what}: {effects:?}"
        );
        assert!(
            effects.iter().any(|effect| matches!(effect, GroupEffect::Notify(GroupEvent::Assigned { .. }))),
            "{what}"
        );
    }
}

#[test]
fn persistent_code_is_reported_with_backoff() {
    for (code, error) in all_codes() {
        let what = format!("ConsumerGroupHeartbeat {code} {error}");
        let (mut core, mut seq) = joining();
        let (mut now, mut told_of) = (at(100), 0);
        for _ in 0..10 {
            told_of += troubles(&core.heartbeat_answered(now, seq, Err(RequestError::Code(error)), u64::MAX));
            now = core.wake_at().expect("a retry is scheduled");
            seq = comes_in(&mut core, now).seq;
        }
        assert!(told_of >= 9, "{what}: the error is reported to an operator");
        // The waits grow: ten retries take at least 10 s, and no wait is longer than 15 s.
        assert!(now >= at(110), "{what}: {now:?}");
        assert!(now <= at(100) + Duration::from_secs(10 * 15), "{what}: {now:?}");
    }
}

fn me_in(generation: i32) -> MemberIdentity {
    MemberIdentity { member: "me".to_owned(), generation }
}

#[test]
fn h1_every_commit_code_is_handled() {
    for (code, error) in all_codes() {
        let what = format!("OffsetCommit {code} {error}");
        let mut core = committing();
        assert!(
            core.commit_refused(at(104), &me_in(EPOCH - 1), error, 0).is_empty(),
            "{what}: in the previous epoch"
        );
        assert_eq!(core.commit_identity(), Some(&me_in(EPOCH)), "{what}: in the previous epoch");
        let effects = core.commit_refused(at(104), &me_in(EPOCH), error, 0);
        if OUT.contains(&code) && !OF_THE_EPOCH.contains(&code) {
            is_fenced(core, &effects, 104, &what);
            continue;
        }
        assert!(effects.is_empty(), "{what}: the commit is retried: {effects:?}");
        assert_eq!(core.commit_identity(), Some(&me_in(EPOCH)), "{what}");
        let beat = beat_in(&core.tick(at(104)));
        assert_eq!(beat.is_some(), OF_THE_EPOCH.contains(&code), "{what}: a full heartbeat is sent at once");
        if let Some(beat) = beat {
            assert_eq!(
                (beat.epoch, beat.everything, beat.owned),
                (EPOCH, true, Some(share(&[0, 1]))),
                "{what}"
            );
        }
    }
}

#[test]
fn h7_error_for_earlier_heartbeat_is_ignored() {
    for (code, error) in all_codes() {
        let (mut core, seq) = owning();
        assert!(
            core.heartbeat_answered(at(103), seq - 1, Err(RequestError::Code(error)), 0).is_empty(),
            "{code}"
        );
        let effects = core.heartbeat_answered(at(103), seq, Ok(told(EPOCH, None)), 0);
        assert!(
            effects.iter().any(|effect| matches!(effect, GroupEffect::ExtendLease(_))),
            "{code}: {effects:?}"
        );
    }
}

#[test]
fn heartbeat_codes_are_handled_like_java() {
    // Java's `transitionToFenced`, and `handleFatalFailure`, which ends a program; here the problem is reported and
    // the member retries.
    let (fences, fatal) = ([25, 110], [30, 81, 111, 112]);
    // Codes of requests that the node does not send: no setting could fix them, and a newer broker may accept them.
    let never_asked = [42, 128];
    for code in codes_of(ApiKey::ConsumerGroupHeartbeat) {
        let is_retried = !fences.contains(&code) && !fatal.contains(&code);
        assert_eq!(OUT.contains(&code), fences.contains(&code), "{code}");
        assert_eq!(FOR_A_PERSON.contains(&code), fatal.contains(&code), "{code}");
        assert!(!is_retried || never_asked.contains(&code) || [-1, 14, 15, 16].contains(&code), "{code}");
    }
}
