//! Verdict on a chaos run, from the caller and time span of each invocation and the times at which a process could
//! not reach Kafka.
//!
//! The shared checker judges loss and order. This module holds the rules that need times and callers: overlap of
//! invocations (OWN-1), and the faults that excuse a repeated record (ALO-1, DRN-1).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use lighterman_sim::history::Invariant;

use super::plan::SESSION;
use crate::checker::{self, repeated_batches_max};
use crate::function::{InvocationAction, InvocationEvent, TimedEvent};
use crate::produce::ProducedOffsets;

/// Longest time that a request sent before the fault may take to arrive.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// Maximum number of violations reported for each rule.
const TOLD_MAX: usize = 3;

/// Time in which a process could not work normally.
#[derive(Clone, Copy, Debug)]
pub struct FaultWindow {
    /// Affected process; all processes if `None`, when the broker was down.
    pub caller: Option<u32>,
    /// Start of the fault.
    pub from: Instant,
    /// End of the fault.
    pub until: Instant,
    /// True if the process is dead and sends nothing after the fault.
    pub deadly: bool,
}

/// Record of a run.
#[derive(Clone, Debug, Default)]
pub struct RunRecord {
    /// Every record that the function must take.
    pub produced: ProducedOffsets,
    /// Events that the function saw.
    pub told: Vec<TimedEvent>,
    /// Injected faults.
    pub disturbances: Vec<FaultWindow>,
    /// `BatchSize`.
    pub batch: u64,
}

/// Verdict on a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunVerdict {
    /// Violations, each with its invariant.
    pub violations: Vec<String>,
    /// Deliveries beyond the first.
    pub repeated: u64,
    /// Records delivered.
    pub delivered: u64,
    /// Permitted pairs of concurrent invocations of one partition.
    pub overlaps: u64,
}

/// Part of an invocation that belongs to one partition.
#[derive(Clone, Debug)]
struct InvocationSpan<'s> {
    caller: u32,
    from: Instant,
    /// End of the invocation; `None` while it runs.
    until: Option<Instant>,
    act: Option<InvocationAction>,
    offsets: &'s [i64],
    failed: BTreeSet<i64>,
}

impl RunRecord {
    /// Judges the run.
    pub fn judge(&self) -> RunVerdict {
        let events: Vec<InvocationEvent> = self.told.iter().map(|told| told.event.clone()).collect();
        let verdict = checker::check(&self.produced, &events);
        let mut judgement = RunVerdict { delivered: verdict.delivered, ..RunVerdict::default() };
        let of_all = verdict.violations.iter().filter(|violation| violation.invariant != Invariant::Own1);
        judgement.tell(of_all.map(ToString::to_string).collect());
        let mut repeats = Vec::new();
        for (partition, spans) in self.spans() {
            let (wrong, allowed) = self.overlapping(partition, &spans);
            judgement.overlaps += allowed;
            judgement.tell(wrong);
            judgement.tell(self.without_a_lease(partition, &spans));
            let (wrong, times) = self.repeated(partition, &spans);
            judgement.repeated += times;
            repeats.extend(wrong);
        }
        judgement.tell(repeats);
        judgement
    }

