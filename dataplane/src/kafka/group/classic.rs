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
use super::lease;
use crate::kafka::group::effects::GroupEvent;
use crate::runtime::backoff::Backoff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClassicState {
    /// Waits until it may look up the coordinator.
    Out,
    Finding,
    Joining,
    Syncing,
    Stable,
    Left,
}

/// State machine of one member.
#[derive(Debug)]
pub struct ClassicMember {
    timing: MemberTiming,
    state: ClassicState,
    member: String,
    generation: i32,
    leads: bool,
    owned: BTreeSet<i32>,
    revoking: BTreeSet<i32>,
    /// `owned` without `revoking`, cached because it is read far more often than it changes.
    kept: Arc<BTreeSet<i32>>,
    assigned: BTreeSet<i32>,
    lease_until: Moment,
    /// Send time of the last request that was acknowledged while no rebalance was in progress.
    stable_since: Moment,
    retry_at: Moment,
    /// Earliest rejoin after a loss, while this member's invocations may still run (H5).
    rejoin_not_before: Option<Moment>,
    heartbeat: Option<(u64, Moment)>,
    heartbeat_seq: u64,
    next_heartbeat: Moment,
    rejoin: bool,
    request_sent: Moment,
    backoff: Backoff,
    degraded: bool,
}

type ClassicEffects = Vec<GroupEffect>;

impl ClassicMember {
    /// Creates a member that has not joined.
    pub fn new(timing: MemberTiming, now: Moment) -> Self {
        Self {
            timing,
            state: ClassicState::Out,
            member: String::new(),
            generation: -1,
            leads: false,
            owned: BTreeSet::new(),
            revoking: BTreeSet::new(),
            kept: Arc::default(),
            assigned: BTreeSet::new(),
            lease_until: Moment::default(),
            stable_since: now,
            retry_at: now,
            rejoin_not_before: None,
            heartbeat: None,
            heartbeat_seq: 0,
            next_heartbeat: now,
            rejoin: false,
            request_sent: now,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            degraded: false,
        }
    }

    /// Returns the generation and member id to commit with, if there are any.
    pub fn commit_identity(&self) -> Option<(i32, &str)> {
        (self.generation >= 0 && self.state != ClassicState::Left)
            .then_some((self.generation, self.member.as_str()))
    }

    /// Returns the owned partitions that are not being drained.
    pub fn kept(&self) -> Arc<BTreeSet<i32>> {
        debug_assert!(self.kept.iter().eq(self.owned.difference(&self.revoking)), "kept is what is ours");
        Arc::clone(&self.kept)
    }

    /// Returns true if this member leads the group and no rebalance is in progress.
    pub fn leads(&self) -> bool {
        self.leads && self.state == ClassicState::Stable
    }

    /// Returns the moment at which [`ClassicMember::tick`] is next due.
    pub fn wake_at(&self) -> Option<Moment> {
        let start = (self.state == ClassicState::Out)
            .then(|| self.rejoin_not_before.unwrap_or(self.retry_at).max(self.retry_at));
        let beat = (self.beats() && self.heartbeat.is_none()).then_some(self.next_heartbeat);
        let fence = (!self.owned.is_empty()).then_some(self.lease_until);
        [start, beat, fence].into_iter().flatten().min()
    }

    /// Follows the function's timeout. The coordinator may apply any of the values reported to it, so the shortest
    /// one counts here (H2).
    pub fn set_rebalance_timeout(&mut self, timeout: Duration) {
        self.timing.rebalance_timeout = self.timing.rebalance_timeout.min(timeout);
    }

