//! Coalescing of the commits of one member: one is in flight at a time, and later requests join the next (H6). The offset that
//! may be committed is decided by each partition's `partition/progress/commit_ledger.rs`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::ids::Offset;
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::Moment;

use super::verify::CommitVerifier;
use crate::kafka::offsets::OffsetAndMetadata;
use crate::messages::commit::CommitRequest;
use crate::runtime::backoff::Backoff;

/// Group's response to one partition's commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// Committed.
    Done,
    /// Retried while this member owns the partition: the rejection may concern the previous generation.
    Again,
    /// Retried, but rejected until an operator intervenes, or forever: the topic is deleted or may not be read. A
    /// stopping member abandons it after a while.
    Refused,
    /// No response. It is retried, and may still be applied.
    Unknown,
}

/// First wait after a failed commit.
const REST_MIN: Duration = Duration::from_millis(100);
/// Longest wait. Partitions start nothing new while their commits are pending.
const REST_MAX: Duration = Duration::from_secs(2);

/// Rejections after which a stopping member abandons a commit: about ten seconds.
const REFUSALS_MAX: u32 = 8;

/// Splits requests into those of the current topic and those of a deleted topic of the same name. Kafka commits by
/// name, so the latter would count for the current topic. A commit sent while the topic is being recreated carries
/// the old id in its metadata, and is ignored for the new topic.
pub(crate) fn split_by_topic(
    requests: Vec<CommitRequest>,
    now: Option<TopicId>,
) -> (Vec<CommitRequest>, Vec<CommitRequest>) {
    requests.into_iter().partition(|frontier| !is_another(frontier.topic, now))
}

/// Converts `requests` to the offsets of a request.
pub fn offsets_of(
    requests: Vec<CommitRequest>,
    partitions_at_activation: i32,
) -> BTreeMap<i32, OffsetAndMetadata> {
    let offset_of = |frontier: CommitRequest| {
        let CommitRequest { partition, topic, offset, leader_epoch, progress, .. } = frontier;
        let metadata = CommitMetadata { partitions_at_activation, topic, progress }.encode();
        (partition, OffsetAndMetadata { offset, leader_epoch, metadata })
    };
    requests.into_iter().map(offset_of).collect()
}

/// Commit state of one member.
#[derive(Debug)]
pub struct CommitterCore {
    pending: BTreeMap<i32, CommitRequest>,
    /// Requests in flight for partitions that this member still owns.
    in_flight: BTreeMap<i32, CommitRequest>,
    is_out: bool,
    read_back: CommitVerifier,
    backoff: Backoff,
    /// Rejections of each partition's commits, counted from the time at which the member began to stop.
    refusals: Option<BTreeMap<i32, u32>>,
    given_up: Vec<CommitRequest>,
}

impl Default for CommitterCore {
    fn default() -> Self {
        let backoff = Backoff::new(REST_MIN, REST_MAX);
        Self {
            pending: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            is_out: false,
            read_back: CommitVerifier::default(),
            backoff,
            refusals: None,
            given_up: Vec::new(),
        }
    }
}

impl CommitterCore {
    /// Records a moved frontier or changed progress. An older epoch, or an older commit under the same epoch,
    /// changes nothing (COM-1).
    pub fn request(&mut self, mut frontier: CommitRequest) {
        let mut place = match self.pending.entry(frontier.partition) {
            Entry::Vacant(place) => {
                place.insert(frontier);
                return;
            }
            Entry::Occupied(place) => place,
        };
        let known = place.get_mut();
        if (known.epoch, known.seq, known.offset) > (frontier.epoch, frontier.seq, frontier.offset) {
            return;
        }
        if known.epoch == frontier.epoch {
            // Append to the longer vector, so that it is not copied each time the partition advances.
            known.passed.append(&mut frontier.passed);
            frontier.passed = std::mem::take(&mut known.passed);
        }
        *known = frontier;
    }