    /// Returns the invocations of each partition, ordered by start.
    fn spans(&self) -> BTreeMap<i32, Vec<InvocationSpan<'_>>> {
        let mut spans: BTreeMap<i32, Vec<InvocationSpan<'_>>> = BTreeMap::new();
        let mut open: BTreeMap<u64, Vec<(i32, usize)>> = BTreeMap::new();
        for told in &self.told {
            match &told.event {
                InvocationEvent::Start { id, offsets } => {
                    for (partition, offsets) in offsets {
                        let of_it = spans.entry(*partition).or_default();
                        open.entry(*id).or_default().push((*partition, of_it.len()));
                        let (caller, from) = (told.caller, told.at);
                        let (until, act, failed) = (None, None, BTreeSet::new());
                        of_it.push(InvocationSpan { caller, from, until, act, offsets, failed });
                    }
                }
                InvocationEvent::End { id, act, failed } => {
                    for (partition, index) in open.remove(id).into_iter().flatten() {
                        let Some(span) = spans.get_mut(&partition).and_then(|of_it| of_it.get_mut(index))
                        else {
                            continue;
                        };
                        (span.until, span.act) = (Some(told.at), Some(*act));
                        let of_it = failed.iter().filter(|(of, _)| *of == partition);
                        span.failed = of_it.map(|(_, offset)| *offset).collect();
                    }
                }
            }
        }
        spans
    }

    /// Checks OWN-1 by intervals. Two invocations may overlap only if the second has another caller and the first
    /// one's caller was out of reach before the second began.
    fn overlapping(&self, partition: i32, spans: &[InvocationSpan<'_>]) -> (Vec<String>, u64) {
        let (mut wrong, mut allowed) = (Vec::new(), 0);
        for (index, second) in spans.iter().enumerate() {
            let runs = |first: &&InvocationSpan<'_>| first.until.is_none_or(|until| until > second.from);
            for first in spans[..index].iter().filter(runs) {
                let excused = first.caller != second.caller
                    && self.disturbances_of(first.caller).any(|disturbance| {
                        disturbance.from <= second.from && disturbance.until >= first.from
                    });
                if excused {
                    allowed += 1;
                    continue;
                }
                let (first, second, callers) =
                    (first.offsets.first(), second.offsets.first(), (first.caller, second.caller));
                wrong.push(format!(
                    "OWN-1: partition {partition}: {second:?} of process {} began while {first:?} of process {} ran",
                    callers.1, callers.0
                ));
            }
        }
        (wrong, allowed)
    }

    /// Checks OWN-1 against faults: a process that has been out of reach for a session starts nothing, and neither
    /// does a dead one.
    fn without_a_lease(&self, partition: i32, spans: &[InvocationSpan<'_>]) -> Vec<String> {
        let too_late = |span: &InvocationSpan<'_>, disturbance: &&FaultWindow| {
            if disturbance.deadly {
                return span.from > disturbance.from + ON_ITS_WAY;
            }
            span.from > disturbance.from + SESSION && span.from < disturbance.until
        };
        let of_a_process = |span: &InvocationSpan<'_>| {
            self.disturbances
                .iter()
                .filter(|disturbance| disturbance.caller == Some(span.caller))
                .find(|disturbance| too_late(span, disturbance))
                .map(|disturbance| {
                    let late = span.from.saturating_duration_since(disturbance.from).as_millis();
                    let first = span.offsets.first();
                    format!(
                        "OWN-1: partition {partition}: {first:?} began {late} ms after process {} was lost",
                        span.caller
                    )
                })
        };
        spans.iter().filter_map(of_a_process).collect()
    }

    /// Checks ALO-1: a record may be repeated only if a fault hid that it had been taken. DRN-1 is the same without
    /// excuses.
    fn repeated(&self, partition: i32, spans: &[InvocationSpan<'_>]) -> (Vec<String>, u64) {
        let (mut wrong, mut times, mut excused_times) = (Vec::new(), 0, 0);
        let mut last_taken: BTreeMap<i64, &InvocationSpan<'_>> = BTreeMap::new();
        let mut touched: BTreeSet<usize> = BTreeSet::new();
        let mut lost_replies: BTreeSet<Instant> = BTreeSet::new();
        for span in spans {
            for offset in span.offsets {
                if let Some(before) = last_taken.get(offset).copied() {
                    times += 1;
                    let excuses: Vec<usize> = self.excuses(before, span).collect();
                    let lost = before.act == Some(InvocationAction::CutAfter);
                    if excuses.is_empty() && !lost {
                        wrong.push(format!(
                            "ALO-1: partition {partition}: {offset}, taken of process {}, came again of process {}, and \
                             nothing had happened to it",
                            before.caller, span.caller
                        ));
                        continue;
                    }
                    excused_times += 1;
                    touched.extend(excuses);
                    if lost {
                        lost_replies.insert(before.from);
                    }
                }
                let taken = span.act.is_some_and(|act| act.succeeds() || act == InvocationAction::Report)
                    // Records after a reported one are retried with it.
                    && span.failed.first().is_none_or(|first| offset < first);
                if taken {
                    last_taken.insert(*offset, span);
                } else {
                    // The excuse of this attempt also covers the next.
                    last_taken.remove(offset);
                }
            }
        }
        let batches = touched.len() as u64 * repeated_batches_max() + lost_replies.len() as u64;
        let most = batches * self.batch;
        if excused_times > most {
            wrong.push(format!(
                "ALO-1: partition {partition}: {excused_times} records came again, {most} are excused"
            ));
        }
        (wrong, times)
    }

    /// Returns the faults of the process that had `taken`, from its request to the repetition.
    fn excuses<'s>(
        &'s self,
        taken: &'s InvocationSpan<'_>,
        again: &'s InvocationSpan<'_>,
    ) -> impl Iterator<Item = usize> + 's {
        let all = self.disturbances.iter().enumerate();
        all.filter(|(_, disturbance)| {
            disturbance.caller.is_none_or(|caller| caller == taken.caller)
                && disturbance.from <= again.from
                // A request that a killed process had on the wire may be taken after its death.
                && (disturbance.deadly || disturbance.until >= taken.from)
        })
        .map(|(index, _)| index)
    }

    fn disturbances_of(&self, caller: u32) -> impl Iterator<Item = &FaultWindow> {
        self.disturbances.iter().filter(move |disturbance| disturbance.caller.is_none_or(|of| of == caller))
    }
}

