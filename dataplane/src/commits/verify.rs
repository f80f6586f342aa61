//! Verification that the group still holds the offsets it has acknowledged (H6).
//!
//! A commit that its sender has abandoned may be applied after a newer one, over a connection that has since
//! closed, and rewind the offset. So may another member's abandoned start position. Nothing would correct it while
//! the partition is idle: it would show a false lag, and its next owner would deliver again. Acknowledged commits
//! are therefore read back periodically, and committed again where the group's differ. That is safe: while a group
//! has members, Kafka accepts commits from them alone. This member's commit is rejected like any other once the
//! partition is another's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::Moment;

use super::coalescing::offsets_of;
use crate::kafka::offsets::OffsetAndMetadata;
use crate::messages::commit::CommitRequest;

/// Interval of read-backs of all idle partitions, one `OffsetFetch` of a mapping each.
const EVERY: Duration = Duration::from_secs(30);
/// Delay of a read-back after an abandoned commit or a failed read.
const SOON: Duration = Duration::from_secs(5);

/// Acknowledged commits, and the schedule of their verification.
#[derive(Debug, Default)]
pub struct CommitVerifier {
    acknowledged: BTreeMap<i32, CommitRequest>,
    /// Partitions being read back, with the commit that was acknowledged when the read started.
    asked: BTreeMap<i32, (Epoch, u64)>,
    at: Option<Moment>,
}

impl CommitVerifier {
    /// Records an acknowledged commit. Returns false if it had been acknowledged before.
    pub fn acknowledged(&mut self, frontier: &CommitRequest) -> bool {
        let key = |known: &CommitRequest| (known.epoch, known.seq);
        let before = self.acknowledged.insert(frontier.partition, frontier.clone());
        before.is_none_or(|before| key(&before) != key(frontier))
    }

    /// Registers an owned partition at its start position.
    pub fn begin(&mut self, beginning: CommitRequest) {
        self.acknowledged.insert(beginning.partition, beginning);
    }

    /// Returns the last acknowledged offset of an owned partition.
    pub fn acknowledged_offset(&self, partition: i32) -> Option<Offset> {
        self.acknowledged.get(&partition).map(|known| known.offset)
    }

    /// Removes a partition that was lost or is reassigned.
    pub fn forget(&mut self, partition: i32) {
        self.acknowledged.remove(&partition);
    }

    /// Brings the next read-back forward: a commit without a response may still be applied.
    pub fn verify_soon(&mut self, now: Moment) {
        let soon = now + SOON;
        self.at = Some(self.at.map_or(soon, |at| at.min(soon)));
    }

    /// Returns the commits to read back, none before the scheduled time or while a read is in flight. `busy`
    /// partitions are left out, because their next commit replaces everything. [`CommitVerifier::read`] must
    /// follow.
    pub fn start(&mut self, now: Moment, busy: impl Fn(i32) -> bool) -> Vec<CommitRequest> {
        let at = *self.at.get_or_insert(now + EVERY);
        if now < at || !self.asked.is_empty() {
            return Vec::new();
        }
        self.at = Some(now + EVERY);
        let idle: Vec<CommitRequest> =
            self.acknowledged.values().filter(|known| !busy(known.partition)).cloned().collect();
        self.asked = idle.iter().map(|known| (known.partition, (known.epoch, known.seq))).collect();
        idle
    }

    /// Ends a read-back with the partitions whose commits differ, or `None` if the read failed. Returns the commits
    /// to send again, without partitions that have committed since.
    pub fn read(&mut self, now: Moment, differing: Option<&[i32]>) -> Vec<CommitRequest> {
        let asked = std::mem::take(&mut self.asked);
        let Some(differing) = differing else {
            self.verify_soon(now);
            return Vec::new();
        };
        let unchanged = |partition: &i32| {
            let known = self.acknowledged.get(partition)?;
            must_be_sent_again(known, asked.get(partition)).then(|| known.clone())
        };
        differing.iter().filter_map(unchanged).collect()
    }
}

/// True if a commit that the group has lost must be sent again: `known` is still the commit that was read back.
fn must_be_sent_again(known: &CommitRequest, read_back: Option<&(Epoch, u64)>) -> bool {
    mutant!("rewound-commit-stays", read_back == Some(&(known.epoch, known.seq)), false)
}

