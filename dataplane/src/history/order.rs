//! Who may start an invocation over a partition, and with which records: OWN-1, ORD-1, DRN-1 and repeats.

use std::collections::{BTreeMap, BTreeSet};

use super::records::PartitionHistory;
use super::{Invariant, InvocationShare, OwnerProcess};

/// An invocation that runs.
#[derive(Clone, Debug)]
pub(super) struct RunningInvocation {
    pub owner: Option<OwnerProcess>,
    /// Its owner died or was expelled while it ran: nobody can stop the function.
    pub orphan: bool,
    pub shares: Vec<InvocationShare>,
}

/// What is known of ownership.
#[derive(Debug, Default)]
pub(super) struct OwnershipHistory {
    pub running: BTreeMap<u64, RunningInvocation>,
    /// Nobody's, when its owner was expelled and it was not given to another yet.
    pub owner_of: BTreeMap<i32, Option<OwnerProcess>>,
    pub drained: BTreeSet<(OwnerProcess, i32, u64)>,
}

type OrderViolations = Vec<(Invariant, String)>;

impl OwnershipHistory {
    /// Whether `share` may start now.
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

    /// Whether partition may be called drained now.
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

    /// The group has expelled a process.
    pub(super) fn expel(&mut self, owner: OwnerProcess) {
        self.gone(owner);
        for current in self.owner_of.values_mut().filter(|current| **current == Some(owner)) {
            *current = None;
        }
    }

    /// A process is gone: what it started may overlap with what comes.
    pub(super) fn gone(&mut self, owner: OwnerProcess) {
        for running in self.running.values_mut().filter(|running| running.owner == Some(owner)) {
            running.orphan = true;
        }
    }

    /// What stood behind `from` never was: an answer for it says nothing of what stands there now.
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

/// Whether the records of `share` may begin now: ascending, and none for the first time before an earlier one is resolved.
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
    // A record that a person skips is resolved before the frontier tells of it.
    let waits = |offset: &&i64| {
        !inside.contains(offset) && !partition.records.get(offset).is_some_and(|record| record.skip_wished)
    };
    let Some(earlier) = partition.open.iter().find(waits) else { return };
    if let Some(late) = offsets.iter().find(|offset| *offset > earlier) {
        let text = format!("partition {}: {late} began before {earlier} was resolved", share.partition);
        found.push((Invariant::Ord1, text));
    }
}

/// Counts what is started again although it was taken; an unknown outcome excuses one batch.
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
    let most = u64::from(excuses) * u64::from(records_max);
    if partition.repeats > most {
        let text = format!(
            "partition {}: {} records were repeated, {excuses} unknown outcomes excuse {most}",
            share.partition, partition.repeats
        );
        found.push((Invariant::Alo1, text));
    }
}
