//! Checker: one pass over a history.

use std::collections::BTreeMap;

use lighterman::messages::outcome::Outcome;
use lighterman_proto::units::Moment;

use super::order::{OwnershipHistory, RunningInvocation, count_repeats, judge_order, name};
use super::records::PartitionHistory;
use super::{HistoryEntry, HistoryEvent, HistoryRules, Invariant, InvocationShare, OwnerProcess, Violation};

/// Maximum number of reported violations.
const VIOLATIONS_MAX: usize = 1000;

/// Checker that takes a history event by event.
#[derive(Debug)]
pub struct HistoryChecker {
    rules: HistoryRules,
    at: Moment,
    quiet_since: Option<Moment>,
    partitions: BTreeMap<i32, PartitionHistory>,
    ownership: OwnershipHistory,
    violations: Vec<Violation>,
}

/// Checks a whole history that ended at `end`.
pub fn check(rules: HistoryRules, history: &[HistoryEntry], end: Moment) -> Vec<Violation> {
    let mut checker = HistoryChecker::new(rules);
    for entry in history {
        checker.take(entry.at, &entry.event);
    }
    checker.finish(end)
}

impl HistoryChecker {
    /// Creates a checker for an empty history.
    pub fn new(rules: HistoryRules) -> Self {
        Self {
            rules,
            at: Moment::default(),
            quiet_since: None,
            partitions: BTreeMap::new(),
            ownership: OwnershipHistory::default(),
            violations: Vec::new(),
        }
    }

    /// Returns the number of records that the function took more than once, by partition; partitions without any are
    /// left out.
    pub fn taken_again(&self) -> BTreeMap<i32, u64> {
        let again = self.partitions.iter().map(|(index, partition)| (*index, partition.taken_again));
        again.filter(|(_, again)| *again > 0).collect()
    }

    /// Returns the number of records that the function has taken.
    pub fn taken(&self) -> u64 {
        let taken =
            |partition: &PartitionHistory| partition.records.values().filter(|record| record.taken).count();
        self.partitions.values().map(|partition| taken(partition) as u64).sum()
    }

    /// Takes the next event.
    pub fn take(&mut self, at: Moment, event: &HistoryEvent) {
        self.at = at;
        match event {
            HistoryEvent::Produced { partition, offset } => self.partition(*partition).produce(*offset),
            HistoryEvent::Truncated { partition, from, leader_epoch } => {
                let uncommitted = self.rules.unacknowledged_batches_max + 1;
                self.partition(*partition).truncate(*from, *leader_epoch, uncommitted);
                self.ownership.truncate(*partition, *from);
            }
            HistoryEvent::Deleted { partition, before } => self.partition(*partition).delete(*before),
            HistoryEvent::Granted { partition, owner } => {
                self.ownership.owner_of.insert(*partition, Some(*owner));
            }
            HistoryEvent::Gone { owner } => {
                self.excuse(*owner);
                self.ownership.gone(*owner);
            }
            HistoryEvent::Expelled { owner } => {
                self.excuse(*owner);
                self.ownership.expel(*owner);
            }
            HistoryEvent::LetGo { owner } => self.excuse(*owner),
            HistoryEvent::SessionOver { owner } => self.ownership.gone(*owner),
            HistoryEvent::Started { invocation, owner, shares } => self.started(*invocation, *owner, shares),
            HistoryEvent::Ended { invocation, taken, failed } => self.ended(*invocation, *taken, failed),
            HistoryEvent::AnswerLost { partitions } => {
                for partition in partitions {
                    self.partition(*partition).excuse(1);
                }
            }
            HistoryEvent::Committed { partition, offset, leader_epoch } => {
                self.committed(*partition, *offset, *leader_epoch);
            }
            HistoryEvent::CommittedLate { partition, offset, leader_epoch } => {
                self.committed_late(*partition, *offset, *leader_epoch);
            }
            HistoryEvent::Accounted { partition, first, end, outcome, leader_epoch } => {
                let known = self.partition(*partition).known_end(*end, *leader_epoch);
                // A range deleted by retention was read by nobody, so its account depends on no leader epoch.
                let end = if *outcome == Outcome::Lost { *end } else { known };
                self.accounted(*partition, *first, end, *outcome);
            }
            HistoryEvent::Arrived { partition, offset, leader_epoch } => {
                self.mark(*partition, *offset, *leader_epoch, |record| record.arrived = true);
            }
            HistoryEvent::Refused { partition, offset, leader_epoch } => {
                self.mark(*partition, *offset, *leader_epoch, |record| record.refused = true);
            }
            HistoryEvent::SkipWished { partition, offset } => {
                self.mark(*partition, *offset, i32::MAX, |record| record.skip_wished = true);
            }
            HistoryEvent::Drained { owner, partition, epoch, frontier } => {
                self.drained(*owner, *partition, *epoch, *frontier);
            }
            HistoryEvent::Quiet => self.quiet_since = Some(at),
            bound => self.bound(bound),
        }
    }

