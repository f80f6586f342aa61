//! Handling of coordinator errors and missing responses, classic protocol.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;

use super::{ClassicEffects, ClassicMember, ClassicStage, NO_GENERATION};
use crate::kafka::group::effects::{GroupProtocol, MemberIdentity, RequestError, is_fencing};
use crate::kafka::group::member_session::must_rejoin;
use crate::kafka::group::operator_errors::{FATAL_RETRY, operator_message};
use crate::kafka::group::ownership_lease::margin;

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
        if !self.session.is_in(ClassicStage::Stable) || who.member != self.identity.member {
            return out;
        }
        let is_ours = self.identity == *who;
        match code {
            code if is_ours && is_fencing(code) => {
                self.on_request_error(RequestError::Code(code), now, random, &mut out);
            }
            ResponseError::RebalanceInProgress if is_ours => self.join(now, &mut out),
            code if RequestError::Code(code).expels() => self.session.schedule_heartbeat(now),
            _ => {}
        }
        out
    }

    /// Rejoins because requests sent under `generation` and not answered may still be served. In the next generation
    /// the coordinator rejects them.
    pub fn force_rejoin(&mut self, now: Moment, generation: i32) -> ClassicEffects {
        let mut out = ClassicEffects::new();
        let is_current = self.session.is_in(ClassicStage::Stable) && self.identity.generation == generation;
        if must_rejoin(is_current) {
            self.join(now, &mut out);
        }
        out
    }

    pub(super) fn on_request_error(
        &mut self,
        error: RequestError,
        now: Moment,
        random: u64,
        out: &mut ClassicEffects,
    ) {
        match error {
            RequestError::Code(code) if is_fencing(code) => {
                self.drop_all_partitions(&format!("the group's coordinator says {code}"), now, out);
                if code != ResponseError::IllegalGeneration {
                    self.identity.member.clear();
                }
                self.session.disconnect(now, Duration::ZERO);
            }
            RequestError::Code(ResponseError::RebalanceInProgress) => self.join(now, out),
            RequestError::Code(code) => match operator_message(GroupProtocol::Classic, code) {
                Some(message) => {
                    self.session.degrade(message, out);
                    self.session.disconnect(now, FATAL_RETRY);
                }
                None => self.session.retry(format!("group coordinator: {code}"), now, random, out),
            },
            RequestError::Transport(error) => self.session.retry(error, now, random, out),
            RequestError::MemberIdRequired(_) => self.session.disconnect(now, Duration::ZERO),
        }
    }

    pub(super) fn drop_all_partitions(&mut self, reason: &str, now: Moment, out: &mut ClassicEffects) {
        let session_ends = now.max(self.session.lease_until()) + margin(self.timing.session_timeout);
        self.assigned.clear();
        self.identity.generation = NO_GENERATION;
        self.leads = false;
        self.session.drop_all_partitions(reason, session_ends, out);
    }
}
