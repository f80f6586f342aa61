//! What a member of the consumer protocol does when the coordinator says no, and when it says nothing.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;

use super::{Kip848Effects, Kip848Member, Kip848State};
use crate::kafka::group::effects::{
    FATAL_RETRY, GroupEffect, MemberIdentity, RequestError, TopicPartitions, is_fencing,
};
use crate::kafka::group::lease::margin;

impl Kip848Member {
    /// A commit that was sent as `who`, or the question what is committed, was refused. Of an earlier epoch it says nothing: the
    /// next is in force already.
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
            // The answer that told us the next epoch is on its way, or was lost: nothing is taken from us by it.
            ResponseError::StaleMemberEpoch | ResponseError::IllegalGeneration => {
                self.reported = None;
                self.next_heartbeat = now;
            }
            code if self.is_out(code) => self.failed(RequestError::Code(code), now, random, &mut out),
            _ => {}
        }
        out
    }

    /// What was sent under `epoch` and not answered may be served yet: whoever has left is refused. For one that runs nothing.
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

    /// A coordinator that does not have the group has no member of it either; whoever joins is told of another kind of group.
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
                out.push(GroupEffect::Trouble(operator_message(code)));
                self.disconnect(now, FATAL_RETRY);
            }
            RequestError::Code(code) => self.retry(format!("group coordinator: {code}"), now, random, out),
            RequestError::Transport(error) => self.retry(error, now, random, out),
            RequestError::MemberIdRequired(_) => self.disconnect(now, Duration::ZERO),
        }
    }

    fn fenced(&mut self, code: ResponseError, now: Moment, random: u64, out: &mut Kip848Effects) {
        if self.epoch == 0 {
            // It still knows us in the epoch that we have given up: only without us can we begin again.
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
            out.push(GroupEffect::Trouble(error));
        }
        self.disconnect(now, wait);
    }

    /// What we own stays ours until the lease ends: only the conversation begins anew.
    pub(super) fn disconnect(&mut self, now: Moment, wait: Duration) {
        self.state = Kip848State::Out;
        self.retry_at = now + wait;
        self.heartbeat = None;
        // Without all that we own, an epoch that is behind would be fenced.
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
            out.push(GroupEffect::Lost { partitions, reason: reason.to_owned() });
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