    /// Ends the history and returns the violations found.
    pub fn finish(mut self, end: Moment) -> Vec<Violation> {
        self.at = end;
        let open: Vec<(i32, i64, usize)> = self
            .partitions
            .iter()
            .filter_map(|(index, partition)| Some((*index, partition.lowest_open()?, partition.open.len())))
            .collect();
        for (partition, offset, count) in open {
            let text =
                format!("partition {partition}: {count} records without an outcome, the first is {offset}");
            self.found(Invariant::Alo1, text);
        }
        if let Some(since) = self.quiet_since {
            let took = end.since(since).as_micros() as u64;
            if took > self.rules.quiet_micros_max {
                self.found(Invariant::Liv1, format!("{took} µs after the faults it is not done"));
            }
        }
        self.violations
    }

    /// Reports a run that did not finish, with the reason, as a LIV-1 violation.
    pub fn note_unfinished(&mut self, what: String) {
        self.found(Invariant::Liv1, what);
    }

    fn partition(&mut self, index: i32) -> &mut PartitionHistory {
        self.partitions.entry(index).or_default()
    }

    fn found(&mut self, invariant: Invariant, what: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(Violation { invariant, at: self.at, what });
        }
    }

    fn found_all(&mut self, found: Vec<(Invariant, String)>) {
        for (invariant, what) in found {
            self.found(invariant, what);
        }
    }

    /// Excuses one more repeat in each partition that may belong to `owner`: the batch in flight may be started again,
    /// and those whose commits were not acknowledged.
    fn excuse(&mut self, owner: OwnerProcess) {
        for (index, partition) in &mut self.partitions {
            let may_be_its = self.ownership.owner_of.get(index).is_none_or(|current| *current == Some(owner));
            if may_be_its {
                partition.excuse(self.rules.unacknowledged_batches_max + 1);
            }
        }
    }

    fn started(&mut self, invocation: u64, owner: Option<OwnerProcess>, shares: &[InvocationShare]) {
        let mut found = Vec::new();
        let records_max = self.rules.records_max;
        let shares: Vec<InvocationShare> = shares.iter().map(|share| self.known_share(share)).collect();
        for share in &shares {
            self.ownership.judge_start(invocation, owner, share, &mut found);
            let partition = self.partitions.entry(share.partition).or_default();
            if let Some(offset) = share.offsets.iter().find(|offset| !partition.ever.contains(offset)) {
                let text =
                    format!("partition {}: {offset} is no record that must be delivered", share.partition);
                found.push((Invariant::Alo1, text));
            }
            judge_order(partition, share, &mut found);
            let mut repeats = Vec::new();
            count_repeats(partition, share, records_max, &mut repeats);
            if self.rules.repeats {
                found.extend(repeats);
            }
        }
        self.found_all(found);
        let running = RunningInvocation { owner, orphan: false, shares };
        self.ownership.running.insert(invocation, running);
    }

    /// Returns the share without records that have been truncated.
    fn known_share(&mut self, share: &InvocationShare) -> InvocationShare {
        let partition = self.partition(share.partition);
        let epochs = share.leader_epochs.iter().copied().chain(std::iter::repeat(i32::MAX));
        let known = share.offsets.iter().copied().zip(epochs);
        let offsets =
            known.filter(|(offset, epoch)| !partition.is_cut_off(*offset, *epoch)).map(|(offset, _)| offset);
        InvocationShare { offsets: offsets.collect(), leader_epochs: Vec::new(), ..share.clone() }
    }

    fn ended(&mut self, invocation: u64, taken: bool, failed: &[(i32, i64)]) {
        let Some(running) = self.ownership.running.remove(&invocation) else { return };
        for share in running.shares {
            let partition = self.partitions.entry(share.partition).or_default();
            let is_named = |offset: i64| !taken || failed.contains(&(share.partition, offset));
            let mut beside_failed = false;
            for offset in share.offsets {
                // Also applies if retention has deleted the failed record meanwhile.
                let is_failed = is_named(offset) || (self.rules.ordered && beside_failed);
                beside_failed |= is_failed;
                let Some(record) = partition.records.get_mut(&offset) else { continue };
                if is_failed {
                    record.failed += 1;
                    record.may_repeat = true;
                } else {
                    record.may_repeat = beside_failed;
                    partition.taken_again += u64::from(record.taken);
                    record.taken = true;
                    partition.open.remove(&offset);
                }
            }
        }
    }

    fn committed(&mut self, index: i32, offset: i64, leader_epoch: i32) {
        let partition = self.partition(index);
        let (before, open) = (partition.committed.replace(offset), partition.lowest_open());
        if partition.is_of_a_cut_history(offset, leader_epoch) {
            // The committer has not detected the truncation yet; detecting it rewinds the commit.
            return;
        }
        if let Some(open) = open.filter(|open| *open < offset) {
            self.found(
                Invariant::Com1,
                format!("partition {index}: committed {offset}, {open} is unresolved"),
            );
        }
        if let Some(before) = before.filter(|before| *before > offset) {
            let partition = self.partition(index);
            if partition.rewinds > 0 {
                partition.rewinds -= 1;
                return;
            }
            self.found(Invariant::Com1, format!("partition {index}: committed {offset} after {before}"));
        }
    }

    /// Applies a late commit. The records that it rewinds are committed again later, and may be delivered again until
    /// then.
    fn committed_late(&mut self, index: i32, offset: i64, leader_epoch: i32) {
        let records_max = self.rules.records_max.max(1);
        let partition = self.partition(index);
        let taken_back = partition.records.range(offset..partition.committed.unwrap_or(offset).max(offset));
        let batches = 1 + taken_back.count() as u32 / records_max;
        partition.excuses += batches;
        partition.excused_batches += batches;
        partition.rewinds += 1;
        if partition.committed.is_none_or(|committed| offset >= committed) {
            self.committed(index, offset, leader_epoch);
        }
    }

    /// Checks that a node's account of a range matches the recorded events.
    fn accounted(&mut self, index: i32, first: i64, end: i64, outcome: Outcome) {
        let rules = self.rules;
        let partition = self.partitions.entry(index).or_default();
        let (deleted_before, excuses) = (partition.deleted_before, partition.excuses);
        let enough = |started: u32, failed: u32| {
            let most = rules.retries_max.map(|retries| retries + 1);
            failed > 0 && most.is_some_and(|most| started + excuses >= most)
        };
        let wrong = partition.first_in(first, end, |offset, record| match outcome {
            Outcome::Delivered => !record.taken,
            Outcome::NoRecord | Outcome::Filtered => true,
            Outcome::DeadLettered => !record.arrived,
            Outcome::Expired => !rules.may_expire,
            Outcome::Oversized => !rules.may_be_too_large,
            Outcome::Exhausted => !enough(record.started, record.failed),
            Outcome::Dropped => !record.refused,
            Outcome::Skipped => !record.skip_wished,
            Outcome::Lost => offset >= deleted_before,
            Outcome::ResolvedEarlier => {
                !(record.taken || record.ended || record.arrived || record.skip_wished)
            }
        });
        if outcome.is_notable() {
            for (offset, record) in partition.records.range_mut(first..end.max(first)) {
                record.ended = true;
                partition.open.remove(offset);
            }
        }
        if let Some(offset) = wrong {
            let text =
                format!("partition {index}: {offset} is on record as {}, and it is not so", outcome.label());
            self.found(Invariant::Alo1, text);
        }
    }

    fn mark(
        &mut self,
        index: i32,
        offset: i64,
        leader_epoch: i32,
        mark: impl FnOnce(&mut super::records::RecordHistory),
    ) {
        let partition = self.partitions.entry(index).or_default();
        if partition.is_cut_off(offset, leader_epoch) {
            return;
        }
        if let Some(record) = partition.records.get_mut(&offset) {
            mark(record);
            if record.arrived {
                partition.close(offset);
            }
        }
    }

    fn drained(&mut self, owner: OwnerProcess, partition: i32, epoch: u64, frontier: i64) {
        let mut found = Vec::new();
        self.ownership.judge_drain(owner, partition, epoch, &mut found);
        let committed = self.partition(partition).committed;
        if committed.is_none_or(|committed| committed < frontier) {
            let text = format!(
                "{} called partition {partition} drained at {frontier}, committed is {committed:?}",
                name(owner)
            );
            found.push((Invariant::Drn1, text));
        }
        self.found_all(found);
        self.ownership.drained.insert((owner, partition, epoch));
    }

    fn bound(&mut self, event: &HistoryEvent) {
        let rules = self.rules;
        match event {
            HistoryEvent::Sealed { records, payload_bytes, waited_micros } => {
                if *records > rules.records_max || *payload_bytes > rules.payload_bytes_max {
                    self.found(
                        Invariant::Lim1,
                        format!("a batch of {records} records and {payload_bytes} bytes"),
                    );
                }
                if *waited_micros > rules.wait_micros_max {
                    self.found(Invariant::Lim1, format!("a record that could go waited {waited_micros} µs"));
                }
            }
            HistoryEvent::SlotTaken { in_use, limit } if in_use > limit => {
                self.found(Invariant::Slt1, format!("{in_use} invocations at once, the limit was {limit}"));
            }
            HistoryEvent::Leased { bytes } if *bytes > rules.leased_bytes_max => {
                self.found(Invariant::Mem1, format!("{bytes} bytes leased of {}", rules.leased_bytes_max));
            }
            HistoryEvent::Stopped { bytes } if *bytes > 0 => {
                self.found(
                    Invariant::Mem1,
                    format!("{bytes} bytes are still leased when everything has stopped"),
                );
            }
            HistoryEvent::WriteLost { what } => self.found(Invariant::Durable, what.clone()),
            _ => {}
        }
    }
}
