//! State machine of a member, consumer protocol. The coordinator sends the assignment in a heartbeat response, and
//! the member reports the partitions that it owns in the next heartbeat. The coordinator reassigns a partition only
//! after the member has stopped reporting it. Numbers in brackets name the hazards, as in the classic state machine.

mod assigned;
mod errors;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;

use super::session::SessionBounds;
use crate::kafka::group::effects::{
    GroupEffect, GroupEvent, Kip848Heartbeat, Kip848Response, MemberTiming, RequestError, TopicPartitions,
};
use crate::kafka::group::lease;
use crate::runtime::backoff::Backoff;

/// Interval of full heartbeats without other cause. The coordinator sends a new assignment in one response only. If
/// that response answers a late request of an earlier connection, nobody receives it. The time for the drain that it
/// requests is running meanwhile, and only a full heartbeat brings the assignment back.
const SAY_ALL_AFTER: Duration = Duration::from_secs(30);
/// Divisor of the rebalance timeout: at most this fraction of it passes before a new assignment is known.
const REBALANCE_SHARES: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kip848State {
    /// Waits until it may look up the coordinator.
    Out,
    Finding,
    /// Sends heartbeats, first to join and then to stay.
    In,
    Left,
}

/// Heartbeat in flight.
#[derive(Debug)]
struct SentHeartbeat {
    seq: u64,
    at: Moment,
    share: TopicPartitions,
    everything: bool,
    /// Set if a partition was being drained.
    draining: bool,
    rebalance_timeout: Duration,
}

/// State machine of one member.
#[derive(Debug)]
pub struct Kip848Member {
    timing: MemberTiming,
    /// Rebalance timeout that the coordinator is known to apply.
    counted: Duration,
    session: SessionBounds,
    state: Kip848State,
    member: String,
    /// Member epoch; 0 while not a member.
    epoch: i32,
    /// Owned partitions, including those being drained.
    owned: TopicPartitions,
    revoking: BTreeSet<i32>,
    /// `owned` without `revoking`, cached because it is read far more often than it changes.
    kept: Arc<BTreeSet<i32>>,
    /// Last assignment from the coordinator.
    assigned: TopicPartitions,
    /// Owned partitions that the coordinator knows of; `None` calls for a full heartbeat.
    reported: Option<TopicPartitions>,
    /// Send time of the last full heartbeat whose assignment was applied.
    last_full_heartbeat: Moment,
    lease_until: Moment,
    /// Moment before which no pending revocation was requested.
    stable_since: Moment,
    /// End of the last drain, until the coordinator knows of it.
    released_at: Option<Moment>,
    retry_at: Moment,
    /// Earliest rejoin after a loss, while this member's invocations may still run (H5).
    rejoin_not_before: Option<Moment>,
    heartbeat: Option<SentHeartbeat>,
    heartbeat_seq: u64,
    heartbeat_interval: Duration,
    next_heartbeat: Moment,
    /// Set once the coordinator may know the member id.
    known_to_coordinator: bool,
    backoff: Backoff,
    degraded: bool,
}

type Kip848Effects = Vec<GroupEffect>;

impl Kip848Member {
    /// Creates a member that has not joined. `member` is its id, which it keeps for its lifetime.
    pub fn new(timing: MemberTiming, member: String, now: Moment) -> Self {
        Self {
            timing,
            counted: timing.rebalance_timeout,
            session: SessionBounds::assumed(timing.session_timeout),
            state: Kip848State::Out,
            member,
            epoch: 0,
            owned: TopicPartitions::default(),
            revoking: BTreeSet::new(),
            kept: Arc::default(),
            assigned: TopicPartitions::default(),
            reported: None,
            last_full_heartbeat: now,
            lease_until: Moment::default(),
            stable_since: now,
            released_at: None,
            retry_at: now,
            rejoin_not_before: None,
            heartbeat: None,
            heartbeat_seq: 0,
            heartbeat_interval: timing.heartbeat_interval,
            next_heartbeat: now,
            known_to_coordinator: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            degraded: false,
        }
    }

    /// Follows the function's timeout, and reports it with the next heartbeat.
    pub fn set_rebalance_timeout(&mut self, now: Moment, timeout: Duration) {
        if timeout != self.timing.rebalance_timeout {
            self.timing.rebalance_timeout = timeout;
            self.reported = None;
            self.next_heartbeat = self.next_heartbeat.min(now);
        }
    }

