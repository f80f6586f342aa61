//! Ownership and order of invocations: OWN-1, ORD-1, DRN-1 and repeats.

use std::collections::{BTreeMap, BTreeSet};

use super::records::PartitionHistory;
use super::{Invariant, InvocationShare, OwnerProcess};

/// Running invocation.
#[derive(Clone, Debug)]
pub(super) struct RunningInvocation {
    pub owner: Option<OwnerProcess>,
    /// Set after its owner died or was expelled: nobody can stop the function.
    pub orphan: bool,
    pub shares: Vec<InvocationShare>,
}

/// Ownership as recorded, with running invocations.
#[derive(Debug, Default)]
pub(super) struct OwnershipHistory {
    pub running: BTreeMap<u64, RunningInvocation>,
    /// `None` after the owner was expelled, until the partition is granted again.
    pub owner_of: BTreeMap<i32, Option<OwnerProcess>>,
    pub drained: BTreeSet<(OwnerProcess, i32, u64)>,
}

type OrderViolations = Vec<(Invariant, String)>;

impl OwnershipHistory {
    /// Checks that `share` may start.
    pub(super) fn judge_start(
        &self,
        invocation: u64,
        owner: Option<OwnerProcess>,
        share: &InvocationShare,
        found: &mut OrderViolations,
    ) {
        let partition = share.partition;
        let others =
            self.running.iter().filter(|(_, other)| other.shares.iter().any(|s| s.partition == partition));
        for (other, running) in others {
            let by_another = running.owner.is_some() && running.owner != owner;
            if !(by_another && running.orphan) {
                let text = format!(
                    "invocation {invocation} of partition {partition} began while invocation {other} ran"
                );
                found.push((Invariant::Own1, text));
            }
        }
        let Some(owner) = owner else { return };
        if let Some(current) = self.owner_of.get(&partition)
            && *current != Some(owner)
        {
            let done =
                current.map_or("taken away".to_owned(), |current| format!("given to {}", name(current)));
            let text = format!(
                "{} started invocation {invocation} of partition {partition}, which the group had {done}",
                name(owner)
            );
            found.push((Invariant::Own1, text));
        }
        if self.drained.contains(&(owner, partition, share.epoch)) {
            let text = format!("invocation {invocation} of partition {partition} began after it had drained");
            found.push((Invariant::Drn1, text));
        }
    }

    /// Checks that the partition may be reported as drained.
    pub(super) fn judge_drain(
        &self,
        owner: OwnerProcess,
        partition: i32,
        epoch: u64,
        found: &mut OrderViolations,
    ) {
        let runs = self.running.iter().find(|(_, running)| {
            running.owner == Some(owner)
                && running.shares.iter().any(|share| share.partition == partition && share.epoch <= epoch)
        });
        if let Some((invocation, _)) = runs {
            let text = format!("partition {partition} was called drained while invocation {invocation} ran");
            found.push((Invariant::Drn1, text));
        }
    }

    /// Records that the group expelled a process.
    pub(super) fn expel(&mut self, owner: OwnerProcess) {
        self.gone(owner);
        for current in self.owner_of.values_mut().filter(|current| **current == Some(owner)) {
            *current = None;
        }
    }

    /// Records that a process died: its invocations may overlap with later ones.
    pub(super) fn gone(&mut self, owner: OwnerProcess) {
        for running in self.running.values_mut().filter(|running| running.owner == Some(owner)) {
            running.orphan = true;
        }
    }

    /// Removes the truncated records from running invocations: an outcome does not apply to their replacements.
    pub(super) fn truncate(&mut self, partition: i32, from: i64) {
        let shares = self.running.values_mut().flat_map(|running| &mut running.shares);
        for share in shares.filter(|share| share.partition == partition) {
            share.offsets.retain(|offset| *offset < from);
        }
    }
}

pub(super) fn name(owner: OwnerProcess) -> String {
    format!("node {} in its life {}", owner.node, owner.incarnation)
}

/// Checks the order of `share`: offsets ascend, and no record starts before an earlier one is resolved.
pub(super) fn judge_order(
    partition: &PartitionHistory,
    share: &InvocationShare,
    found: &mut OrderViolations,
) {
    let offsets = &share.offsets;
    if let Some(pair) = offsets.iter().zip(offsets.iter().skip(1)).find(|(one, next)| one >= next) {
        let text = format!("partition {}: {} stands before {}", share.partition, pair.0, pair.1);
        found.push((Invariant::Ord1, text));
    }
    let inside: BTreeSet<i64> = offsets.iter().copied().collect();
    // A record skipped by an operator is resolved before the frontier shows it.
    let waits = |offset: &&i64| {
        !inside.contains(offset) && !partition.records.get(offset).is_some_and(|record| record.skip_wished)
    };
    let Some(earlier) = partition.open.iter().find(waits) else { return };
    if let Some(late) = offsets.iter().find(|offset| *offset > earlier) {
        let text = format!("partition {}: {late} began before {earlier} was resolved", share.partition);
        found.push((Invariant::Ord1, text));
    }
}

/// Counts starts of records that were already taken. An unknown outcome excuses one batch, a death the window of unacknowledged ones as well.
pub(super) fn count_repeats(
    partition: &mut PartitionHistory,
    share: &InvocationShare,
    records_max: u32,
    found: &mut OrderViolations,
) {
    let excuses = partition.excuses;
    for offset in &share.offsets {
        let Some(record) = partition.records.get_mut(offset) else { continue };
        record.started += 1;
        let settled = record.arrived || record.ended;
        if (record.taken || settled) && !record.may_repeat {
            record.repeated += 1;
            partition.repeats += 1;
            if record.repeated > excuses {
                let text = format!(
                    "partition {}: {offset} is repeated for the {}. time, {excuses} outcomes were unknown",
                    share.partition, record.repeated
                );
                found.push((Invariant::Alo1, text));
            }
        }
    }
    let most = u64::from(partition.excused_batches) * u64::from(records_max);
    if partition.repeats > most {
        let text = format!(
            "partition {}: {} records were repeated, {excuses} unknown outcomes excuse {most}",
            share.partition, partition.repeats
        );
        found.push((Invariant::Alo1, text));
    }
}
