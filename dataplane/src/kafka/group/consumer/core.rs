//! The member's state machine, consumer protocol. The coordinator says in its answer to a heartbeat what is ours; what we own
//! is what we say in the next one, so that a partition is taken from us only when we stop naming it. The numbers in brackets
//! are the hazards that the classic machine answers to as well.

mod assigned;
mod refusals;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;

use super::session::SessionBounds;
use crate::kafka::backoff::Backoff;
use crate::kafka::group::effects::{Beat, Effect, Failure, Share, Timing, Told};
use crate::kafka::group::lease;

/// How often everything is said, and asked for, without a reason: an assignment goes out with one answer only, and one that a
/// request of an earlier connection got, served late, has reached nobody. The time for a drain that it asked for runs.
const SAY_ALL_AFTER: Duration = Duration::from_secs(30);
/// Of the rebalance timeout no more than this share passes unknown.
const REBALANCE_SHARES: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Waits until it may look for the coordinator.
    Out,
    Finding,
    /// Beats, to join first and to stay then.
    In,
    Left,
}

/// What we know of a heartbeat that is out.
#[derive(Debug)]
struct Sent {
    seq: u64,
    at: Moment,
    share: Share,
    everything: bool,
    /// Something was being drained.
    draining: bool,
    rebalance_timeout: Duration,
}

/// The member.
#[derive(Debug)]
pub struct ConsumerCore {
    timing: Timing,
    /// The rebalance timeout that the coordinator is known to count with.
    counted: Duration,
    session: SessionBounds,
    state: State,
    member: String,
    /// Member epoch; 0 while we are no member.
    epoch: i32,
    /// What we own, that which is being drained too.
    owned: Share,
    revoking: BTreeSet<i32>,
    /// What we own without what is being drained: asked for at every turn, changed at few.
    kept: Arc<BTreeSet<i32>>,
    /// What the coordinator says is ours.
    assigned: Share,
    /// What the coordinator knows that we own; nothing: it must be told everything.
    reported: Option<Share>,
    /// When everything was last said and answered.
    all_said: Moment,
    lease_until: Moment,
    /// No revocation that is open now was asked for before this.
    settled: Moment,
    /// When the last revocation was drained whose end the coordinator does not know yet.
    released_at: Option<Moment>,
    retry_at: Moment,
    /// After a loss: the earliest rejoin while our own invocations may still run (H5).
    hold_until: Option<Moment>,
    heartbeat: Option<Sent>,
    heartbeat_seq: u64,
    heartbeat_interval: Duration,
    next_heartbeat: Moment,
    /// The coordinator may know our id.
    introduced: bool,
    backoff: Backoff,
    in_trouble: bool,
}

type Effects = Vec<Effect>;

