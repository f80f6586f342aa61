//! State machine of a member, classic protocol. Numbers in brackets name the hazards that it handles: H1
//! self-fencing, H2 timeouts, H3 drain before release, H5 no hasty rejoin, H7 one heartbeat at a time, H10
//! coordinator moves, H25 rejoin while draining.

mod errors;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;

use super::effects::{GroupEffect, JoinResult, MemberIdentity, MemberTiming, RequestError};
use super::member_session::{MemberSession, SessionStage};
use super::ownership_lease::{before_expulsion, counts_from};
use crate::kafka::group::effects::GroupEvent;

/// Generation before the first join.
const NO_GENERATION: i32 = -1;

/// Stage of a member that has found its coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClassicStage {
    Joining,
    Syncing,
    Stable,
}

/// State machine of one member.
#[derive(Debug)]
pub struct ClassicMember {
    timing: MemberTiming,
    session: MemberSession<ClassicStage, ()>,
    identity: MemberIdentity,
    leads: bool,
    assigned: BTreeSet<i32>,
    /// Set while partitions that were released must be reported by a rejoin.
    rejoin: bool,
    /// Send time of the last request that was acknowledged while no rebalance was in progress.
    stable_since: Moment,
    join_sent_at: Moment,
}

type ClassicEffects = Vec<GroupEffect>;

impl ClassicMember {
    /// Creates a member that has not joined.
    pub fn new(timing: MemberTiming, now: Moment) -> Self {
        Self {
            timing,
            session: MemberSession::new(now),
            identity: MemberIdentity { member: String::new(), generation: NO_GENERATION },
            leads: false,
            assigned: BTreeSet::new(),
            rejoin: false,
            stable_since: now,
            join_sent_at: now,
        }
    }

    /// Returns the identity to commit under, if there is one.
    pub fn commit_identity(&self) -> Option<&MemberIdentity> {
        (self.has_generation() && !self.session.has_left()).then_some(&self.identity)
    }

    /// Returns the owned partitions that are not being drained.
    pub fn kept(&self) -> Arc<BTreeSet<i32>> {
        Arc::clone(self.session.partitions.kept())
    }

    /// Returns true if this member leads the group and no rebalance is in progress.
    pub fn leads(&self) -> bool {
        self.leads && self.session.is_in(ClassicStage::Stable)
    }

    /// Returns the moment at which [`ClassicMember::tick`] is next due.
    pub fn wake_at(&self) -> Option<Moment> {
        self.session.wake_at(self.sends_heartbeats())
    }

    /// Follows the function's timeout. The coordinator may apply any of the values reported to it, so the shortest
    /// one counts here (H2).
    pub fn set_rebalance_timeout(&mut self, timeout: Duration) {
        self.timing.rebalance_timeout = self.timing.rebalance_timeout.min(timeout);
    }

