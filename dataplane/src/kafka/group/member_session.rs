//! Session of a member with its coordinator, the same in both protocols: until when the lease holds, when the
//! coordinator is looked up again, and which heartbeat is in flight. Numbers in brackets name the hazards.

use std::time::Duration;

use lighterman_proto::units::Moment;

use super::effects::{GroupEffect, GroupEvent};
use super::owned_partitions::OwnedPartitions;
use super::ownership_lease;
use crate::runtime::backoff::Backoff;

/// First and longest wait between failed requests.
const RETRY_WAIT: Duration = Duration::from_millis(100);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Stage of a session. `M` is the stage of a member in its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionStage<M> {
    /// Waits until it may look up the coordinator.
    Out,
    Finding,
    Member(M),
    Left,
}

/// Heartbeat in flight. `H` is what its protocol keeps of it.
#[derive(Debug)]
pub(super) struct InFlightHeartbeat<H> {
    seq: u64,
    pub(super) sent_at: Moment,
    pub(super) detail: H,
}

impl<H> InFlightHeartbeat<H> {
    /// Returns true if a response is the one to this heartbeat. A response to a heartbeat from before the last change
    /// of stage is stale (H7).
    fn is_answered_by(&self, seq: u64) -> bool {
        mutant!("late-heartbeat-answer", self.seq == seq, true)
    }
}

/// Heartbeats of one member, one in flight at a time (H7).
#[derive(Debug)]
struct HeartbeatSchedule<H> {
    in_flight: Option<InFlightHeartbeat<H>>,
    last_seq: u64,
    next_at: Moment,
}

/// Session of one member.
#[derive(Debug)]
pub(super) struct MemberSession<M, H> {
    stage: SessionStage<M>,
    pub(super) partitions: OwnedPartitions,
    lease_until: Moment,
    heartbeats: HeartbeatSchedule<H>,
    retry_at: Moment,
    /// Earliest rejoin after a loss, while this member's invocations may still run (H5).
    rejoin_not_before: Option<Moment>,
    backoff: Backoff,
    degraded: bool,
}

