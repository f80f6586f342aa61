//! Handling of coordinator errors and missing responses, consumer protocol.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;

use super::{Kip848Effects, Kip848Member, Kip848State};
use crate::kafka::group::effects::{
    FATAL_RETRY, GroupEffect, GroupEvent, MemberIdentity, RequestError, TopicPartitions, is_fencing,
};
use crate::kafka::group::lease::margin;

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
        if self.state != Kip848State::In || who.generation != self.epoch || who.member != self.member {
            return out;
        }
        match code {
            // The response with the next epoch is in flight or was lost. That takes nothing away from this member.
            ResponseError::StaleMemberEpoch | ResponseError::IllegalGeneration => {
                self.reported = None;
                self.next_heartbeat = now;
            }
            code if self.is_out(code) => self.failed(RequestError::Code(code), now, random, &mut out),
            _ => {}
        }
        out
    }

    /// Leaves and rejoins because requests sent under `epoch` and not answered may still be served. The coordinator
    /// rejects them once the member has left. No invocation of this member may run.
    pub fn force_rejoin(&mut self, now: Moment, epoch: i32) -> Kip848Effects {
        let mut out = Kip848Effects::new();
        let is_member = self.state != Kip848State::Left && self.epoch == epoch;
        if mutant!("beginning-committed-twice", is_member, false) {
            if self.rejoin_not_before.is_none() {
                out.push(GroupEffect::Leave { member: self.member.clone() });
            }
            self.drop_all_partitions("what was committed first may be served yet", now, &mut out);
            self.disconnect(now, Duration::ZERO);
        }
        out
    }

    /// Returns true if `code` means that this member is out of the group. A coordinator without the group has no
    /// member of it either. To a member that joins, the same code reports a group of another protocol.
    fn is_out(&self, code: ResponseError) -> bool {
        is_fencing(code) || (self.epoch > 0 && code == ResponseError::GroupIdNotFound)
    }

    pub(super) fn failed(
        &mut self,
        failure: RequestError,
        now: Moment,
        random: u64,
        out: &mut Kip848Effects,
    ) {
        match failure {
            RequestError::Code(code) if self.is_out(code) => self.fenced(code, now, random, out),
            RequestError::Code(code) if needs_operator(code) => {
                self.degraded = true;
                out.push(GroupEffect::Notify(GroupEvent::Trouble(operator_message(code))));
                self.disconnect(now, FATAL_RETRY);
            }
            RequestError::Code(code) => self.retry(format!("group coordinator: {code}"), now, random, out),
            RequestError::Transport(error) => self.retry(error, now, random, out),
            RequestError::MemberIdRequired(_) => self.disconnect(now, Duration::ZERO),
        }
    }

    fn fenced(&mut self, code: ResponseError, now: Moment, random: u64, out: &mut Kip848Effects) {
        if self.epoch == 0 {
            // The coordinator still knows this member in an abandoned epoch: it must leave before it can join again.
            out.push(GroupEffect::Leave { member: self.member.clone() });
            self.retry(format!("group coordinator: {code}"), now, random, out);
            return;
        }
        self.drop_all_partitions(&format!("the group's coordinator says {code}"), now, out);
        self.disconnect(now, Duration::ZERO);
    }

    pub(super) fn retry(&mut self, error: String, now: Moment, random: u64, out: &mut Kip848Effects) {
        let wait = self.backoff.next(random);
        if self.backoff.failures() > 1 {
            self.degraded = true;
            out.push(GroupEffect::Notify(GroupEvent::Trouble(error)));
        }
        self.disconnect(now, wait);
    }

    /// Returns to the coordinator look-up after `wait`. Owned partitions stay owned until the lease ends.
    pub(super) fn disconnect(&mut self, now: Moment, wait: Duration) {
        self.state = Kip848State::Out;
        self.retry_at = now + wait;
        self.heartbeat = None;
        // A heartbeat with an outdated epoch would be fenced if it did not carry all owned partitions.
        self.reported = None;
    }

    pub(super) fn drop_all_partitions(&mut self, reason: &str, now: Moment, out: &mut Kip848Effects) {
        let session_ends = now + self.session.longest + margin(self.session.longest);
        let partitions: Vec<i32> = std::mem::take(&mut self.owned).partitions.into_iter().collect();
        self.revoking.clear();
        self.count_kept();
        self.assigned = TopicPartitions::default();
        self.epoch = 0;
        self.released_at = None;
        self.lease_until = Moment::default();
        out.push(GroupEffect::EndLease);
        if !partitions.is_empty() {
            self.rejoin_not_before = mutant!("rejoins-over-running-invocations", Some(session_ends), None);
            out.push(GroupEffect::Notify(GroupEvent::Lost { partitions, reason: reason.to_owned() }));
        }
    }
}

fn needs_operator(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::UnsupportedVersion
            | ResponseError::GroupIdNotFound
            | ResponseError::InconsistentGroupProtocol
            | ResponseError::GroupAuthorizationFailed
            | ResponseError::TopicAuthorizationFailed
            | ResponseError::GroupMaxSizeReached
            | ResponseError::InvalidGroupId
            | ResponseError::UnreleasedInstanceId
            | ResponseError::UnsupportedAssignor
    )
}

fn operator_message(code: ResponseError) -> String {
    match code {
        ResponseError::UnsupportedVersion => {
            "the broker does not offer the consumer group protocol (KIP-848): it needs Kafka 4.0 or newer with \
             `consumer` in group.coordinator.rebalance.protocols (3.9 has a preview behind the same setting), \
             or set `kafka.group_protocol` to `classic`"
        }
        ResponseError::GroupIdNotFound | ResponseError::InconsistentGroupProtocol => {
            "the consumer group still has members of the classic protocol: stop them, let the broker take \
             them over (group.consumer.migration.policy=bidirectional), or set `kafka.group_protocol` to `classic`"
        }
        ResponseError::GroupAuthorizationFailed => {
            "the cluster refuses the consumer group: grant Read on the group"
        }
        ResponseError::TopicAuthorizationFailed => {
            "the cluster refuses the topic to the consumer group: grant Describe and Read on the topic"
        }
        ResponseError::GroupMaxSizeReached => {
            "the consumer group is full: raise the broker's group.consumer.max.size, or run fewer nodes"
        }
        ResponseError::UnreleasedInstanceId => {
            "another member holds our group.instance.id and has not left: stop it, or wait for its session to end"
        }
        other => return format!("the group's coordinator says {other}"),
    }
    .to_owned()
}
