//! Hand-made histories: a valid one, and for each invariant some that the checker must reject.

use super::*;

const ONE: OwnerProcess = OwnerProcess { node: 1, incarnation: 0 };
const TWO: OwnerProcess = OwnerProcess { node: 2, incarnation: 0 };

fn rules() -> HistoryRules {
    HistoryRules {
        records_max: 2,
        payload_bytes_max: 100,
        wait_micros_max: 10,
        leased_bytes_max: 50,
        retries_max: Some(1),
        repeats: true,
        unacknowledged_batches_max: 0,
        quiet_micros_max: 1000,
        ..HistoryRules::default()
    }
}

fn produced(offset: i64) -> HistoryEvent {
    HistoryEvent::Produced { partition: 0, offset }
}

fn granted(owner: OwnerProcess) -> HistoryEvent {
    HistoryEvent::Granted { partition: 0, owner }
}

fn started(invocation: u64, owner: OwnerProcess, offsets: &[i64]) -> HistoryEvent {
    let share =
        InvocationShare { partition: 0, epoch: 1, offsets: offsets.to_vec(), leader_epochs: Vec::new() };
    HistoryEvent::Started { invocation, owner: Some(owner), shares: vec![share] }
}

fn ended(invocation: u64, taken: bool) -> HistoryEvent {
    HistoryEvent::Ended { invocation, taken, failed: Vec::new() }
}

fn committed(offset: i64) -> HistoryEvent {
    HistoryEvent::Committed { partition: 0, offset, leader_epoch: 0 }
}

fn accounted(first: i64, end: i64, outcome: Outcome) -> HistoryEvent {
    HistoryEvent::Accounted { partition: 0, first, end, outcome, leader_epoch: 0 }
}

fn drained(frontier: i64) -> HistoryEvent {
    HistoryEvent::Drained { owner: ONE, partition: 0, epoch: 1, frontier }
}

/// Returns the invariants that a history violates.
fn broken(events: &[HistoryEvent]) -> Vec<Invariant> {
    broken_until(events, 100)
}

fn broken_until(events: &[HistoryEvent], end: u64) -> Vec<Invariant> {
    broken_under(rules(), events, end)
}

fn broken_under(rules: HistoryRules, events: &[HistoryEvent], end: u64) -> Vec<Invariant> {
    let entry = |(at, event): (u64, &HistoryEvent)| HistoryEntry {
        at: Moment::from_micros(at),
        event: event.clone(),
    };
    let history: Vec<HistoryEntry> = (1..).zip(events).map(entry).collect();
    let mut found: Vec<Invariant> = check(rules, &history, Moment::from_micros(end))
        .into_iter()
        .map(|violation| violation.invariant)
        .collect();
    found.dedup();
    found
}

/// Returns a history that produces records 0 and 1, grants the partition to `ONE`, and continues with `middle`.
fn with(middle: &[HistoryEvent]) -> Vec<HistoryEvent> {
    let mut events = vec![produced(0), produced(1), granted(ONE)];
    events.extend_from_slice(middle);
    events
}

#[test]
fn com_1_late_commit_may_rewind_but_not_pass_open() {
    let late = |offset| HistoryEvent::CommittedLate { partition: 0, offset, leader_epoch: 0 };
    let delivered =
        [started(1, ONE, &[0, 1]), ended(1, true), accounted(0, 2, Outcome::Delivered), committed(2)];
    let healed = [late(1), committed(1), committed(2)];
    assert_eq!(broken(&with(&[&delivered[..], &healed].concat())), []);
    let twice = [late(1), committed(1), committed(2), committed(1)];
    assert_eq!(broken(&with(&[&delivered[..], &twice].concat())), [Invariant::Com1]);
    let ahead = [late(2), started(1, ONE, &[0, 1]), ended(1, true), accounted(0, 2, Outcome::Delivered)];
    assert_eq!(broken(&with(&ahead)), [Invariant::Com1]);
}

#[test]
fn valid_history_has_no_violations() {
    let events = with(&[
        started(1, ONE, &[0]),
        ended(1, false),
        started(2, ONE, &[0, 1]),
        ended(2, true),
        accounted(0, 2, Outcome::Delivered),
        committed(2),
        drained(2),
        HistoryEvent::Stopped { bytes: 0 },
    ]);
    assert_eq!(broken(&events), []);
}

#[test]
fn own_1_concurrent_invocations_of_one_process_are_reported() {
    let events = with(&[
        started(1, ONE, &[0]),
        started(2, ONE, &[0, 1]),
        ended(1, true),
        ended(2, true),
        committed(2),
    ]);
    assert_eq!(broken(&events), [Invariant::Own1]);
}

