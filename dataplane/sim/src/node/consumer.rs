//! Heartbeats of the consumer protocol, modelled on `kafka/group/client/kip848.rs`.

use std::time::Duration;

use lighterman::kafka::group::effects::{Kip848Heartbeat, Kip848Response, RequestError, TopicPartitions};
use lighterman::kafka::group::member::MemberEvent;
use lighterman::local::broker::kip848_coordinator::{HeartbeatResponse, ReceivedHeartbeat};
use uuid::Uuid;

use super::super::cluster::{BrokerReply, RequestKind};
use super::super::environment::SimulatedEnvironment;
use super::SimulatedNode;
use super::connections::{LinePurpose, SimulatedConnection};

/// Heartbeat interval that the broker asks for.
const INTERVAL: Duration = Duration::from_secs(5);
/// Id of the only topic.
const TOPIC: Uuid = Uuid::from_u128(1);

impl SimulatedNode {
    pub(super) fn beat(&mut self, env: &mut SimulatedEnvironment, beat: Kip848Heartbeat) {
        let said = ReceivedHeartbeat {
            member: beat.member,
            epoch: beat.epoch,
            everything: beat.everything,
            rebalance_timeout: beat.rebalance_timeout,
            owned: beat.owned.map(|share| share.partitions),
        };
        let deadline = env.plan.session / 3;
        self.on_line(
            env,
            SimulatedConnection::Heartbeat,
            LinePurpose::Beat(beat.seq),
            RequestKind::Beat(said),
            deadline,
        );
    }

    pub(super) fn told(&mut self, env: &mut SimulatedEnvironment, seq: u64, reply: Option<BrokerReply>) {
        let answer = match reply {
            Some(BrokerReply::Told(Ok(answered))) => Ok(told(answered)),
            Some(BrokerReply::Told(Err(code))) => Err(self.refused(code)),
            _ => Err(RequestError::Transport("no answer".to_owned())),
        };
        self.group_step(env, |core, now, random| core.take(now, MemberEvent::Told(seq, answer), random));
    }
}

fn told(answered: HeartbeatResponse) -> Kip848Response {
    let share = |partitions: std::collections::BTreeSet<i32>| {
        if partitions.is_empty() { Vec::new() } else { vec![TopicPartitions { topic: TOPIC, partitions }] }
    };
    Kip848Response {
        member: String::new(),
        epoch: answered.epoch,
        heartbeat_interval: INTERVAL,
        assignment: answered.assignment.map(share),
    }
}
