//! Group in schedules of the consumer protocol (KIP-848): heartbeats and their history events.

use std::collections::BTreeSet;

use kafka_protocol::error::ResponseError as Code;
use lighterman::kafka::group::GroupProtocol;
use lighterman::local::broker::kip848_coordinator::{HeartbeatResponse, ReceivedHeartbeat};

use super::super::environment::SimulatedEnvironment;
use super::group::owner_of;
use super::{BrokerReply, BrokerRequest, RequestKind};
use crate::history::HistoryEvent as Happened;

/// Member epoch of a leave request.
const LEAVES: i32 = -1;

impl SimulatedEnvironment {
    pub(super) fn is_consumer_group(&self) -> bool {
        self.plan.protocol == GroupProtocol::Consumer
    }

    pub(super) fn beat(&mut self, ask: &BrokerRequest) {
        let RequestKind::Beat(said) = &ask.request else { return };
        let answer = match self.group_trouble(ask.broker) {
            Some(code) => Err(code),
            None => self.consumer_heartbeat(said),
        };
        self.reply(ask.from, BrokerReply::Told(answer));
    }

    pub(super) fn consumer_leaves(&mut self, member: &str) {
        let said = ReceivedHeartbeat {
            member: member.to_owned(),
            epoch: LEAVES,
            everything: false,
            rebalance_timeout: self.plan.session,
            owned: None,
        };
        let _ = self.consumer_heartbeat(&said);
    }

    fn consumer_heartbeat(&mut self, said: &ReceivedHeartbeat) -> Result<HeartbeatResponse, Code> {
        let (now, known) = (self.now, self.members());
        let before = self.assigned(&said.member);
        self.cluster.consumers.set_partitions(self.cluster.logs.len() as i32);
        let answer = self.cluster.consumers.heartbeat(now, said);
        // A member that leaves was not expelled.
        let known = known.into_iter().filter(|id| said.epoch != LEAVES || *id != said.member).collect();
        self.note_members(&known);
        let given: Vec<i32> = self.assigned(&said.member).difference(&before).copied().collect();
        if let Some(owner) = owner_of(&said.member) {
            for partition in given {
                self.record(Happened::Granted { partition, owner });
            }
        }
        answer
    }

    fn assigned(&self, member: &str) -> BTreeSet<i32> {
        self.cluster.consumers.members.get(member).map(|member| member.assigned.clone()).unwrap_or_default()
    }
}