#[test]
fn own_1_start_by_previous_owner_is_reported() {
    let events = with(&[granted(TWO), started(1, ONE, &[0, 1]), ended(1, true), committed(2)]);
    assert_eq!(broken(&events), [Invariant::Own1]);
}

#[test]
fn own_1_overlap_with_live_previous_owner_is_reported() {
    let over = [granted(TWO), started(2, TWO, &[0]), ended(1, true), ended(2, true)];
    let events = with(&[&[started(1, ONE, &[0, 1])][..], &over[..]].concat());
    assert_eq!(broken(&events), [Invariant::Own1]);
    let gone = [HistoryEvent::Gone { owner: ONE }];
    let events = with(&[&[started(1, ONE, &[0, 1])][..], &gone[..], &over[..]].concat());
    assert_eq!(broken(&events), [], "of one that is gone the last invocation may still run");
}

#[test]
fn own_1_start_by_expelled_process_is_reported() {
    let late =
        [HistoryEvent::Expelled { owner: ONE }, started(1, ONE, &[0, 1]), ended(1, true), committed(2)];
    assert_eq!(broken(&with(&late)), [Invariant::Own1]);
    let given_back = [&[HistoryEvent::Expelled { owner: ONE }, granted(ONE)][..], &late[1..]].concat();
    assert_eq!(broken(&with(&given_back)), []);
}

#[test]
fn own_1_overlap_before_session_expiry_is_reported() {
    let over = [granted(TWO), started(2, TWO, &[0]), ended(1, true), ended(2, true)];
    let let_go = [started(1, ONE, &[0, 1]), HistoryEvent::LetGo { owner: ONE }];
    assert_eq!(broken(&with(&[&let_go[..], &over[..]].concat())), [Invariant::Own1]);
    let session_over = [HistoryEvent::SessionOver { owner: ONE }];
    assert_eq!(broken(&with(&[&let_go[..], &session_over[..], &over[..]].concat())), []);
}

#[test]
fn ord_1_overtaking_and_descending_offsets_are_reported() {
    let overtaking = with(&[started(1, ONE, &[1]), ended(1, true), started(2, ONE, &[0]), ended(2, true)]);
    assert_eq!(broken(&overtaking), [Invariant::Ord1]);
    let backwards = with(&[started(1, ONE, &[1, 0]), ended(1, true)]);
    assert_eq!(broken(&backwards), [Invariant::Ord1]);
}

#[test]
fn com_1_early_and_backward_commits_are_reported() {
    let ahead =
        with(&[started(1, ONE, &[0]), committed(2), ended(1, true), started(2, ONE, &[1]), ended(2, true)]);
    assert_eq!(broken(&ahead), [Invariant::Com1]);
    let backwards = with(&[started(1, ONE, &[0, 1]), ended(1, true), committed(2), committed(1)]);
    assert_eq!(broken(&backwards), [Invariant::Com1]);
}

#[test]
fn alo_1_lost_unproduced_repeated_misaccounted_are_reported() {
    let lost = with(&[started(1, ONE, &[0]), ended(1, true)]);
    assert_eq!(broken(&lost), [Invariant::Alo1]);
    let unproduced = with(&[started(1, ONE, &[0, 1]), ended(1, true), started(2, ONE, &[7]), ended(2, true)]);
    assert_eq!(broken(&unproduced), [Invariant::Alo1]);
    let repeated = [started(1, ONE, &[0, 1]), ended(1, true), started(2, ONE, &[0]), ended(2, true)];
    assert_eq!(broken(&with(&repeated)), [Invariant::Alo1]);
    let excused = [&[HistoryEvent::AnswerLost { partitions: vec![0] }][..], &repeated[..]].concat();
    assert_eq!(broken(&with(&excused)), []);
    for outcome in Outcome::ALL.into_iter().filter(|outcome| *outcome != Outcome::Delivered) {
        let false_account = with(&[
            started(1, ONE, &[0]),
            accounted(1, 2, outcome),
            ended(1, true),
            started(2, ONE, &[1]),
            ended(2, true),
        ]);
        assert!(broken(&false_account).contains(&Invariant::Alo1), "{outcome:?}");
    }
    let delivered = with(&[accounted(0, 2, Outcome::Delivered), started(1, ONE, &[0, 1]), ended(1, true)]);
    assert_eq!(broken(&delivered), [Invariant::Alo1]);
}

