//! Hand-made histories: a good one, and for each invariant some that the checker must reject.

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

/// The invariants that a history breaks.
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

/// `before`, then what is judged, then both records delivered and committed.
fn with(middle: &[HistoryEvent]) -> Vec<HistoryEvent> {
    let mut events = vec![produced(0), produced(1), granted(ONE)];
    events.extend_from_slice(middle);
    events
}

#[test]
fn com_1_a_commit_served_late_may_take_back_and_may_not_pass_an_open_record() {
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
fn a_good_history_is_clean() {
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
fn own_1_two_at_once_by_one_process() {
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
fn own_1_whoever_lost_the_partition_starts_nothing() {
    let events = with(&[granted(TWO), started(1, ONE, &[0, 1]), ended(1, true), committed(2)]);
    assert_eq!(broken(&events), [Invariant::Own1]);
}

#[test]
fn own_1_a_new_owner_starts_beside_one_that_is_neither_dead_nor_expelled() {
    let over = [granted(TWO), started(2, TWO, &[0]), ended(1, true), ended(2, true)];
    let events = with(&[&[started(1, ONE, &[0, 1])][..], &over[..]].concat());
    assert_eq!(broken(&events), [Invariant::Own1]);
    let gone = [HistoryEvent::Gone { owner: ONE }];
    let events = with(&[&[started(1, ONE, &[0, 1])][..], &gone[..], &over[..]].concat());
    assert_eq!(broken(&events), [], "of one that is gone the last invocation may still run");
}

#[test]
fn own_1_an_expelled_process_starts_nothing() {
    let late =
        [HistoryEvent::Expelled { owner: ONE }, started(1, ONE, &[0, 1]), ended(1, true), committed(2)];
    assert_eq!(broken(&with(&late)), [Invariant::Own1]);
    let given_back = [&[HistoryEvent::Expelled { owner: ONE }, granted(ONE)][..], &late[1..]].concat();
    assert_eq!(broken(&with(&given_back)), []);
}

#[test]
fn own_1_beside_what_a_process_has_running_that_let_go_before_its_session_is_over() {
    let over = [granted(TWO), started(2, TWO, &[0]), ended(1, true), ended(2, true)];
    let let_go = [started(1, ONE, &[0, 1]), HistoryEvent::LetGo { owner: ONE }];
    assert_eq!(broken(&with(&[&let_go[..], &over[..]].concat())), [Invariant::Own1]);
    let session_over = [HistoryEvent::SessionOver { owner: ONE }];
    assert_eq!(broken(&with(&[&let_go[..], &session_over[..], &over[..]].concat())), []);
}

#[test]
fn ord_1_overtaking_and_backwards() {
    let overtaking = with(&[started(1, ONE, &[1]), ended(1, true), started(2, ONE, &[0]), ended(2, true)]);
    assert_eq!(broken(&overtaking), [Invariant::Ord1]);
    let backwards = with(&[started(1, ONE, &[1, 0]), ended(1, true)]);
    assert_eq!(broken(&backwards), [Invariant::Ord1]);
}

#[test]
fn com_1_ahead_of_an_outcome_and_backwards() {
    let ahead =
        with(&[started(1, ONE, &[0]), committed(2), ended(1, true), started(2, ONE, &[1]), ended(2, true)]);
    assert_eq!(broken(&ahead), [Invariant::Com1]);
    let backwards = with(&[started(1, ONE, &[0, 1]), ended(1, true), committed(2), committed(1)]);
    assert_eq!(broken(&backwards), [Invariant::Com1]);
}

#[test]
fn alo_1_lost_unproduced_repeated_and_falsely_accounted() {
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
fn alo_1_given_up_before_the_retries_are_used_up() {
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
fn mem_1_over_the_budget_and_never_given_back() {
    assert_eq!(broken(&whole(HistoryEvent::Leased { bytes: 51 })), [Invariant::Mem1]);
    assert_eq!(broken(&whole(HistoryEvent::Stopped { bytes: 1 })), [Invariant::Mem1]);
}

#[test]
fn lim_1_too_many_too_large_too_late() {
    for (records, payload_bytes, waited_micros) in [(3, 1, 0), (1, 101, 0), (1, 1, 11)] {
        let sealed = HistoryEvent::Sealed { records, payload_bytes, waited_micros };
        assert_eq!(broken(&whole(sealed)), [Invariant::Lim1]);
    }
}

#[test]
fn slt_1_more_than_the_limit() {
    assert_eq!(broken(&whole(HistoryEvent::SlotTaken { in_use: 3, limit: 2 })), [Invariant::Slt1]);
}

#[test]
fn drn_1_while_something_runs_before_it_is_committed_and_not_for_good() {
    let running = with(&[started(1, ONE, &[0, 1]), committed(0), drained(0), ended(1, true)]);
    assert_eq!(broken(&running), [Invariant::Drn1]);
    let uncommitted = with(&[started(1, ONE, &[0, 1]), ended(1, true), committed(1), drained(2)]);
    assert_eq!(broken(&uncommitted), [Invariant::Drn1]);
    let again = with(&[committed(0), drained(0), started(1, ONE, &[0, 1]), ended(1, true)]);
    assert_eq!(broken(&again), [Invariant::Drn1]);
}

#[test]
fn liv_1_too_long_after_the_faults() {
    assert_eq!(broken_until(&whole(HistoryEvent::Quiet), 1000), []);
    assert_eq!(broken_until(&whole(HistoryEvent::Quiet), 5000), [Invariant::Liv1]);
}

#[test]
fn an_acknowledged_write_that_is_gone() {
    assert_eq!(broken(&whole(HistoryEvent::WriteLost { what: "key".into() })), [Invariant::Durable]);
}

#[test]
fn alo_1_what_stood_beside_a_failed_record_may_come_again_though_retention_has_taken_that_one() {
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

/// The function names 0 of 0 and 1, and is asked for 0 alone from then on.
#[test]
fn alo_1_a_record_behind_a_named_one_is_not_taken_where_order_is_kept() {
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