    /// Advances the member to `now` and returns the effects that are due.
    pub fn tick(&mut self, now: Moment) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if self.session.is_lease_over(now) {
            self.drop_all_partitions("no heartbeat was acknowledged in time", now, &mut out);
            self.session.disconnect(now, Duration::ZERO);
        }
        self.session.look_up_when_due(now, &mut out);
        if self.sends_heartbeats() && self.session.is_heartbeat_due(now) {
            let seq = self.session.send_heartbeat(now, ());
            let MemberIdentity { member, generation } = self.identity.clone();
            out.push(GroupEffect::Heartbeat { member, generation, seq });
        }
        if self.rejoin && self.session.is_in(ClassicStage::Stable) {
            self.join(now, &mut out);
        }
        out
    }

    /// Handles the result of the coordinator look-up.
    pub fn coordinator_found(
        &mut self,
        now: Moment,
        found: Result<(), String>,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if self.session.stage() != SessionStage::Finding {
            return out;
        }
        match found {
            Ok(()) => self.join(now, &mut out),
            Err(error) => self.session.retry(error, now, random, &mut out),
        }
        out
    }

    /// Handles the response to a `JoinGroup` that was sent as `who`.
    pub fn joined(
        &mut self,
        now: Moment,
        who: &MemberIdentity,
        response: Result<JoinResult, RequestError>,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if !self.session.is_in(ClassicStage::Joining) || self.identity != *who {
            return out;
        }
        match response {
            Ok(joined) => {
                self.session.forget_heartbeat();
                self.session.enter(ClassicStage::Syncing);
                self.leads = joined.leader == joined.member;
                self.identity = MemberIdentity { member: joined.member, generation: joined.generation };
                self.join_sent_at = now;
                let MemberIdentity { member, generation } = self.identity.clone();
                out.push(if self.leads {
                    GroupEffect::AssignAndSync { member, generation, members: joined.members }
                } else {
                    GroupEffect::Sync { member, generation }
                });
            }
            Err(RequestError::MemberIdRequired(member)) => {
                self.identity.member = member;
                self.join(now, &mut out);
            }
            Err(error) => self.on_request_error(error, now, random, &mut out),
        }
        out
    }

    /// Handles the response to a `SyncGroup` that was sent as `who`.
    pub fn synced(
        &mut self,
        now: Moment,
        who: &MemberIdentity,
        response: Result<Vec<i32>, RequestError>,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if !self.session.is_in(ClassicStage::Syncing) || self.identity != *who {
            return out;
        }
        match response {
            Ok(assigned) => self.on_assigned(assigned, now, &mut out),
            Err(error) => self.on_request_error(error, now, random, &mut out),
        }
        out
    }

    /// Handles the response to heartbeat `seq`.
    pub fn heartbeat_answered(
        &mut self,
        now: Moment,
        seq: u64,
        response: Result<(), RequestError>,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        let Some(sent_at) = self.session.take_answered(seq).map(|heartbeat| heartbeat.sent_at) else {
            return out;
        };
        let interval = self.timing.heartbeat_interval;
        self.session.schedule_heartbeat(sent_at + interval);
        match response {
            Ok(()) => {
                self.stable_since = sent_at;
                self.extend_lease(counts_from(sent_at, now), &mut out);
            }
            Err(RequestError::Code(ResponseError::RebalanceInProgress)) => {
                // A member that has not joined when the barrier opens is expelled.
                let barrier = self.timing.rebalance_timeout.saturating_sub(self.timing.session_timeout);
                self.extend_lease(before_expulsion(sent_at, self.stable_since + barrier), &mut out);
                if self.session.is_in(ClassicStage::Stable) {
                    self.join(now, &mut out);
                }
            }
            // The lease expires by itself unless the next heartbeat is acknowledged.
            Err(RequestError::Transport(_)) => self.session.schedule_heartbeat(now + interval / 3),
            Err(error) if self.session.is_in(ClassicStage::Stable) || error.expels() => {
                self.on_request_error(error, now, random, &mut out);
            }
            // While a join is in flight, its own response decides: this one may belong to the previous generation.
            Err(_) => {}
        }
        out
    }

    /// Handles the release of partitions that are drained and committed. Those that were assigned again meanwhile are
    /// started again.
    pub fn released(&mut self, now: Moment, partitions: &[i32]) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        let released = self.session.partitions.release(partitions);
        let (back, given_up): (Vec<i32>, Vec<i32>) =
            released.into_iter().partition(|partition| self.assigned.contains(partition));
        self.rejoin |= !given_up.is_empty();
        if !back.is_empty() {
            self.session.partitions.add(&back);
            self.announce(back, &mut out);
        }
        if !self.session.partitions.is_draining() && self.rejoin && self.session.is_in(ClassicStage::Stable) {
            self.join(now, &mut out);
        }
        out
    }

    /// Records that no invocation of this member still runs: it may rejoin after a loss (H5).
    pub fn all_invocations_ended(&mut self) {
        self.session.all_invocations_ended();
    }

    /// Handles a partition count that differs from the one this member, as the leader, based the assignment on.
    pub fn topic_changed(&mut self, now: Moment) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if self.leads() {
            self.join(now, &mut out);
        }
        out
    }

    /// Leaves the group, after all partitions were released.
    pub fn leave(&mut self) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        let member = Some(self.identity.member.as_str()).filter(|member| !member.is_empty());
        self.session.leave(member, &mut out);
        out
    }

    fn has_generation(&self) -> bool {
        self.identity.generation > NO_GENERATION
    }

    fn sends_heartbeats(&self) -> bool {
        matches!(self.session.stage(), SessionStage::Member(_)) && self.has_generation()
    }

    /// Joins, with a claim to all owned partitions, including those being drained (H25).
    fn join(&mut self, now: Moment, out: &mut ClassicEffects) {
        self.session.enter(ClassicStage::Joining);
        self.rejoin = false;
        self.join_sent_at = now;
        let owned = self.session.partitions.claimed().into_iter().collect();
        let MemberIdentity { member, generation } = self.identity.clone();
        out.push(GroupEffect::Join { member, generation, owned });
    }

    fn on_assigned(&mut self, assigned: Vec<i32>, now: Moment, out: &mut ClassicEffects) {
        self.session.enter(ClassicStage::Stable);
        self.assigned = assigned.into_iter().collect();
        self.stable_since = self.join_sent_at;
        self.extend_lease(self.join_sent_at, out);
        self.session.schedule_heartbeat(now + self.timing.heartbeat_interval);
        self.session.recover(out);
        let change = self.session.partitions.compare(&self.assigned);
        self.session.partitions.add(&change.added);
        self.announce(change.added, out);
        if !change.revoked.is_empty() {
            self.session.partitions.start_drain(&change.revoked);
            out.push(GroupEffect::Notify(GroupEvent::Revoke { partitions: change.revoked }));
        }
    }

    fn announce(&self, added: Vec<i32>, out: &mut ClassicEffects) {
        self.session.announce(self.identity.generation, added, out);
    }

    fn extend_lease(&mut self, acknowledged_send: Moment, out: &mut ClassicEffects) {
        self.session.extend_lease(acknowledged_send, self.timing.session_timeout, out);
    }
}

#[cfg(test)]
mod tests;
