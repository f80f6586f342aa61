//! Window of unacknowledged commits. Within it a partition starts its next batch although the group has not yet
//! acknowledged the outcome of the last ones. A process that dies repeats these batches and the one in flight.

use std::collections::VecDeque;
use std::time::Duration;

use lighterman_proto::ids::Offset;
use lighterman_proto::units::Moment;

/// Limits of the window. A node that dies repeats at most `batches_max` + 1 batches of each of its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitWindowLimits {
    /// Maximum number of unacknowledged commits with which a batch may start; 0: each commit is awaited.
    pub batches_max: u32,
    /// Maximum age of the oldest unacknowledged commit with which a batch may start.
    pub age_max: Duration,
}

impl CommitWindowLimits {
    /// Limits under which each commit is awaited.
    pub const CLOSED: Self = Self { batches_max: 0, age_max: Duration::ZERO };
}

/// Commits that were requested, in order.
#[derive(Debug)]
struct UnacknowledgedCommit {
    seq: u64,
    offset: Offset,
    /// True if no batch may start before the group has acknowledged it.
    is_awaited: bool,
    /// `None` until the event that requested it has been handled.
    requested_at: Option<Moment>,
}

/// Commits of one partition that the group has not acknowledged.
#[derive(Debug)]
pub(super) struct CommitWindow {
    limits: CommitWindowLimits,
    unacknowledged: VecDeque<UnacknowledgedCommit>,
    /// The last committed offset that the group has acknowledged.
    acknowledged: Offset,
}

impl CommitWindow {
    pub(super) fn new(limits: CommitWindowLimits, committed: Offset) -> Self {
        Self { limits, unacknowledged: VecDeque::new(), acknowledged: committed }
    }

    /// Adds the commit of `offset`. It is awaited if one of its offsets was not delivered: such an outcome is on record
    /// before the next batch starts. Beyond the window commits are counted together: the queue stays bounded, however
    /// often an operator skips records while the group does not answer.
    pub(super) fn request(&mut self, seq: u64, offset: Offset, is_awaited: bool) {
        if self.unacknowledged.len() > self.limits.batches_max as usize + 1
            && let Some(last) = self.unacknowledged.back_mut()
        {
            (last.seq, last.offset) = (seq, offset);
            last.is_awaited |= is_awaited;
            return;
        }
        self.unacknowledged.push_back(UnacknowledgedCommit { seq, offset, is_awaited, requested_at: None });
    }

    /// Sets the time of the commits requested since the last call.
    pub(super) fn stamp(&mut self, now: Moment) {
        for commit in self.unacknowledged.iter_mut().rev() {
            if commit.requested_at.is_some() {
                return;
            }
            commit.requested_at = Some(now);
        }
    }

    /// Handles the acknowledgement of commit `seq` and of all commits before it.
    pub(super) fn acknowledge(&mut self, seq: u64) {
        while let Some(commit) = self.unacknowledged.pop_front_if(|commit| commit.seq <= seq) {
            self.acknowledged = commit.offset;
        }
    }

    /// The last committed offset that the group has acknowledged.
    pub(super) fn acknowledged(&self) -> Offset {
        self.acknowledged
    }

    /// True if the group has acknowledged the last requested commit.
    pub(super) fn is_empty(&self) -> bool {
        mutant!("acknowledgement-not-awaited", self.unacknowledged.is_empty(), true)
    }

    /// True if a batch may start that needs nothing on record.
    pub(super) fn has_room(&self, now: Moment) -> bool {
        mutant!("window-not-counted", self.is_within_limits(now), true)
    }

    fn is_within_limits(&self, now: Moment) -> bool {
        let Some(oldest) = self.unacknowledged.front() else { return true };
        let age = oldest.requested_at.map_or(Duration::ZERO, |at| now.since(at));
        self.unacknowledged.len() <= self.limits.batches_max as usize
            && age < self.limits.age_max
            && !self.unacknowledged.iter().any(|commit| commit.is_awaited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1_000)
    }

    fn window(batches_max: u32) -> CommitWindow {
        let limits = CommitWindowLimits { batches_max, age_max: Duration::from_millis(100) };
        CommitWindow::new(limits, Offset(5))
    }

    fn request(window: &mut CommitWindow, seq: u64, millis: u64) {
        window.request(seq, Offset(5 + seq.cast_signed()), false);
        window.stamp(at(millis));
    }

    #[test]
    fn alo_1_closed_window_awaits_each_commit() {
        let mut window = window(0);
        assert!(window.has_room(at(0)));
        request(&mut window, 1, 0);
        assert!(!window.has_room(at(0)) && !window.is_empty());
        window.acknowledge(1);
        assert!(window.has_room(at(0)) && window.is_empty());
        assert_eq!(window.acknowledged(), Offset(6));
    }

    #[test]
    fn alo_1_window_closes_at_its_batch_limit() {
        let mut window = window(2);
        request(&mut window, 1, 0);
        request(&mut window, 2, 0);
        assert!(window.has_room(at(0)), "two batches are repeated, and the third that starts now");
        request(&mut window, 3, 0);
        assert!(!window.has_room(at(0)));
        window.acknowledge(1);
        assert!(window.has_room(at(0)));
        assert_eq!(window.acknowledged(), Offset(6));
    }

    #[test]
    fn alo_1_window_closes_at_its_age_limit() {
        let mut window = window(8);
        request(&mut window, 1, 10);
        request(&mut window, 2, 60);
        assert!(window.has_room(at(109)) && !window.has_room(at(110)), "the oldest commit counts");
        window.acknowledge(1);
        assert!(window.has_room(at(159)) && !window.has_room(at(160)));
    }

    #[test]
    fn alo_1_awaited_commit_closes_window() {
        let mut window = window(8);
        window.request(1, Offset(6), true);
        request(&mut window, 2, 0);
        assert!(!window.has_room(at(0)));
        window.acknowledge(1);
        assert!(window.has_room(at(0)));
    }

    #[test]
    fn mem_1_commits_beyond_window_are_counted_together() {
        let mut window = window(2);
        for seq in 1..=1_000 {
            request(&mut window, seq, 0);
        }
        assert_eq!(window.unacknowledged.len(), 4);
        window.acknowledge(999);
        assert!(!window.is_empty() && window.acknowledged() == Offset(8), "not beyond what is acknowledged");
        window.acknowledge(1_000);
        assert!(window.is_empty() && window.acknowledged() == Offset(1_005));
    }

    #[test]
    fn com_1_repeated_acknowledgement_changes_nothing() {
        let mut window = window(2);
        request(&mut window, 1, 0);
        request(&mut window, 2, 0);
        window.acknowledge(2);
        window.acknowledge(1);
        assert!(window.is_empty() && window.acknowledged() == Offset(7));
    }
}