/// Returns the partitions of `ours` whose commit in the group differs. A partition missing from the response is not
/// reported. A start position, under which nothing has been committed yet, is compared by offset within the same
/// topic. Its metadata may come from another writer.
pub fn mismatched_partitions(
    ours: Vec<CommitRequest>,
    partitions_at_activation: i32,
    theirs: &BTreeMap<i32, Option<OffsetAndMetadata>>,
) -> Vec<i32> {
    let begins: BTreeSet<i32> = ours.iter().filter(|ours| ours.seq == 0).map(|ours| ours.partition).collect();
    let topics: BTreeMap<i32, TopicId> =
        ours.iter().filter_map(|ours| Some((ours.partition, ours.topic?))).collect();
    let ours = offsets_of(ours, partitions_at_activation);
    let differs = |(partition, ours): &(&i32, &OffsetAndMetadata)| match theirs.get(partition) {
        Some(Some(theirs)) if begins.contains(partition) => {
            let theirs_topic = CommitMetadata::parse(&theirs.metadata).and_then(|metadata| metadata.topic);
            theirs.offset != ours.offset || is_another(theirs_topic, topics.get(partition).copied())
        }
        // The same offset of a log that was truncated in between has another leader epoch.
        Some(Some(theirs)) => theirs != *ours,
        Some(None) => true,
        None => false,
    };
    ours.iter().filter(differs).map(|(partition, _)| *partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontier(partition: i32, seq: u64) -> CommitRequest {
        let offset = Offset(seq.cast_signed());
        let (epoch, leader_epoch) = (Epoch(1), 0);
        let (topic, progress, passed) = (None, None, Vec::new());
        CommitRequest { partition, topic, epoch, offset, leader_epoch, seq, progress, passed }
    }

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn idle(_: i32) -> bool {
        false
    }

    /// Returns a verifier with partition 0 acknowledged at 5, and 1 at 7.
    fn read_back() -> CommitVerifier {
        let mut core = CommitVerifier::default();
        assert!(core.acknowledged(&frontier(0, 5)) && core.acknowledged(&frontier(1, 7)));
        assert_eq!(core.start(at(0), idle), []);
        core
    }

    #[test]
    fn com_1_offset_lost_by_group_is_recommitted() {
        let mut core = read_back();
        assert_eq!(core.start(at(29), idle), [], "before the interval");
        assert_eq!(core.start(at(30), idle), [frontier(0, 5), frontier(1, 7)]);
        assert_eq!(core.start(at(90), idle), [], "one read in flight");
        assert_eq!(core.read(at(90), Some(&[1])), [frontier(1, 7)]);
        assert!(!core.acknowledged(&frontier(1, 7)), "reported once");
        assert_eq!(core.start(at(90), idle).len(), 2);
    }

    #[test]
    fn com_1_advanced_partition_is_not_rewound() {
        let mut core = read_back();
        assert_eq!(core.start(at(30), |partition| partition == 1), [frontier(0, 5)]);
        core.acknowledged(&frontier(0, 6));
        assert_eq!(
            core.read(at(31), Some(&[0, 1])),
            [],
            "newer commits and unrequested partitions are not rewound"
        );
        core.forget(0);
        core.acknowledged(&frontier(0, 6));
        core.start(at(60), idle);
        core.forget(0);
        assert_eq!(core.read(at(61), Some(&[0])), [], "the partition is no longer owned");
    }

    #[test]
    fn lost_commit_or_failure_hastens_read() {
        let mut core = read_back();
        core.verify_soon(at(2));
        assert_eq!(core.start(at(6), idle), []);
        assert_eq!(core.start(at(7), idle).len(), 2);
        assert_eq!(core.read(at(8), None), []);
        assert_eq!(core.start(at(13), idle).len(), 2);
        core.read(at(13), Some(&[]));
        assert_eq!(core.start(at(42), idle), []);
        assert_eq!(core.start(at(43), idle).len(), 2);
    }

    #[test]
    fn mismatch_of_any_field_is_reported() {
        let stored = |offset: i64, leader_epoch: i32, metadata: &str| {
            let (offset, metadata) = (Offset(offset), metadata.to_owned());
            Some(OffsetAndMetadata { offset, leader_epoch, metadata })
        };
        let theirs = |offset: i64, metadata: &str| stored(offset, 0, metadata);
        let theirs = BTreeMap::from([
            (0, theirs(5, "lighterman/1 n=2")),
            (1, theirs(4, "lighterman/1 n=2")),
            (2, theirs(5, "lighterman/1 n=2 r=1+1")),
            (3, theirs(6, "lighterman/1 n=2")), // of a log that was truncated in between
            (4, None),
            (5, stored(5, -1, "lighterman/1 n=2")),
        ]);
        let ours: Vec<CommitRequest> = (0..7).map(|partition| frontier(partition, 5)).collect();
        assert_eq!(mismatched_partitions(ours.clone(), 2, &theirs), [1, 2, 3, 4, 5], "of 6 nothing is known");
        let beginnings = ours.into_iter().map(|ours| CommitRequest { seq: 0, ..ours }).collect();
        assert_eq!(mismatched_partitions(beginnings, 2, &theirs), [1, 3, 4]);
    }

    #[test]
    fn com_1_h17_start_in_other_topic_is_mismatch() {
        let id = |number| TopicId::of(uuid::Uuid::from_u128(number));
        let stored = |topic| {
            let metadata = CommitMetadata { partitions_at_activation: 2, topic, progress: None }.encode();
            Some(OffsetAndMetadata { offset: Offset(0), leader_epoch: -1, metadata })
        };
        let begun = |partition, topic| CommitRequest { topic, ..frontier(partition, 0) };
        let ours = vec![begun(0, id(2)), begun(1, id(2)), begun(2, id(2)), begun(3, None)];
        let theirs = [(0, stored(id(1))), (1, stored(id(2))), (2, stored(None)), (3, stored(id(1)))];
        assert_eq!(
            mismatched_partitions(ours, 2, &BTreeMap::from(theirs)),
            [0],
            "a commit without topic id proves nothing"
        );
    }
}
