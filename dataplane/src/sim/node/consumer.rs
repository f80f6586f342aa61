//! Heartbeats of the consumer protocol, as `kafka/group/consumer/requests.rs` sends them.

use std::time::Duration;

use uuid::Uuid;

use super::super::cluster::{Reply, Request};
use super::super::outside::Outside;
use super::Node;
use super::lines::{Line, LinePurpose};
use crate::kafka::group::consumer::coordinator::{Answered, Said};
use crate::kafka::group::effects::{Beat, Failure, Share, Told};
use crate::kafka::group::member::Event;

/// How often the broker wants to hear from members.
const INTERVAL: Duration = Duration::from_secs(5);
/// The one topic.
const TOPIC: Uuid = Uuid::from_u128(1);

impl Node {
    pub(super) fn beat(&mut self, outside: &mut Outside, beat: Beat) {
        let said = Said {
            member: beat.member,
            epoch: beat.epoch,
            everything: beat.everything,
            rebalance_timeout: beat.rebalance_timeout,
            owned: beat.owned.map(|share| share.partitions),
        };
        let deadline = outside.plan.session / 3;
        self.on_line(outside, Line::Heartbeat, LinePurpose::Beat(beat.seq), Request::Beat(said), deadline);
    }

    pub(super) fn told(&mut self, outside: &mut Outside, seq: u64, reply: Option<Reply>) {
        let answer = match reply {
            Some(Reply::Told(Ok(answered))) => Ok(told(answered)),
            Some(Reply::Told(Err(code))) => Err(self.refused(code)),
            _ => Err(Failure::Transport("no answer".to_owned())),
        };
        self.group_step(outside, |core, now, random| core.take(now, Event::Told(seq, answer), random));
    }
}

fn told(answered: Answered) -> Told {
    let share = |partitions: std::collections::BTreeSet<i32>| {
        if partitions.is_empty() { Vec::new() } else { vec![Share { topic: TOPIC, partitions }] }
    };
    Told {
        member: String::new(),
        epoch: answered.epoch,
        heartbeat_interval: INTERVAL,
        assignment: answered.assignment.map(share),
    }
}
