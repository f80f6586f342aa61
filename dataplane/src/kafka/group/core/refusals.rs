//! What a membership does when the group says no, and when it says nothing.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;

use super::{Effects, GroupCore, State};
use crate::kafka::group::effects::{
    Effect, FATAL_RETRY, Failure, Identity, is_fencing, is_for_a_person, text_for,
};
use crate::kafka::group::lease::margin;

impl GroupCore {
    /// A commit that was sent as `who`, or the question what is committed, was refused. Of an earlier generation it says nothing:
    /// the next is in force already, and a coordinator that has lost the group may be who answers late. If there is something to
    /// it, a heartbeat tells.
    pub fn commit_refused(
        &mut self,
        now: Moment,
        who: &Identity,
        code: ResponseError,
        random: u64,
    ) -> Effects {
        let mut out = Effects::new();
        if self.state != State::Stable || who.member != self.member {
            return out;
        }
        let is_ours = self.is(who);
        match code {
            code if is_ours && is_fencing(code) => self.failed(Failure::Code(code), now, random, &mut out),
            ResponseError::RebalanceInProgress if is_ours => self.join(now, &mut out),
            code if Failure::Code(code).expels() => self.next_heartbeat = now,
            _ => {}
        }
        out
    }

    /// What was sent under `generation` and not answered may be served yet: a generation later it is refused.
    pub fn start_over(&mut self, now: Moment, generation: i32) -> Effects {
        let mut out = Effects::new();
        let is_in = self.state == State::Stable && self.generation == generation;
        if mutant!("beginning-committed-twice", is_in, false) {
            self.join(now, &mut out);
        }
        out
    }

    pub(super) fn failed(&mut self, failure: Failure, now: Moment, random: u64, out: &mut Effects) {
        match failure {
            Failure::Code(code) if is_fencing(code) => {
                self.lose_all(&format!("the group's coordinator says {code}"), now, out);
                if code != ResponseError::IllegalGeneration {
                    self.member.clear();
                }
                self.go_out(now, Duration::ZERO);
            }
            Failure::Code(ResponseError::RebalanceInProgress) => self.join(now, out),
            Failure::Code(code) if is_for_a_person(code) => {
                self.trouble(text_for(code), out);
                self.go_out(now, FATAL_RETRY);
            }
            Failure::Code(code) => self.retry(format!("group coordinator: {code}"), now, random, out),
            Failure::Transport(error) => self.retry(error, now, random, out),
            Failure::MemberIdRequired(_) => self.go_out(now, Duration::ZERO),
        }
    }

    pub(super) fn retry(&mut self, error: String, now: Moment, random: u64, out: &mut Effects) {
        let wait = self.backoff.next(random);
        if self.backoff.failures() > 1 {
            self.trouble(error, out);
        }
        self.go_out(now, wait);
    }

    /// What we own stays ours until the lease ends: only the conversation begins anew.
    pub(super) fn go_out(&mut self, now: Moment, wait: Duration) {
        self.state = State::Out;
        self.retry_at = now + wait;
        self.heartbeat = None;
    }

    pub(super) fn trouble(&mut self, text: String, out: &mut Effects) {
        self.in_trouble = true;
        out.push(Effect::Trouble(text));
    }

    pub(super) fn lose_all(&mut self, reason: &str, now: Moment, out: &mut Effects) {
        let session_ends = now.max(self.lease_until) + margin(self.timing.session_timeout);
        let partitions: Vec<i32> = std::mem::take(&mut self.owned).into_iter().collect();
        self.revoking.clear();
        self.count_kept();
        self.assigned.clear();
        self.generation = -1;
        self.leads = false;
        self.lease_until = Moment::default();
        out.push(Effect::EndLease);
        if !partitions.is_empty() {
            self.hold_until = mutant!("rejoins-over-running-invocations", Some(session_ends), None);
            out.push(Effect::Lost { partitions, reason: reason.to_owned() });
        }
    }
}
