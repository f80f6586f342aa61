//! Handling of coordinator errors and missing responses, consumer protocol.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;
use uuid::Uuid;

use super::{HeartbeatStage, Kip848Effects, Kip848Member, NO_EPOCH};
use crate::kafka::group::effects::{
    GroupEffect, GroupProtocol, MemberIdentity, RequestError, TopicPartitions, is_fencing,
};
use crate::kafka::group::member_session::must_rejoin;
use crate::kafka::group::operator_errors::{FATAL_RETRY, operator_message};
use crate::kafka::group::ownership_lease::margin;

impl Kip848Member {
    /// Handles the rejection of a commit, or of a committed-offset look-up, that was sent as `who`. A rejection of an
    /// earlier epoch is ignored: the next one is in force already.
    pub fn commit_refused(
        &mut self,
        now: Moment,
        who: &MemberIdentity,
        code: ResponseError,
        random: u64,
    ) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        if !self.session.is_in(HeartbeatStage) || self.identity != *who {
            return out;
        }
        match code {
            // The response with the next epoch is in flight or was lost. That takes nothing away from this member.
            ResponseError::StaleMemberEpoch | ResponseError::IllegalGeneration => {
                self.reports.known = None;
                self.session.schedule_heartbeat(now);
            }
            code if self.is_out(code) => {
                self.on_request_error(RequestError::Code(code), now, random, &mut out);
            }
            _ => {}
        }
        out
    }

    /// Leaves and rejoins because requests sent under `epoch` and not answered may still be served. The coordinator
    /// rejects them once the member has left. No invocation of this member may run.
    pub fn force_rejoin(&mut self, now: Moment, epoch: i32) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        let is_current = !self.session.has_left() && self.identity.generation == epoch;
        if must_rejoin(is_current) {
            if !self.session.holds_off() {
                out.push(GroupEffect::Leave { member: self.identity.member.clone() });
            }
            self.drop_all_partitions("what was committed first may be served yet", now, &mut out);
            self.disconnect(now, Duration::ZERO);
        }
        out
    }

    /// Returns true if `code` means that this member is out of the group. A coordinator without the group has no
    /// member of it either. To a member that joins, the same code reports a group of another protocol.
    fn is_out(&self, code: ResponseError) -> bool {
        is_fencing(code) || (self.has_epoch() && code == ResponseError::GroupIdNotFound)
    }

    pub(super) fn on_request_error(
        &mut self,
        error: RequestError,
        now: Moment,
        random: u64,
        out: &mut Kip848Effects,
    ) {
        match error {
            RequestError::Code(code) if self.is_out(code) => self.on_fenced(code, now, random, out),
            RequestError::Code(code) => match operator_message(GroupProtocol::Consumer, code) {
                Some(message) => {
                    self.session.degrade(message, out);
                    self.disconnect(now, FATAL_RETRY);
                }
                None => self.retry(format!("group coordinator: {code}"), now, random, out),
            },
            RequestError::Transport(error) => self.retry(error, now, random, out),
            RequestError::MemberIdRequired(_) => self.disconnect(now, Duration::ZERO),
        }
    }

    fn on_fenced(&mut self, code: ResponseError, now: Moment, random: u64, out: &mut Kip848Effects) {
        if !self.has_epoch() {
            // The coordinator still knows this member in an abandoned epoch: it must leave before it can join again.
            out.push(GroupEffect::Leave { member: self.identity.member.clone() });
            self.retry(format!("group coordinator: {code}"), now, random, out);
            return;
        }
        self.drop_all_partitions(&format!("the group's coordinator says {code}"), now, out);
        self.disconnect(now, Duration::ZERO);
    }

    pub(super) fn retry(&mut self, error: String, now: Moment, random: u64, out: &mut Kip848Effects) {
        self.session.retry(error, now, random, out);
        // A heartbeat with an outdated epoch is fenced unless it carries all owned partitions.
        self.reports.known = None;
    }

    pub(super) fn disconnect(&mut self, now: Moment, wait: Duration) {
        self.session.disconnect(now, wait);
        // As after a retry.
        self.reports.known = None;
    }

    pub(super) fn drop_all_partitions(&mut self, reason: &str, now: Moment, out: &mut Kip848Effects) {
        let longest = self.bounds.longest;
        self.owned_topic = Uuid::nil();
        self.assigned = TopicPartitions::default();
        self.identity.generation = NO_EPOCH;
        self.drains.released_at = None;
        self.session.drop_all_partitions(reason, now + longest + margin(longest), out);
    }
}