    /// Advances the member to `now` and returns the effects that are due.
    pub fn tick(&mut self, now: Moment, random: u64) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if !self.owned.is_empty() && now >= self.lease_until {
            self.drop_all_partitions("no heartbeat was acknowledged in time", now, &mut out);
            self.disconnect(now, Duration::ZERO);
        }
        self.rejoin_not_before = self.rejoin_not_before.filter(|until| now < *until);
        if self.state == ClassicState::Out && now >= self.retry_at && self.rejoin_not_before.is_none() {
            self.state = ClassicState::Finding;
            out.push(GroupEffect::FindCoordinator);
        }
        if self.beats() && self.heartbeat.is_none() && now >= self.next_heartbeat {
            self.heartbeat_seq += 1;
            self.heartbeat = Some((self.heartbeat_seq, now));
            let (member, generation, seq) = (self.member.clone(), self.generation, self.heartbeat_seq);
            out.push(GroupEffect::Heartbeat { member, generation, seq });
        }
        if self.rejoin && self.state == ClassicState::Stable {
            self.join(now, &mut out);
        }
        let _ = random;
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
        if self.state != ClassicState::Finding {
            return out;
        }
        match found {
            Ok(()) => self.join(now, &mut out),
            Err(error) => self.retry(error, now, random, &mut out),
        }
        out
    }

    /// Handles the response to a `JoinGroup` that was sent as `who`.
    pub fn joined(
        &mut self,
        now: Moment,
        who: &MemberIdentity,
        answer: Result<JoinResult, RequestError>,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if self.state != ClassicState::Joining || !self.is(who) {
            return out;
        }
        match answer {
            Ok(joined) => {
                self.heartbeat = None;
                self.leads = joined.leader == joined.member;
                self.member = joined.member;
                self.generation = joined.generation;
                self.state = ClassicState::Syncing;
                self.request_sent = now;
                let (member, generation) = (self.member.clone(), self.generation);
                out.push(if self.leads {
                    GroupEffect::AssignAndSync { member, generation, members: joined.members }
                } else {
                    GroupEffect::Sync { member, generation }
                });
            }
            Err(RequestError::MemberIdRequired(member)) => {
                self.member = member;
                self.join(now, &mut out);
            }
            Err(failure) => self.failed(failure, now, random, &mut out),
        }
        out
    }

    /// Handles the response to a `SyncGroup` that was sent as `who`.
    pub fn synced(
        &mut self,
        now: Moment,
        who: &MemberIdentity,
        answer: Result<Vec<i32>, RequestError>,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if self.state != ClassicState::Syncing || !self.is(who) {
            return out;
        }
        match answer {
            Ok(assigned) => self.take(assigned, now, &mut out),
            Err(failure) => self.failed(failure, now, random, &mut out),
        }
        out
    }

    /// Handles the response to heartbeat `seq`.
    pub fn heartbeat_answered(
        &mut self,
        now: Moment,
        seq: u64,
        answer: Result<(), RequestError>,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        // A response to a heartbeat from before the last change of state is stale (H7).
        let Some((_, sent)) =
            self.heartbeat.take_if(|(current, _)| mutant!("late-heartbeat-answer", *current == seq, true))
        else {
            return out;
        };
        self.next_heartbeat = sent + self.timing.heartbeat_interval;
        match answer {
            Ok(()) => {
                self.stable_since = sent;
                self.extend_lease(mutant!("lease-counts-from-the-reply", sent, now), &mut out);
            }
            Err(RequestError::Code(ResponseError::RebalanceInProgress)) => {
                // A member that has not joined when the barrier opens is expelled, even if it sends heartbeats (H2).
                let barrier = self.timing.rebalance_timeout.saturating_sub(self.timing.session_timeout);
                let said = mutant!("barrier-not-minded", sent.min(self.stable_since + barrier), sent);
                self.extend_lease(said, &mut out);
                if self.state == ClassicState::Stable {
                    self.join(now, &mut out);
                }
            }
            // The lease expires by itself unless the next heartbeat is acknowledged.
            Err(RequestError::Transport(_)) => self.next_heartbeat = now + self.timing.heartbeat_interval / 3,
            Err(failure) if self.state == ClassicState::Stable || failure.expels() => {
                self.failed(failure, now, random, &mut out);
            }
            // While a join is in flight, its own response decides: this one may belong to the previous generation.
            Err(_) => {}
        }
        out
    }

    /// Handles the release of partitions that are drained and committed.
    pub fn released(&mut self, now: Moment, partitions: &[i32]) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        let mut back = Vec::new();
        for partition in partitions {
            if !self.revoking.remove(partition) {
                continue;
            }
            self.owned.remove(partition);
            if self.assigned.contains(partition) {
                self.owned.insert(*partition);
                back.push(*partition);
            } else {
                self.rejoin = true;
            }
        }
        if !back.is_empty() {
            self.count_kept();
            self.announce(back, &mut out);
        }
        if self.revoking.is_empty() && self.rejoin && self.state == ClassicState::Stable {
            self.join(now, &mut out);
        }
        out
    }

    /// Records that no invocation of this member still runs: it may rejoin after a loss (H5).
    pub fn all_invocations_ended(&mut self) {
        self.rejoin_not_before = None;
    }

    /// Handles a partition count that differs from the one this member, as the leader, based the assignment on.
    pub fn topic_changed(&mut self, now: Moment) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if self.leads() {
            self.join(now, &mut out);
        }
        out
    }

    /// Leaves the group, after all partitions were released. Lost partitions may still have running invocations. A
    /// leave request would free them for other members at once; without one they stay assigned until the session ends
    /// (H5).
    pub fn leave(&mut self) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        let may_run = mutant!("leaves-over-running-invocations", self.rejoin_not_before.is_some(), false);
        if !self.member.is_empty() && self.state != ClassicState::Left && !may_run {
            out.push(GroupEffect::Leave { member: self.member.clone() });
        }
        self.state = ClassicState::Left;
        self.owned.clear();
        self.count_kept();
        out.push(GroupEffect::EndLease);
        out
    }

    /// Returns true if `who` is the current identity. A response to an earlier identity does not apply.
    fn is(&self, who: &MemberIdentity) -> bool {
        who.member == self.member && who.generation == self.generation
    }

    fn beats(&self) -> bool {
        matches!(self.state, ClassicState::Joining | ClassicState::Syncing | ClassicState::Stable)
            && self.generation >= 0
    }

    /// Joins, with a claim to all owned partitions, including those being drained (H25).
    fn join(&mut self, now: Moment, out: &mut ClassicEffects) {
        self.state = ClassicState::Joining;
        self.rejoin = false;
        self.request_sent = now;
        let owned: Vec<i32> = mutant!(
            "revoked-is-let-go-at-once",
            self.owned.iter().copied().collect(),
            self.owned.difference(&self.revoking).copied().collect()
        );
        out.push(GroupEffect::Join { member: self.member.clone(), generation: self.generation, owned });
    }

    fn take(&mut self, assigned: Vec<i32>, now: Moment, out: &mut ClassicEffects) {
        self.state = ClassicState::Stable;
        self.backoff.reset();
        self.assigned = assigned.into_iter().collect();
        self.stable_since = self.request_sent;
        self.extend_lease(self.request_sent, out);
        self.next_heartbeat = now + self.timing.heartbeat_interval;
        if std::mem::take(&mut self.degraded) {
            out.push(GroupEffect::Notify(GroupEvent::Healthy));
        }
        let added: Vec<i32> = self.assigned.difference(&self.owned).copied().collect();
        let revoked: Vec<i32> = self
            .owned
            .difference(&self.assigned)
            .filter(|partition| !self.revoking.contains(partition))
            .copied()
            .collect();
        self.owned.extend(&added);
        self.count_kept();
        self.announce(added, out);
        if !revoked.is_empty() {
            self.revoking.extend(&revoked);
            self.count_kept();
            out.push(GroupEffect::Notify(GroupEvent::Revoke { partitions: revoked }));
        }
    }

    fn announce(&self, added: Vec<i32>, out: &mut ClassicEffects) {
        let owned = self.kept.iter().copied().collect();
        out.push(GroupEffect::Notify(GroupEvent::Assigned { generation: self.generation, owned, added }));
    }

    fn count_kept(&mut self) {
        self.kept = Arc::new(self.owned.difference(&self.revoking).copied().collect());
    }

    fn extend_lease(&mut self, acknowledged_send: Moment, out: &mut ClassicEffects) {
        let until = lease::ends(acknowledged_send, self.timing.session_timeout);
        if until > self.lease_until {
            self.lease_until = until;
            out.push(GroupEffect::ExtendLease(until));
        }
    }
}

#[cfg(test)]
mod tests;
