//! State machine of a member, consumer protocol. The coordinator sends the assignment in a heartbeat response, and
//! the member reports the partitions that it owns in the next heartbeat. The coordinator reassigns a partition only
//! after the member has stopped reporting it. Numbers in brackets name the hazards, as in the classic state machine.

mod assigned;
mod errors;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;
use uuid::Uuid;

use super::session_bounds::SessionBounds;
use crate::kafka::group::effects::{
    GroupEffect, GroupEvent, Kip848Heartbeat, Kip848Response, MemberIdentity, MemberTiming, RequestError,
    TopicPartitions,
};
use crate::kafka::group::member_session::{InFlightHeartbeat, MemberSession, SessionStage};
use crate::kafka::group::ownership_lease::{before_expulsion, counts_from};

/// Interval of full heartbeats without other cause. The coordinator sends a new assignment in one response only. If
/// that response answers a late request of an earlier connection, nobody receives it. The time for the drain that it
/// requests is running meanwhile, and only a full heartbeat brings the assignment back.
const FULL_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Divisor of the rebalance timeout: at most this fraction of it passes before a new assignment is known.
const REBALANCE_SHARES: u32 = 4;

/// Epoch of a heartbeat that joins; the first epoch of a member is above it.
const NO_EPOCH: i32 = 0;

/// Stage of a member that has found its coordinator: it sends heartbeats, first to join and then to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HeartbeatStage;

/// Content of a heartbeat in flight.
#[derive(Debug)]
struct SentContent {
    share: TopicPartitions,
    everything: bool,
    /// Set if a partition was being drained.
    draining: bool,
    rebalance_timeout: Duration,
}

type SentHeartbeat = InFlightHeartbeat<SentContent>;

/// State machine of one member.
#[derive(Debug)]
pub struct Kip848Member {
    timing: MemberTiming,
    bounds: SessionBounds,
    session: MemberSession<HeartbeatStage, SentContent>,
    /// Member id and member epoch.
    identity: MemberIdentity,
    /// Set once the coordinator may know the member id.
    known_to_coordinator: bool,
    /// Id of the topic whose partitions are owned; nil without any.
    owned_topic: Uuid,
    /// Last assignment from the coordinator.
    assigned: TopicPartitions,
    reports: OwnedReports,
    drains: DrainTimes,
    heartbeat_interval: Duration,
}

/// Reports of the owned partitions to the coordinator.
#[derive(Debug)]
struct OwnedReports {
    /// Owned partitions that the coordinator knows of; `None` calls for a full heartbeat.
    known: Option<TopicPartitions>,
    /// Send time of the last full heartbeat whose assignment was applied.
    last_full: Moment,
}

/// Times by which the coordinator bounds a drain (H2).
#[derive(Debug)]
struct DrainTimes {
    /// Rebalance timeout that the coordinator is known to apply.
    timeout: Duration,
    /// Moment before which no pending revocation was requested.
    stable_since: Moment,
    /// End of the last drain, until the coordinator knows of it.
    released_at: Option<Moment>,
}

type Kip848Effects = Vec<GroupEffect>;

impl Kip848Member {
    /// Creates a member that has not joined. `member` is its id, which it keeps for its lifetime.
    pub fn new(timing: MemberTiming, member: String, now: Moment) -> Self {
        Self {
            timing,
            bounds: SessionBounds::assumed(timing.session_timeout),
            session: MemberSession::new(now),
            identity: MemberIdentity { member, generation: NO_EPOCH },
            known_to_coordinator: false,
            owned_topic: Uuid::nil(),
            assigned: TopicPartitions::default(),
            reports: OwnedReports { known: None, last_full: now },
            drains: DrainTimes { timeout: timing.rebalance_timeout, stable_since: now, released_at: None },
            heartbeat_interval: timing.heartbeat_interval,
        }
    }

    /// Follows the function's timeout, and reports it with the next heartbeat.
    pub fn set_rebalance_timeout(&mut self, now: Moment, timeout: Duration) {
        if timeout != self.timing.rebalance_timeout {
            self.timing.rebalance_timeout = timeout;
            self.reports.known = None;
            self.session.advance_heartbeat(now);
        }
    }

    /// Returns the identity to commit under, if there is one.
    pub fn commit_identity(&self) -> Option<&MemberIdentity> {
        (self.has_epoch() && !self.session.has_left()).then_some(&self.identity)
    }

    /// Returns the owned partitions that are not being drained.
    pub fn kept(&self) -> Arc<BTreeSet<i32>> {
        Arc::clone(self.session.partitions.kept())
    }

    /// Returns the moment at which [`Kip848Member::tick`] is next due.
    pub fn wake_at(&self) -> Option<Moment> {
        self.session.wake_at(self.session.is_in(HeartbeatStage))
    }

    /// Advances the member to `now` and returns the effects that are due.
    pub fn tick(&mut self, now: Moment) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        if self.session.is_lease_over(now) {
            self.drop_all_partitions("no heartbeat was acknowledged in time", now, &mut out);
            self.disconnect(now, Duration::ZERO);
        }
        self.session.look_up_when_due(now, &mut out);
        if self.session.is_in(HeartbeatStage) && self.session.is_heartbeat_due(now) {
            self.send_heartbeat(now, &mut out);
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
        if self.session.stage() != SessionStage::Finding {
            return out;
        }
        match found {
            Ok(bounds) => {
                self.bounds = bounds.unwrap_or(SessionBounds::assumed(self.timing.session_timeout));
                self.session.enter(HeartbeatStage);
                self.reports.known = None;
                self.send_heartbeat(now, &mut out);
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
        response: Result<Kip848Response, RequestError>,
        random: u64,
    ) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        let Some(sent) = self.session.take_answered(seq) else { return out };
        match response {
            Ok(response) => self.on_heartbeat_response(now, &sent, response, &mut out),
            Err(error) => self.on_request_error(error, now, random, &mut out),
        }
        out
    }

    /// Handles the release of partitions that are drained and committed.
    pub fn released(&mut self, now: Moment, partitions: &[i32]) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        if self.session.partitions.release(partitions).is_empty() {
            return out;
        }
        if !self.session.partitions.is_draining() {
            self.drains.released_at = Some(now);
        }
        self.session.schedule_heartbeat(now);
        self.reports.known = None;
        // Partitions that were assigned again meanwhile are started again.
        self.reconcile(&mut out);
        out
    }