impl ConsumerCore {
    /// A member that has not joined; `member` is the id that it keeps for as long as it lives.
    pub fn new(timing: Timing, member: String, now: Moment) -> Self {
        Self {
            timing,
            counted: timing.rebalance_timeout,
            session: SessionBounds::assumed(timing.session_timeout),
            state: State::Out,
            member,
            epoch: 0,
            owned: Share::default(),
            revoking: BTreeSet::new(),
            kept: Arc::default(),
            assigned: Share::default(),
            reported: None,
            all_said: now,
            lease_until: Moment::default(),
            settled: now,
            released_at: None,
            retry_at: now,
            hold_until: None,
            heartbeat: None,
            heartbeat_seq: 0,
            heartbeat_interval: timing.heartbeat_interval,
            next_heartbeat: now,
            introduced: false,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(5)),
            in_trouble: false,
        }
    }

    /// Follows the function's timeout; the coordinator is told with the next heartbeat.
    pub fn set_rebalance_timeout(&mut self, now: Moment, timeout: Duration) {
        if timeout != self.timing.rebalance_timeout {
            self.timing.rebalance_timeout = timeout;
            self.reported = None;
            self.next_heartbeat = self.next_heartbeat.min(now);
        }
    }

    /// Epoch and member id to commit with, when we have them.
    pub fn commit_identity(&self) -> Option<(i32, &str)> {
        (self.epoch > 0 && self.state != State::Left).then_some((self.epoch, self.member.as_str()))
    }

    /// What is ours and not being drained.
    pub fn kept(&self) -> Arc<BTreeSet<i32>> {
        debug_assert!(
            self.kept.iter().eq(self.owned.partitions.difference(&self.revoking)),
            "kept is what is ours"
        );
        Arc::clone(&self.kept)
    }

    /// When [`ConsumerCore::tick`] has something to do next.
    pub fn wake_at(&self) -> Option<Moment> {
        let start =
            (self.state == State::Out).then(|| self.hold_until.unwrap_or(self.retry_at).max(self.retry_at));
        let beat = (self.state == State::In && self.heartbeat.is_none()).then_some(self.next_heartbeat);
        let fence = (!self.owned.is_empty()).then_some(self.lease_until);
        [start, beat, fence].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) -> Effects {
        let mut out = Effects::new();
        if !self.owned.is_empty() && now >= self.lease_until {
            self.lose_all("no heartbeat was acknowledged in time", now, &mut out);
            self.go_out(now, Duration::ZERO);
        }
        self.hold_until = self.hold_until.filter(|until| now < *until);
        if self.state == State::Out && now >= self.retry_at && self.hold_until.is_none() {
            self.state = State::Finding;
            out.push(Effect::FindCoordinator);
        }
        if self.state == State::In && self.heartbeat.is_none() && now >= self.next_heartbeat {
            self.beat(now, &mut out);
        }
        out
    }

    /// The coordinator is known, and what its broker says of sessions; or not.
    pub fn coordinator_found(
        &mut self,
        now: Moment,
        found: Result<Option<SessionBounds>, String>,
        random: u64,
    ) -> Effects {
        let mut out = Effects::new();
        if self.state != State::Finding {
            return out;
        }
        match found {
            Ok(session) => {
                self.session = session.unwrap_or(SessionBounds::assumed(self.timing.session_timeout));
                self.state = State::In;
                self.reported = None;
                self.beat(now, &mut out);
            }
            Err(error) => self.retry(error, now, random, &mut out),
        }
        out
    }

    /// A heartbeat was answered.
    pub fn heartbeat_answered(
        &mut self,
        now: Moment,
        seq: u64,
        answer: Result<Told, Failure>,
        random: u64,
    ) -> Effects {
        let mut out = Effects::new();
        // An answer to what was said before the last change of state says nothing about now (H7).
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

    /// These partitions are drained and committed.
    pub fn released(&mut self, now: Moment, partitions: &[i32]) -> Effects {
        let mut out = Effects::new();
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
        // What was given back meanwhile starts anew.
        self.reconcile(&mut out);
        out
    }

    /// Nothing of ours runs any more: a member that lost everything may come back (H5).
    pub fn quiesced(&mut self) {
        self.hold_until = None;
    }

    /// Everything is released: go.
    pub fn leave(&mut self) -> Effects {
        let mut out = Effects::new();
        // What was lost may still run: whoever says nothing gives it away only when the session is over (H5).
        let may_run = mutant!("leaves-over-running-invocations", self.hold_until.is_some(), false);
        if self.introduced && self.state != State::Left && !may_run {
            out.push(Effect::Leave { member: self.member.clone() });
        }
        self.state = State::Left;
        self.owned = Share::default();
        self.count_kept();
        out.push(Effect::EndLease);
        out
    }

    fn beat(&mut self, now: Moment, out: &mut Effects) {
        self.heartbeat_seq += 1;
        let share = mutant!(
            "revoked-is-let-go-at-once",
            self.owned.clone(),
            Share { topic: self.owned.topic, partitions: (*self.kept).clone() }
        );
        let everything = self.reported.is_none() || now >= self.all_said + self.say_all_after();
        let changed = self.reported.as_ref() != Some(&share);
        self.heartbeat = Some(Sent {
            seq: self.heartbeat_seq,
            at: now,
            share: share.clone(),
            everything,
            draining: !self.revoking.is_empty(),
            rebalance_timeout: self.rebalance_timeout(),
        });
        self.introduced = true;
        out.push(Effect::Beat(Beat {
            member: self.member.clone(),
            epoch: self.epoch,
            seq: self.heartbeat_seq,
            everything,
            rebalance_timeout: self.rebalance_timeout(),
            owned: (changed || everything).then_some(share),
        }));
    }

    fn acknowledged(&mut self, now: Moment, sent: &Sent, told: Told, out: &mut Effects) {
        self.backoff.reset();
        if std::mem::take(&mut self.in_trouble) {
            out.push(Effect::Healthy);
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
            // It was made before the coordinator heard of the change: it is asked for again (H7).
            Some(_) if meanwhile_changed => self.reported = None,
            Some(shares) => {
                self.assigned = self.chosen(shares);
                self.reconcile(out);
                if sent.everything {
                    self.all_said = sent.at;
                }
            }
            None => {}
        }
        if moved && !out.iter().any(|effect| matches!(effect, Effect::Assigned { .. })) {
            self.announce(Vec::new(), out);
        }
        self.settle(sent, drains_before);
        if sent.everything {
            // A drain that is open goes on under what it began with.
            let open = drains_before || !self.revoking.is_empty();
            self.counted =
                if open { self.counted.min(sent.rebalance_timeout) } else { sent.rebalance_timeout };
        }
        // Whoever has not let go when the rebalance timeout ends is expelled, however well its heart beats (H2): the one that
        // the coordinator counts with.
        let counted = self.counted.max(self.session.longest).min(self.rebalance_timeout());
        let barrier = counted.saturating_sub(self.session.shortest);
        let said = mutant!("barrier-not-minded", sent.at.min(self.settled + barrier), sent.at);
        self.extend_lease(mutant!("lease-counts-from-the-reply", said, now), out);
        if self.reported.as_ref() != Some(&self.owned) {
            self.next_heartbeat = now;
        }
    }

    /// The coordinator counts a drain from the answer that asked for it, which may have reached nobody: from no earlier than the
    /// last time that it said everything, and nothing was to be drained.
    fn settle(&mut self, sent: &Sent, drains_before: bool) {
        if drains_before {
            return;
        }
        if sent.everything && self.revoking.is_empty() {
            self.settled = sent.at;
        } else if let Some(released) = self.released_at {
            self.settled = self.settled.max(released);
        }
        self.released_at = None;
    }

    fn say_all_after(&self) -> Duration {
        SAY_ALL_AFTER.min(self.rebalance_timeout() / REBALANCE_SHARES)
    }

    fn rebalance_timeout(&self) -> Duration {
        self.timing.rebalance_timeout.max(self.session.longest)
    }

    fn extend_lease(&mut self, acknowledged_send: Moment, out: &mut Effects) {
        let until = lease::ends(acknowledged_send, self.session.shortest);
        if until > self.lease_until {
            self.lease_until = until;
            out.push(Effect::ExtendLease(until));
        }
    }
}

#[cfg(test)]
mod tests;