    /// Returns the requests to commit, none while a commit is in flight. They include the ranges that the frontiers
    /// have passed; a retried commit does not repeat them.
    pub fn start(&mut self) -> Vec<CommitRequest> {
        if self.must_wait() {
            return Vec::new();
        }
        let going: Vec<CommitRequest> = std::mem::take(&mut self.pending).into_values().collect();
        self.is_out = !going.is_empty();
        self.in_flight.extend(going.iter().map(|frontier| (frontier.partition, frontier.without_passed())));
        going
    }

    /// Applies the outcomes of the commit in flight, answered or abandoned. Returns the newly acknowledged
    /// requests.
    pub fn answered(&mut self, now: Moment, outcome_of: impl Fn(i32) -> CommitOutcome) -> Vec<CommitRequest> {
        let mut done = Vec::new();
        self.is_out = false;
        for frontier in std::mem::take(&mut self.in_flight).into_values() {
            match outcome_of(frontier.partition) {
                CommitOutcome::Done => {
                    if self.read_back.acknowledged(&frontier) {
                        done.push(frontier);
                    }
                    continue;
                }
                CommitOutcome::Refused if self.is_hopeless(frontier.partition) => {
                    self.given_up.push(frontier);
                    continue;
                }
                CommitOutcome::Again | CommitOutcome::Refused => {}
                CommitOutcome::Unknown => self.read_back.verify_soon(now),
            }
            self.put_back(frontier);
        }
        done
    }

    /// Records that the member is stopping without a handover. Commits that are rejected repeatedly are abandoned
    /// from then on. The next owner resumes at the group's offset, so records delivered beyond it are delivered
    /// again.
    pub fn stop(&mut self) {
        self.refusals.get_or_insert_default();
    }

    /// Takes the abandoned requests, each with the last offset that the group has acknowledged.
    pub fn take_given_up(&mut self) -> Vec<(CommitRequest, Option<Offset>)> {
        let held = |frontier: CommitRequest| {
            let held = self.read_back.acknowledged_offset(frontier.partition);
            (frontier, held)
        };
        std::mem::take(&mut self.given_up).into_iter().map(held).collect()
    }

    fn is_hopeless(&mut self, partition: i32) -> bool {
        let Some(refusals) = &mut self.refusals else { return false };
        let refused = refusals.entry(partition).or_default();
        *refused += 1;
        *refused >= REFUSALS_MAX
    }

    /// Returns the requests to read back from the group, none if no read is due. [`CommitterCore::read_back`] must
    /// follow.
    pub fn start_read_back(&mut self, now: Moment) -> Vec<CommitRequest> {
        let (pending, in_flight) = (&self.pending, &self.in_flight);
        let goes = |partition| pending.contains_key(&partition) || in_flight.contains_key(&partition);
        self.read_back.start(now, goes)
    }

    /// Ends a read-back with the partitions whose commits differ from the acknowledged ones, or `None` if the read
    /// failed. Returns the number of commits to be sent again.
    pub fn read_back(&mut self, now: Moment, differing: Option<&[i32]>) -> usize {
        let again = self.read_back.read(now, differing);
        let mut count = 0;
        for frontier in again {
            if !self.in_flight.contains_key(&frontier.partition) {
                self.put_back(frontier);
                count += 1;
            }
        }
        count
    }

    /// Returns the wait before the next commit if part of the response must be retried (`again`). It grows until a
    /// commit succeeds. `random` spreads the members of a fleet whose coordinator has failed.
    pub fn rest(&mut self, again: bool, random: u64) -> Option<Duration> {
        if again {
            return Some(self.backoff.next(random));
        }
        self.backoff.reset();
        None
    }

    /// Registers an owned partition that resumes at `beginning`. Commits left by an earlier ownership are not sent
    /// under this one.
    pub fn register(&mut self, beginning: CommitRequest) {
        self.unregister(beginning.partition);
        self.read_back.begin(beginning);
    }