    /// Returns the member epoch and member id to commit with, if there are any.
    pub fn commit_identity(&self) -> Option<(i32, &str)> {
        (self.epoch > 0 && self.state != Kip848State::Left).then_some((self.epoch, self.member.as_str()))
    }

    /// Returns the owned partitions that are not being drained.
    pub fn kept(&self) -> Arc<BTreeSet<i32>> {
        debug_assert!(
            self.kept.iter().eq(self.owned.partitions.difference(&self.revoking)),
            "kept is what is ours"
        );
        Arc::clone(&self.kept)
    }

    /// Returns the moment at which [`Kip848Member::tick`] is next due.
    pub fn wake_at(&self) -> Option<Moment> {
        let start = (self.state == Kip848State::Out)
            .then(|| self.rejoin_not_before.unwrap_or(self.retry_at).max(self.retry_at));
        let beat = (self.state == Kip848State::In && self.heartbeat.is_none()).then_some(self.next_heartbeat);
        let fence = (!self.owned.is_empty()).then_some(self.lease_until);
        [start, beat, fence].into_iter().flatten().min()
    }

    /// Advances the member to `now` and returns the effects that are due.
    pub fn tick(&mut self, now: Moment) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        if !self.owned.is_empty() && now >= self.lease_until {
            self.drop_all_partitions("no heartbeat was acknowledged in time", now, &mut out);
            self.disconnect(now, Duration::ZERO);
        }
        self.rejoin_not_before = self.rejoin_not_before.filter(|until| now < *until);
        if self.state == Kip848State::Out && now >= self.retry_at && self.rejoin_not_before.is_none() {
            self.state = Kip848State::Finding;
            out.push(GroupEffect::FindCoordinator);
        }
        if self.state == Kip848State::In && self.heartbeat.is_none() && now >= self.next_heartbeat {
            self.beat(now, &mut out);
        }
        out
    }

    /// Handles the result of the coordinator look-up, with the session bounds that its broker reports.
    pub fn coordinator_found(
        &mut self,
        now: Moment,
        found: Result<Option<SessionBounds>, String>,
        random: u64,
    ) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        if self.state != Kip848State::Finding {
            return out;
        }
        match found {
            Ok(session) => {
                self.session = session.unwrap_or(SessionBounds::assumed(self.timing.session_timeout));
                self.state = Kip848State::In;
                self.reported = None;
                self.beat(now, &mut out);
            }
            Err(error) => self.retry(error, now, random, &mut out),
        }
        out
    }

    /// Handles the response to heartbeat `seq`.
    pub fn heartbeat_answered(
        &mut self,
        now: Moment,
        seq: u64,
        answer: Result<Kip848Response, RequestError>,
        random: u64,
    ) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        // A response to a heartbeat from before the last change of state is stale (H7).
        let Some(sent) =
            self.heartbeat.take_if(|sent| mutant!("late-heartbeat-answer", sent.seq == seq, true))
        else {
            return out;
        };
        match answer {
            Ok(told) => self.acknowledged(now, &sent, told, &mut out),
            Err(failure) => self.failed(failure, now, random, &mut out),
        }
        out
    }

    /// Handles the release of partitions that are drained and committed.
    pub fn released(&mut self, now: Moment, partitions: &[i32]) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        let drained: Vec<i32> =
            partitions.iter().copied().filter(|partition| self.revoking.remove(partition)).collect();
        if drained.is_empty() {
            return out;
        }
        for partition in &drained {
            self.owned.partitions.remove(partition);
        }
        if self.revoking.is_empty() {
            self.released_at = Some(now);
        }
        self.next_heartbeat = now;
        self.reported = None;
        // Partitions that were assigned again meanwhile are started again.
        self.reconcile(&mut out);
        out
    }

    /// Records that no invocation of this member still runs: it may rejoin after a loss (H5).
    pub fn all_invocations_ended(&mut self) {
        self.rejoin_not_before = None;
    }

    /// Leaves the group, after all partitions were released.
    pub fn leave(&mut self) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        // Lost partitions may still have running invocations. Without a leave they stay assigned until the session
        // ends (H5).
        let may_run = mutant!("leaves-over-running-invocations", self.rejoin_not_before.is_some(), false);
        if self.known_to_coordinator && self.state != Kip848State::Left && !may_run {
            out.push(GroupEffect::Leave { member: self.member.clone() });
        }
        self.state = Kip848State::Left;
        self.owned = TopicPartitions::default();
        self.count_kept();
        out.push(GroupEffect::EndLease);
        out
    }

    fn beat(&mut self, now: Moment, out: &mut Kip848Effects) {
        self.heartbeat_seq += 1;
        let share = mutant!(
            "revoked-is-let-go-at-once",
            self.owned.clone(),
            TopicPartitions { topic: self.owned.topic, partitions: (*self.kept).clone() }
        );
        let everything = self.reported.is_none() || now >= self.last_full_heartbeat + self.say_all_after();
        let changed = self.reported.as_ref() != Some(&share);
        self.heartbeat = Some(SentHeartbeat {
            seq: self.heartbeat_seq,
            at: now,
            share: share.clone(),
            everything,
            draining: !self.revoking.is_empty(),
            rebalance_timeout: self.rebalance_timeout(),
        });
        self.known_to_coordinator = true;
        out.push(GroupEffect::Beat(Kip848Heartbeat {
            member: self.member.clone(),
            epoch: self.epoch,
            seq: self.heartbeat_seq,
            everything,
            rebalance_timeout: self.rebalance_timeout(),
            owned: (changed || everything).then_some(share),
        }));
    }

    fn acknowledged(
        &mut self,
        now: Moment,
        sent: &SentHeartbeat,
        told: Kip848Response,
        out: &mut Kip848Effects,
    ) {
        self.backoff.reset();
        if std::mem::take(&mut self.degraded) {
            out.push(GroupEffect::Notify(GroupEvent::Healthy));
        }
        let moved = std::mem::replace(&mut self.epoch, told.epoch) != told.epoch;
        if !told.member.is_empty() {
            self.member = told.member;
        }
        self.heartbeat_interval = told.heartbeat_interval.min(self.timing.heartbeat_interval);
        self.next_heartbeat = sent.at + self.heartbeat_interval;
        let meanwhile_changed = sent.share != self.owned;
        self.reported = Some(sent.share.clone());
        let drains_before = sent.draining || !self.revoking.is_empty();
        match told.assignment {
            // The coordinator made it before it knew of the change: it is requested again (H7).
            Some(_) if meanwhile_changed => self.reported = None,
            Some(shares) => {
                self.assigned = self.chosen(shares);
                self.reconcile(out);
                if sent.everything {
                    self.last_full_heartbeat = sent.at;
                }
            }
            None => {}
        }
        if moved
            && !out.iter().any(|effect| matches!(effect, GroupEffect::Notify(GroupEvent::Assigned { .. })))
        {
            self.announce(Vec::new(), out);
        }
        self.check_stable(sent, drains_before);
        if sent.everything {
            // A pending drain continues under the timeout that it started with.
            let open = drains_before || !self.revoking.is_empty();
            self.counted =
                if open { self.counted.min(sent.rebalance_timeout) } else { sent.rebalance_timeout };
        }
        // A member that has not released its revoked partitions within the rebalance timeout is expelled, even if it
        // sends heartbeats (H2). The timeout that the coordinator applies counts.
        let counted = self.counted.max(self.session.longest).min(self.rebalance_timeout());
        let barrier = counted.saturating_sub(self.session.shortest);
        let said = mutant!("barrier-not-minded", sent.at.min(self.stable_since + barrier), sent.at);
        self.extend_lease(mutant!("lease-counts-from-the-reply", said, now), out);
        if self.reported.as_ref() != Some(&self.owned) {
            self.next_heartbeat = now;
        }
    }

    /// Updates `stable_since`. The coordinator times a drain from the response that requested it, which may have been
    /// lost. That response is no older than the last full one that left nothing to drain.
    fn check_stable(&mut self, sent: &SentHeartbeat, drains_before: bool) {
        if drains_before {
            return;
        }
        if sent.everything && self.revoking.is_empty() {
            self.stable_since = sent.at;
        } else if let Some(released) = self.released_at {
            self.stable_since = self.stable_since.max(released);
        }
        self.released_at = None;
    }

    fn say_all_after(&self) -> Duration {
        SAY_ALL_AFTER.min(self.rebalance_timeout() / REBALANCE_SHARES)
    }

    fn rebalance_timeout(&self) -> Duration {
        self.timing.rebalance_timeout.max(self.session.longest)
    }

    fn extend_lease(&mut self, acknowledged_send: Moment, out: &mut Kip848Effects) {
        let until = lease::ends(acknowledged_send, self.session.shortest);
        if until > self.lease_until {
            self.lease_until = until;
            out.push(GroupEffect::ExtendLease(until));
        }
    }
}

#[cfg(test)]
mod tests;
