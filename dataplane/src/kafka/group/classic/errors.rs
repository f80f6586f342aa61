//! Handling of coordinator errors and missing responses, classic protocol.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;

use super::{ClassicEffects, ClassicMember, ClassicState};
use crate::kafka::group::effects::{
    FATAL_RETRY, GroupEffect, GroupEvent, MemberIdentity, RequestError, is_fencing, needs_operator,
    operator_message,
};
use crate::kafka::group::lease::margin;

impl ClassicMember {
    /// Handles the rejection of a commit, or of a committed-offset look-up, that was sent as `who`. A rejection of an
    /// earlier generation takes nothing away: the next one is in force already. The late response may also come from
    /// a coordinator that has lost the group. If the rejection still holds, a heartbeat shows it.
    pub fn commit_refused(
        &mut self,
        now: Moment,
        who: &MemberIdentity,
        code: ResponseError,
        random: u64,
    ) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        if self.state != ClassicState::Stable || who.member != self.member {
            return out;
        }
        let is_ours = self.is(who);
        match code {
            code if is_ours && is_fencing(code) => {
                self.failed(RequestError::Code(code), now, random, &mut out);
            }
            ResponseError::RebalanceInProgress if is_ours => self.join(now, &mut out),
            code if RequestError::Code(code).expels() => self.next_heartbeat = now,
            _ => {}
        }
        out
    }

    /// Rejoins because requests sent under `generation` and not answered may still be served. In the next generation
    /// the coordinator rejects them.
    pub fn force_rejoin(&mut self, now: Moment, generation: i32) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        let is_in = self.state == ClassicState::Stable && self.generation == generation;
        if mutant!("beginning-committed-twice", is_in, false) {
            self.join(now, &mut out);
        }
        out
    }

    pub(super) fn failed(
        &mut self,
        failure: RequestError,
        now: Moment,
        random: u64,
        out: &mut ClassicEffects,
    ) {
        match failure {
            RequestError::Code(code) if is_fencing(code) => {
                self.drop_all_partitions(&format!("the group's coordinator says {code}"), now, out);
                if code != ResponseError::IllegalGeneration {
                    self.member.clear();
                }
                self.disconnect(now, Duration::ZERO);
            }
            RequestError::Code(ResponseError::RebalanceInProgress) => self.join(now, out),
            RequestError::Code(code) if needs_operator(code) => {
                self.trouble(operator_message(code), out);
                self.disconnect(now, FATAL_RETRY);
            }
            RequestError::Code(code) => self.retry(format!("group coordinator: {code}"), now, random, out),
            RequestError::Transport(error) => self.retry(error, now, random, out),
            RequestError::MemberIdRequired(_) => self.disconnect(now, Duration::ZERO),
        }
    }

    pub(super) fn retry(&mut self, error: String, now: Moment, random: u64, out: &mut ClassicEffects) {
        let wait = self.backoff.next(random);
        if self.backoff.failures() > 1 {
            self.trouble(error, out);
        }
        self.disconnect(now, wait);
    }

    /// Returns to the coordinator look-up after `wait`. Owned partitions stay owned until the lease ends.
    pub(super) fn disconnect(&mut self, now: Moment, wait: Duration) {
        self.state = ClassicState::Out;
        self.retry_at = now + wait;
        self.heartbeat = None;
    }

    pub(super) fn trouble(&mut self, text: String, out: &mut ClassicEffects) {
        self.degraded = true;
        out.push(GroupEffect::Notify(GroupEvent::Trouble(text)));
    }

    pub(super) fn drop_all_partitions(&mut self, reason: &str, now: Moment, out: &mut ClassicEffects) {
        let session_ends = now.max(self.lease_until) + margin(self.timing.session_timeout);
        let partitions: Vec<i32> = std::mem::take(&mut self.owned).into_iter().collect();
        self.revoking.clear();
        self.count_kept();
        self.assigned.clear();
        self.generation = -1;
        self.leads = false;
        self.lease_until = Moment::default();
        out.push(GroupEffect::EndLease);
        if !partitions.is_empty() {
            self.rejoin_not_before = mutant!("rejoins-over-running-invocations", Some(session_ends), None);
            out.push(GroupEffect::Notify(GroupEvent::Lost { partitions, reason: reason.to_owned() }));
        }
    }
}