    /// Removes a partition that was lost or is reassigned.
    pub fn unregister(&mut self, partition: i32) {
        self.pending.remove(&partition);
        self.read_back.forget(partition);
        self.abandon_in_flight(partition);
    }

    /// Excludes the partition's commit in flight from a retry. The group checks member and generation only, and would
    /// accept an old offset while another member owns the partition (COM-1).
    fn abandon_in_flight(&mut self, partition: i32) {
        mutant!("lost-commit-tried-again", drop(self.in_flight.remove(&partition)), {});
    }

    /// True if nothing is pending or in flight.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && !self.is_out
    }

    /// Queues a commit for a retry.
    fn put_back(&mut self, frontier: CommitRequest) {
        if !self.has_newer(frontier.partition) {
            self.pending.insert(frontier.partition, frontier);
        }
    }

    /// True if a newer commit of the partition is pending, which a retried one must not replace.
    fn has_newer(&self, partition: i32) -> bool {
        mutant!("late-commit-retry-rewinds", self.pending.contains_key(&partition), false)
    }

    /// True if the next commit must wait: with two in flight, the group could apply the older one last.
    fn must_wait(&self) -> bool {
        mutant!("two-commits-in-flight", self.is_out, false)
    }
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::Epoch;

    use super::*;
    use crate::messages::outcome::ResolvedRange;

    const NOW: Moment = Moment::from_micros(1);

    fn frontier(partition: i32, epoch: u64, offset: i64) -> CommitRequest {
        let (epoch, offset) = (Epoch(epoch), Offset(offset));
        let seq = offset.0.cast_unsigned();
        let (topic, progress, passed) = (None, None, Vec::new());
        CommitRequest { partition, topic, epoch, offset, leader_epoch: 0, seq, progress, passed }
    }

    #[test]
    fn commits_coalesce_behind_one_in_flight() {
        let mut core = CommitterCore::default();
        core.request(frontier(0, 1, 5));
        assert_eq!(core.start().len(), 1);
        core.request(frontier(0, 1, 6));
        core.request(frontier(0, 1, 7));
        core.request(frontier(1, 1, 2));
        assert!(core.start().is_empty());
        assert_eq!(core.answered(NOW, |_| CommitOutcome::Done), [frontier(0, 1, 5)]);
        assert_eq!(core.start(), [frontier(0, 1, 7), frontier(1, 1, 2)]);
    }

    #[test]
    fn com_1_a_late_retry_never_rewinds() {
        let mut core = CommitterCore::default();
        core.request(frontier(0, 1, 5));
        core.start();
        core.request(frontier(0, 1, 9));
        core.answered(NOW, |_| CommitOutcome::Again);
        assert_eq!(core.start(), [frontier(0, 1, 9)], "the newer commit replaces the failed one");
        core.answered(NOW, |_| CommitOutcome::Done);
        core.request(frontier(0, 2, 3));
        core.request(frontier(0, 1, 11));
        assert_eq!(core.start(), [frontier(0, 2, 3)], "an older epoch changes nothing");
    }

    #[test]
    fn alo_1_audit_receives_every_range_once() {
        use crate::messages::outcome::Outcome;
        let passed = |first: i64, end: i64| ResolvedRange {
            range: lighterman_proto::ids::OffsetRange { first: Offset(first), end: Offset(end) },
            outcome: Outcome::Delivered,
        };
        let mut core = CommitterCore::default();
        core.request(CommitRequest { passed: vec![passed(0, 5)], ..frontier(0, 1, 5) });
        core.request(CommitRequest { passed: vec![passed(5, 9)], ..frontier(0, 1, 9) });
        assert_eq!(core.start()[0].passed, [passed(0, 5), passed(5, 9)], "coalesced, not lost");
        core.answered(NOW, |_| CommitOutcome::Again);
        assert_eq!(core.start()[0].passed, [], "the audit receives a retried commit once");
    }

    #[test]
    fn drn_1_only_a_stopping_member_abandons_rejected_commits() {
        let mut core = CommitterCore::default();
        core.request(frontier(0, 1, 5));
        core.start();
        assert_eq!(core.answered(NOW, |_| CommitOutcome::Done).len(), 1);
        core.request(frontier(0, 1, 6));
        core.request(frontier(1, 1, 7));
        for _ in 0..5 * REFUSALS_MAX {
            assert_eq!(core.start().len(), 2, "retried while the partition is owned");
            core.answered(NOW, |_| CommitOutcome::Refused);
            assert_eq!(core.take_given_up(), []);
        }
        core.stop();
        for _ in 1..REFUSALS_MAX {
            assert_eq!(core.start().len(), 2);
            core.answered(NOW, |partition| {
                [CommitOutcome::Refused, CommitOutcome::Again][partition as usize]
            });
            assert_eq!(core.take_given_up(), []);
        }
        core.start();
        core.answered(NOW, |partition| [CommitOutcome::Refused, CommitOutcome::Again][partition as usize]);
        assert_eq!(core.take_given_up(), [(frontier(0, 1, 6), Some(Offset(5)))]);
        assert_eq!(core.start(), [frontier(1, 1, 7)], "a commit that may still succeed is retried");
    }

    #[test]
    fn com_1_rewound_commit_is_resent_unless_superseded() {
        let later = |seconds| NOW + Duration::from_secs(seconds);
        let mut core = CommitterCore::default();
        core.request(frontier(0, 1, 5));
        core.request(frontier(1, 1, 7));
        core.start();
        core.answered(NOW, |_| CommitOutcome::Unknown);
        core.start();
        assert_eq!(core.answered(NOW, |_| CommitOutcome::Done).len(), 2);
        core.request(frontier(2, 1, 1));
        core.start();
        assert_eq!(
            core.start_read_back(later(5)),
            [frontier(0, 1, 5), frontier(1, 1, 7)],
            "partition 2 is in flight"
        );
        core.request(frontier(1, 1, 8));
        assert_eq!(core.read_back(later(5), Some(&[0, 1, 2])), 2);
        core.answered(NOW, |_| CommitOutcome::Done);
        assert_eq!(
            core.start(),
            [frontier(0, 1, 5), frontier(1, 1, 8)],
            "the current or the newer commit is sent"
        );
        assert_eq!(core.answered(NOW, |_| CommitOutcome::Done), [frontier(1, 1, 8)]);
    }

    #[test]
    fn failed_commits_back_off_with_bound() {
        let mut core = CommitterCore::default();
        let longest = |rest: Option<Duration>| rest.expect("a backoff");
        // A random of half the step yields the longest wait: the whole step.
        let step = |core: &mut CommitterCore, most: Duration| {
            let rest = longest(core.rest(true, most.as_micros() as u64 / 2));
            assert!(rest <= most && rest * 2 >= most, "{rest:?} of {most:?}");
        };
        for most in [100, 200, 400, 800, 1_600, 2_000, 2_000] {
            step(&mut core, Duration::from_millis(most));
        }
        assert_eq!(core.rest(false, 7), None);
        step(&mut core, REST_MIN);
    }

    #[test]
    fn com_1_commit_of_lost_partition_is_not_retried() {
        let mut core = CommitterCore::default();
        core.request(frontier(0, 1, 5));
        core.request(frontier(1, 1, 7));
        core.start();
        core.unregister(0);
        core.request(frontier(2, 1, 1));
        assert!(core.start().is_empty(), "one commit in flight, even if its partition is forgotten");
        assert!(core.answered(NOW, |_| CommitOutcome::Again).is_empty());
        assert_eq!(core.start(), [frontier(1, 1, 7), frontier(2, 1, 1)]);
        assert_eq!(core.answered(NOW, |_| CommitOutcome::Done).len(), 2);
        assert!(core.is_idle());
    }
}