impl RunVerdict {
    fn tell(&mut self, wrong: Vec<String>) {
        let more = wrong.len().saturating_sub(TOLD_MAX);
        self.violations.extend(wrong.into_iter().take(TOLD_MAX));
        if more > 0 {
            self.violations.push(format!("and {more} more of the kind"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: InvocationAction = InvocationAction::Succeed(Duration::ZERO);

    /// Run built from times in milliseconds.
    struct RunTimeline {
        base: Instant,
        story: RunRecord,
        next: u64,
    }

    impl RunTimeline {
        fn of(records: i64) -> Self {
            let produced = BTreeMap::from([(0, (0..records).collect())]);
            let story = RunRecord { produced, batch: 2, ..RunRecord::default() };
            Self { base: Instant::now(), story, next: 0 }
        }

        fn at(&self, ms: u64) -> Instant {
            self.base + Duration::from_millis(ms)
        }

        fn ran(mut self, caller: u32, between: (u64, u64), offsets: &[i64], act: InvocationAction) -> Self {
            let id = self.next;
            self.next += 1;
            let offsets = BTreeMap::from([(0, offsets.to_vec())]);
            let (from, until) = (self.at(between.0), self.at(between.1));
            self.story.told.push(TimedEvent {
                at: from,
                caller,
                event: InvocationEvent::Start { id, offsets },
            });
            let event = InvocationEvent::End { id, act, failed: BTreeSet::new() };
            self.story.told.push(TimedEvent { at: until, caller, event });
            self
        }

        fn disturbed(mut self, caller: Option<u32>, between: (u64, u64), deadly: bool) -> Self {
            let (from, until) = (self.at(between.0), self.at(between.1));
            self.story.disturbances.push(FaultWindow { caller, from, until, deadly });
            self
        }

        fn judged(mut self) -> Vec<String> {
            self.story.told.sort_by_key(|told| told.at);
            let ids = |text: String| text.split([':', ' ']).next().map(ToOwned::to_owned);
            self.story.judge().violations.into_iter().filter_map(ids).collect()
        }
    }

    #[test]
    fn correct_run_has_no_violations() {
        let story = RunTimeline::of(4)
            .ran(1, (0, 10), &[0, 1], OK)
            .ran(1, (20, 30), &[2, 3], InvocationAction::FunctionError)
            .ran(1, (40, 50), &[2, 3], OK);
        assert!(story.judged().is_empty());
    }

    #[test]
    fn own_1_overlap_needs_fault_of_first_caller() {
        let two = |callers: (u32, u32)| {
            RunTimeline::of(2).ran(callers.0, (0, 9_000), &[0, 1], OK).ran(
                callers.1,
                (7_000, 9_500),
                &[0, 1],
                OK,
            )
        };
        let own_1 = |story: RunTimeline| story.judged().iter().any(|id| id == "OWN-1");
        assert!(own_1(two((1, 2))), "nothing had happened");
        assert!(own_1(two((1, 2)).disturbed(Some(2), (100, 8_000), false)), "to the second");
        assert!(own_1(two((1, 2)).disturbed(Some(1), (7_500, 8_000), false)), "after it");
        assert!(own_1(two((1, 1)).disturbed(Some(1), (100, 8_000), false)), "the same process never");
        assert!(!own_1(two((1, 2)).disturbed(Some(1), (100, 8_000), false)));
        assert!(!own_1(two((1, 2)).disturbed(None, (100, 3_000), false)), "the broker");
    }

    #[test]
    fn own_1_unreachable_process_starts_nothing_after_session() {
        let late = |at: u64| {
            RunTimeline::of(1).disturbed(Some(1), (0, 9_000), false).ran(1, (at, at + 5), &[0], OK).judged()
        };
        assert_eq!(late(6_500), ["OWN-1"]);
        assert!(late(4_000).is_empty() && late(9_100).is_empty());
        let dead = |at: u64| {
            RunTimeline::of(1).disturbed(Some(1), (0, 0), true).ran(1, (at, at + 5), &[0], OK).judged()
        };
        assert_eq!((dead(100).len(), dead(900)), (0, vec!["OWN-1".to_owned()]));
    }

    #[test]
    fn alo_1_repeat_needs_fault_within_a_batch() {
        let again = |callers: (u32, u32)| {
            RunTimeline::of(2).ran(callers.0, (0, 10), &[0, 1], OK).ran(
                callers.1,
                (5_000, 5_010),
                &[0, 1],
                OK,
            )
        };
        assert!(again((1, 2)).judged().contains(&"ALO-1".to_owned()), "a hand-over");
        let elsewhere = again((1, 2)).disturbed(Some(3), (5, 5), true);
        assert!(elsewhere.judged().contains(&"ALO-1".to_owned()), "another's fault");
        let afterwards = again((1, 2)).disturbed(Some(1), (6_000, 6_000), true);
        assert!(afterwards.judged().contains(&"ALO-1".to_owned()), "a later fault");
        assert!(again((1, 2)).disturbed(Some(1), (5, 5), true).judged().is_empty());
        let on_the_wire = RunTimeline::of(2)
            .disturbed(Some(1), (0, 0), true)
            .ran(1, (2, 4), &[0, 1], OK)
            .ran(2, (5_000, 5_010), &[0, 1], OK);
        assert!(on_the_wire.judged().is_empty(), "sent before the kill, received afterwards");
        assert!(again((1, 1)).disturbed(None, (8, 3_000), false).judged().is_empty());
        let lost = RunTimeline::of(1).ran(1, (0, 1), &[0], InvocationAction::CutAfter).ran(
            1,
            (1_000, 1_001),
            &[0],
            OK,
        );
        assert!(lost.judged().is_empty());
        let mut beside = RunTimeline::of(3).ran(1, (0, 1), &[0, 1, 2], InvocationAction::Report).ran(
            1,
            (5, 6),
            &[1, 2],
            OK,
        );
        for told in &mut beside.story.told {
            if let InvocationEvent::End { act: InvocationAction::Report, failed, .. } = &mut told.event {
                failed.insert((0, 1));
            }
        }
        assert!(beside.judged().is_empty(), "1 had failed, and 2 follows it");
    }

    #[test]
    fn alo_1_one_fault_excuses_the_window_only() {
        let repeated = |batches: u64| {
            let mut run = RunTimeline::of(batches.cast_signed() * 2).disturbed(Some(1), (900, 900), true);
            for (batch, first) in (0..batches).zip((0..).step_by(2)) {
                let again = 5_000 + batch * 20;
                run = run.ran(1, (batch * 20, batch * 20 + 10), &[first, first + 1], OK).ran(
                    2,
                    (again, again + 10),
                    &[first, first + 1],
                    OK,
                );
            }
            run.judged()
        };
        assert!(repeated(repeated_batches_max()).is_empty());
        assert_eq!(
            repeated(repeated_batches_max() + 1),
            ["ALO-1"],
            "one batch more than the window and the one in flight"
        );
    }
}