    /// Records that no invocation of this member still runs: it may rejoin after a loss (H5).
    pub fn all_invocations_ended(&mut self) {
        self.session.all_invocations_ended();
    }

    /// Leaves the group, after all partitions were released.
    pub fn leave(&mut self) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        let member = self.known_to_coordinator.then_some(self.identity.member.as_str());
        self.session.leave(member, &mut out);
        self.owned_topic = Uuid::nil();
        out
    }

    fn has_epoch(&self) -> bool {
        self.identity.generation > NO_EPOCH
    }

    fn send_heartbeat(&mut self, now: Moment, out: &mut Kip848Effects) {
        let share =
            TopicPartitions { topic: self.owned_topic, partitions: self.session.partitions.claimed() };
        let everything =
            self.reports.known.is_none() || now >= self.reports.last_full + self.full_heartbeat_interval();
        let changed = self.reports.known.as_ref() != Some(&share);
        let rebalance_timeout = self.rebalance_timeout();
        let draining = self.session.partitions.is_draining();
        let content = SentContent { share: share.clone(), everything, draining, rebalance_timeout };
        let seq = self.session.send_heartbeat(now, content);
        self.known_to_coordinator = true;
        out.push(GroupEffect::Beat(Kip848Heartbeat {
            member: self.identity.member.clone(),
            epoch: self.identity.generation,
            seq,
            everything,
            rebalance_timeout,
            owned: (changed || everything).then_some(share),
        }));
    }

    fn on_heartbeat_response(
        &mut self,
        now: Moment,
        sent: &SentHeartbeat,
        response: Kip848Response,
        out: &mut Kip848Effects,
    ) {
        self.session.recover(out);
        let has_moved = std::mem::replace(&mut self.identity.generation, response.epoch) != response.epoch;
        if !response.member.is_empty() {
            self.identity.member = response.member;
        }
        self.heartbeat_interval = response.heartbeat_interval.min(self.timing.heartbeat_interval);
        self.session.schedule_heartbeat(sent.sent_at + self.heartbeat_interval);
        self.reports.known = Some(sent.detail.share.clone());
        let drained_before = sent.detail.draining || self.session.partitions.is_draining();
        match response.assignment {
            // The coordinator made it before it knew of the change: it is requested again (H7).
            Some(_) if !self.is_owned(&sent.detail.share) => self.reports.known = None,
            Some(shares) => {
                self.assigned = self.chosen(shares);
                self.reconcile(out);
                if sent.detail.everything {
                    self.reports.last_full = sent.sent_at;
                }
            }
            None => {}
        }
        let is_assigned =
            |effect: &GroupEffect| matches!(effect, GroupEffect::Notify(GroupEvent::Assigned { .. }));
        if has_moved && !out.iter().any(is_assigned) {
            self.announce(Vec::new(), out);
        }
        self.update_drain_times(sent, drained_before);
        let expelled_at = self.drains.stable_since + self.drain_time();
        let acknowledged_send = before_expulsion(sent.sent_at, expelled_at);
        self.session.extend_lease(counts_from(acknowledged_send, now), self.bounds.shortest, out);
        if !self.reports.known.as_ref().is_some_and(|known| self.is_owned(known)) {
            self.session.schedule_heartbeat(now);
        }
    }

    /// Updates `stable_since` and the rebalance timeout that the coordinator applies. The coordinator times a drain
    /// from the response that requested it, which may have been lost. That response is no older than the last full
    /// one that left nothing to drain.
    fn update_drain_times(&mut self, sent: &SentHeartbeat, drained_before: bool) {
        let is_draining = self.session.partitions.is_draining();
        if !drained_before {
            if sent.detail.everything && !is_draining {
                self.drains.stable_since = sent.sent_at;
            } else if let Some(released) = self.drains.released_at {
                self.drains.stable_since = self.drains.stable_since.max(released);
            }
            self.drains.released_at = None;
        }
        if sent.detail.everything {
            // A pending drain continues under the timeout that it started with.
            let timeout = sent.detail.rebalance_timeout;
            let is_pending = drained_before || is_draining;
            self.drains.timeout = if is_pending { self.drains.timeout.min(timeout) } else { timeout };
        }
    }

    /// Returns the time after `stable_since` for which the lease may hold. A member that has not released its revoked
    /// partitions within the rebalance timeout is expelled, even if it sends heartbeats (H2).
    fn drain_time(&self) -> Duration {
        let timeout = self.drains.timeout.max(self.bounds.longest).min(self.rebalance_timeout());
        timeout.saturating_sub(self.bounds.shortest)
    }

    fn is_owned(&self, share: &TopicPartitions) -> bool {
        share.topic == self.owned_topic && share.partitions == *self.session.partitions.all()
    }

    fn full_heartbeat_interval(&self) -> Duration {
        FULL_HEARTBEAT_INTERVAL.min(self.rebalance_timeout() / REBALANCE_SHARES)
    }

    fn rebalance_timeout(&self) -> Duration {
        self.timing.rebalance_timeout.max(self.bounds.longest)
    }
}

#[cfg(test)]
mod tests;
