//! Shrinking of a failing schedule, as long as it still violates the same invariant. It drops kinds of faults and
//! single faults, reduces nodes, partitions and batches, and shortens the time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::schedule::{FaultKind, FaultSchedule};
use super::simulation::run;
use crate::history::Invariant;

/// Reductions of a schedule. Their text form is a command-line argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScheduleEdits {
    without: Vec<FaultKind>,
    /// Indexes of omitted faults in the schedule.
    spared: Vec<usize>,
    nodes: Option<usize>,
    partitions: Option<i32>,
    batches: Option<u64>,
    until_ms: Option<u64>,
    /// Maximum number of unacknowledged batches.
    unacknowledged: Option<u32>,
}

impl ScheduleEdits {
    /// Returns `plan` with these reductions.
    pub fn apply(&self, mut plan: FaultSchedule) -> FaultSchedule {
        plan.kinds.retain(|kind| !self.without.contains(kind));
        let mut at = 0;
        plan.happenings.retain(|happening| {
            at += 1;
            !self.spared.contains(&(at - 1)) && !self.without.contains(&happening.kind)
        });
        plan.nodes = self.nodes.unwrap_or(plan.nodes);
        plan.partitions = self.partitions.unwrap_or(plan.partitions);
        plan.batches = self.batches.unwrap_or(plan.batches);
        plan.commit_window.batches_max = self.unacknowledged.unwrap_or(plan.commit_window.batches_max);
        plan.faults_until = self.until_ms.map_or(plan.faults_until, Duration::from_millis);
        plan
    }
}

/// Returns the reductions of `seed`'s schedule that make it as small as possible while it still violates `invariant`.
pub fn shrink(seed: u64, invariant: Invariant) -> ScheduleEdits {
    let whole = FaultSchedule::draw(seed);
    let breaks = |edits: &ScheduleEdits| {
        let outcome = run(&edits.apply(whole.clone()), false);
        outcome.violations.iter().any(|violation| violation.invariant == invariant)
    };
    let mut best = ScheduleEdits::default();
    loop {
        let smaller = steps(&whole, &best).into_iter().find(|edits| breaks(edits));
        let Some(smaller) = smaller else { return best };
        best = smaller;
    }
}

/// Returns every schedule that is one step smaller.
fn steps(whole: &FaultSchedule, edits: &ScheduleEdits) -> Vec<ScheduleEdits> {
    let mut steps = Vec::new();
    let plan = edits.apply(whole.clone());
    for index in (0..whole.happenings.len()).filter(|index| !edits.spared.contains(index)) {
        if !edits.without.contains(&whole.happenings[index].kind) {
            let mut spared = edits.spared.clone();
            spared.push(index);
            steps.push(ScheduleEdits { spared, ..edits.clone() });
        }
    }
    for kind in &plan.kinds {
        let mut without = edits.without.clone();
        without.push(*kind);
        steps.push(ScheduleEdits { without, ..edits.clone() });
    }
    if plan.nodes > 1 {
        steps.push(ScheduleEdits { nodes: Some(plan.nodes - 1), ..edits.clone() });
    }
    if plan.partitions > 1 {
        steps.push(ScheduleEdits { partitions: Some(plan.partitions - 1), ..edits.clone() });
    }
    if plan.batches > 1 {
        steps.push(ScheduleEdits { batches: Some(plan.batches - 1), ..edits.clone() });
    }
    if plan.commit_window.batches_max > 0 {
        steps.push(ScheduleEdits { unacknowledged: Some(0), ..edits.clone() });
    }
    let until = plan.faults_until.as_millis() as u64;
    if until > 1_000 {
        steps.push(ScheduleEdits { until_ms: Some(until * 3 / 4), ..edits.clone() });
    }
    steps
}

impl fmt::Display for ScheduleEdits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: Vec<String>| items.join(",");
        let mut fields = Vec::new();
        if !self.without.is_empty() {
            fields.push(format!(
                "without={}",
                list(self.without.iter().map(|kind| format!("{kind:?}")).collect())
            ));
        }
        if !self.spared.is_empty() {
            fields.push(format!("spared={}", list(self.spared.iter().map(ToString::to_string).collect())));
        }
        fields.extend(self.nodes.map(|count| format!("nodes={count}")));
        fields.extend(self.partitions.map(|count| format!("partitions={count}")));
        fields.extend(self.batches.map(|count| format!("batches={count}")));
        fields.extend(self.until_ms.map(|ms| format!("until={ms}")));
        fields.extend(self.unacknowledged.map(|count| format!("unacknowledged={count}")));
        f.write_str(&fields.join(";"))
    }
}

impl FromStr for ScheduleEdits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut edits = Self::default();
        let number = |value: &str| value.parse::<u64>().map_err(|error| format!("{value}: {error}"));
        for field in text.split(';').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').ok_or_else(|| format!("{field} is not name=value"))?;
            match name {
                "without" => {
                    let kind =
                        |name: &str| FaultKind::ALL.into_iter().find(|kind| format!("{kind:?}") == name);
                    edits.without = value.split(',').filter_map(kind).collect();
                }
                "spared" => {
                    for item in value.split(',') {
                        edits.spared.push(number(item)? as usize);
                    }
                }
                "nodes" => edits.nodes = Some(number(value)? as usize),
                "partitions" => edits.partitions = Some(number(value)? as i32),
                "batches" => edits.batches = Some(number(value)?),
                "until" => edits.until_ms = Some(number(value)?),
                "unacknowledged" => edits.unacknowledged = Some(number(value)? as u32),
                _ => return Err(format!("nothing is called {name}")),
            }
        }
        Ok(edits)
    }
}