#[test]
fn alo_1_exhausted_before_last_retry_is_reported() {
    let early = with(&[
        started(1, ONE, &[0]),
        ended(1, false),
        accounted(0, 1, Outcome::Exhausted),
        started(2, ONE, &[1]),
        ended(2, true),
    ]);
    assert_eq!(broken(&early), [Invariant::Alo1]);
}

fn whole(event: HistoryEvent) -> Vec<HistoryEvent> {
    with(&[started(1, ONE, &[0, 1]), ended(1, true), committed(2), event])
}

#[test]
fn mem_1_excess_and_leaked_bytes_are_reported() {
    assert_eq!(broken(&whole(HistoryEvent::Leased { bytes: 51 })), [Invariant::Mem1]);
    assert_eq!(broken(&whole(HistoryEvent::Stopped { bytes: 1 })), [Invariant::Mem1]);
}

#[test]
fn lim_1_excess_records_bytes_and_wait_are_reported() {
    for (records, payload_bytes, waited_micros) in [(3, 1, 0), (1, 101, 0), (1, 1, 11)] {
        let sealed = HistoryEvent::Sealed { records, payload_bytes, waited_micros };
        assert_eq!(broken(&whole(sealed)), [Invariant::Lim1]);
    }
}

#[test]
fn slt_1_slots_over_limit_are_reported() {
    assert_eq!(broken(&whole(HistoryEvent::SlotTaken { in_use: 3, limit: 2 })), [Invariant::Slt1]);
}

#[test]
fn drn_1_running_uncommitted_and_restarted_are_reported() {
    let running = with(&[started(1, ONE, &[0, 1]), committed(0), drained(0), ended(1, true)]);
    assert_eq!(broken(&running), [Invariant::Drn1]);
    let uncommitted = with(&[started(1, ONE, &[0, 1]), ended(1, true), committed(1), drained(2)]);
    assert_eq!(broken(&uncommitted), [Invariant::Drn1]);
    let again = with(&[committed(0), drained(0), started(1, ONE, &[0, 1]), ended(1, true)]);
    assert_eq!(broken(&again), [Invariant::Drn1]);
}

#[test]
fn liv_1_late_finish_after_faults_is_reported() {
    assert_eq!(broken_until(&whole(HistoryEvent::Quiet), 1000), []);
    assert_eq!(broken_until(&whole(HistoryEvent::Quiet), 5000), [Invariant::Liv1]);
}

#[test]
fn lost_acknowledged_write_is_reported() {
    assert_eq!(broken(&whole(HistoryEvent::WriteLost { what: "key".into() })), [Invariant::Durable]);
}

#[test]
fn alo_1_record_may_repeat_when_failed_neighbour_is_deleted() {
    let failed = HistoryEvent::Ended { invocation: 1, taken: true, failed: vec![(0, 0)] };
    let gone = HistoryEvent::Deleted { partition: 0, before: 1 };
    let again = [
        started(1, ONE, &[0, 1]),
        gone,
        failed,
        started(2, ONE, &[1]),
        ended(2, true),
        accounted(1, 2, Outcome::Delivered),
        committed(2),
    ];
    assert_eq!(broken(&with(&again)), []);
}

/// In these histories the function names 0 of the batch 0 and 1 as failed, and then gets 0 alone.
#[test]
fn alo_1_record_after_failed_is_not_taken_when_ordered() {
    let named = |invocation| HistoryEvent::Ended { invocation, taken: true, failed: vec![(0, 0)] };
    let alone = [started(1, ONE, &[0, 1]), named(1), started(2, ONE, &[0])];
    let outcomes = |first: Outcome, second: Outcome| [accounted(0, 1, first), accounted(1, 2, second)];
    let exhausted = outcomes(Outcome::Exhausted, Outcome::Delivered);
    let histories = [
        [&alone[..], &[named(2)], &exhausted].concat(),
        [&alone[..], &[ended(2, true)], &outcomes(Outcome::Delivered, Outcome::ResolvedEarlier)].concat(),
        [&alone[..], &[ended(2, true)], &[committed(2)]].concat(),
    ];
    for history in histories {
        let broken = |ordered| broken_under(HistoryRules { ordered, ..rules() }, &with(&history), 100);
        assert_eq!(broken(false), [], "named alone is tried again: {history:?}");
        assert!(!broken(true).is_empty(), "{history:?}");
    }
    let together = [started(1, ONE, &[0, 1]), named(1), started(2, ONE, &[0, 1]), named(2)];
    let history = with(&[&together[..], &[accounted(0, 2, Outcome::Exhausted), committed(2)]].concat());
    assert_eq!(broken_under(HistoryRules { ordered: true, ..rules() }, &history, 100), [], "given up as one");
}