impl<M: Copy + PartialEq, H> MemberSession<M, H> {
    /// Creates the session of a member that has not joined.
    pub(super) fn new(now: Moment) -> Self {
        Self {
            stage: SessionStage::Out,
            partitions: OwnedPartitions::default(),
            lease_until: Moment::default(),
            heartbeats: HeartbeatSchedule { in_flight: None, last_seq: 0, next_at: now },
            retry_at: now,
            rejoin_not_before: None,
            backoff: Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX),
            degraded: false,
        }
    }

    pub(super) fn stage(&self) -> SessionStage<M> {
        self.stage
    }

    pub(super) fn is_in(&self, stage: M) -> bool {
        self.stage == SessionStage::Member(stage)
    }

    pub(super) fn has_left(&self) -> bool {
        self.stage == SessionStage::Left
    }

    pub(super) fn enter(&mut self, stage: M) {
        self.stage = SessionStage::Member(stage);
    }

    pub(super) fn lease_until(&self) -> Moment {
        self.lease_until
    }

    /// Returns the moment at which the member must next be ticked.
    pub(super) fn wake_at(&self, sends_heartbeats: bool) -> Option<Moment> {
        let look_up = (self.stage == SessionStage::Out)
            .then(|| self.rejoin_not_before.unwrap_or(self.retry_at).max(self.retry_at));
        let is_free = sends_heartbeats && self.heartbeats.in_flight.is_none();
        let heartbeat = is_free.then_some(self.heartbeats.next_at);
        let fence = (!self.partitions.is_empty()).then_some(self.lease_until);
        [look_up, heartbeat, fence].into_iter().flatten().min()
    }

    /// Returns true if partitions are owned whose lease has ended (H1).
    pub(super) fn is_lease_over(&self, now: Moment) -> bool {
        !self.partitions.is_empty() && now >= self.lease_until
    }

    /// Starts the coordinator look-up once it is due and no invocation can still run (H5).
    pub(super) fn look_up_when_due(&mut self, now: Moment, out: &mut Vec<GroupEffect>) {
        self.rejoin_not_before = self.rejoin_not_before.filter(|until| now < *until);
        if self.stage == SessionStage::Out && now >= self.retry_at && self.rejoin_not_before.is_none() {
            self.stage = SessionStage::Finding;
            out.push(GroupEffect::FindCoordinator);
        }
    }

    pub(super) fn is_heartbeat_due(&self, now: Moment) -> bool {
        self.heartbeats.in_flight.is_none() && now >= self.heartbeats.next_at
    }

    /// Records a heartbeat as sent, and returns its sequence number.
    pub(super) fn send_heartbeat(&mut self, now: Moment, detail: H) -> u64 {
        self.heartbeats.last_seq += 1;
        let seq = self.heartbeats.last_seq;
        self.heartbeats.in_flight = Some(InFlightHeartbeat { seq, sent_at: now, detail });
        seq
    }

    /// Returns the heartbeat that response `seq` answers, unless it is stale.
    pub(super) fn take_answered(&mut self, seq: u64) -> Option<InFlightHeartbeat<H>> {
        self.heartbeats.in_flight.take_if(|sent| sent.is_answered_by(seq))
    }

    /// Forgets the heartbeat in flight: its response is stale.
    pub(super) fn forget_heartbeat(&mut self) {
        self.heartbeats.in_flight = None;
    }

    pub(super) fn schedule_heartbeat(&mut self, at: Moment) {
        self.heartbeats.next_at = at;
    }

    pub(super) fn advance_heartbeat(&mut self, now: Moment) {
        self.heartbeats.next_at = self.heartbeats.next_at.min(now);
    }

    /// Extends the lease after a request sent at `acknowledged_send` was acknowledged, for sessions of `session`.
    pub(super) fn extend_lease(
        &mut self,
        acknowledged_send: Moment,
        session: Duration,
        out: &mut Vec<GroupEffect>,
    ) {
        let until = ownership_lease::ends(acknowledged_send, session);
        if until > self.lease_until {
            self.lease_until = until;
            out.push(GroupEffect::ExtendLease(until));
        }
    }

    /// Announces the kept partitions in `generation`, with the newly assigned ones.
    pub(super) fn announce(&self, generation: i32, added: Vec<i32>, out: &mut Vec<GroupEffect>) {
        let owned = self.partitions.kept().iter().copied().collect();
        out.push(GroupEffect::Notify(GroupEvent::Assigned { generation, owned, added }));
    }

    /// Records a success of the coordinator.
    pub(super) fn recover(&mut self, out: &mut Vec<GroupEffect>) {
        self.backoff.reset();
        if std::mem::take(&mut self.degraded) {
            out.push(GroupEffect::Notify(GroupEvent::Healthy));
        }
    }

    /// Reports a problem that an operator should know of.
    pub(super) fn degrade(&mut self, text: String, out: &mut Vec<GroupEffect>) {
        self.degraded = true;
        out.push(GroupEffect::Notify(GroupEvent::Trouble(text)));
    }

    /// Disconnects for the time of the backoff. The second failure in a row is reported.
    pub(super) fn retry(&mut self, error: String, now: Moment, random: u64, out: &mut Vec<GroupEffect>) {
        let wait = self.backoff.next(random);
        if self.backoff.failures() > 1 {
            self.degrade(error, out);
        }
        self.disconnect(now, wait);
    }

    /// Returns to the coordinator look-up after `wait`. Owned partitions stay owned until the lease ends.
    pub(super) fn disconnect(&mut self, now: Moment, wait: Duration) {
        self.stage = SessionStage::Out;
        self.retry_at = now + wait;
        self.heartbeats.in_flight = None;
    }

    /// Ends the lease and drops all partitions. Their invocations may still run: until they have ended, or until
    /// `session_ends`, the member does not rejoin (H5).
    pub(super) fn drop_all_partitions(
        &mut self,
        reason: &str,
        session_ends: Moment,
        out: &mut Vec<GroupEffect>,
    ) {
        let partitions = self.partitions.drop_all();
        self.lease_until = Moment::default();
        out.push(GroupEffect::EndLease);
        if !partitions.is_empty() {
            self.rejoin_not_before = may_still_run(&partitions).then_some(session_ends);
            out.push(GroupEffect::Notify(GroupEvent::Lost { partitions, reason: reason.to_owned() }));
        }
    }

    /// Returns true while invocations of lost partitions may still run (H5).
    pub(super) fn holds_off(&self) -> bool {
        self.rejoin_not_before.is_some()
    }

    #[cfg(test)]
    pub(super) fn hold_off_until(&mut self, at: Moment) {
        self.rejoin_not_before = Some(at);
    }

    #[cfg(test)]
    pub(super) fn last_heartbeat_seq(&self) -> u64 {
        self.heartbeats.last_seq
    }

    /// Records that no invocation of this member still runs: it may rejoin after a loss (H5).
    pub(super) fn all_invocations_ended(&mut self) {
        self.rejoin_not_before = None;
    }

    /// Leaves the group; `member` is the id that the coordinator may know. Without a leave request, lost partitions
    /// whose invocations may still run stay assigned until the session ends. A request would free them for other
    /// members at once (H5).
    pub(super) fn leave(&mut self, member: Option<&str>, out: &mut Vec<GroupEffect>) {
        if let Some(member) = member
            && !self.has_left()
            && !self.leave_must_wait()
        {
            out.push(GroupEffect::Leave { member: member.to_owned() });
        }
        self.stage = SessionStage::Left;
        self.partitions.drop_all();
        out.push(GroupEffect::EndLease);
    }

    fn leave_must_wait(&self) -> bool {
        mutant!("leaves-over-running-invocations", self.holds_off(), false)
    }
}

/// Returns true if invocations of `lost` partitions may still run, and this member must not rejoin yet (H5).
fn may_still_run(lost: &[i32]) -> bool {
    mutant!("rejoins-over-running-invocations", !lost.is_empty(), false)
}

/// Returns true if a member must rejoin to invalidate its unanswered requests. `is_current` tells whether the member
/// still has the generation that they were sent under.
pub(super) fn must_rejoin(is_current: bool) -> bool {
    mutant!("beginning-committed-twice", is_current, false)
}
