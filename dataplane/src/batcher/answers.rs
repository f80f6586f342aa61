//! What the batcher's shell does with an answer: it lets the flights go, and tells each partition what became of its records.

use actix::Handler;
use lighterman_proto::ids::Epoch;

use super::actor::BatcherActor;
use super::settle::{Settling, settle};
use crate::invoker::invoke::Answered;
use crate::invoker::retry::{Sending, again_at};
use crate::kafka::backoff::random;
use crate::partition::messages::Resolved;
use crate::runtime::clock;

impl BatcherActor {
    pub(super) fn settle(&mut self, answered: Answered) {
        let Some(sent) = self.sent.remove(&answered.batch) else { return };
        let function_timeout = (self.parts.longest_run)(answered.sent_at);
        let may_run_until = answered.verdict.may_run_until(answered.sent_at, function_timeout);
        let ours = |(partition, _): &(i32, Epoch)| self.partitions.contains_key(partition);
        let shares = sent.members.iter().map(|member| (member.partition, member.epoch)).filter(ours);
        let setbacks = self.setbacks.after(&answered.verdict, shares);
        let sending = Sending { attempt: sent.attempt, setbacks, may_run_until };
        let settled = settle(
            &answered.verdict,
            &sent.members,
            sent.records,
            &Settling {
                topic: &self.parts.topic,
                partial_responses: self.parts.partial_responses,
                facts: answered.facts,
                wall: clock::wall_ms(),
                again_at: again_at(&answered.verdict, sending, clock::now(), self.parts.retry, random()),
            },
        );
        self.parts.status.answered(&answered.verdict, settled.records_failed, sent.oldest_timestamp_ms);
        if let Some(error) = &settled.error {
            self.parts.status.tell_invocation_failed(self.parts.mapping, sent.attempt, error);
        }
        for flight in sent.flights {
            match may_run_until {
                Some(until) => flight.unknown(until),
                None => flight.answered(),
            }
        }
        for (member, resolution) in sent.members.into_iter().zip(settled.resolutions) {
            if let Some((_, address)) = self.partitions.get(&member.partition) {
                let (epoch, batch, error) = (member.epoch, answered.batch, settled.error.clone());
                address.do_send(Resolved { epoch, batch, resolution, error });
            }
        }
        if let Some(payload) = answered.payload_back {
            self.parts.payloads.give_back(payload);
        }
    }
}

impl Handler<Answered> for BatcherActor {
    type Result = ();

    fn handle(&mut self, answered: Answered, ctx: &mut Self::Context) {
        self.settle(answered);
        self.pump(ctx);
    }
}
